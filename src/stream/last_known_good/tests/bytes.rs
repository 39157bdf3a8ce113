//! Files that are cut, flipped, swapped or of another build; and the bytes of the
//! format, which other builds will find.

use super::memory::Memory;
use super::world::{World, served};
use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::format::HEADER_BYTES;
use crate::stream::last_known_good::names::{checkpoint, journal};
use crate::stream::last_known_good::recovery::recover;

/// A checkpoint and a journal of four frames.
fn kept() -> World {
    let mut world = World::new();
    world.moves(0, 1);
    world.write();
    world.compact();
    for (n, deployment) in [(1, 1), (0, 2), (1, 2), (2, 1)] {
        world.moves(n, deployment);
        world.write();
    }
    assert_eq!(world.durable, Some(world.log.head()));
    world
}

/// The newest pair of files.
fn files(disk: &Memory) -> (String, String) {
    let names = disk.names().unwrap();
    let journal = names.iter().rfind(|name| name.starts_with("journal")).unwrap().clone();
    (journal.replace("journal", "checkpoint"), journal)
}

/// What a start makes of the disk. Whatever it loads was applied once, as a whole.
fn loaded(world: &World, disk: &Memory) -> Option<Position> {
    let live = Live::new(1);
    let found = recover(disk, &live).loaded.map(|loaded| loaded.position);
    if let Some(at) = world.index(found) {
        assert_eq!(served(&live), world.applied[at].1);
    }
    found
}

#[test]
fn invariant_7_a_start_finds_the_whole_table() {
    let world = kept();
    assert_eq!(loaded(&world, &world.disk), Some(world.log.head()));
}

#[test]
fn a_journal_cut_anywhere_is_used_as_far_as_it_is_whole() {
    let world = kept();
    let (_, journal) = files(&world.disk);
    let length = world.disk.bytes(&journal).len();
    let mut revisions = Vec::new();
    for cut in 0..=length {
        let disk = world.disk.copy();
        disk.damage(&journal, |bytes| bytes.truncate(cut));
        revisions.push(loaded(&world, &disk).expect("the checkpoint is whole").revision.0);
    }
    let mut steps = revisions.clone();
    steps.dedup();
    let head = world.log.head().revision.0;
    assert_eq!(steps, (head - 4..=head).collect::<Vec<_>>(), "frame by frame, and never back");
}

#[test]
fn a_flipped_bit_never_makes_another_table() {
    let world = kept();
    let (checkpoint, journal) = files(&world.disk);
    for (name, may_lose_all) in [(&checkpoint, true), (&journal, false)] {
        for at in 0..world.disk.bytes(name).len() {
            let disk = world.disk.copy();
            disk.damage(name, |bytes| bytes[at] ^= 1 << (at % 8));
            let found = loaded(&world, &disk);
            assert_eq!(found.is_none(), may_lose_all, "{name}, byte {at}: {found:?}");
            assert_ne!(found, Some(world.log.head()), "{name}, byte {at}: noticed");
        }
    }
}

#[test]
fn a_checkpoint_that_is_cut_empty_or_something_else_is_no_table() {
    let world = kept();
    let (checkpoint, journal) = files(&world.disk);
    let length = world.disk.bytes(&checkpoint).len();
    for cut in 0..length {
        let disk = world.disk.copy();
        disk.damage(&checkpoint, |bytes| bytes.truncate(cut));
        assert_eq!(loaded(&world, &disk), None, "{cut} of {length} bytes");
    }
    for other in [b"garbage".repeat(100), world.disk.bytes(&journal), vec![0; 4096]] {
        let disk = world.disk.copy();
        disk.put(&checkpoint, &other);
        assert_eq!(loaded(&world, &disk), None);
    }
    let disk = world.disk.copy();
    disk.damage(&checkpoint, |bytes| bytes.push(0));
    assert_eq!(loaded(&world, &disk), Some(world.log.head()), "what follows the last part says nothing");
}

#[test]
fn the_second_newest_checkpoint_is_used_when_the_newest_is_damaged_and_replaced_at_once() {
    let mut world = kept();
    let (newest, _) = files(&world.disk);
    let next: u64 = newest.trim_start_matches("checkpoint-").parse::<u64>().unwrap() + 1;
    world.disk.put(&checkpoint(next), b"half a checkpoint");
    let head = world.log.head();
    world.crash(|below| below - 1);
    assert_eq!(world.durable, Some(head), "settled without the control plane");
    assert_eq!(world.disk.names().unwrap(), [checkpoint(next + 1)], "in a new file, and the bad one is gone");
}

#[test]
fn what_a_newer_build_wrote_is_kept_until_it_is_replaced() {
    what_is_newer_is_replaced(|(newest, _)| newest);
    what_is_newer_is_replaced(|(_, journal)| journal);
}

fn what_is_newer_is_replaced(newer: impl Fn((String, String)) -> String) {
    let mut world = kept();
    let (newest, journal) = files(&world.disk);
    world.disk.damage(&newer(files(&world.disk)), |bytes| {
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..40].copy_from_slice(&checksum.to_le_bytes());
    });
    let (bytes, journal_bytes) = (world.disk.bytes(&newest), world.disk.bytes(&journal));
    world.durable = None;
    world.live = Live::new(1);
    let found = recover(&world.disk, &world.live);
    assert!(found.loaded.is_none(), "nothing older is served in its place");
    world.writer = crate::stream::last_known_good::writer::Writer::new(world.disk.clone(), &found);
    world.writer.settle().unwrap();
    assert_eq!((world.disk.bytes(&newest), world.disk.bytes(&journal)), (bytes, journal_bytes), "untouched");
    world.deliver();
    world.write();
    assert_eq!(world.durable, Some(world.log.head()));
    assert!(!world.disk.names().unwrap().contains(&newest), "there is a newer table now");
}

#[test]
fn another_lineage_takes_the_place_of_every_file() {
    let mut world = kept();
    let before = world.disk.names().unwrap();
    world.restore();
    world.write();
    assert_eq!(world.durable, Some(world.log.head()));
    assert!(world.disk.names().unwrap().iter().all(|name| !before.contains(name)), "{before:?}");
    assert_eq!(loaded(&world, &world.disk), Some(world.log.head()));
}

#[test]
fn the_format_is_what_it_was() {
    let mut world = World::new();
    world.write();
    world.moves(0, 1);
    world.write();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (checkpoint, journal) = (world.disk.bytes(&checkpoint(1)), world.disk.bytes(&journal(1)));
    let parts = [&checkpoint[..HEADER_BYTES], &checkpoint[HEADER_BYTES..], &journal[..HEADER_BYTES]];
    assert_eq!(parts.map(hex), [CHECKPOINT_HEADER, CHECKPOINT_FRAMES, JOURNAL_HEADER]);
    assert_eq!(hex(&journal[HEADER_BYTES..]), JOURNAL_FRAMES);
}

#[test]
fn the_bytes_of_an_older_build_are_read() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    };
    let disk = Memory::default();
    disk.put("checkpoint-00000001", &[bytes(CHECKPOINT_HEADER), bytes(CHECKPOINT_FRAMES)].concat());
    disk.put("journal-00000001", &[bytes(JOURNAL_HEADER), bytes(JOURNAL_FRAMES)].concat());
    let live = Live::new(1);
    assert_eq!(recover(&disk, &live).loaded.unwrap().position.revision.0, 2);
    assert_eq!(served(&live), [Some(1), None, None]);
}

const CHECKPOINT_HEADER: &str = "5250545441424c4501000000000000000000000000000000000000010100000000000000118faacf";
const CHECKPOINT_FRAMES: &str = "\
    3b0000000b768e8612390a260a100000000000000000000000000000000110011a100c17f8a70178c4471ec85718167497f3\
    1801220d0a0b0a096c6f63616c686f7374";
const JOURNAL_HEADER: &str = "52505444454c54410100000000000000000000000000000000000001010000000000000035e27029";
const JOURNAL_FRAMES: &str = "\
    19010000be7cea931a96020a260a100000000000000000000000000000000110011a100c17f8a70178c4471ec85718167497\
    f312260a100000000000000000000000000000000110021a10388b5d3e02f0fa3a22322d50e798d0e41ac30108021001225e\
    1a5c0a240a10000000000000000000000000000000641210000000000000000000000000000003e912086363636363636363\
    1801200128013a240a1000000000000000000000000000002711120e3132372e302e302e313a393030312001225d125b0a10\
    000000000000000000000000000000641207737570706f72741a0265302214737570706f72742d65302e6c6f63616c686f73\
    742a10000000000000000000000000000003e932120801188080803220882730e0a71238a0f736";
