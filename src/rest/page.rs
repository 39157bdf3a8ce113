//! Lists: a part of a list, and which part is asked for.

use serde::{Deserialize, Serialize};

/// Items in an answer when the request names no limit.
pub const LIMIT_DEFAULT: u32 = 50;

/// Items in an answer at most: a page stays far below a megabyte.
pub const LIMIT_MAX: u32 = 200;

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the order the endpoint promises.
    pub items: Vec<T>,
    /// Pass it as `cursor` to go on; null at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// Query of a list that cannot be narrowed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageQuery {
    /// Items at most; [`LIMIT_DEFAULT`] unless given, [`LIMIT_MAX`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of an earlier answer, as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
