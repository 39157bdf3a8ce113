//! The mass-change guard: runs once, when a transaction commits.
//!
//! Owns what a change would delete, whether somebody allowed that, and since
//! when. Proxies compare a snapshot by the same rule, and the stamp tells them
//! that it is meant; one that has been away since before must be told, too.

use crate::model::change::{Record, RecordKey};
use crate::model::mass_change::{MassChange, Share};
use crate::model::revision::Revision;
use crate::store::row::{number, query};
use crate::store::{Error, Transaction};
use crate::wire;

/// What a change deletes, as far as it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Gone {
    environments: u64,
    /// Of pools those with endpoints: one at rest goes every day.
    pools: u64,
}

impl Gone {
    /// One more record, as it was stored.
    pub(super) fn add(&mut self, key: RecordKey, stored: &[u8]) {
        match key {
            RecordKey::Environment(_) => self.environments += 1,
            RecordKey::Pool(_) => {
                let served = wire::decode_record(stored);
                let served = matches!(served, Ok(Record::Pool(pool)) if !pool.endpoints.is_empty());
                self.pools += u64::from(served);
            }
            RecordKey::Settings => {}
        }
    }

    /// So few may always go: nothing has to be counted.
    fn is_little(&self) -> bool {
        let alone = |gone| Share { gone, of: 0 };
        !MassChange { environments: alone(self.environments), pools: alone(self.pools) }.exceeds()
    }
}

impl Transaction {
    /// Somebody means it, however much this transaction deletes.
    pub fn allow_mass_change(&mut self) {
        self.touched.mass_change_allowed = true;
    }

    /// What deleting so many environments comes to, if that needs somebody's
    /// word: to be asked before work of several steps begins.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn mass_change_of(&mut self, environments: usize) -> Result<Option<MassChange>, Error> {
        let of = self.routes_of("environment/").await?;
        let environments = Share { gone: environments as u64, of };
        Ok(Some(MassChange { environments, ..MassChange::default() }).filter(MassChange::exceeds))
    }

    /// The last change that was allowed to delete so much; 0 where there is none.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub(super) async fn mass_change_at(&mut self) -> Result<Revision, Error> {
        let select = query("SELECT value FROM counters WHERE name = 'mass_change'");
        let row = self.first("counter", select).await?;
        Ok(Revision(row.map(|row| row.count("value")).transpose()?.unwrap_or(0)))
    }

    /// Refuses what an accident should not be able to do. Answers whether the
    /// change at `revision` gets the stamp. Its deletes have been carried out in
    /// this transaction, which ends without a commit when this fails.
    pub(super) async fn guard(&mut self, gone: Gone, revision: Revision) -> Result<bool, Error> {
        if gone.is_little() && !self.touched.mass_change_stamped {
            return Ok(false);
        }
        let left = MassChange {
            environments: Share {
                gone: gone.environments,
                of: self.routes_of("environment/").await? + gone.environments,
            },
            pools: Share { gone: gone.pools, of: self.routes_of("pool/").await? + gone.pools },
        };
        if !left.exceeds() && !self.touched.mass_change_stamped {
            return Ok(false);
        }
        if !self.touched.mass_change_allowed {
            return Err(Error::MassChange(left));
        }
        let note = "INSERT INTO counters (name, value) VALUES ('mass_change', $1)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.execute(query(note).bind(number(revision.0))).await?;
        tracing::warn!(%revision, %left, "a mass change was allowed");
        Ok(true)
    }

    /// Stamps the state as it stands: its change deletes nothing, and tells
    /// proxies that lack of what they have is meant.
    pub fn stamp_state(&mut self) {
        self.touched.mass_change_allowed = true;
        self.touched.mass_change_stamped = true;
    }

    async fn routes_of(&mut self, kind: &str) -> Result<u64, Error> {
        // '0' follows '/': the keys of this kind, by the index.
        let end = kind.replace('/', "0");
        let count = query("SELECT COUNT(*) AS count FROM routes WHERE key >= $1 AND key < $2");
        self.one("record", count.bind(kind.to_owned()).bind(end)).await?.count("count")
    }
}
