//! Settings that hold for every environment, as the configuration gives them.
//!
//! Called once, when the store is opened: what changed since the last start is
//! rewritten in one change, so that no proxy sees half of it.

use crate::model::change::RecordKey;
use crate::model::host::HostPattern;
use crate::model::id::EnvironmentId;
use crate::store::row::{json, query};
use crate::store::{Config, Error, Transaction};

impl Transaction {
    /// Takes over the configuration.
    pub(super) async fn configure(&mut self, config: &Config) -> Result<(), Error> {
        let stored = self.settings().await?;
        let same_domain = stored.as_ref().is_some_and(|stored| stored.base_domain == config.base_domain);
        if same_domain && stored.is_some_and(|stored| stored.shared_hosts == config.shared_hosts) {
            return Ok(());
        }
        let put = query(
            "INSERT INTO settings (id, base_domain, shared_hosts) VALUES (1, $1, $2)
             ON CONFLICT (id) DO UPDATE SET base_domain = excluded.base_domain, shared_hosts = excluded.shared_hosts",
        );
        self.execute(put.bind(config.base_domain.to_string()).bind(json(&config.shared_hosts))).await?;
        self.touched.records.insert(RecordKey::Settings);
        if same_domain { Ok(()) } else { self.rename_hosts(&config.base_domain).await }
    }

    /// Makes the first host of every environment anew from its names.
    async fn rename_hosts(&mut self, base_domain: &HostPattern) -> Result<(), Error> {
        let select = query(
            "SELECT environments.id, environments.name, projects.name AS project
             FROM environments JOIN projects ON projects.id = environments.project_id",
        );
        let environments = self.all("environment", select).await?;
        // All old ones go first: a new one may be what another had.
        self.execute(query("DELETE FROM hosts WHERE position = 0")).await?;
        for row in environments {
            let id: EnvironmentId = row.parsed("id")?;
            let host = HostPattern::of_environment(&row.parsed("project")?, &row.parsed("name")?, base_domain);
            self.claim_host(id, &host, 0).await?;
            self.touch_environment(id);
        }
        Ok(())
    }
}
