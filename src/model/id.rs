//! Ids: one distinct type per noun, so that swapped arguments do not compile.
//!
//! All are UUIDs; those of stored objects are UUIDv7 (RFC 9562 §5.7), which sort
//! by creation. Minting needs a clock and chance and is the caller's business:
//! `EnvironmentId::from(Uuid::now_v7())`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id as a UUID.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )+};
}

ids! {
    /// A project.
    ProjectId,
    /// An environment.
    EnvironmentId,
    /// An immutable deployment.
    DeploymentId,
    /// A row of the promotion history.
    PromotionId,
    /// An address that serves a pool: one replica, or one configured worker URL.
    EndpointId,
    /// An API key.
    KeyId,
    /// Identity of a store's history; changes when a store is restored or replaced.
    Lineage,
    /// One run of one proxy process.
    InstanceId,
}
