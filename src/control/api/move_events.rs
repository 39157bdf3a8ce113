//! `GET /api/v1/moves/{id}/events` and `GET /api/v1/promotions/{id}/events`:
//! one move, as it happens.
//!
//! Looks at the move whenever the store or the fleet has rung, and now and then
//! for what rings no bell; [`Timeline`] says what of it is news. A watcher costs
//! a look at the fleet each time, and slows down nobody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};

use crate::control::api::extract::Id;
use crate::control::api::show::Refs;
use crate::control::api::{proxies, show_move};
use crate::control::error::Noun;
use crate::control::timeline::Timeline;
use crate::control::{Control, Error, find};
use crate::drain::Watch;
use crate::fleet::spread::{Laggard, Spread};
use crate::model::id::{EnvironmentId, PromotionId};
use crate::model::moves::{MoveState, PendingMove};
use crate::model::pool::{Pool, PoolKey, PoolState};
use crate::model::promotion::Promotion;
use crate::rest::move_events::{self, MoveEvent};
use crate::rest::proxies::RefusedChange;
use crate::store::{Transaction, WorkWatch};

/// Comments on a quiet stream. 2 s: whoever reads it line by line notices in
/// time that its own patience is over.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// From one look to the next at least, while a fleet rings for every proxy.
const PACE: Duration = Duration::from_millis(50);

/// And at most: counts ring no bell, and neither does silence.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn of_move(
    State(control): State<Control>,
    Id(number): Id<u64>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    follow(control, Followed::Move(number)).await
}

pub(super) async fn of_promotion(
    State(control): State<Control>,
    Id(id): Id<PromotionId>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    follow(control, Followed::Promotion(id)).await
}

async fn follow(
    control: Control,
    followed: Followed,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    let place = Arc::clone(&control.subscribers).try_acquire_owned();
    let place = place.map_err(|_| Error::Overloaded("too many event streams and followed logs are open"))?;
    let mut following = Following {
        // Before the first look: what happens meanwhile is looked at again.
        work: control.store.watch_work(),
        fleet: control.fleet.watch(),
        drain: control.drain.clone(),
        environment: None,
        timeline: Timeline::default(),
        news: VecDeque::new(),
        control,
        followed,
        _place: place,
    };
    // A move that nobody asked for is refused, and not a stream.
    following.look().await?;
    let events = stream::unfold(following, |mut following| async {
        following.next().await.map(|event| (Ok(sent(&event)), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn sent(event: &MoveEvent) -> Sent {
    let data = serde_json::to_string(event).unwrap_or_default();
    Sent::default().event(event.name()).data(data)
}

/// What is watched.
#[derive(Clone, Copy, Debug)]
enum Followed {
    Move(u64),
    Promotion(PromotionId),
}

struct Following {
    control: Control,
    followed: Followed,
    environment: Option<EnvironmentId>,
    timeline: Timeline,
    news: VecDeque<MoveEvent>,
    work: WorkWatch,
    fleet: watch::Receiver<u64>,
    drain: Watch,
    _place: OwnedSemaphorePermit,
}

impl Following {
    /// The next event; `None` after the last, and at the end of the control plane.
    async fn next(&mut self) -> Option<MoveEvent> {
        loop {
            if let Some(event) = self.news.pop_front() {
                return Some(event);
            }
            if self.timeline.has_ended() || !self.rests().await {
                return None;
            }
            if let Err(error) = self.look().await {
                // Whoever watches comes back, and is refused then if that is the answer.
                tracing::warn!(error = &error as &dyn std::error::Error, "an event stream of a move ends early");
                return None;
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        self.work.take();
        self.fleet.borrow_and_update();
        let mut tx = self.control.store.read().await?;
        let (environment, looked) = look(&self.control, &mut tx, self.followed).await?;
        self.environment = Some(environment);
        self.news.extend(self.timeline.tell(looked, Instant::now().into_std()));
        Ok(())
    }

    /// Until there may be news; false when the control plane stops.
    async fn rests(&mut self) -> bool {
        let concerned = self.environment;
        tokio::select! {
            () = sleep(PACE) => {}
            () = self.drain.asked() => return false,
        }
        tokio::select! {
            rung = self.work.until(|work| work.has_environment(|id| Some(id) == concerned)) => rung,
            rung = self.fleet.changed() => rung.is_ok(),
            () = sleep(LOOK_EVERY) => true,
            () = self.drain.asked() => false,
        }
    }
}

/// Everything that is true of a move now, in the order in which it came about.
async fn look(
    control: &Control,
    tx: &mut Transaction,
    followed: Followed,
) -> Result<(EnvironmentId, Vec<MoveEvent>), Error> {
    let id = match followed {
        Followed::Promotion(id) => id,
        Followed::Move(number) => {
            let pending = find::pending_move(tx, number).await?;
            match (pending.state, pending.promotion) {
                (MoveState::Committed, Some(id)) => id,
                _ => return Ok((pending.environment, vec![uncommitted(tx, pending).await?])),
            }
        }
    };
    let promotion = tx.promotion(id).await?.ok_or_else(|| Error::not_found(Noun::Promotion, id))?;
    let previous = match promotion.from.filter(|from| *from != promotion.to) {
        Some(deployment) => tx.pool(PoolKey { environment: promotion.environment, deployment }).await?,
        None => None,
    };
    let mut refs = Refs::default();
    let mut told =
        vec![MoveEvent::Committed { promotion: show_move::promotion(tx, &mut refs, promotion.clone()).await? }];
    let spread = control.fleet.spread(promotion.revision, promotion.committed_at);
    if !spread.is_complete() && promotion.applied_at.is_none() {
        told.push(applying(&promotion, spread));
        return Ok((promotion.environment, told));
    }
    told.push(applied(&promotion, &spread));
    told.extend(rest(control, tx, &mut refs, &promotion, previous).await?);
    Ok((promotion.environment, told))
}

async fn uncommitted(tx: &mut Transaction, pending: PendingMove) -> Result<MoveEvent, Error> {
    let state = pending.state;
    let pending = show_move::pending_move(tx, pending).await?;
    Ok(match state {
        MoveState::Waiting => MoveEvent::Waiting { pending },
        MoveState::Superseded => MoveEvent::Superseded { pending },
        MoveState::TargetNotReady => MoveEvent::TargetNotReady { pending },
        MoveState::Refused => MoveEvent::Refused { pending },
        MoveState::Committed => return Err(Error::Internal("a committed move has no row")),
    })
}

fn applying(promotion: &Promotion, spread: Spread) -> MoveEvent {
    MoveEvent::Applying {
        revision: promotion.revision,
        required: spread.required,
        applied: spread.applied,
        unconfirmed: spread.unconfirmed,
        lagging: spread.lagging.into_iter().map(laggard).collect(),
        lagging_count: spread.lagging_count,
        refusing_count: spread.refusing_count,
    }
}

fn laggard(laggard: Laggard) -> move_events::Laggard {
    move_events::Laggard {
        proxy_id: laggard.proxy_id,
        instance_id: laggard.instance_id,
        state: proxies::state(laggard.state),
        silent_for_ms: u64::try_from(laggard.silent_for.as_millis()).unwrap_or(u64::MAX),
        applied_revision: laggard.applied.unwrap_or_default(),
        refused: laggard.refused.map(|refused| RefusedChange {
            revision: refused.revision,
            reason: refused.reason.as_str().to_owned(),
            detail: refused.detail,
        }),
    }
}

fn applied(promotion: &Promotion, spread: &Spread) -> MoveEvent {
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    // The history knows when the last one had it, also where this run saw none of them.
    let noted = promotion.applied_at.map(|at| Duration::try_from(at.duration_since(promotion.committed_at)));
    let all = spread.times.map(|times| times.all).or_else(|| noted?.ok());
    MoveEvent::Applied {
        revision: promotion.revision,
        required: spread.required,
        unconfirmed: spread.unconfirmed,
        p50_ms: spread.times.map(|times| millis(times.p50)),
        p99_ms: spread.times.map(|times| millis(times.p99)),
        all_ms: all.map(millis),
    }
}

/// What is to be said of what was served before, if anything was.
async fn rest(
    control: &Control,
    tx: &mut Transaction,
    refs: &mut Refs,
    promotion: &Promotion,
    previous: Option<Pool>,
) -> Result<Option<MoveEvent>, Error> {
    let Some(deployment_id) = promotion.from.filter(|from| *from != promotion.to) else { return Ok(None) };
    let reference = refs.of(tx, Some(deployment_id)).await?;
    if let Some(drained_at) = promotion.previous_drained_at {
        let streams_cut = promotion.streams_cut.unwrap_or(0);
        return Ok(Some(MoveEvent::Drained { deployment_id, reference, drained_at, streams_cut }));
    }
    let Some(pool) = previous else { return Ok(None) };
    let in_flight = control.fleet.in_flight(pool.key);
    Ok(Some(match pool.closing_revision.filter(|_| pool.state == PoolState::Closing) {
        Some(revision) => {
            let blockers = control.fleet.blocking_pool(pool.key, revision);
            MoveEvent::Closing {
                deployment_id,
                reference,
                in_flight,
                blocked_by: blockers.sentences(),
                blocked_by_count: blockers.count,
            }
        }
        None => MoveEvent::Kept { deployment_id, reference, state: pool.state, in_flight },
    }))
}
