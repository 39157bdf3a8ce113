//! Repoint: an ingress that resolves an environment's pointer per request.

pub mod model;
pub mod routing;
pub mod wire;
pub mod store;
pub mod fleet;
pub mod stream;
pub mod ingress;
pub mod rest;
pub mod bundle;
pub mod logs;
pub mod worker;
pub mod control;
pub mod cli;
pub mod demo;
pub mod telemetry;
pub mod drain;
pub mod config;
pub mod app;
