//! What the store asks for, pool by pool.
//!
//! A plain value: the row with what belongs to it. Loading it is the
//! supervisor's business.

use std::sync::Arc;
use std::time::Duration;

use crate::model::deployment::{Deployment, Source};
use crate::model::name::{EnvironmentName, ProjectName};
use crate::model::pool::Pool;

/// A pool as the store has it, with what it takes to run it.
#[derive(Clone, Debug)]
pub(super) struct DesiredPool {
    pub row: Pool,
    pub deployment: Arc<Deployment>,
    pub project: ProjectName,
    pub environment: EnvironmentName,
    /// Longest wait for running requests once it is closing.
    pub max_drain: Duration,
}

impl DesiredPool {
    /// The URLs of workers that somebody else runs; `None` where Repoint runs them.
    pub fn urls(&self) -> Option<&[String]> {
        match &self.deployment.source {
            Source::Bundle { .. } => None,
            Source::Endpoints { endpoints, .. } => Some(endpoints),
        }
    }

    /// How many replicas should run.
    pub fn replicas(&self) -> usize {
        match self.row.state.is_wanted() && self.deployment.is_managed() {
            // A `u32` fits a `usize` wherever processes run.
            true => self.row.bounds.min as usize,
            false => 0,
        }
    }

    pub fn ready_timeout(&self) -> Duration {
        self.deployment.ready_timeout().duration()
    }
}
