//! Who answers, as header values that are made once and shared.
//!
//! Every request and every answer names deployment and environment. Making the
//! two values anew took four small allocations a request; kept per core for the
//! pools that are in use, they cost a look and two counts. Not kept in the table:
//! there they would cost every environment memory, in use or not.

use std::cell::RefCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::HeaderValue;

use crate::model::pool::PoolKey;
use crate::routing::live::Claimed;

/// The values of `X-Deployment-ID` and `X-Environment`.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) deployment: HeaderValue,
    pub(super) environment: HeaderValue,
}

/// Origins of the pools that one core has lately sent requests to.
#[derive(Default)]
pub(super) struct Origins(RefCell<HashMap<PoolKey, Origin, RandomState>>);

/// Some 200 bytes each. When full, all are forgotten and made anew as needed:
/// keeping track of which was used last would cost more than that.
const ORIGINS_MAX: usize = 8 * 1024;

impl Origins {
    /// The origin of what was claimed. Ids and names never change.
    pub(super) fn of(&self, claimed: &Claimed) -> Origin {
        let mut known = self.0.borrow_mut();
        if let Some(origin) = known.get(&claimed.pool.key) {
            return origin.clone();
        }
        if known.len() >= ORIGINS_MAX {
            known.clear();
        }
        let origin = Origin {
            deployment: value(&claimed.pool.deployment_text()),
            environment: value(claimed.environment().name()),
        };
        known.insert(claimed.pool.key, origin.clone());
        origin
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids and names are visible ASCII")
}
