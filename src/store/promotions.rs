//! The promotion history, as rows that are only added.

use std::slice;

use jiff::Timestamp;

use crate::model::history::{Entry, Stack};
use crate::model::id::{EnvironmentId, PromotionId};
use crate::model::pool::PoolKey;
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;
use crate::store::bulk::Insert;
use crate::store::row::{Query, Row, micros, number, query};
use crate::store::{Error, Listed, Page, Transaction};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, environment_id, sequence, below, kind, from_deployment_id, to_deployment_id, ",
            "source_environment_id, actor, reason, revision, requested_at, committed_at, applied_at, ",
            "previous_drained_at, streams_cut FROM promotions ",
            $rest
        )
    };
}

/// From the latest row down along `below`. 1,000 steps: a rollback further back
/// than that names its target.
const STACK: &str = "WITH RECURSIVE stack (sequence, below, deployment_id, depth) AS (
        SELECT sequence, below, to_deployment_id, 1 FROM promotions WHERE environment_id = $1
            AND sequence = (SELECT MAX(sequence) FROM promotions WHERE environment_id = $1)
        UNION ALL
        SELECT promotions.sequence, promotions.below, promotions.to_deployment_id, stack.depth + 1
            FROM stack JOIN promotions ON promotions.environment_id = $1 AND promotions.sequence = stack.below
            WHERE stack.depth < 1000
    ) SELECT sequence, below, deployment_id FROM stack ORDER BY depth";

/// A row of the history.
pub(super) const NEW: Insert = Insert {
    into: "promotions (id, environment_id, sequence, below, kind, from_deployment_id, to_deployment_id,
        source_environment_id, actor, reason, revision, requested_at, committed_at, applied_at,
        previous_drained_at, streams_cut)",
    columns: 16,
    then: "",
};

/// Binds the columns of [`NEW`].
pub(super) fn bind(query: Query, promotion: &Promotion) -> Query {
    query
        .bind(promotion.id.to_string())
        .bind(promotion.environment.to_string())
        .bind(number(promotion.sequence))
        .bind(promotion.below.map(number))
        .bind(promotion.kind.as_str())
        .bind(promotion.from.map(|id| id.to_string()))
        .bind(promotion.to.to_string())
        .bind(promotion.source_environment.map(|id| id.to_string()))
        .bind(promotion.actor.clone())
        .bind(promotion.reason.clone())
        .bind(number(promotion.revision.0))
        .bind(micros(promotion.requested_at))
        .bind(micros(promotion.committed_at))
        .bind(promotion.applied_at.map(micros))
        .bind(promotion.previous_drained_at.map(micros))
        .bind(promotion.streams_cut.map(number))
}

impl Transaction {
    /// Adds a row to the history.
    ///
    /// # Errors
    ///
    /// When the database fails, also because the sequence is used.
    pub async fn insert_promotion(&mut self, promotion: &Promotion) -> Result<(), Error> {
        self.insert_all(&NEW, slice::from_ref(promotion), bind).await?;
        Ok(())
    }

    /// The history row of this id.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn promotion(&mut self, id: PromotionId) -> Result<Option<Promotion>, Error> {
        let select = query(select!("WHERE id = $1")).bind(id.to_string());
        self.first("promotion", select).await?.map(|row| promotion(&row)).transpose()
    }

    /// An environment's history, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Cursor`], or when the database fails.
    pub async fn promotions(&mut self, environment: EnvironmentId, page: &Page) -> Result<Listed<Promotion>, Error> {
        let before = page.cursor(i64::MAX)?;
        let select = query(select!("WHERE environment_id = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3"))
            .bind(environment.to_string())
            .bind(before)
            .bind(page.rows_max());
        let rows = self.all("promotion", select).await?;
        let promotions = rows.iter().map(promotion).collect::<Result<_, _>>()?;
        Ok(page.list(promotions, |promotion: &Promotion| promotion.sequence))
    }

    /// The rows of an environment's history that a rollback can go back along.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn stack(&mut self, environment: EnvironmentId) -> Result<Stack, Error> {
        let rows = self.all("promotion", query(STACK).bind(environment.to_string())).await?;
        let entry = |row: &Row| {
            let (sequence, below) = (row.count("sequence")?, row.count_if_any("below")?);
            Ok(Entry { sequence, below, deployment: row.parsed("deployment_id")? })
        };
        rows.iter().map(entry).collect::<Result<_, Error>>().map(Stack::new)
    }

    /// The latest sequence of an environment's history; 0 before the first.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn last_sequence(&mut self, environment: EnvironmentId) -> Result<u64, Error> {
        let select = query("SELECT COALESCE(MAX(sequence), 0) AS latest FROM promotions WHERE environment_id = $1");
        self.one("promotion", select.bind(environment.to_string())).await?.count("latest")
    }

    /// Notes that every live and suspect proxy has applied a move. The first
    /// time counts.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn set_applied(&mut self, id: PromotionId, at: Timestamp) -> Result<(), Error> {
        let update = query("UPDATE promotions SET applied_at = $2 WHERE id = $1 AND applied_at IS NULL");
        self.execute(update.bind(id.to_string()).bind(micros(at))).await?;
        Ok(())
    }
}

impl Transaction {
    /// Notes at the latest move away from this pool's deployment that the pool
    /// has drained, with `cut` requests still running. The first time counts.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn set_drained(&mut self, pool: PoolKey, at: Timestamp, cut: u64) -> Result<(), Error> {
        let update = query(
            "UPDATE promotions SET previous_drained_at = $3, streams_cut = $4
             WHERE environment_id = $1 AND previous_drained_at IS NULL AND sequence =
               (SELECT MAX(sequence) FROM promotions
                WHERE environment_id = $1 AND from_deployment_id = $2 AND to_deployment_id <> $2)",
        );
        let update = update.bind(pool.environment.to_string()).bind(pool.deployment.to_string());
        self.execute(update.bind(micros(at)).bind(number(cut))).await?;
        Ok(())
    }

    /// The row of an environment's history with this sequence.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn promotion_at(
        &mut self,
        environment: EnvironmentId,
        sequence: u64,
    ) -> Result<Option<Promotion>, Error> {
        let select = query(select!("WHERE environment_id = $1 AND sequence = $2"));
        let select = select.bind(environment.to_string()).bind(number(sequence));
        self.first("promotion", select).await?.map(|row| promotion(&row)).transpose()
    }
}

fn promotion(row: &Row) -> Result<Promotion, Error> {
    Ok(Promotion {
        id: row.parsed("id")?,
        sequence: row.count("sequence")?,
        below: row.count_if_any("below")?,
        environment: row.parsed("environment_id")?,
        kind: row.word("kind")?,
        from: row.parsed_if_any("from_deployment_id")?,
        to: row.parsed("to_deployment_id")?,
        source_environment: row.parsed_if_any("source_environment_id")?,
        actor: row.text("actor")?,
        reason: row.text_if_any("reason")?,
        revision: Revision(row.count("revision")?),
        requested_at: row.time("requested_at")?,
        committed_at: row.time("committed_at")?,
        applied_at: row.time_if_any("applied_at")?,
        previous_drained_at: row.time_if_any("previous_drained_at")?,
        streams_cut: row.count_if_any("streams_cut")?,
    })
}
