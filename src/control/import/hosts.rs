//! Whether the hosts of a file are free: one host, one environment.

use std::collections::HashMap;

use crate::control::error::Error;
use crate::control::import::faults::Faults;
use crate::control::import::plan::{Draft, Drafts};
use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::rest::error::ErrorCode;
use crate::store::Transaction;

/// Notes every host that two environments would have. A host that an environment
/// gives up in the same file is free.
pub(super) async fn check(tx: &mut Transaction, drafts: &Drafts, faults: &mut Faults) -> Result<(), Error> {
    let mut claimed: HashMap<&HostPattern, &Draft> = HashMap::new();
    for draft in drafts.all.iter().filter(|draft| claims(draft)) {
        for host in &draft.after.hosts {
            if let Some(other) = claimed.insert(host, draft) {
                taken(faults, draft.line, host, &format!("{} (line {})", named(&other.after), other.line));
            }
        }
    }
    let wanted: Vec<HostPattern> = claimed.keys().map(|host| (*host).clone()).collect();
    for (host, owner) in tx.host_owners(&wanted).await? {
        let Some(draft) = claimed.get(&host).filter(|draft| draft.after.id != owner) else { continue };
        match drafts.of_id(owner) {
            // It claims other hosts: whether it keeps this one was looked at above, or it gives it up.
            Some(other) if claims(other) => {}
            Some(other) => taken(faults, draft.line, &host, &named(&other.after)),
            None => {
                let other = tx.environment(owner).await?;
                let other = other.map_or_else(|| owner.to_string(), |other| named(&other));
                taken(faults, draft.line, &host, &other);
            }
        }
    }
    Ok(())
}

/// Whether it wants hosts that it did not have.
fn claims(draft: &Draft) -> bool {
    draft.before.as_ref().is_none_or(|before| before.hosts != draft.after.hosts)
}

fn named(environment: &Environment) -> String {
    format!("{}/{}", environment.project_name, environment.name)
}

fn taken(faults: &mut Faults, line: u64, host: &HostPattern, other: &str) {
    let told = format!("the host {host} belongs to environment {other}; choose another, or take it away there first");
    faults.say(line, ErrorCode::HostTaken, told);
}
