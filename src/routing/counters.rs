//! Counters: the claims of a pool and of its endpoints, made when first needed.
//!
//! A pool that nobody asks for has none. They outlive the table they were made
//! in: a second route to the same pool is only built with the counters of the
//! first, which makes them if need be, so that there is never a second set that
//! could look idle while the first still counts. Called by `routing::route`.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::pool::PoolKey;
use crate::routing::claim::Claims;

/// What all counters of a live table have in common.
#[derive(Debug)]
pub struct Counting {
    /// How many cores may come to count apart.
    pub cores: usize,
    /// Rung when a closing pool or a draining endpoint may have become idle.
    pub idle: Arc<Notify>,
    /// Pools claimed for the first time since the writer looked: one entry in
    /// the life of a pool, so the lock is no part of a usual request.
    claimed: Mutex<Vec<(PoolKey, Arc<Claims>)>>,
}

/// The counters of one pool.
#[derive(Debug)]
pub struct Counters {
    /// Of the pool.
    pub pool: Arc<Claims>,
    /// Of its endpoints, in their order.
    pub endpoints: Box<[Arc<Claims>]>,
}

impl Counting {
    /// Nothing claimed yet.
    pub fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self { cores, idle: Arc::default(), claimed: Mutex::default() })
    }

    /// Open counters.
    pub fn claims(&self) -> Arc<Claims> {
        Claims::new(Arc::clone(&self.idle))
    }

    /// Open counters of a pool with this many endpoints.
    pub fn counters(&self, endpoints: usize) -> Arc<Counters> {
        Arc::new(Counters { pool: self.claims(), endpoints: (0..endpoints).map(|_| self.claims()).collect() })
    }

    /// A pool was claimed for the first time.
    pub fn first_claimed(&self, key: PoolKey, claims: &Arc<Claims>) {
        self.lock().push((key, Arc::clone(claims)));
    }

    /// Pools claimed for the first time since the last call.
    pub fn take_claimed(&self) -> Vec<(PoolKey, Arc<Claims>)> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(PoolKey, Arc<Claims>)>> {
        // A push is all that happens under it.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
