//! How times, sizes and ids are written for people, and read from arguments.

use jiff::Timestamp;

use crate::cli::console::Console;
use crate::model::id::DeploymentId;
use crate::model::manifest::{Size, Span};
use crate::model::name::DeploymentRef;
use crate::rest::Deleted;

/// A moment, to the second, in UTC.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A value, or a dash where there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A ref where it is known, else the id it stands for.
pub fn name_of(reference: Option<&DeploymentRef>, id: DeploymentId) -> String {
    reference.map_or_else(|| id.to_string(), ToString::to_string)
}

/// `one` or `many` things, counted.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Seconds as `4d 3h`, `3h 12m`, `12m 5s` or `5s`.
pub fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How a removal went: what still serves requests goes when they have ended.
pub fn deleted(what: &str, answer: &Deleted) -> String {
    if answer.deleted {
        format!("deleted {what}")
    } else {
        format!("{what} takes no new requests and finishes those it has; run the same command again to see it gone")
    }
}

/// Says that a list goes on where it was cut.
pub fn more(console: &mut Console, next_cursor: Option<&str>) {
    if next_cursor.is_some() {
        console.remark("there are more; ask for them with --limit");
    }
}

/// Reads how many items are shown at most.
pub fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit @ 1..=100_000) => Ok(limit),
        _ => Err("give a number from 1 to 100000".to_owned()),
    }
}

/// Reads a time as `"250ms"`, `"120s"`, `"5m"`, `"1h"`, or 0 for no limit.
pub fn parse_milliseconds(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let span = Span::try_from(text.to_owned())?;
    u64::try_from(span.duration().as_millis()).map_err(|_| format!("{text:?} is too long"))
}

/// Reads a size as `"512KiB"`, `"100MiB"`, `"1GiB"`, or 0 for no limit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { Size::try_from(text.to_owned()).map(|size| size.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_have_two_parts_at_most() {
        for (seconds, text) in [(5, "5s"), (65, "1m 5s"), (3_720, "1h 2m"), (90_000, "1d 1h")] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn limits_are_read_and_zero_means_none() {
        assert_eq!(parse_milliseconds("5m"), Ok(300_000));
        assert_eq!(parse_milliseconds("0"), Ok(0));
        assert!(parse_milliseconds("5").is_err());
        assert_eq!(parse_bytes("1MiB"), Ok(1 << 20));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert!(parse_bytes("many").unwrap_err().contains("512MiB"));
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(Timestamp::UNIX_EPOCH), "1970-01-01 00:00:00Z");
    }
}
