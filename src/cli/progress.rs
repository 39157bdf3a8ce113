//! Progress of long work: a moving line on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::cli::console::Console;

/// How long work is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// One line that moves.
    Animated,
    /// A line at the start and one now and then, as a build log wants it.
    Lines,
    /// Not at all: programs read along.
    Quiet,
}

/// One piece of work that takes a while. Ends when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    style: Style,
    what: String,
    began: Instant,
    said: Instant,
}

/// Between two plain lines: often enough to see that it lives, seldom enough to read.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Progress {
    /// Work whose end nobody knows.
    pub fn waiting(console: &mut Console, what: String) -> Self {
        Self::start(console, what, ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})")
    }

    /// Work on bytes; how many, its [`Counter`] learns.
    pub fn bytes(console: &mut Console, what: String) -> Self {
        Self::start(console, what, ProgressBar::new(0), "{spinner} {msg}: {bytes} of {total_bytes}")
    }

    fn start(console: &mut Console, what: String, bar: ProgressBar, template: &str) -> Self {
        let (style, now) = (console.style(), Instant::now());
        let bar = if style == Style::Animated { bar } else { ProgressBar::hidden() };
        if let Ok(template) = ProgressStyle::with_template(template) {
            bar.set_style(template);
        }
        bar.set_message(what.clone());
        if style == Style::Animated {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        if style == Style::Lines {
            console.remark(&what);
        }
        Self { bar, style, what, began: now, said: now }
    }

    /// Says that it goes on; `what` replaces the text where it changed.
    pub fn goes_on(&mut self, console: &mut Console, what: &str) {
        let changed = self.what != what;
        if changed {
            what.clone_into(&mut self.what);
            self.bar.set_message(self.what.clone());
        }
        if self.style == Style::Lines && (changed || self.said.elapsed() >= LINE_INTERVAL) {
            self.said = Instant::now();
            console.remark(&format!("{what} ({} s)", self.began.elapsed().as_secs()));
        }
    }

    /// A handle that work on bytes reports to.
    pub fn counter(&self) -> Counter {
        Counter(self.bar.clone())
    }

    /// Ends it and leaves `line` behind.
    pub fn finish(self, console: &mut Console, line: &str) {
        self.bar.finish_and_clear();
        console.remark(line);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Where work on bytes reports how far it is.
pub struct Counter(ProgressBar);

impl Counter {
    /// So many bytes of so many are done.
    pub fn set(&self, bytes: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(bytes);
    }
}

/// A size for people, such as `4.10 KiB`.
pub fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
