//! Arguments of the client commands.
//!
//! Each command's own arguments stand in its file; here are those that all of
//! them take, and which commands there are. The servers' commands are `app`'s.

use clap::{Args, Subcommand};

use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::{Done, deploy, deployment, environment, history, project, promotion, proxies, transfer};

/// The client commands. `main` flattens them beside those of the servers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack a directory, upload it and point an environment at it once it is ready
    Deploy(deploy::Deploy),
    /// Point an environment at a deployment that exists already
    Promote(promotion::Promote),
    /// Point an environment back at what it served before
    Rollback(promotion::Rollback),
    /// Projects: owners of environments and deployments
    Project(project::ProjectArgs),
    /// Environments: named pointers to deployments
    #[command(visible_alias = "environment")]
    Env(environment::EnvironmentArgs),
    /// Every move of an environment's pointer, newest first
    History(history::History),
    /// Deployments: how they are doing, what they write, how many replicas they have
    Deployment(deployment::DeploymentArgs),
    /// Every proxy: what it serves, how far it is behind; forget one that is gone for good
    Proxies(proxies::Proxies),
    /// Read projects, environments, endpoint deployments and pointers from a file, in one change
    Import(transfer::Import),
    /// Write projects, environments, endpoint deployments and pointers as lines that import reads
    Export(transfer::Export),
}

/// Arguments of every client command.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Project, by name or id [default: the one in ./repoint.toml, else the only one]
    #[arg(
        long,
        short,
        global = true,
        env = "REPOINT_PROJECT",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Common options"
    )]
    pub project: Option<String>,
    /// Print the server's JSON, and errors as an {"error":…} object on standard error
    #[arg(long, global = true, help_heading = "Common options")]
    pub json: bool,
    /// Server [default: the one that `repoint up` noted]
    #[arg(
        long,
        global = true,
        env = "REPOINT_SERVER",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Common options"
    )]
    pub server: Option<String>,
    /// API key [default: the one that `repoint up` noted for its own server]
    #[arg(
        long,
        global = true,
        env = "REPOINT_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Common options"
    )]
    pub api_key: Option<String>,
}

impl Command {
    pub(super) fn common(&self) -> &Common {
        match self {
            Self::Deploy(args) => &args.common,
            Self::Promote(args) => &args.common,
            Self::Rollback(args) => &args.common,
            Self::Project(args) => &args.common,
            Self::Env(args) => &args.common,
            Self::History(args) => &args.common,
            Self::Deployment(args) => &args.common,
            Self::Proxies(args) => &args.common,
            Self::Import(args) => &args.common,
            Self::Export(args) => &args.common,
        }
    }

    pub(super) fn carry_out(&self, session: &mut Session) -> Result<Done, Error> {
        match self {
            Self::Deploy(args) => args.run(session),
            Self::Promote(args) => args.run(session),
            Self::Rollback(args) => args.run(session),
            Self::Project(args) => args.command.run(session),
            Self::Env(args) => args.command.run(session),
            Self::History(args) => args.run(session),
            Self::Deployment(args) => args.command.run(session),
            Self::Proxies(args) => args.run(session),
            Self::Import(args) => args.run(session),
            Self::Export(args) => args.run(session),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::Cli;
    use clap::{CommandFactory as _, Parser as _};

    fn leaves(command: &clap::Command) -> Vec<clap::Command> {
        let below: Vec<clap::Command> = command.get_subcommands().flat_map(leaves).collect();
        if below.is_empty() { vec![command.clone()] } else { below }
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        Cli::command().debug_assert();
        for mut command in leaves(&Cli::command()) {
            let help = command.render_long_help().to_string();
            let examples = help.lines().filter_map(|line| line.trim().strip_prefix("repoint ")).collect::<Vec<_>>();
            assert!(!examples.is_empty(), "{}", command.get_name());
            for example in examples {
                // Quoted words are one argument; a placeholder does for them here.
                let plain: String =
                    example.split('"').enumerate().map(|(at, part)| if at % 2 == 0 { part } else { "x" }).collect();
                let words = std::iter::once("repoint").chain(plain.split_whitespace());
                assert!(Cli::try_parse_from(words).is_ok(), "{example}");
            }
        }
    }

    #[test]
    fn common_arguments_stand_before_or_after_the_subcommand() {
        for words in [
            "repoint project --json list -p a",
            "repoint project list --json --project a",
            "repoint env -p a list --json",
        ] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let common = cli.command.common();
            assert_eq!((common.json, common.project.as_deref()), (true, Some("a")), "{words}");
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        let wrong = [
            "repoint promote x",
            "repoint rollback",
            "repoint project create Bad_Name",
            "repoint deployment scale x",
            "repoint env set x --max-drain 5",
            "repoint env set x --hosts http://a",
            "repoint history x --limit 0",
            "repoint deploy --min-replicas many",
            "repoint nothing",
        ];
        for words in wrong {
            let error = Cli::try_parse_from(words.split(' ')).err().expect(words);
            assert_eq!(error.exit_code(), 2, "{words}");
        }
    }
}
