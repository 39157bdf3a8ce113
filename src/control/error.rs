//! Why the control plane refuses or fails, and what the API answers to each.
//!
//! Owns the texts that people read and the one match from error to code. The
//! status belongs to the code (`rest::error`); turning an answer into bytes is
//! `control::api`'s business.

use serde_json::{Map, Value, json};

use crate::model::bounds::InvalidBounds;
use crate::model::id::{EnvironmentId, InstanceId};
use crate::model::name::{DeploymentRef, EnvironmentName};
use crate::model::pool::PoolError;
use crate::model::promotion::Refused;
use crate::rest::error::{ErrorBody, ErrorCode};
use crate::rest::transfer::LineError;
use crate::store;

/// Why the control plane refuses or fails. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field, query or body that cannot be understood or contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// Understood, but not built yet.
    #[error("{0}")]
    NotYetSupported(&'static str),
    /// No key, or one that is not known.
    #[error("{0}; send the key that the first start wrote to admin.key in the data directory, as X-API-KEY")]
    Unauthorized(&'static str),
    /// The key is known, and its role does not allow this.
    #[error("this needs a key with the role admin, and the key's role is {0}; use the admin key of the data directory")]
    Forbidden(String),
    /// Lines of an import that cannot be understood or carried out.
    #[error("{}", import_told(.errors, *.total))]
    ImportInvalid {
        /// The first of them.
        errors: Vec<LineError>,
        /// How many there are.
        total: u64,
    },
    /// One of several moves that were to happen together.
    #[error("promotions[{at}]: {source}; none of them was carried out")]
    InList {
        /// Which, from 0.
        at: usize,
        /// Why it is refused.
        source: Box<Error>,
    },
    /// The target of a move that does not wait is not ready.
    #[error(
        "deployment {reference} has no ready replica in {environment}; start it there, and try again when \
         `repoint deployment status {reference}` shows it running"
    )]
    NotReady {
        /// The target.
        reference: DeploymentRef,
        /// Where it was to be served.
        environment: EnvironmentName,
    },
    /// No such path in the API.
    #[error("there is no {0} here; every path of the API starts with /api/v1/")]
    NoSuchPath(String),
    /// The path exists, the method does not.
    #[error("{0} does not answer to {1}; the Allow header names what it answers to")]
    MethodNotAllowed(String, String),
    /// No such object.
    #[error("there is no {} {given:?}; {}", .noun.word(), .noun.remedy())]
    NotFound {
        /// What was looked for.
        noun: Noun,
        /// What was given for it.
        given: String,
    },
    /// A deployment that was never brought to an environment.
    #[error("deployment {reference} has no pool in {environment}; promote it there, or start it there first")]
    NoPool {
        /// The deployment.
        reference: DeploymentRef,
        /// Where it has none.
        environment: EnvironmentName,
    },
    /// The rules of moving a pointer say no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The target of a move did not become ready in time.
    #[error(
        "deployment {reference} has no ready replica in {environment}, and nothing moved: {detail}; see \
         `repoint deployment errors {reference}`"
    )]
    TargetNotReady {
        /// The move that waited for it.
        number: u64,
        /// Its target.
        reference: DeploymentRef,
        /// Where it was to be served.
        environment: EnvironmentName,
        /// What went wrong with it last.
        detail: String,
        /// What went wrong with its replicas last, newest first.
        errors: Vec<PoolError>,
    },
    /// A later move of the same environment took this one's place.
    #[error("move {number} was superseded by a later move of {environment}; look at what it points at now")]
    Superseded {
        /// The move that will not happen.
        number: u64,
        /// Its environment.
        environment: EnvironmentName,
    },
    /// A move that could no longer be allowed when its target was ready.
    #[error("{detail}")]
    MoveRefused {
        /// The move that will not happen.
        number: u64,
        /// Whether a lock stopped it; otherwise its target was terminated.
        locked: bool,
        /// What happened and what to do.
        detail: String,
    },
    /// Another object has this name.
    #[error("the {} name {name:?} is taken; choose another", .noun.word())]
    NameTaken {
        /// What was to be named.
        noun: Noun,
        /// The name.
        name: String,
    },
    /// Another environment has this host.
    #[error("the host {host} belongs to environment {owner_name}; choose another, or take it away there first")]
    HostTaken {
        /// The host.
        host: String,
        /// Whose it is.
        owner: EnvironmentId,
        /// Its project and name.
        owner_name: String,
    },
    /// Something else runs this deployment's replicas.
    #[error(
        "deployment {0} is made of endpoints that something else runs, so Repoint does not start, scale or log them; \
         to route to it again after a terminate, promote it with start: true"
    )]
    NotManaged(DeploymentRef),
    /// The deployment is current somewhere.
    #[error(
        "deployment {reference} is what {} serves; promote another one there first, or terminate with force: true",
        names(.environments)
    )]
    Serving {
        /// The deployment.
        reference: DeploymentRef,
        /// The environments that point at it.
        environments: Vec<(EnvironmentId, EnvironmentName)>,
    },
    /// A proxy that nobody remembers.
    #[error("there is no proxy {given:?}{}; GET /api/v1/proxies lists those that are remembered", like(.near))]
    ProxyNotFound {
        /// What was given for it.
        given: String,
        /// Proxies with much the same name.
        near: Vec<String>,
    },
    /// A proxy that is there cannot be forgotten.
    #[error(
        "proxy {proxy_id} (run {instance_id}) is live, heard {silent_ms} ms ago: stop it first; a proxy that is \
         stopped with SIGTERM takes its leave, and need not be forgotten"
    )]
    ProxyLive {
        /// The proxy.
        proxy_id: String,
        /// This run of it.
        instance_id: InstanceId,
        /// How long ago it was heard.
        silent_ms: u128,
    },
    /// The environment has a pointer, or was asked to get one while it was being deleted.
    #[error("environment {0} serves a deployment or waits for one; delete it with force=true to drain it first")]
    EnvironmentInUse(EnvironmentName),
    /// Every project keeps its three environments.
    #[error("{0} is one of the environments every project has; it goes only with its project")]
    EnvironmentProtected(EnvironmentName),
    /// Some of the project's environments have a pointer.
    #[error("{} of this project still serve a deployment; delete it with force=true to drain them first", names(.0))]
    ProjectInUse(Vec<(EnvironmentId, EnvironmentName)>),
    /// The uploaded bytes are no bundle, or hold what a bundle must not.
    #[error("the upload is no bundle that can run: {0}")]
    BundleInvalid(String),
    /// The uploaded bytes do not have the digest they were announced with.
    #[error("the upload was announced as {announced} and is {found}; nothing was kept, upload it again")]
    DigestMismatch {
        /// From the path.
        announced: String,
        /// Of the bytes.
        found: String,
    },
    /// A body larger than its endpoint takes.
    #[error("the body is larger than {limit} bytes, the most that {what} may have")]
    TooLarge {
        /// What was sent.
        what: &'static str,
        /// In bytes.
        limit: u64,
    },
    /// A body of a type that its endpoint does not read.
    #[error("the body is announced as {found:?}; send {wanted}, with that Content-Type")]
    MediaType {
        /// What was announced.
        found: String,
        /// What is read.
        wanted: &'static str,
    },
    /// A limit of this process is reached.
    #[error("{0}; try again in a moment")]
    Overloaded(&'static str),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file in the data directory could not be used.
    #[error("the control plane failed to {doing}; its log has the reason")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Our fault.
    #[error("the control plane failed; its log has the reason ({0})")]
    Internal(&'static str),
}

/// What a request can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noun {
    /// A project.
    Project,
    /// An environment.
    Environment,
    /// A deployment.
    Deployment,
    /// A bundle.
    Bundle,
    /// A pending move.
    Move,
    /// A row of a promotion history.
    Promotion,
}

impl Noun {
    fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Environment => "environment",
            Self::Deployment => "deployment",
            Self::Bundle => "bundle",
            Self::Move => "move",
            Self::Promotion => "promotion",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Project => "give an id that GET /api/v1/projects lists",
            Self::Environment => "give an id that GET /api/v1/environments lists",
            Self::Deployment => "give an id that GET /api/v1/deployments lists for this project",
            Self::Bundle => "upload its bytes first, with PUT /api/v1/bundles/{digest}",
            Self::Move => "give the id of a move that a promote, rollback or deploy answered",
            Self::Promotion => "give an id from the environment's promotion-history",
        }
    }

    fn not_found(self) -> ErrorCode {
        match self {
            Self::Project => ErrorCode::ProjectNotFound,
            Self::Environment => ErrorCode::EnvironmentNotFound,
            Self::Deployment => ErrorCode::DeploymentNotFound,
            Self::Bundle => ErrorCode::BundleNotFound,
            Self::Move => ErrorCode::MoveNotFound,
            Self::Promotion => ErrorCode::PromotionNotFound,
        }
    }
}

impl Error {
    /// That `given` names no such object.
    pub fn not_found(noun: Noun, given: impl std::fmt::Display) -> Self {
        Self::NotFound { noun, given: given.to_string().chars().take(128).collect() }
    }

    /// What the API answers: code, text and facts.
    pub fn body(&self) -> ErrorBody {
        let (code, details) = self.code_and_details();
        let details = match details {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        ErrorBody { code, message: self.message(code), details }
    }

    fn code_and_details(&self) -> (ErrorCode, Value) {
        use ErrorCode as Code;
        match self {
            Self::Invalid(_) => (Code::InvalidRequest, Value::Null),
            Self::NotYetSupported(_) => (Code::NotYetSupported, Value::Null),
            Self::Unauthorized(_) => (Code::Unauthorized, Value::Null),
            Self::Forbidden(role) => (Code::Forbidden, json!({ "role": role })),
            Self::ImportInvalid { errors, total } => {
                (Code::ImportInvalid, json!({ "errors": errors, "errors_total": total }))
            }
            Self::InList { at, source } => {
                let body = source.body();
                let mut details = body.details;
                details.insert("index".to_owned(), json!(at));
                (body.code, Value::Object(details))
            }
            Self::NotReady { .. } => (Code::TargetNotReady, Value::Null),
            Self::NoSuchPath(_) => (Code::NotFound, Value::Null),
            Self::MethodNotAllowed(..) => (Code::MethodNotAllowed, Value::Null),
            Self::NotFound { noun, .. } => (noun.not_found(), Value::Null),
            Self::NoPool { .. } => (Code::DeploymentNotFound, Value::Null),
            Self::Refused(refused) => refusal(refused),
            Self::TargetNotReady { number, errors, .. } => {
                (Code::TargetNotReady, json!({ "move_id": number, "errors": errors }))
            }
            Self::Superseded { number, .. } => (Code::Superseded, json!({ "move_id": number })),
            Self::MoveRefused { number, locked: true, .. } => (Code::EnvironmentLocked, json!({ "move_id": number })),
            Self::MoveRefused { number, locked: false, .. } => {
                (Code::DeploymentTerminated, json!({ "move_id": number }))
            }
            Self::NameTaken { .. } => (Code::NameTaken, Value::Null),
            Self::HostTaken { host, owner, owner_name } => {
                (Code::HostTaken, json!({ "host": host, "environment_id": owner, "environment": owner_name }))
            }
            Self::NotManaged(_) => (Code::NotManaged, Value::Null),
            Self::Serving { environments, .. } => (Code::DeploymentServing, listed(environments)),
            Self::ProxyNotFound { near, .. } => (Code::ProxyNotFound, json!({ "near": near })),
            Self::ProxyLive { instance_id, .. } => (Code::ProxyLive, json!({ "instance_id": instance_id })),
            Self::EnvironmentInUse(_) => (Code::EnvironmentInUse, Value::Null),
            Self::EnvironmentProtected(_) => (Code::EnvironmentProtected, Value::Null),
            Self::ProjectInUse(environments) => (Code::ProjectInUse, listed(environments)),
            Self::BundleInvalid(_) => (Code::BundleInvalid, Value::Null),
            Self::DigestMismatch { announced, found } => {
                (Code::BundleDigestMismatch, json!({ "announced": announced, "found": found }))
            }
            Self::TooLarge { limit, .. } => (Code::PayloadTooLarge, json!({ "limit": limit })),
            Self::MediaType { .. } => (Code::UnsupportedMediaType, Value::Null),
            Self::Overloaded(_) => (Code::Unavailable, Value::Null),
            Self::Store(error) => (stored(error), Value::Null),
            Self::File { .. } | Self::Internal(_) => (Code::Internal, Value::Null),
        }
    }

    /// What stands in the answer. Failures of ours are told in full in the log only.
    fn message(&self, code: ErrorCode) -> String {
        match self {
            Self::Store(_) if code == ErrorCode::Internal => {
                "the control plane failed to use its store; its log has the reason".to_owned()
            }
            _ => self.to_string(),
        }
    }
}

impl From<InvalidBounds> for Error {
    fn from(error: InvalidBounds) -> Self {
        match error {
            InvalidBounds::Order { .. } => Self::Invalid(error.to_string()),
            InvalidBounds::ZeroNotYet => Self::NotYetSupported(
                "min_replicas 0 is not supported yet; give 1 or more, or terminate the deployment",
            ),
        }
    }
}

fn import_told(errors: &[LineError], total: u64) -> String {
    let first = errors.first().map(|error| format!("line {}: {}", error.line, error.message)).unwrap_or_default();
    match total {
        0 | 1 => format!("nothing was imported: {first}"),
        more => format!("nothing was imported, for {more} reasons; the first is {first}"),
    }
}

fn refusal(refused: &Refused) -> (ErrorCode, Value) {
    match refused {
        Refused::Locked { reason } => (ErrorCode::EnvironmentLocked, json!({ "reason": reason })),
        Refused::OtherProject => (ErrorCode::DeploymentNotFound, Value::Null),
        Refused::Terminated => (ErrorCode::DeploymentTerminated, Value::Null),
        Refused::PointerMoved { current } => (ErrorCode::PointerMoved, json!({ "current_deployment_id": current })),
        Refused::NoRollbackTarget => (ErrorCode::NoRollbackTarget, Value::Null),
        Refused::NotInHistory => (ErrorCode::NotInHistory, Value::Null),
    }
}

fn stored(error: &store::Error) -> ErrorCode {
    match error {
        store::Error::HostTaken { .. } => ErrorCode::HostTaken,
        store::Error::NameTaken(_) => ErrorCode::NameTaken,
        store::Error::Cursor => ErrorCode::InvalidRequest,
        store::Error::Busy => ErrorCode::Unavailable,
        store::Error::Full => ErrorCode::StorageFull,
        store::Error::MassChange(_) => ErrorCode::MassChangeRefused,
        store::Error::Owned(_)
        | store::Error::Unusable { .. }
        | store::Error::Newer { .. }
        | store::Error::Corrupt { .. }
        | store::Error::Database(_) => ErrorCode::Internal,
    }
}

fn listed(environments: &[(EnvironmentId, EnvironmentName)]) -> Value {
    let items: Vec<_> = environments.iter().map(|(id, name)| json!({ "id": id, "name": name })).collect();
    json!({ "environments": items })
}

fn like(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(", but {}", near.join(", ")) }
}

fn names(environments: &[(EnvironmentId, EnvironmentName)]) -> String {
    environments.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_the_facts_that_help_to_decide_again() {
        let current = Some(uuid::Uuid::from_u128(7).into());
        let body = Error::from(Refused::PointerMoved { current }).body();
        assert_eq!(body.code, ErrorCode::PointerMoved);
        assert_eq!(body.details["current_deployment_id"], json!(current));
        let locked = Error::from(Refused::Locked { reason: "freeze".into() }).body();
        assert_eq!((locked.code, locked.details["reason"].as_str()), (ErrorCode::EnvironmentLocked, Some("freeze")));
    }

    #[test]
    fn what_fails_inside_is_not_told_outside() {
        let error = Error::from(store::Error::Corrupt { what: "pool", detail: "secret path".into() });
        let body = error.body();
        assert_eq!(body.code, ErrorCode::Internal);
        assert!(!body.message.contains("secret path"), "{}", body.message);
    }

    #[test]
    fn what_is_echoed_is_bounded() {
        let body = Error::not_found(Noun::Project, "x".repeat(10_000)).body();
        assert!(body.message.len() < 300);
        assert!(body.message.contains("GET /api/v1/projects"));
    }
}
