//! Repoint: an ingress that resolves an environment's pointer as each request
//! arrives, and the control plane that moves pointers without losing one.
//!
//! # The map
//!
//! Modules in reading order. [`model`] holds the nouns and the rules, pure.
//! [`routing`] is what a request resolves to. [`wire`] and [`stream`] carry
//! changes from [`store`] to `routing`; [`fleet`] knows how far each proxy has
//! come. [`ingress`] is the data plane, [`control`] the control plane with its
//! REST API ([`rest`] has the shapes), [`worker`] starts and stops replicas from
//! a [`bundle`] and keeps what they print in [`logs`]. [`cli`] is the command
//! line, [`demo`] a worker to try things with, [`telemetry`] how all of it is
//! seen, [`handover`] how a proxy is replaced while it runs, [`replica_tls`] who
//! may call itself a replica. [`app`] puts them
//! together and is the only file that names both planes.
//!
//! # One request
//!
//! `ingress/listener.rs` accepts → `ingress/proxy.rs` reads as a list of steps:
//! identify, resolve, claim, prepare, forward, answer, record. It claims through
//! `routing/live.rs`, which asks `routing/table.rs` once, and sends through
//! `ingress/upstream/`; every failure comes back to one `match` in
//! `ingress/error.rs`. The claim and the access-log entry ride in the response
//! body and end with it.
//!
//! # One promotion
//!
//! `control/api/promotions.rs` (parse, authorise) → `control/promotion.rs` (may
//! it move, is it ready?) → `model/environment.rs` (the pure rule) → `store/`
//! (one transaction: pointer, history row, change set, revision) →
//! `stream/server.rs` (woken by "the head is now N", sends what the proxy lacks)
//! → `stream/client.rs` (validate or refuse, apply, acknowledge) →
//! `routing/draft.rs` and `routing/live.rs` (next table, one swap). A rollback
//! is the same walk with another first rule. The store is the source; the
//! wake-up carries no data, so a lost one costs nothing.
//!
//! # Invariants
//!
//! Each has a test named after it.
//!
//! 1. A request is resolved against exactly one table; no reader ever sees half
//!    of a change, also when one change moves several environments.
//! 2. The claim on a pool is taken before the first await after resolve and ends
//!    with the last byte of the answer (body, trailers, tunnel) or when the
//!    client is gone. On a closing pool no new claim succeeds, whatever door the
//!    request came through: it resolves again or is refused.
//! 3. Per proxy, the applied revision never goes back within one lineage while
//!    it runs; the durable one never, restart included.
//! 4. Pointer, history row and change log commit together or not at all. After a
//!    `200`, the move survives a crash at any instant.
//! 5. A deployment never changes; only its pools do.
//! 6. A proxy acknowledges `applied` after it has published, `durable` after that
//!    is on disk; never before. A refused change leaves table, file and revision
//!    as they were and is reported with its reason.
//! 7. Without the control plane the last table keeps serving, also after a
//!    restart. Without any table the proxy is not ready; it never answers "not
//!    found" out of ignorance.
//! 8. A pointer moves only to a pool that is ready. Endpoints reach a proxy in
//!    the same change as the pointer, or earlier.
//! 9. Replicas are stopped only after a change closed their pool (or marked the
//!    one replica draining) and every live and suspect run of a proxy has that
//!    change, on disk where it begins with its disk, and has shown the pool idle
//!    at or past it; a run that is gone counts for another `gone_grace`. Opening
//!    it again voids every earlier proof. `max_drain_ms` cuts only what runs at
//!    proxies that know of the closing; one that may not blocks the stop and
//!    raises an alarm. After a restart of the control plane every stored member
//!    is suspect for a minute: nothing is concluded from absence.
//! 10. After the first byte of an answer a request is never sent to another
//!     deployment; before any byte was sent it may resolve again.
//! 11. A replica started for one environment never serves another.
//! 12. Every queue, body, header block, connection count and wait has a named
//!     limit and a stated behaviour when it is reached.

pub mod model;
pub mod routing;
pub mod wire;
pub mod store;
pub mod fleet;
pub mod stream;
pub mod ingress;
pub mod rest;
pub mod bundle;
pub mod replica_tls;
pub mod logs;
pub mod worker;
pub mod control;
pub mod cli;
pub mod demo;
pub mod telemetry;
pub mod drain;
pub mod handover;
pub mod config;
pub mod app;
