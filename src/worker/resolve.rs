//! What a name in an endpoint URL resolves to, again and again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::event::Event;

/// Addresses used of one name. A name that resolves to more is a load balancer's, which needs no help.
const ADDRESSES_MAX: usize = 16;
/// Names asked at once. Each takes a thread for as long as the system's resolver does, and bundles are unpacked on the
/// same threads.
const NAMES_MAX: usize = 32;
/// Places for them, in the whole process: so are the threads.
static PLACES: Semaphore = Semaphore::const_new(NAMES_MAX);
/// After a failure the next try comes this soon.
const RETRY: Duration = Duration::from_secs(2);

/// What a name came to; an error is for people.
pub(super) type Resolved = Result<BTreeSet<IpAddr>, String>;

/// Resolves `name` and tells what it came to whenever that changes. A failure after a success changes nothing but is
/// told: the addresses known before are still the best there are.
pub(super) fn watch(name: String, every: Duration, told: mpsc::UnboundedSender<Event>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = None;
        loop {
            let resolved = resolve(&name).await;
            let pause = if resolved.is_ok() { every } else { RETRY.min(every) };
            if last.as_ref() != Some(&resolved) && told.send(Event::Resolved(name.clone(), resolved.clone())).is_err() {
                return;
            }
            last = Some(resolved);
            tokio::time::sleep(pause).await;
        }
    })
}

async fn resolve(name: &str) -> Resolved {
    // It is never closed.
    let _place = PLACES.acquire().await;
    // The port is no part of the question; the system's resolver wants one.
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|error| error.to_string())?;
    let found: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    match found.is_empty() {
        true => Err("the name has no address".to_owned()),
        // In order, so that every look takes the same ones.
        false => Ok(found.into_iter().take(ADDRESSES_MAX).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_told_once_and_a_bad_one_as_an_error() {
        let (told, mut hears) = mpsc::unbounded_channel();
        let good = watch("localhost".to_owned(), Duration::from_millis(1), told.clone());
        let mut next = async || match hears.recv().await {
            Some(Event::Resolved(name, resolved)) => (name, resolved),
            other => panic!("{other:?}"),
        };
        let (name, resolved) = next().await;
        assert_eq!(name, "localhost");
        assert!(resolved.unwrap().iter().all(IpAddr::is_loopback));
        let bad = watch("no-such-name.invalid".to_owned(), Duration::from_millis(1), told);
        let (name, resolved) = next().await;
        assert_eq!((name.as_str(), resolved.is_err()), ("no-such-name.invalid", true));
        good.abort();
        bad.abort();
    }
}
