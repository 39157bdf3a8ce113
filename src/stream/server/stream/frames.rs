//! The frames of one stream: what goes into a delta, and how the whole state is sent.
//!
//! Reads what the session asked for from the store, and sends it as far as one
//! message may be. When to send is the session's decision.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tracing::warn;

use super::{End, Joined, Pulse, Stream, away};
use crate::fleet::member::{Reason, Refused};
use crate::model::revision::Position;
use crate::store::Changes;
use crate::stream::server::snapshots::chunks;
use crate::stream::source::Source;
use crate::wire::response::{Delta, GoAwayReason, Response};
use crate::wire::{MINOR, net_change_set};

/// About this many bytes of changes ride in one delta: below what gRPC
/// implementations accept by default (4 MiB).
const DELTA_BYTES: usize = 1 << 20;
/// A net state that takes more than this to work out is sent as a snapshot.
const NET_BYTES: usize = 16 << 20;
/// One change may be larger than any delta should be; past this it goes as a
/// snapshot, in chunks, because a proxy hears whole messages only: one of these
/// arrives within three heartbeats at 6 Mbit/s.
const FRAME_BYTES_MAX: usize = 2 << 20;
/// A proxy that is asked to come later does so after this time, and as much again.
const OVERLOAD_DELAY: Duration = Duration::from_secs(2);
/// 60 s: only another build of the proxy helps, and somebody has to install it.
const UPGRADE_DELAY: Duration = Duration::from_secs(60);

impl<S: Source> Stream<S> {
    pub(super) async fn send_delta(
        &self,
        joined: &Joined,
        pulse: &mut Pulse,
        from: Position,
        net: bool,
    ) -> Result<(), End> {
        let bytes_max = if net { NET_BYTES } else { DELTA_BYTES };
        let head = *pulse.head.borrow();
        let changes = self.reading(joined, pulse, self.shared.source.changes_after(from.revision, bytes_max)).await?;
        let Changes::Log(changes) = changes else {
            joined.session().out_of_reach();
            return Ok(());
        };
        let Some(to) = changes.last().map(|change| change.position) else {
            // The head moved and the log does not show it: neither waiting nor sending helps.
            return Err(End::Failed(Status::internal("the change log ends before its head")));
        };
        let mut change_sets: Vec<_> = changes.into_iter().map(|change| change.bytes).collect();
        // Part of the way might replay the very value that was refused.
        let falls_short = net && to.revision < head.revision;
        if net && !falls_short {
            let merged = net_change_set(&change_sets);
            change_sets = vec![merged.map_err(|error| End::Failed(Status::internal(error.to_string())))?];
        }
        if falls_short || change_sets.iter().map(Bytes::len).sum::<usize>() > FRAME_BYTES_MAX {
            joined.session().out_of_reach();
            return Ok(());
        }
        joined.session().sends_delta(from, to);
        self.shared.metrics.deltas.inc();
        self.send(Response::Delta(Delta { from, to, change_sets })).await
    }

    pub(super) async fn send_snapshot(&self, joined: &Joined, pulse: &mut Pulse, head: Position) -> Result<(), End> {
        let taking = self.shared.snapshots.take(&self.shared.source, head);
        let taken = self.reading(joined, pulse, taking).await?;
        let Some(taken) = taken else {
            return Err(away(GoAwayReason::Overloaded, OVERLOAD_DELAY));
        };
        if joined.minor < MINOR
            && let Some(needed) = self.reading(joined, pulse, taken.minor_above(joined.minor)).await?
        {
            return Err(self.too_old(joined, taken.snapshot.position, needed));
        }
        joined.session().sends_snapshot(taken.snapshot.position);
        self.shared.metrics.snapshots.inc();
        let snapshot = &taken.snapshot;
        let is_stamped = joined.session().is_stamped_for(snapshot.position, snapshot.mass_change_at);
        for chunk in chunks(snapshot, is_stamped) {
            self.send(Response::SnapshotChunk(chunk)).await?;
        }
        Ok(())
    }

    /// Rule 4: records carry no minor of their own, and an older proxy drops the
    /// fields it does not know without a word. It keeps what it has, and is shown
    /// as one that refuses.
    fn too_old(&self, joined: &Joined, position: Position, needed: u32) -> End {
        let detail = format!(
            "the state needs protocol minor {needed}, and this proxy speaks {}: run a newer repoint there",
            joined.minor
        );
        warn!(proxy = joined.proxy_id, revision = %position.revision, detail, "the proxy is too old for the state");
        self.shared.metrics.refused.inc();
        let refused = Refused { revision: position.revision, reason: Reason::Unsupported, detail };
        self.shared.fleet.nack(&joined.membership, refused);
        away(GoAwayReason::Unsupported, UPGRADE_DELAY)
    }
}
