//! Rows: stored columns read back into the model's types.
//!
//! Every reader names the noun it reads, so that a value this build cannot
//! understand is reported as such and never guessed at.

use std::fmt::Display;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::{Decode, Row as _, Type};

use crate::store::Error;

/// A query whose text is fixed and whose values are bound.
pub(super) type Query = sqlx::query::Query<'static, Any, AnyArguments>;

/// A query with `$1…` for the values bound to it.
pub(super) fn query(text: &'static str) -> Query {
    sqlx::query(text)
}

/// One row of a noun.
pub(super) struct Row {
    noun: &'static str,
    row: AnyRow,
}

impl Row {
    pub fn new(noun: &'static str, row: AnyRow) -> Self {
        Self { noun, row }
    }

    pub fn text(&self, column: &str) -> Result<String, Error> {
        self.get(column)
    }

    pub fn text_if_any(&self, column: &str) -> Result<Option<String>, Error> {
        self.get(column)
    }

    pub fn bytes(&self, column: &str) -> Result<Vec<u8>, Error> {
        self.get(column)
    }

    pub fn number(&self, column: &str) -> Result<i64, Error> {
        self.get(column)
    }

    /// A number that cannot be negative.
    pub fn count<T: TryFrom<i64>>(&self, column: &str) -> Result<T, Error> {
        let number = self.number(column)?;
        T::try_from(number).map_err(|_| self.corrupt(column, number))
    }

    pub fn count_if_any<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>, Error> {
        let number: Option<i64> = self.get(column)?;
        number.map(|number| T::try_from(number).map_err(|_| self.corrupt(column, number))).transpose()
    }

    pub fn time(&self, column: &str) -> Result<Timestamp, Error> {
        Timestamp::from_microsecond(self.number(column)?).map_err(|error| self.corrupt(column, error))
    }

    pub fn time_if_any(&self, column: &str) -> Result<Option<Timestamp>, Error> {
        let micros: Option<i64> = self.get(column)?;
        micros
            .map(|micros| Timestamp::from_microsecond(micros).map_err(|error| self.corrupt(column, error)))
            .transpose()
    }

    /// An id or a name.
    pub fn parsed<T: FromStr<Err: Display>>(&self, column: &str) -> Result<T, Error> {
        self.text(column)?.parse().map_err(|error| self.corrupt(column, error))
    }

    pub fn parsed_if_any<T: FromStr<Err: Display>>(&self, column: &str) -> Result<Option<T>, Error> {
        let text = self.text_if_any(column)?;
        text.map(|text| text.parse().map_err(|error| self.corrupt(column, error))).transpose()
    }

    /// A value of a closed list, stored as the API spells it.
    pub fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        self.word_of(column, self.text(column)?)
    }

    /// The same, where there may be none.
    pub fn word_if_any<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Error> {
        self.text_if_any(column)?.map(|word| self.word_of(column, word)).transpose()
    }

    fn word_of<T: DeserializeOwned>(&self, column: &str, word: String) -> Result<T, Error> {
        serde_json::from_value(serde_json::Value::String(word)).map_err(|error| self.corrupt(column, error))
    }

    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.corrupt(column, error))
    }

    pub fn json_if_any<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Error> {
        let text = self.text_if_any(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.corrupt(column, error))).transpose()
    }

    fn get<'r, T: Decode<'r, Any> + Type<Any>>(&'r self, column: &str) -> Result<T, Error> {
        self.row.try_get(column).map_err(|error| self.corrupt(column, error))
    }

    /// What is wrong with a column of this row.
    pub fn corrupt(&self, column: &str, detail: impl Display) -> Error {
        Error::Corrupt { what: self.noun, detail: format!("{column}: {detail}") }
    }
}

/// A time as stored: finer parts than a microsecond are not kept.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A number as stored. Nothing that is counted here comes near 2^63.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A value as stored JSON.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("model values have text keys and serialise without fail")
}
