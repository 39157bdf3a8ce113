//! What is wrong with a file, line by line.

use std::fmt::Display;

use crate::control::error::Error;
use crate::rest::error::ErrorCode;
use crate::rest::transfer::LineError;

/// Lines shown with what is wrong with them. More are counted: the first hundred
/// are corrected by a person, a thousand by whatever wrote the file.
const SHOWN_MAX: usize = 100;

/// What is wrong with a file.
#[derive(Debug, Default)]
pub(super) struct Faults {
    shown: Vec<LineError>,
    total: u64,
}

impl Faults {
    /// A line cannot be carried out because of this.
    pub fn add(&mut self, line: u64, error: &Error) {
        let body = error.body();
        self.say(line, body.code, body.message);
    }

    /// A line cannot be carried out because of this.
    pub fn say(&mut self, line: u64, code: ErrorCode, message: impl Display) {
        self.total += 1;
        // Those of the first lines are shown, whatever order they were found in.
        self.shown.push(LineError { line, code, message: message.to_string() });
        if self.shown.len() >= 2 * SHOWN_MAX {
            self.cut();
        }
    }

    /// Nothing, or the refusal of the whole file.
    pub fn refuse(mut self) -> Result<(), Error> {
        if self.total == 0 {
            return Ok(());
        }
        self.cut();
        Err(Error::ImportInvalid { errors: self.shown, total: self.total })
    }

    fn cut(&mut self) {
        self.shown.sort_by_key(|error| error.line);
        self.shown.truncate(SHOWN_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_shown_and_all_are_counted() {
        let mut faults = Faults::default();
        for line in (1..=1_000).rev() {
            faults.say(line, ErrorCode::HostTaken, "taken");
        }
        let Err(Error::ImportInvalid { errors, total }) = faults.refuse() else { panic!() };
        assert_eq!((errors.len(), total), (SHOWN_MAX, 1_000));
        assert!(errors.iter().map(|error| error.line).eq(1..=100));
        assert!(Faults::default().refuse().is_ok());
    }
}
