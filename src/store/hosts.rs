//! Hosts: which environment answers to which. One host, one environment.

use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::model::id::EnvironmentId;
use crate::store::row::query;
use crate::store::{Error, Transaction};

impl Transaction {
    /// The environment that claims a host.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn host_owner(&mut self, host: &HostPattern) -> Result<Option<EnvironmentId>, Error> {
        let select = query("SELECT environment_id FROM hosts WHERE host = $1").bind(host.to_string());
        self.first("host", select).await?.map(|row| row.parsed("environment_id")).transpose()
    }

    pub(super) async fn hosts(&mut self, environment: EnvironmentId) -> Result<Vec<HostPattern>, Error> {
        let select = query("SELECT host FROM hosts WHERE environment_id = $1 ORDER BY position");
        let rows = self.all("host", select.bind(environment.to_string())).await?;
        rows.iter().map(|row| row.parsed("host")).collect()
    }

    /// Refuses hosts of others before anything is written, so that a caller who
    /// commits after a refusal has changed nothing.
    pub(super) async fn check_hosts(&mut self, environment: &Environment) -> Result<(), Error> {
        for host in &environment.hosts {
            match self.host_owner(host).await? {
                Some(owner) if owner != environment.id => {
                    return Err(Error::HostTaken { host: host.to_string(), owner });
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn replace_hosts(&mut self, environment: &Environment) -> Result<(), Error> {
        let delete = query("DELETE FROM hosts WHERE environment_id = $1").bind(environment.id.to_string());
        self.execute(delete).await?;
        for (position, host) in (0..).zip(&environment.hosts) {
            self.claim_host(environment.id, host, position).await?;
        }
        Ok(())
    }

    pub(super) async fn claim_host(
        &mut self,
        environment: EnvironmentId,
        host: &HostPattern,
        position: i64,
    ) -> Result<(), Error> {
        let insert = query(
            "INSERT INTO hosts (host, environment_id, position) VALUES ($1, $2, $3) ON CONFLICT (host) DO NOTHING",
        );
        let insert = insert.bind(host.to_string()).bind(environment.to_string()).bind(position);
        if self.execute(insert).await? > 0 {
            return Ok(());
        }
        match self.host_owner(host).await? {
            Some(owner) if owner != environment => Err(Error::HostTaken { host: host.to_string(), owner }),
            // Listed twice; the first place counts.
            _ => Ok(()),
        }
    }
}
