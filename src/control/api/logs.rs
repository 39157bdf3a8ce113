//! `GET /api/v1/deployments/{id}/logs`: what the replicas wrote, line by line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use crate::control::api::extract::{Id, Query};
use crate::control::replicas::pools_of;
use crate::control::{Control, Error, find};
use crate::logs::line::{Line, Stream as From};
use crate::logs::read::LINES_MAX;
use crate::model::id::DeploymentId;
use crate::model::name::EnvironmentName;
use crate::model::pool::PoolKey;
use crate::rest::logs::{CONTENT_TYPE, LogLine, LogsQuery, Stream as To, TAIL_DEFAULT};

/// Empty lines on a quiet stream, so that both ends know it is alive; as often as
/// on the event stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn stream(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Error> {
    let tail = query.tail.unwrap_or(TAIL_DEFAULT) as usize;
    if tail > LINES_MAX {
        return Err(Error::Invalid(format!(
            "tail: {tail} is more than {LINES_MAX}; follow=true shows what comes after"
        )));
    }
    let place = Arc::clone(&control.subscribers).try_acquire_owned();
    let place = place.map_err(|_| Error::Overloaded("too many event streams and followed logs are open"))?;
    let mut tx = control.store.read().await?;
    let deployment = find::deployment(&mut tx, id).await?;
    if !deployment.is_managed() {
        return Err(Error::NotManaged(deployment.reference));
    }
    let pools = pools_of(&mut tx, &deployment, query.environment_id).await?;
    let pools: Vec<_> = pools.into_iter().map(|(environment, pool)| (environment.name, pool.key)).collect();
    drop(tx);
    let lines = if query.follow {
        follow(&control, pools, &query, tail).boxed()
    } else {
        stream::iter(printed(&control, pools, &query, tail).await?).boxed()
    };
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from_stream(kept(lines, place, &control))).into_response())
}

/// The last lines of all pools, by time.
async fn printed(
    control: &Control,
    pools: Vec<(EnvironmentName, PoolKey)>,
    query: &LogsQuery,
    tail: usize,
) -> Result<Vec<Bytes>, Error> {
    let (logs, replica) = (control.logs.clone(), query.replica);
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        for (environment, pool) in pools {
            let printed = logs.tail(pool, replica, tail)?;
            lines.extend(printed.into_iter().map(|line| (environment.clone(), line)));
        }
        lines.sort_by_key(|(_, line)| line.at);
        let surplus = lines.len().saturating_sub(tail);
        Ok(lines.drain(surplus..).map(|(environment, line)| written(environment, line)).collect())
    });
    let read = reading.await.map_err(|_| Error::Internal("reading a log panicked"))?;
    read.map_err(|source| Error::File { doing: "read a replica's log", source })
}

/// The last lines of each pool and everything that follows.
fn follow(
    control: &Control,
    pools: Vec<(EnvironmentName, PoolKey)>,
    query: &LogsQuery,
    tail: usize,
) -> impl Stream<Item = Bytes> + Send + use<> {
    let pools = pools.into_iter().map(|(environment, pool)| {
        let lines = control.logs.follow(pool, query.replica, tail);
        lines.map(move |line| written(environment.clone(), line)).boxed()
    });
    let lines = stream::select_all(pools);
    stream::unfold(lines, |mut lines| async move {
        match tokio::time::timeout(KEEP_ALIVE, lines.next()).await {
            Ok(line) => line.map(|line| (line, lines)),
            Err(_) => Some((Bytes::from_static(b"\n"), lines)),
        }
    })
}

/// The stream with its place among the subscribers, until the control plane stops.
fn kept(
    lines: BoxStream<'static, Bytes>,
    place: OwnedSemaphorePermit,
    control: &Control,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + use<> {
    let mut drain = control.drain.clone();
    lines.take_until(async move { drain.asked().await }).map(move |line| {
        // Held by the stream it counts.
        let _ = &place;
        Ok(line)
    })
}

fn written(environment: EnvironmentName, line: Line) -> Bytes {
    let stream = match line.stream {
        From::Out => To::Stdout,
        From::Err => To::Stderr,
        From::Note => To::Note,
    };
    let line = LogLine { at: line.at, environment, endpoint_id: line.replica, stream, text: line.text };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
