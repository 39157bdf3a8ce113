//! `GET /api/v1/events`: server-sent events as things happen.
//!
//! Live only. A subscriber that falls behind is told how many events it missed
//! and goes on; it never slows down what it watches.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::control::api::extract::Query;
use crate::control::{Control, Error};
use crate::drain::Watch;
use crate::model::event::{Event, What};
use crate::model::id::EnvironmentId;
use crate::rest::events::EventsQuery;

/// Comments on a quiet stream, so that middleboxes and both ends know it is
/// alive. 15 s: below the idle limits of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn stream(
    State(control): State<Control>,
    Query(query): Query<EventsQuery>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    let place = Arc::clone(&control.subscribers).try_acquire_owned();
    let place = place.map_err(|_| Error::Overloaded("too many event streams and followed logs are open"))?;
    let subscription = Subscription {
        events: control.store.events(),
        only: query.environment_id,
        drain: control.drain,
        _place: place,
    };
    let first = stream::once(async { Ok(Sent::default().comment("events from here on")) });
    let events = stream::unfold(subscription, |mut subscription| async {
        subscription.next().await.map(|sent| (Ok(sent), subscription))
    });
    Ok(Sse::new(first.chain(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Subscription {
    events: broadcast::Receiver<Event>,
    only: Option<EnvironmentId>,
    drain: Watch,
    _place: OwnedSemaphorePermit,
}

impl Subscription {
    /// The next event to send; `None` at the end of the control plane.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            let received = tokio::select! {
                received = self.events.recv() => received,
                () = self.drain.asked() => return None,
            };
            match received {
                Ok(event) if self.only.is_none_or(|only| only == environment(&event.what)) => {
                    return Some(sent(&event));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(Sent::default().event("lagged").data(format!("{{\"missed\":{missed}}}")));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn sent(event: &Event) -> Sent {
    let data = serde_json::to_string(event).unwrap_or_default();
    Sent::default().event(event.what.name()).data(data)
}

fn environment(what: &What) -> EnvironmentId {
    match what {
        What::PointerMoved { environment_id, .. }
        | What::Applied { environment_id, .. }
        | What::PoolState { environment_id, .. }
        | What::Draining { environment_id, .. }
        | What::Drained { environment_id, .. }
        | What::StopBlocked { environment_id, .. }
        | What::MoveEnded { environment_id, .. } => *environment_id,
    }
}
