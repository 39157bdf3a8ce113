//! The README's walks: what they name exists, so that a reader is never sent nowhere.

use std::fs;
use std::path::Path;

use crate::source::{Source, Violation};

/// The README's text; empty while there is none.
pub fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap_or_default()
}

/// Files named in `readme` that are not in the tree, and functions named as `file.rs::function` that are not in the file.
pub fn broken(readme: &str, sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, text) in readme.lines().enumerate() {
        for (path, function) in named(text) {
            let mut report = |what: String| {
                violations.push(Violation { path: "README.md".to_owned(), line: index + 1, rule: "walks", what });
            };
            let Some(source) = sources.iter().find(|source| is_at(source, path)) else {
                report(format!("`{path}` is in none of src/, tests/ and benches/; say where it is now"));
                continue;
            };
            if function.is_some_and(|name| source.functions.iter().all(|function| function.name != name)) {
                report(format!("`{path}` has no function `{}`; say which it is now", function.unwrap_or_default()));
            }
        }
    }
    violations
}

fn is_at(source: &Source, path: &str) -> bool {
    ["", "src/", "tests/", "benches/"].iter().any(|folder| source.path.strip_prefix(folder) == Some(path))
}

/// Each `some/file.rs` of a line, with the `::name` that may follow it.
fn named(line: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '/');
    line.match_indices(".rs").filter_map(move |(dot, _)| {
        let start =
            line[..dot].rfind(|c| !is_part(c)).map_or(0, |at| at + line[at..].chars().next().map_or(1, char::len_utf8));
        let (path, rest) = (&line[start..dot + 3], &line[dot + 3..]);
        // A host (`//docs.rs`), a longer word (`.rsx`) and what a glob or `..` stands before are no paths of ours.
        let is_foreign = path.starts_with(['/', '.']) || rest.starts_with(|c: char| c.is_alphanumeric());
        (!is_foreign).then(|| (path, rest.strip_prefix("::").map(identifier).filter(|name| !name.is_empty())))
    })
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    &text[..end]
}

// The check can fail.

#[test]
fn a_path_that_leads_nowhere_is_found() {
    let tree = [Source::parse("src/ingress/proxy.rs", "fn handle() {}"), Source::parse("tests/tidy.rs", "")];
    let found = |text: &str| -> Vec<String> { broken(text, &tree).iter().map(Violation::to_string).collect() };
    assert_eq!(found("First\n`ingress/proxy.rs::handle` and src/ingress/proxy.rs, tests/tidy.rs.").len(), 0);
    assert_eq!(found("See https://docs.rs/hyper and https://rustup.rs").len(), 0);
    assert!(
        found("First\n→`ingress/listener.rs`")[0].starts_with("README.md:2: [walks] `ingress/listener.rs` is in none")
    );
    assert!(found("`ingress/proxy.rs::serve`")[0].contains("no function `serve`"));
}
