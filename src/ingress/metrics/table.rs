//! What the table in force holds, and what still runs where it takes nothing new.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::drain;
use crate::routing::live::Live;

/// Looked up when somebody scrapes.
pub(in crate::ingress) struct TableMetrics {
    pub(in crate::ingress) live: Arc<Live>,
    pub(in crate::ingress) drain: drain::Watch,
}

impl fmt::Debug for TableMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableMetrics").finish_non_exhaustive()
    }
}

impl Collector for TableMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        let busy = self.live.busy();
        let running = |busy: &[u64]| busy.iter().sum::<u64>();
        let pools: Vec<_> = busy.pools.iter().map(|(_, claims)| *claims).collect();
        let endpoints: Vec<_> = busy.endpoints.iter().map(|(_, claims)| *claims).collect();
        gauge("ingress_environments", "Environments in the routing table", self.live.environment_count() as u64)?;
        let help = "Pools that take nothing new and have requests running";
        gauge("ingress_closing_pools", help, pools.len() as u64)?;
        gauge("ingress_closing_pool_requests", "Requests running on pools that take nothing new", running(&pools))?;
        let help = "Endpoints that take nothing new and have requests running";
        gauge("ingress_draining_endpoints", help, endpoints.len() as u64)?;
        let help = "Requests running on endpoints that take nothing new";
        gauge("ingress_draining_endpoint_requests", help, running(&endpoints))?;
        let is_draining = self.drain.stage() > drain::Stage::Running;
        gauge("ingress_draining", "1 while this process finishes what it has and takes nothing new", is_draining.into())
    }
}
