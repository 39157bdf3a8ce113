//! Many rows in few statements.
//!
//! A statement costs some 50 µs whatever it does; a hundred thousand of them are
//! what an import would spend its time on. Owns how lists of values become one
//! text; what is read and written is said by the nouns' files.

use sqlx::AssertSqlSafe;

use crate::store::row::{Query, Row};
use crate::store::{Error, Transaction};

/// Values of one statement. SQLite takes `$1` for a name and looks for it among
/// all names, both when it parses and when it binds, so that a statement's cost
/// grows with the square of its values; with 256 that is below what the
/// statement costs anyway.
const VALUES_MAX: usize = 256;

/// What the columns of `wanted` are called, in order.
const COLUMNS: [&str; 2] = ["a", "a, b"];

/// Where rows go. Each noun has one, with a function that binds a row's columns
/// in this order, for one row as for many.
pub(super) struct Insert {
    /// The table with its columns: `projects (id, name)`.
    pub into: &'static str,
    /// How many columns these are.
    pub columns: usize,
    /// What follows the rows, such as `ON CONFLICT …`.
    pub then: &'static str,
}

impl Transaction {
    /// Reads what belongs to many keys. `select` finds them as the table
    /// `wanted` with the columns `a` and `b`.
    pub(super) async fn all_of<const N: usize>(
        &mut self,
        noun: &'static str,
        select: &'static str,
        keys: &[[String; N]],
    ) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for keys in keys.chunks(VALUES_MAX / N) {
            let text = format!("WITH wanted ({}) AS (VALUES {}) {select}", COLUMNS[N - 1], places(keys.len(), N));
            rows.extend(
                self.all(noun, keys.iter().flatten().fold(dynamic(text), |query, key| query.bind(key.clone()))).await?,
            );
        }
        Ok(rows)
    }

    /// Writes many rows; `bind` binds the columns of one, in order. Answers how
    /// many were written.
    pub(super) async fn insert_all<T>(
        &mut self,
        insert: &Insert,
        items: &[T],
        bind: impl Fn(Query, &T) -> Query,
    ) -> Result<u64, Error> {
        let mut written = 0;
        for items in items.chunks(VALUES_MAX / insert.columns) {
            let text =
                format!("INSERT INTO {} VALUES {} {}", insert.into, places(items.len(), insert.columns), insert.then);
            written += self.execute(items.iter().fold(dynamic(text), &bind)).await?;
        }
        Ok(written)
    }

    /// Deletes what belongs to many keys: `delete` ends where the list begins.
    pub(super) async fn delete_all(&mut self, delete: &'static str, keys: &[String]) -> Result<(), Error> {
        for keys in keys.chunks(VALUES_MAX) {
            let text = format!("{delete} (VALUES {})", places(keys.len(), 1));
            self.execute(keys.iter().fold(dynamic(text), |query, key| query.bind(key.clone()))).await?;
        }
        Ok(())
    }
}

/// A query whose text is made of fixed parts and a number of places; values are bound.
fn dynamic(text: String) -> Query {
    sqlx::query(AssertSqlSafe(text))
}

/// `($1,$2),($3,$4)`: places for so many rows of so many columns.
fn places(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for place in 0..rows * columns {
        text.push_str(match place % columns {
            0 if place == 0 => "($",
            0 => "),($",
            _ => ",$",
        });
        text.push_str(&(place + 1).to_string());
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_through() {
        assert_eq!(places(1, 1), "($1)");
        assert_eq!(places(2, 3), "($1,$2,$3),($4,$5,$6)");
    }
}
