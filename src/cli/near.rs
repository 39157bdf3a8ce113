//! Near names: what somebody may have meant.

/// Names offered at most.
const OFFERED_MAX: usize = 3;

/// Names listed at most where none is near.
const LISTED_MAX: usize = 10;

/// What to say after "failed to find … `name`": near names, else what there is.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = near(name, &known);
    if !near.is_empty() {
        return format!("; did you mean {}?", near.join(" or "));
    }
    match known.len() {
        0 => "; there is none yet".to_owned(),
        count if count > LISTED_MAX => {
            format!("; there are {} and {} more", known[..LISTED_MAX].join(", "), count - LISTED_MAX)
        }
        1 => format!("; there is only {}", known[0]),
        _ => format!("; there are {}", known.join(", ")),
    }
}

fn near<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let name = name.to_ascii_lowercase();
    // One slip in three letters: `prod` is found by being a beginning instead.
    let slips_max = (name.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
        .filter(|(slips, candidate)| *slips <= slips_max || is_beginning(&name, candidate))
        .collect();
    near.sort_unstable();
    near.into_iter().take(OFFERED_MAX).map(|(_, candidate)| candidate).collect()
}

/// Two letters say enough to mean a name by its beginning.
fn is_beginning(name: &str, candidate: &str) -> bool {
    name.len() >= 2 && (candidate.starts_with(name) || name.starts_with(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: [&str; 3] = ["preview", "staging", "production"];

    #[test]
    fn slips_beginnings_and_capitals_find_the_name() {
        for (name, expected) in
            [("stagin", "staging"), ("prod", "production"), ("Preview", "preview"), ("pervиew", "preview")]
        {
            assert_eq!(hint(name, DEFAULTS), format!("; did you mean {expected}?"), "{name}");
        }
    }

    #[test]
    fn the_nearest_comes_first() {
        assert_eq!(hint("agent-2", ["agent-22", "agent-2b", "agent-1", "agent-2-old"]).matches(" or ").count(), 2);
        assert!(hint("agent-2", ["agent-33", "agent-1", "agent-2x"]).contains("did you mean agent-1 or"));
    }

    #[test]
    fn where_nothing_is_near_it_says_what_there_is() {
        assert_eq!(hint("xyz", DEFAULTS), "; there are preview, staging, production");
        assert_eq!(hint("xyz", ["support"]), "; there is only support");
        assert_eq!(hint("xyz", []), "; there is none yet");
        let many: Vec<String> = (0..30).map(|n| format!("project-{n}")).collect();
        assert!(hint("xyz", many.iter().map(String::as_str)).ends_with("and 20 more"));
    }
}
