//! Rust files as the checks see them: paths mentioned, functions, and which lines are tests.
//!
//! Mentions are read from tokens rather than from the syntax tree, because the tree stops at macros: a path inside
//! `select!` or a `derive` counts as much as any other. The tree tells what tokens cannot: functions and test modules.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Written by a compiler; no rule applies.
const GENERATED: &str = "src/wire/generated/";

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub path: String,
    pub line: usize,
    pub rule: &'static str,
    /// What is wrong and what to do.
    pub what: String,
}

/// One file.
pub struct Source {
    /// From the root of the repository, with forward slashes.
    pub path: String,
    pub text: String,
    pub mentions: Vec<Mention>,
    pub functions: Vec<Function>,
    /// Every token as text with its line; delimiters included, literals kept whole.
    pub tokens: Vec<(String, usize)>,
    /// Lines of items under `#[cfg(test)]` or `#[test]`.
    test_lines: Vec<RangeInclusive<usize>>,
    /// The first line of the test module that ends the file, if one does.
    tail_tests: Option<usize>,
    /// Modules declared here as `#[cfg(test)] mod name;`: test code in files of their own.
    test_files: Vec<String>,
    /// Reached only through such a declaration.
    pub is_test: bool,
}

/// A path such as `crate::model::Name`, with the groups of a `use` already spread out.
#[derive(Debug)]
pub struct Mention {
    pub segments: Vec<String>,
    pub line: usize,
    /// How many inline modules it stands in.
    pub depth: usize,
    /// Stands directly behind `use` or `extern crate`.
    pub imported: bool,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    /// Every file under these folders of the repository, generated code left out. A folder that does not exist is empty.
    pub fn tree(folders: &[&str]) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = Vec::new();
        for folder in folders {
            list(root, folder, &mut paths);
        }
        paths.retain(|path| !path.starts_with(GENERATED));
        paths.sort();
        let read = |path: &String| {
            let text = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
            Self::parse(path, &text)
        };
        mark_test_files(paths.iter().map(read).collect())
    }

    /// Panics where the text is not Rust: the compiler has a better message.
    pub fn parse(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        let mut file = Reader::default();
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        file.visit_file(&syntax);
        let mut flat = Vec::new();
        flatten(tokens.clone(), &mut flat);
        let mut mentions = Vec::new();
        collect(tokens, &Scope::default(), &mut mentions);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            mentions,
            functions: file.functions,
            tokens: flat,
            test_lines: file.test_lines,
            tail_tests: tail_tests(&syntax),
            test_files: file.test_files,
            is_test: false,
        }
    }

    /// The file's place among the modules: `src/model/name.rs` is `["model", "name"]`, `src/main.rs` is `["main"]`.
    pub fn module_path(&self) -> Vec<&str> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut path: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
        if path.last() == Some(&"mod") {
            path.pop();
        }
        path
    }

    /// The top-level module the file belongs to.
    pub fn module(&self) -> &str {
        self.module_path().first().copied().unwrap_or("lib")
    }

    pub fn in_tests(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// Lines up to the test module that ends the file.
    pub fn lines(&self) -> usize {
        let end = self.tail_tests.map_or(usize::MAX, |line| line - 1);
        let lines: Vec<&str> = self.text.lines().take(end).collect();
        lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1)
    }

    pub fn violation(&self, line: usize, rule: &'static str, what: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, rule, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.what)
    }
}

fn list(root: &Path, folder: &str, paths: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = format!("{folder}/{}", name.to_string_lossy());
        if entry.path().is_dir() {
            list(root, &path, paths);
        } else if path.ends_with(".rs") {
            paths.push(path);
        }
    }
}

fn mark_test_files(mut sources: Vec<Source>) -> Vec<Source> {
    let declared: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            // The crate's root files declare modules beside themselves, every other file in the folder of its name.
            let parent = match source.module_path().as_slice() {
                ["lib" | "main"] => "src".to_owned(),
                path => format!("src/{}", path.join("/")),
            };
            source.test_files.iter().map(move |name| format!("{parent}/{name}"))
        })
        .collect();
    for source in &mut sources {
        let is_below = |module: &String| {
            source.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        source.is_test = declared.iter().any(is_below);
    }
    sources
}

// Tokens.

fn flatten(stream: TokenStream, flat: &mut Vec<(String, usize)>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                flat.push((open.to_owned(), group.span_open().start().line));
                flatten(group.stream(), flat);
                flat.push((close.to_owned(), group.span_close().start().line));
            }
            other => flat.push((other.to_string(), line)),
        }
    }
}

/// Where a stretch of tokens stands.
#[derive(Default, Clone)]
struct Scope {
    /// What stands before the braces of a `use` group.
    prefix: Vec<String>,
    depth: usize,
}

fn collect(stream: TokenStream, scope: &Scope, mentions: &mut Vec<Mention>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        match tree {
            TokenTree::Ident(ident) if ident == "mod" => at = module(&trees, at, scope, mentions),
            // The new name of `use a as b` is no path.
            TokenTree::Ident(ident) if ident == "as" && !scope.prefix.is_empty() => at += 2,
            TokenTree::Ident(_) => at = path(&trees, at, scope, mentions),
            TokenTree::Group(group) => {
                collect(group.stream(), &Scope { prefix: Vec::new(), depth: scope.depth }, mentions);
                at += 1;
            }
            TokenTree::Literal(literal) => {
                quoted(&literal.to_string(), tree.span().start().line, scope.depth, mentions);
                at += 1;
            }
            TokenTree::Punct(_) => at += 1,
        }
    }
}

/// `mod name { … }`: its contents stand one module deeper.
fn module(trees: &[TokenTree], at: usize, scope: &Scope, mentions: &mut Vec<Mention>) -> usize {
    if let Some(TokenTree::Group(body)) = trees.get(at + 2).filter(|_| is_ident(trees.get(at + 1))) {
        collect(body.stream(), &Scope { prefix: Vec::new(), depth: scope.depth + 1 }, mentions);
        return at + 3;
    }
    at + 1
}

/// One path, as far as it goes; returns where the next token stands.
fn path(trees: &[TokenTree], start: usize, scope: &Scope, mentions: &mut Vec<Mention>) -> usize {
    let line = trees[start].span().start().line;
    let mut segments = scope.prefix.clone();
    segments.push(plain(&trees[start]));
    let mut at = start + 1;
    while is_path_separator(trees, at) {
        match trees.get(at + 2) {
            Some(next @ TokenTree::Ident(_)) => segments.push(plain(next)),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => segments.push("*".to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                spread(group, Scope { prefix: segments, depth: scope.depth }, mentions);
                return at + 3;
            }
            _ => break,
        }
        at += 3;
    }
    let imported = start > 0 && matches!(plain(&trees[start - 1]).as_str(), "use" | "crate");
    mentions.push(Mention { segments, line, depth: scope.depth, imported });
    at
}

/// The braces of a `use`: each member begins with what stands before them.
fn spread(group: &Group, scope: Scope, mentions: &mut Vec<Mention>) {
    let empty = group.stream().is_empty();
    if empty {
        let line = group.span_open().start().line;
        mentions.push(Mention { segments: scope.prefix, line, depth: scope.depth, imported: true });
    } else {
        collect(group.stream(), &scope, mentions);
    }
}

/// `#[serde(with = "crate::…")]` names a module as well as any path does.
fn quoted(literal: &str, line: usize, depth: usize, mentions: &mut Vec<Mention>) {
    let Some(inner) = literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return };
    if inner.starts_with("crate::") || inner.starts_with("super::") {
        let segments = inner.split("::").map(str::to_owned).collect();
        mentions.push(Mention { segments, line, depth, imported: false });
    }
}

fn is_path_separator(trees: &[TokenTree], at: usize) -> bool {
    let is_colon = |tree: Option<&TokenTree>| matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(trees.get(at)) && is_colon(trees.get(at + 1))
}

fn is_ident(tree: Option<&TokenTree>) -> bool {
    matches!(tree, Some(TokenTree::Ident(_)))
}

fn plain(tree: &TokenTree) -> String {
    tree.to_string().trim_start_matches("r#").to_owned()
}

// The syntax tree.

#[derive(Default)]
struct Reader {
    functions: Vec<Function>,
    test_lines: Vec<RangeInclusive<usize>>,
    test_files: Vec<String>,
}

impl Reader {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let end = body.brace_token.span.close().end().line;
        self.functions.push(Function { name: signature.ident.to_string(), line, lines: end - line + 1 });
    }

    fn test(&mut self, item: &impl Spanned) {
        let span = item.span();
        self.test_lines.push(span.start().line..=span.end().line);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_for_tests(attributes(item)) {
            self.test(item);
            if let syn::Item::Mod(syn::ItemMod { ident, content: None, .. }) = item {
                self.test_files.push(ident.to_string());
            }
        }
        visit::visit_item(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_for_tests(&item.attrs) {
            self.test(item);
        }
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn tail_tests(file: &syn::File) -> Option<usize> {
    match file.items.last()? {
        syn::Item::Mod(item) if is_for_tests(&item.attrs) && item.content.is_some() => Some(item.span().start().line),
        _ => None,
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]`, `#[tokio::test]`; not `any(test, …)`, which is also built without.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = attribute.path().segments.last().is_some_and(|last| last.ident == "test");
        is_test || attribute.path().is_ident("cfg") && requires_test(&attribute.meta)
    })
}

fn requires_test(meta: &syn::Meta) -> bool {
    let syn::Meta::List(list) = meta else { return false };
    let condition = list.tokens.to_string().replace(' ', "");
    condition == "test"
        || condition.starts_with("all(") && condition[4..condition.len() - 1].split(',').any(|c| c == "test")
}

// What the checks rely on.

#[test]
fn mentions_are_found_wherever_they_hide() {
    let text = "
        use crate::{a::{self, X}, b as other, c::*};
        use std::io;
        #[serde(with = \"crate::d::form\")]
        struct S(crate::e::T);
        fn f() { select! { x = crate::f::go() => g::<crate::h::U>(x) } }
    ";
    let source = Source::parse("src/z.rs", text);
    let named: Vec<&str> =
        source.mentions.iter().filter(|m| m.segments[0] == "crate").map(|m| m.segments[1].as_str()).collect();
    assert_eq!(named, ["a", "a", "b", "c", "d", "e", "f", "h"]);
}

#[test]
fn tests_are_told_from_the_rest() {
    let text = "fn a() {}\n\n#[cfg(test)]\nimpl X {\n    fn b() {}\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    let source = Source::parse("src/z.rs", text);
    let outside: Vec<&str> =
        source.functions.iter().filter(|f| !source.in_tests(f.line)).map(|f| f.name.as_str()).collect();
    assert_eq!(outside, ["a"]);
    assert_eq!(source.lines(), 6, "without the trailing test module and the blank line before it");
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_test_code() {
    let sources = mark_test_files(vec![
        Source::parse("src/x/mod.rs", "#[cfg(test)]\nmod tests;\nmod y;"),
        Source::parse("src/x/tests.rs", ""),
        Source::parse("src/x/y.rs", ""),
    ]);
    assert_eq!(sources.iter().map(|source| source.is_test).collect::<Vec<_>>(), [false, true, false]);
}
