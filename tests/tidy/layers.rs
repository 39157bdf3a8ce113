//! Who may name whom, among the crate's modules and outside it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Violation};

type Table<'a> = &'a [(&'a str, &'a [&'a str])];

/// Every mention is allowed, and every allowance is used.
pub fn naming(sources: &[Source], layers: Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut used = BTreeSet::new();
    for (source, line, named) in mentions(sources) {
        let (module, allowed) = (source.module(), row(layers, source.module()));
        used.insert((module, named.clone()));
        if module == named || allowed.contains(&"*") {
            continue;
        }
        if row_exists(layers, &named) && allowed.contains(&named.as_str()) {
            continue;
        }
        let what = if row_exists(layers, &named) {
            format!("`{module}` may not name `{named}`; move the code to the side that may, or pass the value in")
        } else {
            format!("`{named}` is no module; the crate's root holds no items, give it a home")
        };
        violations.push(source.violation(line, "layering", what));
    }
    violations.extend(unused(sources, layers, &used));
    violations
}

fn unused(sources: &[Source], layers: Table, used: &BTreeSet<(&str, String)>) -> Vec<Violation> {
    let present: BTreeSet<&str> = sources.iter().map(Source::module).collect();
    let mut violations = Vec::new();
    for (module, allowed) in layers.iter().filter(|(module, _)| present.contains(module)) {
        let is_idle = |named: &&&str| **named != "*" && !used.contains(&(*module, (**named).to_owned()));
        let idle: Vec<&str> = allowed.iter().filter(is_idle).copied().collect();
        if !idle.is_empty() {
            let what = format!("`{module}` does not name `{}`; take that out of its row", idle.join("`, `"));
            violations.push(table(module, what));
        }
    }
    violations
}

/// Every module has a row, and every row a module unless it is listed as planned.
pub fn rows(sources: &[Source], layers: Table, not_yet: &[&str]) -> Vec<Violation> {
    let present: BTreeSet<&str> = sources.iter().map(Source::module).collect();
    let mut violations = Vec::new();
    for module in present.iter().filter(|module| !row_exists(layers, module)) {
        violations.push(table(module, format!("module `{module}` has no row; add it to LAYERS with what it may name")));
    }
    for (module, _) in layers.iter().filter(|(module, _)| !present.contains(module) && !not_yet.contains(module)) {
        violations
            .push(table(module, format!("there is no module `{module}`; take its row out, or list it in NOT_YET")));
    }
    for module in not_yet {
        if present.contains(module) {
            violations.push(table(module, format!("module `{module}` exists; take it out of NOT_YET")));
        }
        if !row_exists(layers, module) {
            violations.push(table(module, format!("`{module}` is in NOT_YET and has no row in LAYERS")));
        }
    }
    violations
}

/// No module reaches itself through others: either could then be read without the other.
pub fn cycles(sources: &[Source]) -> Vec<Violation> {
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let present: BTreeSet<&str> = sources.iter().map(Source::module).collect();
    for (source, _, named) in mentions(sources) {
        if source.module() != named && present.contains(named.as_str()) {
            edges.entry(source.module()).or_default().insert(named);
        }
    }
    for start in edges.keys() {
        if let Some(cycle) = way_back(start, &edges, &mut vec![(*start).to_owned()]) {
            return vec![table(
                start,
                format!("modules name each other in a circle: {}; cut one of these", cycle.join(" → ")),
            )];
        }
    }
    Vec::new()
}

fn way_back(start: &str, edges: &BTreeMap<&str, BTreeSet<String>>, way: &mut Vec<String>) -> Option<Vec<String>> {
    let here = way.last()?.clone();
    for next in edges.get(here.as_str())? {
        if next == start {
            way.push(next.clone());
            return Some(way.clone());
        }
        if !way.contains(next) {
            way.push(next.clone());
            if let Some(found) = way_back(start, edges, way) {
                return Some(found);
            }
            way.pop();
        }
    }
    None
}

/// Outside crates with a home are named only there.
pub fn homes(sources: &[Source], homes: Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        for mention in source.mentions.iter().filter(|mention| mention.segments.len() > 1 || mention.imported) {
            let name = mention.segments[0].as_str();
            let Some((_, home)) = homes.iter().find(|(outside, _)| *outside == name) else { continue };
            if !home.contains(&source.module()) {
                let what = format!(
                    "`{name}` lives in {}; `{}` asks one of them, or HOMES is widened with a reason",
                    home.join(", "),
                    source.module()
                );
                violations.push(source.violation(mention.line, "outside crates", what));
            }
        }
    }
    violations
}

/// Each mention of one of the crate's own modules: where, and which.
fn mentions(sources: &[Source]) -> impl Iterator<Item = (&Source, usize, String)> {
    sources.iter().flat_map(|source| {
        source.mentions.iter().filter_map(move |mention| {
            let segments: Vec<&str> = mention.segments.iter().map(String::as_str).collect();
            let named = named_module(&segments, source.module(), depth(source) + mention.depth)?;
            // Test modules of the root files say `super::*`; the root itself is no module to depend on.
            let of_root = matches!(source.module(), "lib" | "main") && named == "*";
            (!of_root).then(|| (source, mention.line, named.to_owned()))
        })
    })
}

/// `crate::x`, or as many `super`s as it takes to get out of the module and to `x`.
fn named_module<'a>(segments: &[&'a str], module: &str, depth: usize) -> Option<&'a str> {
    // `main.rs` is a crate of its own and names ours from outside.
    if segments[0] == "crate" || module == "main" && segments[0] == "repoint" {
        return segments.get(1).copied().filter(|named| *named != "self");
    }
    let below_self = segments.strip_prefix(&["self"]).unwrap_or(segments);
    let supers = below_self.iter().take_while(|segment| **segment == "super").count();
    (supers > 0 && supers >= depth).then(|| below_self.get(supers).copied()).flatten()
}

fn depth(source: &Source) -> usize {
    match source.module_path().as_slice() {
        ["lib" | "main"] => 0,
        path => path.len(),
    }
}

fn row<'a>(layers: Table<'a>, module: &str) -> &'a [&'a str] {
    layers.iter().find(|(name, _)| *name == module).map_or(&[], |(_, allowed)| *allowed)
}

fn row_exists(layers: Table, module: &str) -> bool {
    layers.iter().any(|(name, _)| *name == module)
}

/// A violation of the table itself, at the row of `module` where there is one.
fn table(module: &str, what: String) -> Violation {
    let row = format!("(\"{module}\", ");
    let line = include_str!("../tidy.rs").lines().position(|line| line.contains(&row)).map_or(1, |index| index + 1);
    Violation { path: "tests/tidy.rs".to_owned(), line, rule: "layering", what }
}

// The checks can fail.

const SMALL: Table = &[("low", &[]), ("high", &["low"]), ("app", &["*"])];

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(path, text)| Source::parse(path, text)).collect()
}

fn whats(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(Violation::to_string).collect()
}

#[test]
fn a_mention_upwards_is_found_with_its_line() {
    let tree = sources(&[("src/low.rs", "fn f() {\n    crate::high::go();\n}"), ("src/high.rs", "use crate::low;")]);
    let found = whats(&naming(&tree, SMALL));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("src/low.rs:2: [layering] `low` may not name `high`"), "{found:?}");
}

#[test]
fn a_mention_by_way_of_super_is_found() {
    let up_and_out = "mod inner {\n    use super::super::super::high::X;\n}";
    let tree = sources(&[("src/low/deep.rs", up_and_out), ("src/high.rs", "use crate::low;")]);
    assert_eq!(naming(&tree, SMALL).len(), 1);
    let within = sources(&[("src/low/deep.rs", "use super::high::X;"), ("src/high.rs", "use crate::low;")]);
    assert_eq!(naming(&within, SMALL), [], "`low::high` is another module");
}

#[test]
fn an_allowance_nobody_uses_is_found() {
    let tree = sources(&[("src/low.rs", ""), ("src/high.rs", "")]);
    let found = whats(&naming(&tree, SMALL));
    assert!(found[0].contains("`high` does not name `low`"), "{found:?}");
}

#[test]
fn an_item_of_the_root_is_found_and_the_composition_root_is_free() {
    let tree = sources(&[
        ("src/low.rs", "use crate::Error;"),
        ("src/high.rs", "use crate::low;"),
        ("src/app.rs", "use crate::{high, low};"),
    ]);
    let found = whats(&naming(&tree, SMALL));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`Error` is no module"), "{found:?}");
}

#[test]
fn rows_and_modules_match_both_ways() {
    let tree = sources(&[("src/low.rs", ""), ("src/new.rs", ""), ("src/planned.rs", "")]);
    let layers: Table = &[("low", &[]), ("gone", &[]), ("planned", &[]), ("later", &[])];
    let found = whats(&rows(&tree, layers, &["planned", "later", "rowless"]));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].contains("`new` has no row"), "{found:?}");
    assert!(found[1].contains("no module `gone`"), "{found:?}");
    assert!(found[2].contains("`planned` exists"), "{found:?}");
    assert!(found[3].contains("`rowless` is in NOT_YET"), "{found:?}");
}

#[test]
fn a_circle_is_found_at_any_length() {
    let circle = [("src/a.rs", "use crate::b;"), ("src/b/x.rs", "use crate::c;"), ("src/c.rs", "use crate::a;")];
    let found = whats(&cycles(&sources(&circle)));
    assert!(found[0].contains("a → b → c → a"), "{found:?}");
    assert_eq!(cycles(&sources(&circle[..2])), []);
}

#[test]
fn an_outside_crate_away_from_home_is_found() {
    let homes_of = |text: &str| homes(&sources(&[("src/low.rs", text)]), &[("sqlx", &["store"])]).len();
    assert_eq!(homes_of("use sqlx::Row;"), 1);
    assert_eq!(homes_of("use sqlx as database;"), 1);
    assert_eq!(homes_of("#[derive(sqlx::FromRow)] struct S;"), 1);
    assert_eq!(homes_of("fn f(x: ::sqlx::Error) {}"), 1);
    assert_eq!(homes_of("fn f(sqlx: u8) -> u8 { sqlx }"), 0, "a name of one's own");
    assert_eq!(homes(&sources(&[("src/store/x.rs", "use sqlx::Row;")]), &[("sqlx", &["store"])]), []);
}
