//! Following a pool's output as it is printed.
//!
//! Looks at the files again and again rather than being told: followers are few,
//! a look costs some microseconds, and nothing on the writing side has to know
//! of them or wait for them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;

use super::LogFolder;
use super::line::Line;
use super::read::{Reader, sort_by_time};

/// Between two looks: quick enough to feel live.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl LogFolder {
    /// The last `lines` lines of one replica or of all of a pool, and everything that follows, also from replicas that
    /// start later. Ends when the disk fails, or when it is dropped.
    pub fn follow(
        &self,
        pool: PoolKey,
        replica: Option<EndpointId>,
        lines: usize,
    ) -> impl Stream<Item = Line> + Send + use<> {
        let follower = Follower { logs: self.clone(), pool, replica, tail: Some(lines), readers: BTreeMap::new() };
        stream::unfold(follower, |mut follower| async move {
            loop {
                let look = tokio::task::spawn_blocking(move || {
                    let found = follower.look();
                    (follower, found)
                });
                // The task fails only when the runtime goes down; a failing disk is logged by those who write.
                let (back, found) = look.await.ok()?;
                let found = found.ok()?;
                if !found.is_empty() {
                    return Some((stream::iter(found), back));
                }
                follower = back;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .flatten()
    }
}

struct Follower {
    logs: LogFolder,
    pool: PoolKey,
    replica: Option<EndpointId>,
    /// Lines to begin with, until the first look.
    tail: Option<usize>,
    readers: BTreeMap<EndpointId, Reader>,
}

impl Follower {
    /// What is new in every replica, by time.
    fn look(&mut self) -> io::Result<Vec<Line>> {
        let tail = self.tail.take();
        let replicas = match self.replica {
            Some(replica) => vec![replica],
            None => self.logs.replicas(self.pool)?,
        };
        let mut found = Vec::new();
        for replica in &replicas {
            let reader = match self.readers.entry(*replica) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.logs.reader(self.pool, *replica)),
            };
            found.extend(match tail {
                Some(lines) => reader.tail(lines)?,
                None => reader.next()?,
            });
        }
        // Replicas that were pruned take their open files along.
        self.readers.retain(|replica, _| replicas.contains(replica));
        sort_by_time(&mut found);
        let surplus = tail.map_or(0, |lines| found.len().saturating_sub(lines));
        found.drain(..surplus);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use super::super::Config;
    use super::*;
    use tokio::io::AsyncWriteExt;
    use uuid::Uuid;

    fn pool() -> PoolKey {
        PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() }
    }

    async fn texts(mut lines: Pin<&mut impl Stream<Item = Line>>, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let next = tokio::time::timeout(Duration::from_secs(10), lines.next());
            texts.push(next.await.expect("a line within ten seconds").unwrap().text);
        }
        texts
    }

    #[tokio::test]
    async fn following_begins_with_the_tail_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config::default()).unwrap();
        let (mut child, pipe) = tokio::io::duplex(1 << 16);
        let _capture = logs.writer(pool(), Uuid::now_v7().into()).unwrap().capture(pipe, tokio::io::empty());
        child.write_all(b"1\n2\n3\n").await.unwrap();
        let mut all = pin!(logs.follow(pool(), None, 100));
        assert_eq!(texts(all.as_mut(), 3).await, ["1", "2", "3"]);
        let mut two = pin!(logs.follow(pool(), None, 2));
        assert_eq!(texts(two.as_mut(), 2).await, ["2", "3"]);
        child.write_all(b"4\nhalf").await.unwrap();
        assert_eq!(texts(two.as_mut(), 1).await, ["4"]);
        child.write_all(b" a line\n").await.unwrap();
        assert_eq!(texts(two.as_mut(), 1).await, ["half a line"]);
    }

    #[tokio::test]
    async fn following_survives_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config { replica_bytes_max: 4_000, ..Config::default() }).unwrap();
        let (mut child, pipe) = tokio::io::duplex(64);
        let _capture = logs.writer(pool(), Uuid::now_v7().into()).unwrap().capture(pipe, tokio::io::empty());
        let mut lines = pin!(logs.follow(pool(), None, 10));
        for i in 0..500 {
            child.write_all(format!("{i}\n").as_bytes()).await.unwrap();
            // In step with the writer: a follower that is two halves behind misses what everybody misses.
            if i == 0 || i % 20 == 19 {
                let count = if i == 0 {
                    1
                } else if i == 19 {
                    19
                } else {
                    20
                };
                assert_eq!(texts(lines.as_mut(), count).await.last(), Some(&i.to_string()));
            }
        }
    }

    #[tokio::test]
    async fn replicas_that_start_later_are_followed_too() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config::default()).unwrap();
        let mut lines = pin!(logs.follow(pool(), None, 10));
        for text in ["first\n", "second\n"] {
            let writer = logs.writer(pool(), Uuid::now_v7().into()).unwrap();
            let capture = writer.capture(text.as_bytes(), tokio::io::empty());
            assert_eq!(texts(lines.as_mut(), 1).await, [text.trim()]);
            capture.finish(Duration::from_secs(10)).await;
        }
    }
}
