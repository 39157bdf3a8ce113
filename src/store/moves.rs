//! Pending moves, as rows that survive a restart.

use jiff::Timestamp;

use crate::model::event::What;
use crate::model::id::{EnvironmentId, PromotionId};
use crate::model::moves::{MoveState, PendingMove};
use crate::store::row::{Query, Row, micros, number, query};
use crate::store::work::WorkKey;
use crate::store::{Error, Transaction};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT number, environment_id, deployment_id, kind, source_environment_id, actor, reason, ",
            "scale_previous_to_zero, state, detail, requested_at, deadline, ended_at, promotion_id FROM moves ",
            $rest
        )
    };
}

impl Transaction {
    /// Adds a pending move and answers the number it gets, whatever number it
    /// came with.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn insert_move(&mut self, pending: &PendingMove) -> Result<u64, Error> {
        let number = self.next_number().await?;
        let insert = query(
            "INSERT INTO moves
               (number, environment_id, deployment_id, kind, source_environment_id, actor, reason,
                scale_previous_to_zero, state, detail, requested_at, deadline, ended_at, promotion_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(number)
        .bind(pending.environment.to_string())
        .bind(pending.deployment.to_string())
        .bind(pending.kind.as_str())
        .bind(pending.source_environment.map(|id| id.to_string()))
        .bind(pending.actor.clone())
        .bind(pending.reason.clone())
        .bind(i64::from(pending.scale_previous_to_zero))
        .bind(pending.state.as_str())
        .bind(pending.detail.clone())
        .bind(micros(pending.requested_at))
        .bind(micros(pending.deadline))
        .bind(pending.ended_at.map(micros))
        .bind(pending.promotion.map(|id| id.to_string()));
        self.execute(insert).await?;
        let number = number.unsigned_abs();
        self.touched.work.add(WorkKey::Move(pending.environment, number));
        Ok(number)
    }

    /// The pending move of this number.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pending_move(&mut self, number: u64) -> Result<Option<PendingMove>, Error> {
        let select = query(select!("WHERE number = $1")).bind(self::number(number));
        Ok(self.moves_by(select).await?.into_iter().next())
    }

    /// The waiting moves whose time is over, in the order they were asked for.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn overdue_moves(&mut self, now: Timestamp) -> Result<Vec<PendingMove>, Error> {
        let select = query(select!("WHERE state = 'waiting' AND deadline <= $1 ORDER BY number"));
        self.moves_by(select.bind(micros(now))).await
    }

    /// Every move that still waits, in the order they were asked for.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn waiting_moves(&mut self) -> Result<Vec<PendingMove>, Error> {
        self.moves_by(query(select!("WHERE state = 'waiting' ORDER BY number"))).await
    }

    /// The move that waits in an environment. At most one does: a later one
    /// supersedes it.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn waiting_move_of(&mut self, environment: EnvironmentId) -> Result<Option<PendingMove>, Error> {
        let select = query(select!("WHERE environment_id = $1 AND state = 'waiting' ORDER BY number DESC LIMIT 1"));
        Ok(self.moves_by(select.bind(environment.to_string())).await?.into_iter().next())
    }

    /// The nearest deadline of a move that waits.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn nearest_deadline(&mut self) -> Result<Option<Timestamp>, Error> {
        let select = query("SELECT MIN(deadline) AS deadline FROM moves WHERE state = 'waiting'");
        self.one("move", select).await?.time_if_any("deadline")
    }

    /// Ends every waiting move of an environment at `now` because another takes
    /// its place, and notes each. Answers their numbers.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn supersede_waiting(&mut self, environment: EnvironmentId, now: Timestamp) -> Result<Vec<u64>, Error> {
        let update = query(
            // Two clocks of one machine may step: nothing ends before it was asked for.
            "UPDATE moves SET state = 'superseded', ended_at = CASE WHEN requested_at > $2 THEN requested_at ELSE $2 END,
               detail = 'a later move of this environment took its place'
             WHERE environment_id = $1 AND state = 'waiting' RETURNING number",
        );
        let rows = self.all("move", update.bind(environment.to_string()).bind(micros(now))).await?;
        let mut numbers = rows.iter().map(|row| row.count("number")).collect::<Result<Vec<u64>, _>>()?;
        numbers.sort_unstable();
        for &number in &numbers {
            self.touched.work.add(WorkKey::Move(environment, number));
            self.note(What::MoveEnded { number, environment_id: environment, state: MoveState::Superseded });
        }
        Ok(numbers)
    }

    /// Ends a waiting move at `now`, and notes it unless the pointer moved, which is its
    /// own event. No effect on a move that has ended already.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn end_move(
        &mut self,
        number: u64,
        state: MoveState,
        detail: Option<String>,
        promotion: Option<PromotionId>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let update = query(
            "UPDATE moves SET state = $2, detail = $3, promotion_id = $4, ended_at = $5
             WHERE number = $1 AND state = 'waiting' RETURNING environment_id",
        )
        .bind(self::number(number))
        .bind(state.as_str())
        .bind(detail)
        .bind(promotion.map(|id| id.to_string()))
        .bind(micros(now));
        let Some(row) = self.first("move", update).await? else { return Ok(()) };
        let environment_id = row.parsed("environment_id")?;
        self.touched.work.add(WorkKey::Move(environment_id, number));
        if state != MoveState::Committed {
            self.note(What::MoveEnded { number, environment_id, state });
        }
        Ok(())
    }

    async fn next_number(&mut self) -> Result<i64, Error> {
        let next = query(
            "INSERT INTO counters (name, value) VALUES ('moves', 1)
             ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
        );
        self.one("counter", next).await?.number("value")
    }

    async fn moves_by(&mut self, select: Query) -> Result<Vec<PendingMove>, Error> {
        self.all("move", select).await?.iter().map(pending_move).collect()
    }
}

fn pending_move(row: &Row) -> Result<PendingMove, Error> {
    Ok(PendingMove {
        number: row.count("number")?,
        environment: row.parsed("environment_id")?,
        deployment: row.parsed("deployment_id")?,
        kind: row.word("kind")?,
        source_environment: row.parsed_if_any("source_environment_id")?,
        actor: row.text("actor")?,
        reason: row.text_if_any("reason")?,
        scale_previous_to_zero: row.number("scale_previous_to_zero")? != 0,
        state: row.word("state")?,
        detail: row.text_if_any("detail")?,
        requested_at: row.time("requested_at")?,
        deadline: row.time("deadline")?,
        ended_at: row.time_if_any("ended_at")?,
        promotion: row.parsed_if_any("promotion_id")?,
    })
}
