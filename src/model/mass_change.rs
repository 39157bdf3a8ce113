//! The guard against deleting much by accident.
//!
//! One rule for the store, which refuses at commit, and for a proxy, which
//! compares a snapshot with the table it serves: a wrong script, a wrong query
//! or an empty store must not take thousands of environments out of service.

use std::fmt;

/// More environments or pools at once than an accident should delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MassChange {
    /// Environments that would go.
    pub environments: Share,
    /// Pools with endpoints that would go.
    pub pools: Share,
}

/// So many of so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// How many would go.
    pub gone: u64,
    /// How many there are.
    pub of: u64,
}

/// As many may go whatever their share: a small Repoint is emptied now and then.
const GONE_MIN: u64 = 100;
/// And one in so many: 20 %.
const GONE_IN: u64 = 5;

impl MassChange {
    /// Whether it needs somebody's word.
    pub fn exceeds(&self) -> bool {
        self.environments.exceeds() || self.pools.exceeds()
    }
}

impl Share {
    fn exceeds(&self) -> bool {
        self.gone > GONE_MIN.max(self.of / GONE_IN)
    }
}

impl fmt::Display for MassChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { environments, pools } = self;
        write!(
            f,
            "{} of {} environments and {} of {} pools would go",
            environments.gone, environments.of, pools.gone, pools.of
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_or_a_fifth_may_go() {
        for (gone, of, exceeds) in [
            (0, 0, false),
            (100, 100, false),
            (101, 101, true),
            (101, 500, true),
            (101, 505, false),
            (200_000, 1_000_000, false),
            (200_001, 1_000_000, true),
        ] {
            let share = Share { gone, of };
            let of_environments = MassChange { environments: share, ..MassChange::default() };
            let of_pools = MassChange { pools: share, ..MassChange::default() };
            assert_eq!((of_environments.exceeds(), of_pools.exceeds()), (exceeds, exceeds), "{share:?}");
        }
    }
}
