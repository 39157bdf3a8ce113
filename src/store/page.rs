//! Pages: which part of a list is asked for, and what is answered.

use std::fmt::Display;
use std::str::FromStr;

use crate::store::Error;

/// Which part of a list to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Items at most.
    pub limit: u32,
    /// Answer what follows this cursor, as an earlier [`Listed::next`] gave it.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on, if there is more.
    pub next: Option<String>,
}

impl Page {
    /// What the cursor names, or `start` where the list begins.
    pub(super) fn cursor<T: FromStr>(&self, start: T) -> Result<T, Error> {
        self.after.as_ref().map_or(Ok(start), |after| after.parse().map_err(|_| Error::Cursor))
    }

    /// One row more than asked for, to know whether there is more.
    pub(super) fn rows_max(&self) -> i64 {
        i64::from(self.limit.max(1)) + 1
    }

    /// What was read, cut to what was asked for.
    pub(super) fn list<T, C: Display>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> C) -> Listed<T> {
        let limit = self.limit.max(1) as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| cursor(last).to_string());
        Listed { items, next }
    }
}
