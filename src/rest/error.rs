//! The error shape and the closed list of its codes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Body of every answer that is not a success.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened and what to do next.
    pub message: String,
    /// Facts that belong to the code, such as the environment that has a host.
    #[serde(default)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $word:literal, $status:literal);+ $(;)?) => {
        /// Why a request failed. Programs may rely on these words.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        pub enum ErrorCode {$(
            $(#[$meta])*
            #[serde(rename = $word)]
            $name,
        )+}

        impl ErrorCode {
            /// Every code, for the documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word used in the API.
            pub fn as_str(self) -> &'static str {
                match self {$(Self::$name => $word,)+}
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> u16 {
                match self {$(Self::$name => $status,)+}
            }
        }
    };
}

codes! {
    /// A field, query or body that cannot be understood or contradicts itself.
    InvalidRequest = "invalid_request", 400;
    /// Understood, but not built yet.
    NotYetSupported = "not_yet_supported", 400;
    /// The uploaded bytes are no bundle, or hold what a bundle must not.
    BundleInvalid = "bundle_invalid", 400;
    /// The uploaded bytes do not have the digest they were announced with.
    BundleDigestMismatch = "bundle_digest_mismatch", 400;
    /// Lines of an import that cannot be understood or carried out; nothing of it is there.
    ImportInvalid = "import_invalid", 400;
    /// No key, or one that is not known.
    Unauthorized = "unauthorized", 401;
    /// The key is known, and its role does not allow this.
    Forbidden = "forbidden", 403;
    /// No such path in the API.
    NotFound = "not_found", 404;
    /// No such project.
    ProjectNotFound = "project_not_found", 404;
    /// No such environment.
    EnvironmentNotFound = "environment_not_found", 404;
    /// No such deployment, or none in this project.
    DeploymentNotFound = "deployment_not_found", 404;
    /// No bundle with this digest; upload it first.
    BundleNotFound = "bundle_not_found", 404;
    /// No such pending move.
    MoveNotFound = "move_not_found", 404;
    /// No such row of a promotion history.
    PromotionNotFound = "promotion_not_found", 404;
    /// No such proxy is remembered.
    ProxyNotFound = "proxy_not_found", 404;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// Another environment has this host.
    HostTaken = "host_taken", 409;
    /// Another object has this name.
    NameTaken = "name_taken", 409;
    /// There is no earlier deployment to go back to.
    NoRollbackTarget = "no_rollback_target", 409;
    /// The deployment is not on the environment's history stack.
    NotInHistory = "not_in_history", 409;
    /// The target did not become ready; nothing moved.
    TargetNotReady = "target_not_ready", 409;
    /// A later move of the same environment took this one's place.
    Superseded = "superseded", 409;
    /// The deployment was terminated here on purpose.
    DeploymentTerminated = "deployment_terminated", 409;
    /// Repoint does not start or stop this deployment's replicas.
    NotManaged = "not_managed", 409;
    /// The pointer does not name what the caller expected.
    PointerMoved = "pointer_moved", 409;
    /// The deployment is current somewhere.
    DeploymentServing = "deployment_serving", 409;
    /// The environment has a pointer.
    EnvironmentInUse = "environment_in_use", 409;
    /// Every project keeps its three environments.
    EnvironmentProtected = "environment_protected", 409;
    /// One of the project's environments has a pointer.
    ProjectInUse = "project_in_use", 409;
    /// Deploys and promotes are refused until it is unlocked.
    EnvironmentLocked = "environment_locked", 409;
    /// The proxy is there: it is stopped, not forgotten.
    ProxyLive = "proxy_live", 409;
    /// The change deletes more than an accident should be able to.
    MassChangeRefused = "mass_change_refused", 409;
    /// This idempotency key was used with another body.
    IdempotencyConflict = "idempotency_conflict", 409;
    /// The first request with this idempotency key still runs.
    IdempotencyInProgress = "idempotency_in_progress", 409;
    /// The body is larger than this endpoint takes.
    PayloadTooLarge = "payload_too_large", 413;
    /// The body is of a type this endpoint does not read.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// Our fault; the log has the reason.
    Internal = "internal", 500;
    /// The control plane's disk is full; nothing was changed (RFC 4918 §11.5).
    StorageFull = "storage_full", 507;
    /// Starting or stopping; try again.
    Unavailable = "unavailable", 503;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_its_word() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
        }
    }

    #[test]
    fn an_error_without_details_is_read() {
        let text = r#"{"error":{"code":"host_taken","message":"m"}}"#;
        let answer: ErrorAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.error.code, ErrorCode::HostTaken);
    }
}
