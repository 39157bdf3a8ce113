//! Waiting for a move, with the clock of the machine.

use uuid::Uuid;

use super::*;
use crate::fleet::member::Reason;

fn greeting(applied: u64) -> Greeting {
    Greeting {
        applied: Some(Revision(applied)),
        ..Greeting::new("a", Uuid::from_u128(1).into(), "127.0.0.1:1".parse().unwrap())
    }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_wait_ends_when_the_last_proxy_has_applied() {
    let fleet = Fleet::new(Config::default());
    let session = fleet.hello(greeting(6));
    let waiting = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.wait_applied(Revision(7), LONG).await }
    });
    fleet.ack(&session, Some(Revision(7)), None);
    let propagation = waiting.await.unwrap();
    assert!(propagation.complete && propagation.elapsed_ms < 30_000, "{propagation:?}");
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline() {
    let fleet = Fleet::new(Config::default());
    fleet.hello(greeting(6));
    let propagation = fleet.wait_applied(Revision(7), Duration::from_millis(20)).await;
    assert_eq!((propagation.required, propagation.applied, propagation.complete), (1, 0, false));
    assert!(propagation.elapsed_ms >= 20);
    assert!(!fleet.wait_applied(Revision(7), Duration::ZERO).await.complete);
}

#[tokio::test]
async fn a_wait_ends_when_the_missing_proxy_is_gone() {
    let config = Config { live: Duration::from_millis(10), suspect: Duration::from_millis(20), ..Config::default() };
    let fleet = Fleet::new(config);
    fleet.hello(greeting(6));
    let propagation = fleet.wait_applied(Revision(7), LONG).await;
    assert_eq!((propagation.required, propagation.unconfirmed, propagation.complete), (0, 1, true));
}

#[tokio::test]
async fn a_wait_ends_when_the_missing_proxy_has_refused() {
    let fleet = Fleet::new(Config::default());
    let session = fleet.hello(greeting(6));
    fleet.nack(&session, Refused { revision: Revision(7), reason: Reason::Invalid, detail: "no".into() });
    let propagation = fleet.wait_applied(Revision(7), LONG).await;
    assert_eq!(propagation.refused.len(), 1);
    assert!(!propagation.complete);
}

#[tokio::test]
async fn the_bell_rings_for_what_changes_a_conclusion() {
    let fleet = Fleet::new(Config::default());
    let mut bell = fleet.watch();
    let session = fleet.hello(greeting(6));
    assert!(bell.has_changed().unwrap());
    bell.borrow_and_update();
    fleet.ack(&session, Some(Revision(6)), None);
    assert!(!bell.has_changed().unwrap(), "nothing new");
    fleet.status(&session, Report { applied: Some(Revision(6)), ..Report::default() });
    assert!(bell.has_changed().unwrap());
    bell.borrow_and_update();
    fleet.lost(&session);
    assert!(bell.has_changed().unwrap());
    assert!(!fleet.is_current(&session));
}

#[tokio::test(start_paused = true)]
async fn invariant_9_a_control_plane_that_was_stopped_concludes_nothing_from_the_silence() {
    let config = Config { settle: Duration::ZERO, ..Config::default() };
    let (asleep, patience) = (Duration::from_secs(3_600), config.suspect + config.gone_grace);
    let fleet = Fleet::new(config);
    fleet.hello(greeting(6));
    assert_eq!(fleet.pulse(), Duration::ZERO);
    tokio::time::advance(asleep).await;
    assert!(!fleet.closing_known(Revision(7)), "it may serve what was closed at 7");
    assert!(!fleet.propagation(Revision(7)).complete);
    assert_eq!((fleet.proxies()[0].state, fleet.pulse()), (member::State::Live, asleep));
    // While the control plane is awake, silence counts.
    for second in 0..=patience.as_secs() {
        assert!(!fleet.closing_known(Revision(7)), "after {second} s");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(fleet.pulse(), Duration::ZERO);
    }
    assert!(fleet.closing_known(Revision(7)));
}
