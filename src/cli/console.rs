//! Where a command reads and writes: results, remarks and questions.
//!
//! Knows nothing of what is said. A test hands in buffers instead of the
//! process's own streams.

use std::io::{self, BufRead, IsTerminal as _, Write};

use crate::cli::error::Error;
use crate::cli::progress::Style;
use crate::cli::table::Table;

/// The streams of a command and what may be assumed of them.
pub struct Console {
    results: Box<dyn Write>,
    remarks: Box<dyn Write>,
    answers: Box<dyn BufRead>,
    /// Whether somebody can be asked.
    interactive: bool,
    /// How wide a table may be; `None`: as wide as it is.
    columns: Option<usize>,
    /// How long work is shown.
    style: Style,
    json: bool,
}

impl Console {
    /// The streams of this process.
    pub fn of_process(json: bool) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let columns = if stdout.is_terminal() { terminal_size::terminal_size() } else { None };
        let style = match (json, stderr.is_terminal()) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Animated,
            (false, false) => Style::Lines,
        };
        Self {
            interactive: io::stdin().is_terminal() && stderr.is_terminal(),
            columns: columns.map(|(width, _)| usize::from(width.0)),
            results: Box::new(stdout),
            remarks: Box::new(stderr),
            answers: Box::new(io::BufReader::new(io::stdin())),
            style,
            json,
        }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// How long work is shown.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Writes a line of the result.
    pub fn print(&mut self, line: &str) -> Result<(), Error> {
        let written = writeln!(self.results, "{}", line.trim_end_matches('\n'));
        written.and_then(|()| self.results.flush()).map_err(Error::Output)
    }

    /// Writes a table as the result, as wide as the terminal at most.
    pub fn print_table(&mut self, table: &Table) -> Result<(), Error> {
        let text = table.render(self.columns);
        self.print(&text)
    }

    /// Writes a value as the result.
    pub fn print_json(&mut self, value: &impl serde::Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(value).map_err(|error| Error::Output(io::Error::other(error)))?;
        self.print(&text)
    }

    /// Writes a remark; not where programs read. A standard error that is
    /// closed is no reason to fail.
    pub fn remark(&mut self, line: &str) {
        if !self.json {
            let _ = writeln!(self.remarks, "{line}");
        }
    }

    /// Writes why the command failed.
    pub fn fail(&mut self, error: &Error) {
        let line = if self.json { error.json().to_string() } else { error.line() };
        let _ = writeln!(self.remarks, "{line}");
    }

    /// Asks, and goes on only after a yes. Never waits where nobody can answer.
    pub fn confirm(&mut self, question: &str, yes: bool) -> Result<(), Error> {
        if yes {
            return Ok(());
        }
        let unconfirmed = |why| Err(Error::Unconfirmed { question: question.to_owned(), why });
        if !self.interactive {
            return unconfirmed("there is no terminal to ask on; confirm with --yes");
        }
        let asked = write!(self.remarks, "{question}? [y/N] ").and_then(|()| self.remarks.flush());
        let mut answer = String::new();
        let answered = asked.and_then(|()| self.answers.read_line(&mut answer));
        if answered.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        unconfirmed("not confirmed, nothing was done")
    }
}

#[cfg(test)]
pub mod captured {
    //! A console whose output a test can read.

    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What was written so far.
    #[derive(Clone, Default)]
    pub struct Text(Rc<RefCell<Vec<u8>>>);

    impl Text {
        pub fn get(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console, its results and its remarks; `answers` are typed in if there are any.
    pub fn console(json: bool, answers: Option<&'static str>) -> (Console, Text, Text) {
        let (results, remarks) = (Text::default(), Text::default());
        let console = Console {
            results: Box::new(results.clone()),
            remarks: Box::new(remarks.clone()),
            answers: Box::new(answers.unwrap_or_default().as_bytes()),
            interactive: answers.is_some(),
            columns: None,
            style: if json { Style::Quiet } else { Style::Lines },
            json,
        };
        (console, results, remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, expected) in [("y\n", true), ("YES\n", true), ("n\n", false), ("\n", false), ("", false)] {
            let (mut console, _, remarks) = captured::console(false, Some(answer));
            let outcome = console.confirm("promote it", false);
            assert_eq!(outcome.is_ok(), expected, "{answer:?}");
            assert_eq!(remarks.get(), "promote it? [y/N] ");
        }
    }

    #[test]
    fn without_a_terminal_nobody_is_asked() {
        let (mut console, _, remarks) = captured::console(false, None);
        let error = console.confirm("promote it", false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--yes"), "{error}");
        assert_eq!(remarks.get(), "");
        assert!(console.confirm("promote it", true).is_ok());
    }

    #[test]
    fn errors_are_a_line_or_an_object() {
        let error = Error::Usage("choose a project".into());
        let (mut console, _, remarks) = captured::console(false, None);
        console.fail(&error);
        assert_eq!(remarks.get(), "error: failed to choose a project\n");
        let (mut console, results, remarks) = captured::console(true, None);
        console.remark("packing");
        console.fail(&error);
        let object: serde_json::Value = serde_json::from_str(&remarks.get()).unwrap();
        assert_eq!(object["error"]["code"], "usage");
        assert_eq!(results.get(), "");
    }
}
