//! Routing records: what the tables of the proxies are made of.
//!
//! Owns the step from what a transaction touched to the change set of its
//! commit: each touched record is derived anew, encoded, and compared with what
//! is stored; only differences make a change. Nobody else writes `routes`.

use bytes::Bytes;

use crate::model::change::{
    EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey, SettingsRecord,
};
use crate::model::deployment::{Deployment, HostHeader, Source};
use crate::model::environment::Environment;
use crate::model::manifest::Protocol;
use crate::model::pool::{Endpoint, EndpointState, Pool, PoolKey, PoolState};
use crate::model::revision::{Digest, Position};
use crate::store::log::{LoggedChange, position};
use crate::store::row::query;
use crate::store::{Error, Transaction};
use crate::wire;

impl Transaction {
    /// Writes the change that this transaction's touches come to, if any.
    pub(super) async fn change(&mut self) -> Result<Option<LoggedChange>, Error> {
        let mut difference = Difference::default();
        for key in std::mem::take(&mut self.touched.records) {
            self.compare(key, &mut difference).await?;
        }
        if difference.is_empty() {
            return Ok(None);
        }
        let before = self.advance().await?;
        let after = Position { digest: before.digest.with(difference.digest), ..before };
        let bytes = wire::assemble_change_set(after.revision, difference.upserts, &difference.deletes);
        let change = LoggedChange { position: after, bytes };
        self.execute(query("UPDATE head SET digest = $1 WHERE id = 1").bind(after.digest.to_string())).await?;
        self.log(&change).await?;
        Ok(Some(change))
    }

    /// Takes the next revision, still with the digest of the one before.
    async fn advance(&mut self) -> Result<Position, Error> {
        let advance = "UPDATE head SET revision = revision + 1 WHERE id = 1 RETURNING lineage, revision, digest";
        position(&self.one("head", query(advance)).await?)
    }

    /// Brings the stored record of `key` up to date and notes the difference.
    async fn compare(&mut self, key: RecordKey, difference: &mut Difference) -> Result<(), Error> {
        let name = key.to_string();
        let stored = query("SELECT value FROM routes WHERE key = $1").bind(name.clone());
        let stored = self.first("record", stored).await?.map(|row| row.bytes("value")).transpose()?;
        let derived = self.record(key).await?.map(|record| wire::encode_record(&record));
        match (stored, derived) {
            (Some(stored), Some(bytes)) if stored == bytes => {}
            (stored, Some(bytes)) => {
                self.put_route(&name, &bytes).await?;
                difference.upsert(&name, stored.as_deref(), bytes);
            }
            (Some(stored), None) => {
                self.execute(query("DELETE FROM routes WHERE key = $1").bind(name.clone())).await?;
                difference.delete(&name, &stored, key);
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn put_route(&mut self, key: &str, bytes: &Bytes) -> Result<(), Error> {
        let put =
            "INSERT INTO routes (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.execute(query(put).bind(key.to_owned()).bind(bytes.to_vec())).await?;
        Ok(())
    }

    async fn record(&mut self, key: RecordKey) -> Result<Option<Record>, Error> {
        Ok(match key {
            RecordKey::Settings => self.settings().await?.map(Record::Settings),
            RecordKey::Environment(id) => self.environment(id).await?.map(of_environment).map(Record::Environment),
            RecordKey::Pool(key) => self.pool_record(key).await?.map(Record::Pool),
        })
    }

    pub(super) async fn settings(&mut self) -> Result<Option<SettingsRecord>, Error> {
        let select = query("SELECT base_domain, shared_hosts FROM settings WHERE id = 1");
        let Some(row) = self.first("settings", select).await? else { return Ok(None) };
        Ok(Some(SettingsRecord { base_domain: row.parsed("base_domain")?, shared_hosts: row.json("shared_hosts")? }))
    }

    async fn pool_record(&mut self, key: PoolKey) -> Result<Option<PoolRecord>, Error> {
        let Some(pool) = self.pool(key).await? else { return Ok(None) };
        let Some(deployment) = self.deployment(key.deployment).await? else { return Ok(None) };
        let pointer = query("SELECT pointer FROM environments WHERE id = $1").bind(key.environment.to_string());
        let pointer = match self.first("environment", pointer).await? {
            Some(row) => row.parsed_if_any("pointer")?,
            None => None,
        };
        Ok(of_pool(pool, &deployment, pointer == Some(key.deployment)))
    }
}

/// What a transaction changes in the routing tables.
#[derive(Default)]
struct Difference {
    upserts: Vec<Bytes>,
    deletes: Vec<RecordKey>,
    /// What it adds to the digest; sums wrap, so this may stand for less.
    digest: Digest,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    fn upsert(&mut self, key: &str, stored: Option<&[u8]>, bytes: Bytes) {
        let stored = stored.map_or(Digest::default(), |stored| Digest::of_record(key, stored));
        self.digest = self.digest.without(stored).with(Digest::of_record(key, &bytes));
        self.upserts.push(bytes);
    }

    fn delete(&mut self, key: &str, stored: &[u8], record: RecordKey) {
        self.digest = self.digest.without(Digest::of_record(key, stored));
        self.deletes.push(record);
    }
}

fn of_environment(environment: Environment) -> EnvironmentRecord {
    EnvironmentRecord {
        id: environment.id,
        project: environment.project_name,
        name: environment.name,
        hosts: environment.hosts,
        pointer: environment.pointer,
        policy: environment.policy,
    }
}

/// The record of a pool, if proxies need one. A stopped pool needs none, unless
/// the pointer still names it: then the record without endpoints is what tells
/// "terminated" from "not there yet".
fn of_pool(pool: Pool, deployment: &Deployment, is_current: bool) -> Option<PoolRecord> {
    let (state, mut endpoints) = match pool.state {
        PoolState::Starting | PoolState::Running | PoolState::Failing => (PoolRecordState::Open, pool.endpoints),
        PoolState::Closing => (PoolRecordState::Closing, pool.endpoints),
        PoolState::Stopped if is_current => (PoolRecordState::Closing, Vec::new()),
        PoolState::Stopped => return None,
    };
    // In one order whatever the caller's, so that equal sets encode alike.
    endpoints.sort_unstable_by_key(|endpoint| endpoint.id);
    let (protocol, host, retry_on_reused_close) = how_to_speak(&deployment.source);
    Some(PoolRecord {
        key: pool.key,
        reference: deployment.reference.clone(),
        state,
        protocol,
        host,
        retry_on_reused_close,
        endpoints: endpoints.into_iter().filter_map(of_endpoint).collect(),
    })
}

fn of_endpoint(endpoint: Endpoint) -> Option<EndpointRecord> {
    let draining = match endpoint.state {
        EndpointState::Ready => false,
        EndpointState::Draining => true,
        EndpointState::Unready => return None,
    };
    Some(EndpointRecord { id: endpoint.id, address: endpoint.address, authority: endpoint.authority, draining })
}

fn how_to_speak(source: &Source) -> (Protocol, HostHeader, bool) {
    match source {
        Source::Bundle { manifest, .. } => {
            (manifest.worker.protocol, HostHeader::Client, manifest.worker.retry_on_reused_close)
        }
        Source::Endpoints { protocol, host, .. } => (*protocol, *host, false),
    }
}
