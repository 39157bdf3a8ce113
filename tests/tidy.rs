//! Keeps the source tree in the shape its map promises: who may name whom, how large things get, what is left out.
//!
//! The tables below are the rules and are meant to be edited; `tidy/` holds the checks. When one fails, the first
//! question is whether the code or the table is wrong, and a table is changed in the same commit as the code that
//! needs it. `cargo test --test tidy -- --nocapture` also prints how near the budgets are.

#[path = "tidy/budgets.rs"]
mod budgets;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/walks.rs"]
mod walks;
#[path = "tidy/wording.rs"]
mod wording;

use source::{Source, Violation};

/// Marks a row that may name every module: the composition root, and what starts it.
const EVERYTHING: &[&str] = &["*"];

/// Each top-level module and the modules it may name. An allowance nobody uses is removed; so is a row without a module.
const LAYERS: &[(&str, &[&str])] = &[
    // Nouns and tools: they name nothing.
    ("model", &[]),
    ("drain", &[]),
    ("telemetry", &[]),
    ("demo", &[]),
    // Pure or narrow: they know the nouns.
    // It says where a table stands.
    ("handover", &["model"]),
    ("routing", &["model"]),
    ("wire", &["model"]),
    ("fleet", &["model"]),
    ("bundle", &["model"]),
    // Both who probes replicas and who sends them requests shake hands with them.
    ("replica_tls", &["model"]),
    ("rest", &["model"]),
    // What replicas print: worker writes it, control reads and follows it.
    ("logs", &["model"]),
    // The change log keeps records in the encoded form the stream sends, hence wire.
    ("store", &["model", "wire"]),
    // Both ends of the control stream: the one place where store and routing meet.
    ("stream", &["model", "routing", "wire", "store", "fleet", "drain", "telemetry"]),
    // The data plane never names control, store or stream; the control plane never names ingress.
    ("ingress", &["model", "routing", "replica_tls", "drain", "telemetry"]),
    ("control", &["model", "rest", "store", "fleet", "bundle", "logs", "drain", "telemetry"]),
    ("worker", &["model", "store", "fleet", "bundle", "logs", "replica_tls", "telemetry"]),
    ("studio", &["model", "rest"]),
    ("cli", &["model", "rest", "bundle"]),
    // Each for its `Config`.
    ("config", &["ingress", "store", "worker", "fleet", "model"]),
    ("app", EVERYTHING),
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
];

/// Rows whose module is planned and does not exist. Whoever writes the module removes its name here.
const NOT_YET: &[&str] = &["studio"];

/// Outside crates with a home: replacing one then means reading one module. Crates not listed may be used anywhere.
const HOMES: &[(&str, &[&str])] = &[
    // ingress for the certificates, which a handshake reads as a request reads the table.
    ("arc_swap", &["routing", "ingress"]),
    // telemetry for spans: collectors speak gRPC.
    ("tonic", &["stream", "wire", "telemetry"]),
    ("tonic_prost", &["stream", "wire", "telemetry"]),
    ("prost", &["stream", "wire", "telemetry"]),
    // worker for its health probe, demo because it is a worker itself.
    ("hyper", &["ingress", "worker", "demo"]),
    // control for one of its timers, which axum's own server leaves off: the longest a request's head may take; stream for
    // the sockets of its simulation, in tests.
    ("hyper_util", &["ingress", "worker", "demo", "control", "stream"]),
    ("turmoil", &["stream"]),
    ("axum", &["control", "studio", "telemetry"]),
    ("sqlx", &["store"]),
    ("clap", &["cli", "config", "app", "main"]),
    ("ureq", &["cli"]),
    // ingress for the queues before pools whose replicas take only so many: no usual request touches it.
    ("dashmap", &["stream", "control", "fleet", "ingress"]),
    ("tar", &["bundle"]),
    ("flate2", &["bundle"]),
];

// Budgets of `src/`, without tests. They only ever go down: lower them when the code has room, split when it has not.

/// Half of the files have at most this many lines.
const FILE_LINES_MEDIAN_MAX: usize = 150;
/// No file has more; the second concept in a file this long wants one of its own.
const FILE_LINES_MAX: usize = 500;
/// No function has more, from `fn` to its closing brace: it fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Files under `tests/` that may sleep, each with its reason. Elsewhere a test waits for a value, with a limit: sleeping
/// tests are slow on good days and wrong on bad ones.
const SLEEPS_ALLOWED: &[(&str, &str)] = &[
    ("tests/support/mod.rs", "the pause between two looks of `until`, which has a deadline"),
    ("tests/support/server.rs", "the pause between two looks at a process that was asked to end"),
    ("tests/crash/traffic.rs", "the pace of a load that goes on meanwhile; nothing waits for it"),
];

// The tree as it is.

#[test]
fn modules_name_only_what_their_row_allows() {
    report(&layers::naming(&Source::tree(&["src"]), LAYERS));
}

#[test]
fn every_module_has_a_row_and_every_row_a_module() {
    report(&layers::rows(&Source::tree(&["src"]), LAYERS, NOT_YET));
}

#[test]
fn modules_form_no_cycle() {
    report(&layers::cycles(&Source::tree(&["src"])));
}

#[test]
fn outside_crates_stay_at_home() {
    report(&layers::homes(&Source::tree(&["src"]), HOMES));
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    report(&wording::openings(&Source::tree(&["src"])));
}

#[test]
fn files_and_functions_keep_their_budgets() {
    let limits =
        budgets::Limits { file_median: FILE_LINES_MEDIAN_MAX, file: FILE_LINES_MAX, function: FUNCTION_LINES_MAX };
    report(&budgets::over(&Source::tree(&["src"]), &limits));
}

#[test]
fn nothing_outside_tests_unwraps() {
    report(&wording::unwraps(&Source::tree(&["src"])));
}

#[test]
fn nothing_is_left_for_later() {
    report(&wording::loose_ends(&Source::tree(&["src", "tests", "benches"])));
}

#[test]
fn no_test_is_switched_off() {
    report(&wording::ignored(&Source::tree(&["src", "tests", "benches"])));
}

#[test]
fn tests_wait_for_values_and_not_for_a_while() {
    report(&wording::sleeps(&Source::tree(&["tests"]), SLEEPS_ALLOWED));
}

#[test]
fn paths_in_the_readme_exist() {
    report(&walks::broken(&walks::readme(), &Source::tree(&["src", "tests", "benches"])));
}

fn report(violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(lines.is_empty(), "{} to put right:\n\n{}\n", lines.len(), lines.join("\n"));
}
