//! `repoint proxies`: what every proxy serves and how far it is behind; and
//! `repoint proxies forget` for one that is gone for good.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::args::Common;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::table::Table;
use crate::cli::{Done, text};
use crate::model::id::InstanceId;
use crate::rest::proxies::{self as shape, ForgetProxy, ForgottenProxy, Proxy, ProxyState};

/// Arguments of `repoint proxies`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  repoint proxies\n  repoint proxies forget eu-1")]
pub struct Proxies {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: Option<ProxiesCommand>,
}

/// What to do besides listing them.
#[derive(Debug, Subcommand)]
enum ProxiesCommand {
    /// Remember a proxy no more that will not come back: nothing waits for it then
    ///
    /// Moves wait for a silent proxy for a minute, stopping replicas for six. Whoever is forgotten and still serves, cut
    /// off from the control plane, may send requests to replicas that have ended: make sure that its process has.
    #[command(
        after_help = "Examples:\n  repoint proxies forget eu-1\n  repoint proxies forget eu-1 --instance 0198c5a0-0000-7000-8000-000000000001 --yes"
    )]
    Forget {
        /// The proxy
        proxy: String,
        /// One run of it [default: all that are not live]
        #[arg(long, value_name = "ID")]
        instance: Option<InstanceId>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Let proxies take the state as it stands, however much it lacks of what they serve
    ///
    /// A proxy keeps its table rather than take one that lacks more than a hundred and a fifth of its environments or
    /// pools: an empty store is rarely meant. Give this when it is; nothing else changes.
    #[command(after_help = "Example:\n  repoint proxies allow-mass-change --yes")]
    AllowMassChange {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Proxies {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        match &self.command {
            None => list(session),
            Some(ProxiesCommand::Forget { proxy, instance, yes }) => forget(session, proxy, *instance, *yes),
            Some(ProxiesCommand::AllowMassChange { yes }) => allow_mass_change(session, *yes),
        }
    }
}

fn list(session: &mut Session) -> Result<Done, Error> {
    let answer = session.client.get("/api/v1/proxies", &NO_QUERY, Duration::ZERO)?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let proxies: shape::Proxies = answer.read()?;
    let mut table =
        Table::new(["PROXY", "RUN", "STATE", "REVISION", "BEHIND", "ON DISK", "IN FLIGHT", "SEEN", "VERSION"]);
    for proxy in &proxies.items {
        table.row([
            proxy.proxy_id.clone(),
            proxy.instance_id.to_string(),
            state(proxy),
            proxy.applied_revision.to_string(),
            proxy.lag.to_string(),
            text::or_dash(proxy.keeps_table.then(|| proxy.durable_revision.to_string())),
            proxy.in_flight.to_string(),
            text::or_dash(proxy.last_seen_at.map(text::moment)),
            proxy.version.clone(),
        ]);
    }
    session.console.print_table(&table)?;
    session.console.print(&format!("head revision {}", proxies.head_revision))?;
    for remark in proxies.items.iter().filter_map(remark) {
        session.console.remark(&remark);
    }
    Ok(Done::Complete)
}

fn forget(session: &mut Session, proxy: &str, instance: Option<InstanceId>, yes: bool) -> Result<Done, Error> {
    let run = instance.map_or(String::new(), |instance| format!(" (run {instance})"));
    session.console.confirm(&format!("forget proxy {proxy}{run}, so that nothing waits for it"), yes)?;
    let path = format!("/api/v1/proxies/{}", segment(proxy));
    let answer = session.client.delete(&path, &ForgetProxy { instance_id: instance })?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let forgotten: ForgottenProxy = answer.read()?;
    for instance in forgotten.forgotten {
        session.console.print(&format!("forgot proxy {} (run {instance})", forgotten.proxy_id))?;
    }
    Ok(Done::Complete)
}

fn allow_mass_change(session: &mut Session, yes: bool) -> Result<Done, Error> {
    session.console.confirm("let proxies drop whatever the store does not have", yes)?;
    let answer = session.client.post("/api/v1/proxies/allow-mass-change", &json!({}), Duration::ZERO)?;
    if session.console.is_json() {
        session.console.print(&answer.text)?;
        return Ok(Done::Complete);
    }
    let allowed: shape::MassChangeAllowed = answer.read()?;
    session.console.print(&format!("proxies take the state as it stands; revision {}", allowed.revision))?;
    Ok(Done::Complete)
}

/// One segment of a path (RFC 3986 §2.3): a proxy's name is free text.
fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn state(proxy: &Proxy) -> String {
    let word = word(proxy.state);
    if proxy.connected || proxy.state == ProxyState::Gone { word.to_owned() } else { format!("{word}, no stream") }
}

/// What is the matter with it.
fn remark(proxy: &Proxy) -> Option<String> {
    let name = &proxy.proxy_id;
    if proxy.ahead {
        return Some(format!("{name} has changes that the store does not have: an older copy of it was put back"));
    }
    if let Some(refused) = &proxy.refused {
        return Some(format!("{name} refuses revision {} ({}): {}", refused.revision, refused.reason, refused.detail));
    }
    (proxy.state == ProxyState::Gone).then(|| {
        format!("{name} (run {}) is gone; if it will not come back: repoint proxies forget {name}", proxy.instance_id)
    })
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

    const RUN: &str = "01980000-0000-7000-8000-000000000001";

    #[test]
    fn proxies_are_shown_beside_the_head_revision() {
        let fake = Fake::start(|_| {
            let proxy = |state| {
                format!(
                    r#"{{"proxy_id":"local","instance_id":"{RUN}","state":"{state}","applied_revision":41,
                    "durable_revision":40,"keeps_table":true,"lag":1,"version":"0.1.0","in_flight":3}}"#
                )
            };
            let items = [proxy("suspect"), proxy("gone")].join(",");
            (200, format!(r#"{{"head_revision":42,"items":[{items}]}}"#))
        });
        let shown = fake.run(["proxies"]);
        let text = shown.results;
        let row = format!("local  {RUN}  suspect, no stream  41        1       40       3          -     0.1.0");
        assert!(text.contains(&row), "{text}");
        assert!(text.ends_with("head revision 42\n"));
        assert!(shown.remarks.contains("repoint proxies forget local"), "{}", shown.remarks);
    }

    #[test]
    fn a_proxy_is_forgotten_once_somebody_has_said_yes() {
        let fake = Fake::start(|_| (200, format!(r#"{{"proxy_id":"eu/1","forgotten":["{RUN}"]}}"#)));
        assert_eq!(fake.run(["proxies", "forget", "eu/1"]).exit_code, 2);
        assert!(fake.lines().is_empty(), "nothing is asked of the server before");
        let done = fake.run(["proxies", "forget", "eu/1", "--yes"]);
        assert_eq!(done.results, format!("forgot proxy eu/1 (run {RUN})\n"), "{}", done.remarks);
        fake.run(["proxies", "forget", "eu/1", "--instance", RUN, "--yes"]);
        let lines = fake.lines();
        assert_eq!(lines[0].trim_end_matches('?'), "DELETE /api/v1/proxies/eu%2F1");
        assert_eq!(lines[1], format!("DELETE /api/v1/proxies/eu%2F1?instance_id={RUN}"));
    }

    #[test]
    fn a_state_that_lacks_much_is_allowed_once_somebody_has_said_yes() {
        let fake = Fake::start(|_| (200, r#"{"revision":43}"#.to_owned()));
        assert_eq!(fake.run(["proxies", "allow-mass-change"]).exit_code, 2);
        assert!(fake.lines().is_empty(), "nothing is asked of the server before");
        let done = fake.run(["proxies", "allow-mass-change", "--yes"]);
        assert_eq!(done.results, "proxies take the state as it stands; revision 43\n", "{}", done.remarks);
        assert_eq!(fake.lines(), ["POST /api/v1/proxies/allow-mass-change"]);
    }
}
