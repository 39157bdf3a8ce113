//! API keys, as rows that hold a hash and never the key.

use jiff::Timestamp;

use crate::model::id::KeyId;
use crate::store::row::{micros, query};
use crate::store::{Error, Transaction};

/// A stored API key; the key itself is not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its name, which history shows as actor.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: Vec<u8>,
    /// What it may do.
    pub role: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Transaction {
    /// Adds a key.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_key(&mut self, key: &ApiKey) -> Result<(), Error> {
        let insert = query("INSERT INTO api_keys (id, name, hash, role, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(key.id.to_string())
            .bind(key.name.clone())
            .bind(key.hash.clone())
            .bind(key.role.clone())
            .bind(micros(key.created_at));
        self.execute(insert).await?;
        Ok(())
    }

    /// The key whose hash this is.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn key_by_hash(&mut self, hash: &[u8]) -> Result<Option<ApiKey>, Error> {
        let select = query("SELECT id, name, hash, role, created_at FROM api_keys WHERE hash = $1");
        let Some(row) = self.first("key", select.bind(hash.to_vec())).await? else { return Ok(None) };
        Ok(Some(ApiKey {
            id: row.parsed("id")?,
            name: row.text("name")?,
            hash: row.bytes("hash")?,
            role: row.text("role")?,
            created_at: row.time("created_at")?,
        }))
    }

    /// Whether any key exists: without one this is the first start.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn has_keys(&mut self) -> Result<bool, Error> {
        Ok(self.first("key", query("SELECT id FROM api_keys LIMIT 1")).await?.is_some())
    }
}
