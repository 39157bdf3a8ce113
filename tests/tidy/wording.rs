//! What must stand in a file, and what must not.

use std::collections::BTreeSet;

use crate::source::{Source, Violation};

/// Marks of unfinished work, put together here so that this file does not carry them.
const LATER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const UNWRITTEN: &[&str] = &[concat!("to", "do"), concat!("unimpl", "emented")];

/// Each file opens with `//!`: what it owns, what it refuses to know, who calls it.
pub fn openings(sources: &[Source]) -> Vec<Violation> {
    let is_open = |source: &&Source| source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    sources
        .iter()
        .filter(|source| !is_open(source))
        .map(|source| source.violation(1, "opening", "open with a `//!` paragraph that says what this file owns"))
        .collect()
}

/// Neither `.unwrap()` nor `X::unwrap` outside tests.
pub fn unwraps(sources: &[Source]) -> Vec<Violation> {
    let what = "an `expect` whose text is the reason it cannot fail, or an error; never `unwrap`";
    let mut violations = Vec::new();
    for source in sources {
        let calls =
            source.tokens.windows(2).filter(|pair| matches!(pair[0].0.as_str(), "." | ":") && pair[1].0 == "unwrap");
        let lines: BTreeSet<usize> = calls.map(|pair| pair[1].1).filter(|line| !source.in_tests(*line)).collect();
        violations.extend(lines.into_iter().map(|line| source.violation(line, "unwrap", what)));
    }
    violations
}

/// No note to a later self, in code, comment or string.
pub fn loose_ends(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for word in LATER.iter().filter(|word| has_word(line, word)) {
                let what = format!("`{word}`: do it now, open an issue, or say plainly what is missing and why");
                violations.push(source.violation(index + 1, "loose end", what));
            }
        }
        let calls = source.tokens.windows(2).filter(|pair| pair[1].0 == "!" && UNWRITTEN.contains(&pair[0].0.as_str()));
        for call in calls {
            let what = format!("`{}!`: a panic is no placeholder; return an error that says so", call[0].0);
            violations.push(source.violation(call[0].1, "loose end", what));
        }
    }
    violations
}

/// No `#[ignore]`: a test that does not run is a promise nobody keeps.
pub fn ignored(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        for (at, token) in source.tokens.windows(2).enumerate().filter(|(_, pair)| pair[0].0 == "#" && pair[1].0 == "[")
        {
            let first = source.tokens.get(at + 2).map(|token| token.0.as_str());
            let inside =
                || source.tokens[at + 2..].iter().map(|token| token.0.as_str()).take_while(|text| *text != "]");
            if first == Some("ignore") || first == Some("cfg_attr") && inside().any(|text| text == "ignore") {
                violations.push(source.violation(token[0].1, "switched off", "run it or remove it"));
            }
        }
    }
    violations
}

/// Only listed files sleep, and listed files do.
pub fn sleeps(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut sleepers = BTreeSet::new();
    for source in sources {
        for mention in &source.mentions {
            let is_sleep = |pair: &[String]| matches!(pair[0].as_str(), "thread" | "time") && pair[1] == "sleep";
            if !mention.segments.windows(2).any(is_sleep) {
                continue;
            }
            sleepers.insert(source.path.as_str());
            if !allowed.iter().any(|(path, _)| *path == source.path) {
                let what = "wait for a value with a limit; or list the file with its reason in SLEEPS_ALLOWED";
                violations.push(source.violation(mention.line, "sleeping test", what));
            }
        }
    }
    for (path, reason) in allowed {
        if !sleepers.contains(path) || reason.is_empty() {
            let what = format!("{path} does not sleep or gives no reason; take it out of SLEEPS_ALLOWED");
            violations.push(Violation { path: "tests/tidy.rs".to_owned(), line: 1, rule: "sleeping test", what });
        }
    }
    violations
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

// The checks can fail.

fn source(text: &str) -> [Source; 1] {
    [Source::parse("tests/x.rs", text)]
}

fn lines(violations: &[Violation]) -> Vec<usize> {
    violations.iter().map(|violation| violation.line).collect()
}

#[test]
fn a_file_without_an_opening_is_found() {
    assert_eq!(openings(&source("//! The table.\n")), []);
    assert_eq!(openings(&source("// A remark.\n")).len(), 1);
    assert_eq!(openings(&source("\n//! A line too late.\n")).len(), 1);
    assert_eq!(openings(&source("")).len(), 1);
}

#[test]
fn an_unwrap_is_found_outside_tests_and_in_macros() {
    let text = "fn a() { x.unwrap(); }\nfn b() { info!(x.unwrap()) }\nfn c() { y.map(Option::unwrap) }\n// .unwrap()\n\
                #[cfg(test)]\nmod tests { fn d() { x.unwrap() } }";
    assert_eq!(lines(&unwraps(&source(text))), [1, 2, 3]);
    assert_eq!(unwraps(&source("fn a() { x.unwrap_or(1); }")), []);
}

#[test]
fn a_loose_end_is_found_in_comment_and_code() {
    let comments = format!("// {}: later\n// {}\n// MA{}\n", LATER[0], LATER[1], LATER[2]);
    assert_eq!(lines(&loose_ends(&source(&comments))), [1, 2]);
    let calls = format!("fn a() {{ {}!() }}\nfn b() {{ {}!(\"x\") }}\n", UNWRITTEN[0], UNWRITTEN[1]);
    assert_eq!(lines(&loose_ends(&source(&calls))), [1, 2]);
}

#[test]
fn a_test_switched_off_is_found() {
    let text =
        "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n#[cfg_attr(unix, ignore)]\nfn b() {}\n#[allow(x)]\nfn ignore() {}";
    assert_eq!(lines(&ignored(&source(text))), [2, 4]);
}

#[test]
fn a_sleep_is_found_and_so_is_an_idle_permission() {
    let text =
        "use tokio::time::{Duration, sleep};\nfn a() { std::thread::sleep(x) }\nfn b() { tokio::time::timeout(x) }";
    assert_eq!(lines(&sleeps(&source(text), &[])), [1, 2]);
    assert_eq!(sleeps(&source(text), &[("tests/x.rs", "steps between two reads of a value")]), []);
    assert_eq!(sleeps(&source(text), &[("tests/x.rs", ""), ("tests/y.rs", "none")]).len(), 2);
}
