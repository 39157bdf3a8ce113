//! `repoint proxies`: what every proxy serves and how far it is behind.

use std::time::Duration;

use clap::Args;

use crate::cli::args::Common;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::table::Table;
use crate::cli::{Done, text};
use crate::rest::proxies::{self as shape, ProxyState};

/// Arguments of `repoint proxies`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  repoint proxies")]
pub struct Proxies {
    #[command(flatten)]
    pub(super) common: Common,
}

pub(super) fn run(session: &mut Session) -> Result<Done, Error> {
    let answer = session.client.get("/api/v1/proxies", &NO_QUERY, Duration::ZERO)?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let proxies: shape::Proxies = answer.read()?;
    let mut table = Table::new(["PROXY", "STATE", "REVISION", "BEHIND", "IN FLIGHT", "SEEN", "VERSION"]);
    for proxy in &proxies.items {
        table.row([
            proxy.proxy_id.clone(),
            word(proxy.state).to_owned(),
            proxy.applied_revision.to_string(),
            proxy.lag.to_string(),
            proxy.in_flight.to_string(),
            text::or_dash(proxy.last_seen_at.map(text::moment)),
            proxy.version.clone(),
        ]);
    }
    session.console.print_table(&table)?;
    session.console.print(&format!("head revision {}", proxies.head_revision))?;
    Ok(Done::Complete)
}

fn word(state: ProxyState) -> &'static str {
    match state {
        ProxyState::Live => "live",
        ProxyState::Suspect => "suspect",
        ProxyState::Gone => "gone",
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::fake::Fake;

    #[test]
    fn proxies_are_shown_beside_the_head_revision() {
        let fake = Fake::start(|_| {
            let proxy = r#"{"proxy_id":"local","instance_id":"01980000-0000-7000-8000-000000000001","state":"suspect",
                            "applied_revision":41,"durable_revision":40,"lag":1,"version":"0.1.0","in_flight":3}"#;
            (200, format!(r#"{{"head_revision":42,"items":[{proxy}]}}"#))
        });
        let text = fake.run(["proxies"]).results;
        assert!(text.contains("local  suspect  41        1       3          -     0.1.0"), "{text}");
        assert!(text.ends_with("head revision 42\n"));
    }
}
