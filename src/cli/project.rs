//! `repoint project`: list, create, delete.

use clap::{Args, Subcommand};

use crate::cli::args::Common;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::table::Table;
use crate::cli::{Done, select, text};
use crate::model::name::ProjectName;
use crate::rest::DeleteQuery;
use crate::rest::projects::{CreateProject, ListProjects, Project};

/// Arguments of `repoint project`.
#[derive(Debug, Args)]
pub struct ProjectArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: ProjectCommand,
}

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// Show the projects
    #[command(after_help = "Example:\n  repoint project list")]
    List {
        /// Projects shown at most
        #[arg(long, default_value_t = 200, value_parser = text::limit)]
        limit: usize,
    },
    /// Make a project with its three environments: preview, staging and production
    #[command(after_help = "Example:\n  repoint project create support")]
    Create {
        /// Its name: 3 to 30 lower-case letters, digits and single inner hyphens
        name: ProjectName,
    },
    /// Delete a project and everything in it
    #[command(
        after_help = "Examples:\n  repoint project delete support\n  repoint project delete support --force --yes"
    )]
    Delete {
        /// Its name or id
        name: String,
        /// Drain what its environments serve and delete it all the same
        #[arg(long)]
        force: bool,
        /// Delete it although more goes with it than an accident should be able to delete
        #[arg(long)]
        allow_mass_change: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl ProjectCommand {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        match self {
            Self::List { limit } => list(session, *limit),
            Self::Create { name } => create(session, name),
            Self::Delete { name, force, allow_mass_change, yes } => {
                let query = DeleteQuery { force: *force, allow_mass_change: *allow_mass_change };
                delete(session, name, &query, *yes)
            }
        }
    }
}

fn list(session: &mut Session, limit: usize) -> Result<Done, Error> {
    let page = session.client.list::<Project>("/api/v1/projects", &ListProjects::default(), limit)?;
    if session.console.is_json() {
        session.console.print_json(&page)?;
        return Ok(Done::Complete);
    }
    if page.items.is_empty() {
        session.console.remark("no project yet; make one with `repoint project create NAME`");
        return Ok(Done::Complete);
    }
    let mut table = Table::new(["NAME", "CREATED", "ENVIRONMENTS"]);
    for project in &page.items {
        let names: Vec<&str> = project.environments.iter().map(|environment| environment.name.as_str()).collect();
        table.row([project.name.to_string(), text::moment(project.created_at), names.join(", ")]);
    }
    session.console.print_table(&table)?;
    text::more(session.console, page.next_cursor.as_deref());
    Ok(Done::Complete)
}

fn create(session: &mut Session, name: &ProjectName) -> Result<Done, Error> {
    let (project, answer) = create_named(session, name)?;
    if session.console.is_json() {
        session.console.print(&answer)?;
        return Ok(Done::Complete);
    }
    session.console.print(&format!("created project {name}"))?;
    for environment in project.environments {
        session.console.print(&format!("  {:<12}{}", environment.name, environment.url))?;
    }
    Ok(Done::Complete)
}

/// Makes a project; answers it and the server's own text of it.
pub fn create_named(session: &Session, name: &ProjectName) -> Result<(Project, String), Error> {
    let body = CreateProject { name: name.clone() };
    let answer = session.client.post("/api/v1/projects", &body, std::time::Duration::ZERO)?;
    Ok((answer.read()?, answer.text))
}

fn delete(session: &mut Session, name: &str, query: &DeleteQuery, yes: bool) -> Result<Done, Error> {
    let project = select::project_named(session, name)?;
    // Without `force` the server refuses as soon as anything is served.
    if query.force {
        let question = format!("delete project {} with everything it serves", project.name);
        session.console.confirm(&question, yes)?;
    }
    let answer = session.client.delete(&format!("/api/v1/projects/{}", project.id), query)?;
    match session.console.is_json() {
        true => session.console.print(&answer.text)?,
        false => session.console.print(&text::deleted(&format!("project {}", project.name), &answer.read()?))?,
    }
    Ok(Done::Complete)
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Fake};

    fn server() -> Fake {
        Fake::start(|asked| match asked.line.split(' ').next() {
            Some("POST") => (201, fake::project().to_string()),
            Some("DELETE") => (200, format!(r#"{{"id":"{}","deleted":true}}"#, fake::PROJECT)),
            _ => fake::world(asked),
        })
    }

    #[test]
    fn projects_are_listed_created_and_deleted() {
        let fake = server();
        assert!(fake.run(["project", "list"]).results.contains("support  2026-11-23 12:00:00Z"));
        assert!(fake.run(["project", "create", "support"]).results.starts_with("created project support\n"));
        assert_eq!(fake.run(["project", "delete", "support"]).results, "deleted project support\n");
        let line = format!("DELETE /api/v1/projects/{}?force=false", fake::PROJECT);
        assert_eq!(fake.lines().pop(), Some(line));
        fake.run(["project", "delete", "support", "--allow-mass-change"]);
        let line = format!("DELETE /api/v1/projects/{}?allow_mass_change=true&force=false", fake::PROJECT);
        assert_eq!(fake.lines().pop(), Some(line));
    }

    #[test]
    fn deleting_what_is_served_asks() {
        let fake = server();
        assert_eq!(fake.run(["project", "delete", "support", "--force"]).exit_code, 2);
        assert!(!fake.lines().iter().any(|line| line.starts_with("DELETE")));
        assert_eq!(fake.run_answering(&["project", "delete", "support", "--force"], Some("yes\n")).exit_code, 0);
    }

    #[test]
    fn a_name_that_is_taken_is_refused_in_the_servers_words() {
        let fake = Fake::start(|_| fake::refusal(409, "name_taken", "support is taken; choose another name"));
        let outcome = fake.run(["project", "create", "support", "--json"]);
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.remarks.contains(r#""code":"name_taken""#), "{}", outcome.remarks);
    }
}
