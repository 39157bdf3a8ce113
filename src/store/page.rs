//! Pages: which part of a list is asked for, and what is answered.

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
