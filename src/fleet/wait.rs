//! A wait for a change, and whom it waits for: one member at a time.
//!
//! One member that is waited for shows that the wait is not over, so it is kept
//! in mind, and others are looked at when it is waited for no more. Looking at
//! all of them whenever one has said something would be a hundred million looks
//! for a move that ten thousand proxies apply.

use std::time::Instant;

use crate::fleet::member::Member;
use crate::fleet::members::Members;
use crate::model::member::MemberKey;
use crate::model::revision::Revision;

/// A wait for a change to be applied by every live and suspect proxy.
#[derive(Clone, Debug)]
pub struct Wait {
    revision: Revision,
    until: Until,
    /// The last one that it waited for.
    awaited: Option<MemberKey>,
}

/// What ends a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Everybody has applied the change.
    Complete,
    /// Or refuses it for good, so that waiting longer cannot help by itself. A
    /// refusal of an earlier revision does not count, because this one may heal it.
    Settled,
}

impl Wait {
    /// A wait that has not looked yet.
    pub fn new(revision: Revision, until: Until) -> Self {
        Self { revision, until, awaited: None }
    }

    /// The change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When it would end by the silence of the one that it waits for; `None`
    /// when it is over `now`. A ring of the fleet's bell is another reason to look.
    ///
    /// Over a whole wait this looks at each member about twice, whatever their
    /// order: those that have applied are passed once, and all at the end.
    pub fn look(&mut self, members: &Members, now: Instant) -> Option<Instant> {
        let (revision, until) = (self.revision, self.until);
        let lacks = |member: &Member| {
            let refuses = until == Until::Settled && member.refuses_for_good(revision);
            member.applied < Some(revision) && !refuses
        };
        let (key, gone_at) = members.awaited(self.awaited.as_ref(), now, lacks)?;
        if self.awaited.as_ref() != Some(key) {
            self.awaited = Some(key.clone());
        }
        Some(gone_at)
    }
}
