//! Forgetting a proxy: an operator says that it is gone for good.
//!
//! Nobody waits for what is forgotten: moves do not, and neither does stopping
//! replicas. A proxy that is forgotten and still serves, cut off from here, may
//! send requests to replicas that have ended, until it is back; therefore one
//! that is live is never forgotten.

use crate::control::Control;
use crate::control::error::Error;
use crate::fleet::members::StillLive;
use crate::model::id::InstanceId;
use crate::model::member::MemberKey;
use crate::model::revision::Revision;

/// Names shown beside one that is not there.
const NEAR_MAX: usize = 5;

impl Control {
    /// Forgets one run of a proxy, or all of them that are not live. Answers
    /// which.
    ///
    /// # Errors
    ///
    /// When there is none such, or only live ones; nothing is forgotten then.
    pub async fn forget_proxy(&self, proxy_id: &str, instance: Option<InstanceId>) -> Result<Vec<InstanceId>, Error> {
        // The turn to write comes first: a proxy that comes back meanwhile is
        // written down after this.
        let mut tx = self.store.write().await?;
        let known = self.fleet.forget(proxy_id, instance).map_err(Error::from)?;
        let still_here = |id: &InstanceId| {
            self.fleet.proxies().iter().any(|proxy| proxy.proxy_id == proxy_id && proxy.instance_id == *id)
        };
        let mut forgotten: Vec<_> = known.into_iter().map(|key| key.instance_id).collect();
        // Rows whose member is gone already, should an earlier attempt have ended between the two.
        for stored in tx.members_of(proxy_id).await? {
            let asked = instance.is_none_or(|asked| asked == stored);
            if asked && !forgotten.contains(&stored) && !still_here(&stored) {
                forgotten.push(stored);
            }
        }
        if forgotten.is_empty() {
            return Err(Error::ProxyNotFound { given: shown(proxy_id, instance), near: self.near(proxy_id) });
        }
        for instance_id in &forgotten {
            tx.delete_member(&MemberKey { proxy_id: proxy_id.to_owned(), instance_id: *instance_id }).await?;
        }
        tx.commit().await?;
        tracing::info!(proxy = proxy_id, instances = ?forgotten, "proxy forgotten: nothing waits for it any more");
        Ok(forgotten)
    }

    /// Says that the state as it stands is meant, however much it lacks of what
    /// proxies serve. Answers the change that carries this to them.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn allow_mass_change(&self, actor: &str) -> Result<Revision, Error> {
        let mut tx = self.store.write().await?;
        tx.stamp_state();
        let revision = tx.commit().await?;
        tracing::warn!(%revision, actor, "proxies are to take the state as it stands, however much it lacks");
        Ok(revision)
    }

    /// Remembered proxies that the one given may have been meant for.
    fn near(&self, given: &str) -> Vec<String> {
        let given: &str = &shown(given, None);
        let mut names: Vec<_> = self.fleet.proxies().into_iter().map(|proxy| proxy.proxy_id).collect();
        names.dedup();
        // One slip in three letters, or one name within the other.
        names.retain(|name| {
            let slips = strsim::damerau_levenshtein(name, given);
            slips * 3 <= name.chars().count() || name.contains(given) || given.contains(name.as_str())
        });
        names.truncate(NEAR_MAX);
        names
    }
}

fn shown(proxy_id: &str, instance: Option<InstanceId>) -> String {
    let name: String = proxy_id.chars().take(128).collect();
    instance.map_or(name.clone(), |instance| format!("{name} (run {instance})"))
}

impl From<StillLive> for Error {
    fn from(live: StillLive) -> Self {
        let StillLive { proxy_id, instance_id, silent_for } = live;
        Self::ProxyLive { proxy_id, instance_id, silent_ms: silent_for.as_millis() }
    }
}
