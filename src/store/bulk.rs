//! Many rows in few statements.
//!
//! A statement costs some 50 µs whatever it does; a hundred thousand of them are
//! what an import would spend its time on. Owns how lists of values become one
//! text; what is read and written is said by the nouns' files.

use sqlx::AssertSqlSafe;

use crate::store::database::PLACE;
use crate::store::row::{Query, Row};
use crate::store::{Error, Transaction};

/// Values of one statement. A statement of 1,000 values costs a quarter less for
/// each than one of 256, and more than a few thousand gain nothing.
const VALUES_MAX: usize = 2_048;

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

/// `(?,?),(?,?)`: places for so many rows of so many columns.
fn places(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec![PLACE; columns].join(","));
    vec![row.as_str(); rows].join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_each_value() {
        assert_eq!(places(1, 1), "(?)");
        assert_eq!(places(2, 3), "(?,?,?),(?,?,?)");
    }
}
