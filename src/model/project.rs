//! A project: owner of environments and deployments.

use jiff::Timestamp;

use crate::model::id::ProjectId;
use crate::model::name::ProjectName;

/// Owner of everything that is deployed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name, part of every host made for it.
    pub name: ProjectName,
    /// When it was created.
    pub created_at: Timestamp,
}
