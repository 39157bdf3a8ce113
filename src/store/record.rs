//! Routing records: what the tables of the proxies are made of.
//!
//! Owns the step from what a transaction touched to the change set of its
//! commit: each touched record is derived anew from the rows, encoded, and
//! compared with what is stored; only differences make a change. One promotion
//! and an import of a hundred thousand environments go the same way. Nobody else
//! writes `routes`.

use std::collections::HashMap;

use bytes::Bytes;

use crate::model::change::{
    EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey, SettingsRecord,
};
use crate::model::deployment::{HostHeader, Source};
use crate::model::environment::Environment;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::pool::{Endpoint, EndpointState, Pool, PoolState};
use crate::model::revision::{Digest, Position};
use crate::store::bulk::Insert;
use crate::store::log::{LoggedChange, position};
use crate::store::mass_change::Gone;
use crate::store::row::query;
use crate::store::{Error, Transaction, pools};
use crate::wire;

/// Records compared at a time: what is held in memory beside the change itself.
const RECORDS_MAX: usize = 2_000;

impl Transaction {
    /// Writes the change that this transaction's touches come to, if any.
    pub(super) async fn change(&mut self) -> Result<Option<LoggedChange>, Error> {
        let mut difference = Difference::default();
        let touched: Vec<RecordKey> = std::mem::take(&mut self.touched.records).into_iter().collect();
        for keys in touched.chunks(RECORDS_MAX) {
            self.compare(keys, &mut difference).await?;
        }
        if difference.is_empty() && !self.touched.mass_change_stamped {
            return Ok(None);
        }
        let before = self.advance().await?;
        let after = Position { digest: before.digest.with(difference.digest), ..before };
        let is_stamped = self.guard(difference.gone, after.revision).await?;
        let Difference { upserts, deletes, .. } = difference;
        let bytes = wire::assemble_stamped_change_set(after.revision, upserts, &deletes, is_stamped);
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

    /// Brings the stored records of these keys up to date and notes the difference.
    async fn compare(&mut self, keys: &[RecordKey], difference: &mut Difference) -> Result<(), Error> {
        let mut stored = self.stored(keys).await?;
        let mut derived = self.records(keys).await?;
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for key in keys {
            let name = key.to_string();
            let stored = stored.remove(&name);
            match (stored, derived.remove(key).map(|record| wire::encode_record(&record))) {
                (Some(stored), Some(bytes)) if stored == bytes => {}
                (stored, Some(bytes)) => {
                    difference.upsert(&name, stored.as_deref(), bytes.clone());
                    put.push((name, bytes));
                }
                (Some(stored), None) => {
                    difference.delete(&name, &stored, *key);
                    gone.push(name);
                }
                (None, None) => {}
            }
        }
        self.delete_all("DELETE FROM routes WHERE key IN", &gone).await?;
        self.insert_all(&PUT_ROUTES, &put, |query, (key, bytes)| query.bind(key.clone()).bind(bytes.to_vec())).await?;
        Ok(())
    }

    /// The records as they are stored, by the text of their keys.
    async fn stored(&mut self, keys: &[RecordKey]) -> Result<HashMap<String, Vec<u8>>, Error> {
        let names: Vec<[String; 1]> = keys.iter().map(|key| [key.to_string()]).collect();
        let select = "SELECT key, value FROM wanted CROSS JOIN routes WHERE key = a";
        let rows = self.all_of("record", select, &names).await?;
        rows.iter().map(|row| Ok((row.text("key")?, row.bytes("value")?))).collect()
    }

    /// The records as the rows have them.
    async fn records(&mut self, keys: &[RecordKey]) -> Result<HashMap<RecordKey, Record>, Error> {
        let (mut records, mut environments, mut pools) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            match key {
                RecordKey::Settings => records.extend(self.settings().await?.map(Record::Settings)),
                RecordKey::Environment(id) => environments.push(*id),
                RecordKey::Pool(key) => pools.push([key.environment.to_string(), key.deployment.to_string()]),
            }
        }
        let environments = self.environments_of_ids(&environments).await?;
        records.extend(environments.into_iter().map(of_environment).map(Record::Environment));
        for row in self.all_of("pool", POOLS, &pools).await? {
            let is_current = row.text_if_any("pointer")? == Some(row.text("deployment_id")?);
            let (reference, source) = (row.parsed("reference")?, row.json("source")?);
            records.extend(of_pool(pools::pool(&row)?, reference, &source, is_current).map(Record::Pool));
        }
        Ok(records.into_iter().map(|record| (record.key(), record)).collect())
    }

    pub(super) async fn settings(&mut self) -> Result<Option<SettingsRecord>, Error> {
        let select = query("SELECT base_domain, shared_hosts FROM settings WHERE id = 1");
        let Some(row) = self.first("settings", select).await? else { return Ok(None) };
        Ok(Some(SettingsRecord { base_domain: row.parsed("base_domain")?, shared_hosts: row.json("shared_hosts")? }))
    }
}

const PUT_ROUTES: Insert =
    Insert { into: "routes (key, value)", columns: 2, then: "ON CONFLICT (key) DO UPDATE SET value = excluded.value" };

/// Pools with what else their records say.
const POOLS: &str = "SELECT pools.*, deployments.reference, deployments.source, environments.pointer
    FROM wanted CROSS JOIN pools JOIN deployments ON deployments.id = pools.deployment_id
    JOIN environments ON environments.id = pools.environment_id
    WHERE pools.environment_id = a AND pools.deployment_id = b";

/// What a transaction changes in the routing tables.
#[derive(Default)]
struct Difference {
    upserts: Vec<Bytes>,
    deletes: Vec<RecordKey>,
    gone: Gone,
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
        self.gone.add(record, stored);
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

/// The record of a pool, if proxies need one. A pool at rest needs none, unless
/// the pointer still names it: then the record without endpoints is what tells
/// "terminated" from "not there yet".
fn of_pool(pool: Pool, reference: DeploymentRef, source: &Source, is_current: bool) -> Option<PoolRecord> {
    let (state, mut endpoints) = match pool.state {
        PoolState::Starting | PoolState::Running | PoolState::Failing => (PoolRecordState::Open, pool.endpoints),
        PoolState::Closing => (PoolRecordState::Closing, pool.endpoints),
        PoolState::Stopped | PoolState::Idle if is_current => (PoolRecordState::Closing, Vec::new()),
        PoolState::Stopped | PoolState::Idle => return None,
    };
    // In one order whatever the caller's, so that equal sets encode alike.
    endpoints.sort_unstable_by_key(|endpoint| endpoint.id);
    let (protocol, host, retry_on_reused_close) = how_to_speak(source);
    Some(PoolRecord {
        key: pool.key,
        reference,
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
    let Endpoint { id, address, authority, secure, .. } = endpoint;
    Some(EndpointRecord { id, address, authority, secure, draining })
}

fn how_to_speak(source: &Source) -> (Protocol, HostHeader, bool) {
    match source {
        Source::Bundle { manifest, .. } => {
            (manifest.worker.protocol, HostHeader::Client, manifest.worker.retry_on_reused_close)
        }
        Source::Endpoints { protocol, host, .. } => (*protocol, *host, false),
    }
}
