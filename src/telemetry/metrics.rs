//! The metrics registry that every module adds its own metrics to.
//!
//! Series are registered at start and never by request, so their number does
//! not grow with traffic or with environments.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// The registry of one process. Cloning shares.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("repoint"))))
    }
}

impl Metrics {
    /// Lets a module add its metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Every metric in the OpenMetrics text form (OpenMetrics 1.0), which
    /// Prometheus reads.
    ///
    /// # Errors
    ///
    /// When a collector fails to write.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
