//! Power cuts, full disks and failed syncs in any order, against a short list.

use proptest::collection::vec;
use proptest::prelude::*;

use super::world::World;

/// What may happen next.
#[derive(Clone, Debug)]
enum Event {
    /// An environment moves to a deployment.
    Move(u8, u8),
    /// An environment goes.
    Delete(u8),
    /// The store becomes another history.
    Restore,
    /// Everything is sent again.
    Snapshot,
    /// What waits is put on disk.
    Write,
    /// A new checkpoint is written.
    Compact,
    /// The disk has so many bytes left.
    Room(usize),
    /// The disk has room again.
    Emptied,
    /// The next syncs fail.
    FailSyncs(usize),
    /// The power goes, and the disk keeps something.
    Crash(Vec<usize>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3_u8, 0..3_u8).prop_map(|(n, deployment)| Event::Move(n, deployment)),
        1 => (0..3_u8).prop_map(Event::Delete),
        1 => Just(Event::Restore),
        1 => Just(Event::Snapshot),
        8 => Just(Event::Write),
        2 => Just(Event::Compact),
        2 => (0..900_usize).prop_map(Event::Room),
        2 => Just(Event::Emptied),
        2 => (1..4_usize).prop_map(Event::FailSyncs),
        3 => vec(any::<usize>(), 1..20).prop_map(Event::Crash),
    ]
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::Move(n, deployment) => world.moves(n, deployment),
        Event::Delete(n) => world.deletes(n),
        Event::Restore => world.restore(),
        Event::Snapshot => world.snapshot(),
        Event::Write => world.write(),
        Event::Compact => world.compact(),
        Event::Room(bytes) => world.disk.room(Some(bytes)),
        Event::Emptied => world.disk.room(None),
        Event::FailSyncs(count) => world.disk.fail_syncs(count),
        Event::Crash(chances) => {
            let mut chances = chances.into_iter().cycle();
            world.crash(|below| chances.next().map_or(0, |chance| chance % below));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariant_3_holds_over_any_restart_and_what_is_loaded_was_applied(events in vec(event(), 0..60)) {
        let mut world = World::new();
        for event in events {
            happen(&mut world, event);
        }
        // A disk that works again catches up.
        world.disk.room(None);
        world.disk.fail_syncs(0);
        for _ in 0..3 {
            world.deliver();
            world.write();
        }
        prop_assert_eq!(world.durable, Some(world.log.head()));
        world.crash(|_| 0);
        prop_assert_eq!(world.live.position(), Some(world.log.head()));
    }
}
