//! Members: which runs of which proxies may be serving, so that a restart of
//! the control plane concludes nothing from their absence.
//!
//! Not part of the change log: no proxy is told of another one. `stream`
//! writes, `app` reads them at the start, `control` removes one on request.

use crate::model::id::InstanceId;
use crate::model::member::{MemberKey, StoredMember};
use crate::model::revision::Revision;
use crate::store::row::{Row, micros, number, query};
use crate::store::{Error, Store, Transaction};

/// What to write about members at a time.
#[derive(Clone, Default, Debug)]
pub struct MembersChange {
    /// Removed before anything else is written.
    pub departed: Vec<MemberKey>,
    /// Added, or written anew.
    pub arrived: Vec<StoredMember>,
    /// Brought up to date where they are still there.
    pub heard: Vec<StoredMember>,
}

impl Store {
    /// The members that the last run of the control plane left behind. Those
    /// that were part of its process have ended with it, because the data
    /// directory has one owner at a time, and are removed.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn take_over_members(&self) -> Result<Vec<StoredMember>, Error> {
        let mut transaction = self.write().await?;
        transaction.execute(query("DELETE FROM members WHERE embedded = 1")).await?;
        let select = query(
            "SELECT proxy_id, instance_id, build, zone, address, keeps_table, embedded, last_heard, durable
             FROM members ORDER BY proxy_id, instance_id",
        );
        let rows = transaction.all("member", select).await?;
        let members = rows.iter().map(member).collect::<Result<_, Error>>()?;
        transaction.commit().await?;
        Ok(members)
    }

    /// Writes a change of the members in one transaction.
    ///
    /// # Errors
    ///
    /// When the database fails; nothing is written then.
    pub async fn keep_members(&self, change: &MembersChange) -> Result<(), Error> {
        let mut transaction = self.write().await?;
        for key in &change.departed {
            transaction.delete_member(key).await?;
        }
        for member in &change.arrived {
            transaction.put_member(member).await?;
        }
        for member in &change.heard {
            transaction.update_member(member).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

impl Transaction {
    /// Runs of a proxy that are remembered.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn members_of(&mut self, proxy_id: &str) -> Result<Vec<InstanceId>, Error> {
        let select = query("SELECT instance_id FROM members WHERE proxy_id = $1 ORDER BY instance_id");
        let rows = self.all("member", select.bind(proxy_id.to_owned())).await?;
        rows.iter().map(|row| row.parsed("instance_id")).collect()
    }

    /// Removes one run of a proxy. Answers whether there was one.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn delete_member(&mut self, key: &MemberKey) -> Result<bool, Error> {
        let delete = query("DELETE FROM members WHERE proxy_id = $1 AND instance_id = $2");
        let delete = delete.bind(key.proxy_id.clone()).bind(key.instance_id.to_string());
        Ok(self.execute(delete).await? > 0)
    }

    async fn put_member(&mut self, member: &StoredMember) -> Result<(), Error> {
        let put = query(
            "INSERT INTO members
                 (proxy_id, instance_id, build, zone, address, keeps_table, embedded, first_seen, last_heard, durable)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
             ON CONFLICT (proxy_id, instance_id) DO UPDATE SET
                 build = excluded.build, zone = excluded.zone, address = excluded.address,
                 keeps_table = excluded.keeps_table, embedded = excluded.embedded,
                 last_heard = excluded.last_heard, durable = excluded.durable",
        );
        let put = put
            .bind(member.key.proxy_id.clone())
            .bind(member.key.instance_id.to_string())
            .bind(member.build.clone())
            .bind(member.zone.clone())
            .bind(member.address.to_string())
            .bind(i64::from(member.keeps_table))
            .bind(i64::from(member.embedded))
            .bind(micros(member.last_heard))
            .bind(member.durable.map(|revision| number(revision.0)));
        self.execute(put).await?;
        Ok(())
    }

    async fn update_member(&mut self, member: &StoredMember) -> Result<(), Error> {
        let update = query(
            "UPDATE members SET last_heard = $3, durable = $4, address = $5 WHERE proxy_id = $1 AND instance_id = $2",
        );
        let update = update
            .bind(member.key.proxy_id.clone())
            .bind(member.key.instance_id.to_string())
            .bind(micros(member.last_heard))
            .bind(member.durable.map(|revision| number(revision.0)))
            .bind(member.address.to_string());
        self.execute(update).await?;
        Ok(())
    }
}

fn member(row: &Row) -> Result<StoredMember, Error> {
    Ok(StoredMember {
        key: MemberKey { proxy_id: row.text("proxy_id")?, instance_id: row.parsed("instance_id")? },
        build: row.text("build")?,
        zone: row.text("zone")?,
        address: row.parsed("address")?,
        keeps_table: row.number("keeps_table")? != 0,
        embedded: row.number("embedded")? != 0,
        last_heard: row.time("last_heard")?,
        durable: row.count_if_any("durable")?.map(Revision),
    })
}
