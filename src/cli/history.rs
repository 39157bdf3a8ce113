//! `repoint history`: every move of an environment's pointer.

use clap::Args;
use jiff::Timestamp;

use crate::cli::args::Common;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::table::Table;
use crate::cli::{Done, select, text};
use crate::rest::history::Promotion;

/// Arguments of `repoint history`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  repoint history production --limit 10")]
pub struct History {
    #[command(flatten)]
    pub(super) common: Common,
    /// Which environment: environment, project/environment or an id
    environment: String,
    /// Moves shown at most
    #[arg(long, default_value_t = 50, value_parser = text::limit)]
    limit: usize,
}

impl History {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        let environment = select::environment(session, &self.environment)?;
        let path = format!("/api/v1/environments/{}/promotion-history", environment.id);
        let page = session.client.list::<Promotion>(&path, &NO_QUERY, self.limit)?;
        if session.console.is_json() {
            session.console.print_json(&page)?;
            return Ok(Done::Complete);
        }
        if page.items.is_empty() {
            session.console.remark(&format!("{}/{} has served nothing yet", environment.project, environment.name));
            return Ok(Done::Complete);
        }
        let mut table = Table::new(["MOVE", "KIND", "FROM", "TO", "COMMITTED", "APPLIED", "DRAINED", "BY", "REASON"]);
        for row in &page.items {
            table.row(cells(row));
        }
        session.console.print_table(&table)?;
        text::more(session.console, page.next_cursor.as_deref());
        Ok(Done::Complete)
    }
}

fn cells(row: &Promotion) -> [String; 9] {
    let applied = row.applied_at.map(|at| format!("{} ms later", at.duration_since(row.committed_at).as_millis()));
    [
        row.sequence.to_string(),
        row.kind.as_str().to_owned(),
        text::or_dash(row.from_deployment_id.map(|id| text::name_of(row.from_ref.as_ref(), id))),
        text::name_of(row.to_ref.as_ref(), row.to_deployment_id),
        text::moment(row.committed_at),
        applied.unwrap_or_else(|| "not yet".to_owned()),
        text::or_dash(row.previous_drained_at.map(|at| drained(at, row.streams_cut))),
        row.actor.clone(),
        text::or_dash(row.reason.as_deref()),
    ]
}

/// When what was served before went to rest, and whether requests were cut for it.
fn drained(at: Timestamp, cut: Option<u64>) -> String {
    match cut {
        None | Some(0) => text::moment(at),
        Some(cut) => format!("{}, {cut} cut", text::moment(at)),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::{self, Fake};
    use serde_json::{Value, json};

    #[test]
    fn moves_are_shown_newest_first_and_cut_with_a_remark() {
        let fake = Fake::start(|asked| match asked.line.contains("promotion-history") {
            true => {
                let moved: Value = serde_json::from_str(&fake::moved(2)).unwrap();
                (200, json!({"items": [moved["promotion"]], "next_cursor": "c"}).to_string())
            }
            false => fake::world(asked),
        });
        let outcome = fake.run(["history", "staging", "--limit", "1"]);
        let row = "7     promote  bcdfghjk  bcdfwxyz  2026-11-23 12:00:00Z  not yet  -        admin  -";
        assert!(outcome.results.contains(row), "{}", outcome.results);
        assert!(outcome.remarks.contains("--limit"));
        assert!(fake.run(["history", "staging", "--limit", "1", "--json"]).results.contains(r#""next_cursor":"c""#));
    }
}
