//! Hosts: which environment answers to which. One host, one environment.

use std::collections::HashMap;

use crate::model::environment::Environment;
use crate::model::host::HostPattern;
use crate::model::id::EnvironmentId;
use crate::store::bulk::Insert;
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

    /// The environments that claim these hosts, as far as anybody does.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn host_owners(&mut self, hosts: &[HostPattern]) -> Result<HashMap<HostPattern, EnvironmentId>, Error> {
        let keys: Vec<[String; 1]> = hosts.iter().map(|host| [host.to_string()]).collect();
        let select = "SELECT host, environment_id FROM wanted CROSS JOIN hosts WHERE host = a";
        let rows = self.all_of("host", select, &keys).await?;
        rows.iter().map(|row| Ok((row.parsed("host")?, row.parsed("environment_id")?))).collect()
    }

    /// Gives each of these environments its hosts, which others had read without them.
    pub(super) async fn read_hosts(&mut self, environments: &mut [Environment]) -> Result<(), Error> {
        let keys: Vec<[String; 1]> = environments.iter().map(|environment| [environment.id.to_string()]).collect();
        let select = "SELECT environment_id, host FROM wanted CROSS JOIN hosts WHERE environment_id = a
            ORDER BY environment_id, position";
        let mut hosts: HashMap<EnvironmentId, Vec<HostPattern>> = HashMap::new();
        for row in self.all_of("host", select, &keys).await? {
            hosts.entry(row.parsed("environment_id")?).or_default().push(row.parsed("host")?);
        }
        for environment in environments {
            environment.hosts = hosts.remove(&environment.id).unwrap_or_default();
        }
        Ok(())
    }

    /// Replaces the hosts of many environments. Those that any of them gives up
    /// are free for the others; that nobody else has one is checked by the caller.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn replace_all_hosts(&mut self, environments: &[Environment]) -> Result<(), Error> {
        let ids: Vec<String> = environments.iter().map(|environment| environment.id.to_string()).collect();
        self.delete_all("DELETE FROM hosts WHERE environment_id IN", &ids).await?;
        let hosts: Vec<(EnvironmentId, i64, &HostPattern)> = environments
            .iter()
            .flat_map(|environment| {
                (0..).zip(&environment.hosts).map(|(position, host)| (environment.id, position, host))
            })
            .collect();
        let insert = Insert { into: "hosts (host, environment_id, position)", columns: 3, then: "" };
        self.insert_all(&insert, &hosts, |query, (id, position, host)| {
            query.bind(host.to_string()).bind(id.to_string()).bind(*position)
        })
        .await?;
        Ok(())
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
