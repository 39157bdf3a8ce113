//! How many replicas a pool may have.

use serde::{Deserialize, Serialize};

/// Replica bounds of a pool: 0 ≤ min ≤ max, max ≥ 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// Replicas kept running.
    pub min: u32,
    /// Replicas at most.
    pub max: u32,
}

/// Why bounds are refused. Reads as "failed to …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBounds {
    /// The order is wrong, or there may be no replica at all.
    #[error("use min_replicas {min} with max_replicas {max}: give 0 <= min <= max, 1 <= max <= {REPLICAS_MAX}")]
    Order {
        /// As asked.
        min: u32,
        /// As asked.
        max: u32,
    },
    /// Sleeping pools wake on demand, which is not built yet.
    #[error("use min_replicas 0: scaling to zero is not supported yet; give 1 or more, or terminate the deployment")]
    ZeroNotYet,
}

/// One machine's worth of processes per pool; more asks for another runtime.
pub const REPLICAS_MAX: u32 = 64;

impl Bounds {
    /// Replaces what is given, keeping `min <= max` where only one side is.
    ///
    /// # Errors
    ///
    /// When what is given contradicts itself or leaves the allowed range.
    pub fn with(self, min: Option<u32>, max: Option<u32>) -> Result<Self, InvalidBounds> {
        let next = match (min, max) {
            (Some(min), None) => Self { min, max: self.max.max(min) },
            (None, Some(max)) => Self { min: self.min.min(max), max },
            (min, max) => Self { min: min.unwrap_or(self.min), max: max.unwrap_or(self.max) },
        };
        if next.min > next.max || next.max == 0 || next.max > REPLICAS_MAX {
            return Err(InvalidBounds::Order { min: next.min, max: next.max });
        }
        if next.min == 0 {
            return Err(InvalidBounds::ZeroNotYet);
        }
        Ok(next)
    }
}

impl Default for Bounds {
    /// One replica kept, a second one allowed: what `repoint.toml` starts from.
    fn default() -> Self {
        Self { min: 1, max: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_side_pulls_the_other_along() {
        let bounds = Bounds { min: 1, max: 2 };
        assert_eq!(bounds.with(Some(5), None), Ok(Bounds { min: 5, max: 5 }));
        assert_eq!(Bounds { min: 3, max: 4 }.with(None, Some(1)), Ok(Bounds { min: 1, max: 1 }));
        assert_eq!(bounds.with(None, None), Ok(bounds));
    }

    #[test]
    fn contradictions_are_refused() {
        let bounds = Bounds::default();
        assert!(matches!(bounds.with(Some(3), Some(2)), Err(InvalidBounds::Order { .. })));
        assert!(matches!(bounds.with(None, Some(0)), Err(InvalidBounds::Order { .. })));
        assert!(matches!(bounds.with(None, Some(REPLICAS_MAX + 1)), Err(InvalidBounds::Order { .. })));
        assert_eq!(bounds.with(Some(0), None), Err(InvalidBounds::ZeroNotYet));
    }
}
