//! How long files and functions may be.

use crate::source::{Source, Violation};

/// The largest each may be, in lines.
pub struct Limits {
    pub file_median: usize,
    pub file: usize,
    pub function: usize,
}

/// What is over its budget. Tests are not counted: a long table of cases is a good thing.
pub fn over(sources: &[Source], limits: &Limits) -> Vec<Violation> {
    let counted: Vec<&Source> = sources.iter().filter(|source| !source.is_test).collect();
    let mut violations = Vec::new();
    let mut function_max = 0;
    for source in &counted {
        if source.lines() > limits.file {
            let what = format!("{} lines, at most {}; look for the second concept inside", source.lines(), limits.file);
            violations.push(source.violation(1, "file budget", what));
        }
        for function in source.functions.iter().filter(|function| !source.in_tests(function.line)) {
            function_max = function_max.max(function.lines);
            if function.lines > limits.function {
                let what = format!(
                    "`{}` has {} lines, at most {}; keep the branching here and move the calculations out",
                    function.name, function.lines, limits.function
                );
                violations.push(source.violation(function.line, "function budget", what));
            }
        }
    }
    let mut lines: Vec<usize> = counted.iter().map(|source| source.lines()).collect();
    lines.sort_unstable();
    let median = lines.get(lines.len() / 2).copied().unwrap_or(0);
    if median > limits.file_median {
        let what = format!("half of the files have {median} lines or more, at most {}; split some", limits.file_median);
        violations.push(Violation { path: "src".to_owned(), line: 1, rule: "file budget", what });
    }
    let file_max = lines.last().copied().unwrap_or(0);
    println!("{} files: median {median}, largest {file_max}; longest function {function_max}", lines.len());
    violations
}

// The check can fail.

const TINY: Limits = Limits { file_median: 4, file: 6, function: 3 };

fn over_tiny(text: &str) -> Vec<String> {
    over(&[Source::parse("src/x.rs", text)], &TINY).iter().map(Violation::to_string).collect()
}

#[test]
fn a_long_function_is_found_in_an_impl_too() {
    let found = over_tiny("struct S;\nimpl S { fn long() {\n\n\n} }");
    assert!(found[0].starts_with("src/x.rs:2: [function budget] `long` has 4 lines"), "{found:?}");
}

#[test]
fn a_long_file_is_found_and_a_high_median() {
    let found = over_tiny("//\n//\n//\n//\n//\n//\n//\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("src/x.rs:1: [file budget] 7 lines"), "{found:?}");
    assert!(found[1].contains("half of the files"), "{found:?}");
}

#[test]
fn tests_do_not_count() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn long() {\n\n\n\n\n    }\n}\n";
    assert_eq!(over_tiny(text), Vec::<String>::new());
}
