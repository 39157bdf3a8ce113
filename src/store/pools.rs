//! Pools and what went wrong with their replicas, as rows.

use std::slice;

use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::policy::Policy;
use crate::model::pool::{Pool, PoolError, PoolKey, Rest};
use crate::model::revision::Revision;
use crate::store::bulk::Insert;
use crate::store::row::{Query, Row, json, micros, number, query};
use crate::store::{Error, Transaction};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT environment_id, deployment_id, state, bounds, closing_revision, closing_since, closing_to, left_at, ",
            "endpoints FROM pools ",
            $rest
        )
    };
}

/// Errors kept per pool; the oldest give way.
const ERRORS_MAX: i64 = 100;

/// A pool's row, new or not.
pub(super) const PUT: Insert = Insert {
    into: "pools (environment_id, deployment_id, state, bounds, closing_revision, closing_since, closing_to, left_at,
        endpoints)",
    columns: 9,
    then: "ON CONFLICT (environment_id, deployment_id) DO UPDATE SET
        state = excluded.state, bounds = excluded.bounds, closing_revision = excluded.closing_revision,
        closing_since = excluded.closing_since, closing_to = excluded.closing_to, left_at = excluded.left_at,
        endpoints = excluded.endpoints",
};

/// Binds the columns of [`PUT`].
pub(super) fn bind(query: Query, pool: &Pool) -> Query {
    query
        .bind(pool.key.environment.to_string())
        .bind(pool.key.deployment.to_string())
        .bind(pool.state.as_str())
        .bind(json(&pool.bounds))
        .bind(pool.closing_revision.map(|revision| number(revision.0)))
        .bind(pool.closing_since.map(micros))
        .bind(pool.closing_to.map(Rest::as_str))
        .bind(pool.left_at.map(micros))
        .bind(json(&pool.endpoints))
}

impl Transaction {
    /// The pool of this key.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pool(&mut self, key: PoolKey) -> Result<Option<Pool>, Error> {
        let select = keyed(select!("WHERE environment_id = $1 AND deployment_id = $2"), key);
        Ok(self.pools_by(select).await?.into_iter().next())
    }

    /// The pools that serve an environment, oldest deployment first.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pools_of_environment(&mut self, environment: EnvironmentId) -> Result<Vec<Pool>, Error> {
        let select = query(select!("WHERE environment_id = $1 ORDER BY deployment_id"));
        self.pools_by(select.bind(environment.to_string())).await
    }

    /// The pools that run a deployment, oldest environment first.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pools_of_deployment(&mut self, deployment: DeploymentId) -> Result<Vec<Pool>, Error> {
        let select = query(select!("WHERE deployment_id = $1 ORDER BY environment_id"));
        self.pools_by(select.bind(deployment.to_string())).await
    }

    /// Every pool.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pools(&mut self) -> Result<Vec<Pool>, Error> {
        self.pools_by(query(select!("ORDER BY environment_id, deployment_id"))).await
    }

    /// Wanted pools that nothing needs, with the policy of their environment.
    /// They have replicas, so there are no more than a machine can run.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn left_pools(&mut self) -> Result<Vec<(Pool, Policy)>, Error> {
        let select = query(
            "SELECT pools.*, environments.policy FROM pools JOIN environments ON environments.id = environment_id
             WHERE left_at IS NOT NULL AND state IN ('starting', 'running', 'failing') ORDER BY left_at",
        );
        self.all("pool", select).await?.iter().map(|row| Ok((pool(row)?, row.json("policy")?))).collect()
    }

    /// Writes a pool, new or not. One that is stored like that already is left
    /// alone, so that whoever writes what it saw does not wake itself for ever.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn put_pool(&mut self, pool: &Pool) -> Result<(), Error> {
        if self.pool(pool.key).await?.as_ref() == Some(pool) {
            return Ok(());
        }
        self.insert_all(&PUT, slice::from_ref(pool), bind).await?;
        self.touch_pool(pool.key);
        Ok(())
    }

    /// Deletes a pool with its errors.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn delete_pool(&mut self, key: PoolKey) -> Result<(), Error> {
        for delete in [
            "DELETE FROM pool_errors WHERE environment_id = $1 AND deployment_id = $2",
            "DELETE FROM pools WHERE environment_id = $1 AND deployment_id = $2",
        ] {
            self.execute(keyed(delete, key)).await?;
        }
        self.touch_pool(key);
        Ok(())
    }

    /// Records an error of a pool. One that repeats the latest raises that
    /// one's count and time. For a pool that is gone nothing is kept.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn record_pool_error(&mut self, key: PoolKey, error: &PoolError) -> Result<(), Error> {
        let latest = "SELECT number, kind, message FROM pool_errors
            WHERE environment_id = $1 AND deployment_id = $2 ORDER BY number DESC LIMIT 1";
        let latest = self.first("pool error", keyed(latest, key)).await?;
        let mut number = 1;
        if let Some(latest) = latest {
            number = latest.number("number")?;
            if latest.text("kind")? == error.kind.as_str() && latest.text("message")? == error.message {
                return self.repeat_pool_error(key, number, error).await;
            }
            number += 1;
        }
        self.insert_pool_error(key, number, error).await?;
        let trim = "DELETE FROM pool_errors WHERE environment_id = $1 AND deployment_id = $2 AND number <= $3";
        self.execute(keyed(trim, key).bind(number - ERRORS_MAX)).await?;
        Ok(())
    }

    async fn repeat_pool_error(&mut self, key: PoolKey, number: i64, error: &PoolError) -> Result<(), Error> {
        let update = "UPDATE pool_errors SET count = count + $4, at = $5, output = $6
            WHERE environment_id = $1 AND deployment_id = $2 AND number = $3";
        let update = keyed(update, key)
            .bind(number)
            .bind(i64::from(error.count.max(1)))
            .bind(micros(error.at))
            .bind(json(&error.output));
        self.execute(update).await?;
        Ok(())
    }

    async fn insert_pool_error(&mut self, key: PoolKey, number: i64, error: &PoolError) -> Result<(), Error> {
        let insert = "INSERT INTO pool_errors (environment_id, deployment_id, number, at, kind, message, output, count)
            SELECT environment_id, deployment_id, $3, $4, $5, $6, $7, $8 FROM pools
            WHERE environment_id = $1 AND deployment_id = $2";
        let insert = keyed(insert, key)
            .bind(number)
            .bind(micros(error.at))
            .bind(error.kind.as_str())
            .bind(error.message.clone())
            .bind(json(&error.output))
            .bind(i64::from(error.count.max(1)));
        self.execute(insert).await?;
        Ok(())
    }

    /// A pool's errors, newest first.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn pool_errors(&mut self, key: PoolKey, limit: u32) -> Result<Vec<PoolError>, Error> {
        let select = "SELECT at, kind, message, output, count FROM pool_errors
            WHERE environment_id = $1 AND deployment_id = $2 ORDER BY number DESC LIMIT $3";
        let rows = self.all("pool error", keyed(select, key).bind(i64::from(limit))).await?;
        rows.iter().map(pool_error).collect()
    }

    async fn pools_by(&mut self, select: Query) -> Result<Vec<Pool>, Error> {
        self.all("pool", select).await?.iter().map(pool).collect()
    }
}

fn keyed(text: &'static str, key: PoolKey) -> Query {
    query(text).bind(key.environment.to_string()).bind(key.deployment.to_string())
}

pub(super) fn pool(row: &Row) -> Result<Pool, Error> {
    Ok(Pool {
        key: PoolKey { environment: row.parsed("environment_id")?, deployment: row.parsed("deployment_id")? },
        state: row.word("state")?,
        bounds: row.json("bounds")?,
        closing_revision: row.count_if_any("closing_revision")?.map(Revision),
        closing_since: row.time_if_any("closing_since")?,
        closing_to: row.word_if_any("closing_to")?,
        left_at: row.time_if_any("left_at")?,
        endpoints: row.json("endpoints")?,
    })
}

fn pool_error(row: &Row) -> Result<PoolError, Error> {
    Ok(PoolError {
        at: row.time("at")?,
        kind: row.word("kind")?,
        message: row.text("message")?,
        output: row.json("output")?,
        count: row.count("count")?,
    })
}
