//! Keeping what one replica prints.
//!
//! A replica's pipes are always read: a disk that is full or slow costs lines,
//! and a note says how many bytes, but never blocks the replica for long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;

use super::line::{Cutter, Stream, append};
use super::{LogFolder, make};

/// Bytes taken from a pipe at once: what a Linux pipe holds.
const CHUNK_BYTES: usize = 64 << 10;
/// Notes waiting to be kept; further ones are dropped, since a replica has a handful in its life.
const NOTES_MAX: usize = 64;

/// The two halves on disk.
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    /// Opened with the first line of a half.
    current: Option<File>,
    written: u64,
    half_max: u64,
    lost: u64,
    _live: Live,
}

/// Keeps a replica's folder from being pruned.
#[derive(Debug)]
struct Live(LogFolder, EndpointId);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl LogFolder {
    /// Makes room for a new replica's output and answers where to write it.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn writer(&self, pool: PoolKey, replica: EndpointId) -> io::Result<LogWriter> {
        self.prune(pool)?;
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(replica);
        let live = Live(self.clone(), replica);
        let folder = self.replica_path(pool, replica);
        make(&folder)?;
        Ok(LogWriter {
            folder,
            current: None,
            written: 0,
            half_max: self.config.replica_bytes_max / 2,
            lost: 0,
            _live: live,
        })
    }
}

impl LogWriter {
    /// Reads both pipes until they close, in a task of its own.
    pub fn capture(
        self,
        out: impl AsyncRead + Send + Unpin + 'static,
        err: impl AsyncRead + Send + Unpin + 'static,
    ) -> Capture {
        let (notes, noted) = mpsc::channel(NOTES_MAX);
        Capture { task: tokio::spawn(capture(self, out, err, noted)), notes }
    }

    /// Keeps whole lines. What cannot be written is counted, and told once writing works again.
    fn keep(&mut self, lines: &[u8]) {
        if self.lost > 0 {
            let mut note = Vec::new();
            let text = format!("{} bytes of output could not be kept: the disk was full or failed", self.lost);
            append(&mut note, Timestamp::now(), Stream::Note, text.as_bytes());
            if self.write(&note).is_ok() {
                self.lost = 0;
            }
        }
        if self.write(lines).is_err() {
            self.lost += lines.len() as u64;
            // A half that failed is not trusted to end in a whole line.
            self.current = None;
        }
    }

    fn write(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            if self.current.is_none() {
                self.rotate()?;
            }
            let room = usize::try_from(self.half_max.saturating_sub(self.written)).unwrap_or(usize::MAX);
            let fitting = fitting(lines, room, self.written == 0);
            if fitting == 0 {
                self.current = None;
                continue;
            }
            if let Some(current) = &mut self.current {
                current.write_all(&lines[..fitting])?;
            }
            self.written += fitting as u64;
            lines = &lines[fitting..];
        }
        Ok(())
    }

    /// The full half becomes the previous one, which is gone with that.
    fn rotate(&mut self) -> io::Result<()> {
        let path = self.folder.join("current");
        super::absent_is_fine(fs::rename(&path, self.folder.join("previous")))?;
        self.current = Some(OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?);
        self.written = 0;
        Ok(())
    }
}

/// How many bytes of `lines` fit into `room` as whole lines; an empty half takes one line whatever its length.
fn fitting(lines: &[u8], room: usize, empty: bool) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    let end = lines[..room].iter().rposition(|byte| *byte == b'\n');
    match end.map(|at| at + 1) {
        None if empty => lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1),
        end => end.unwrap_or(0),
    }
}

/// The running capture of one replica's output.
#[derive(Debug)]
pub struct Capture {
    task: JoinHandle<()>,
    notes: mpsc::Sender<String>,
}

impl Capture {
    /// Adds a line of the supervisor's own.
    pub fn note(&self, text: impl Into<String>) {
        // A full channel means a disk that stands still: then the note is lost like everything else.
        let _ = self.notes.try_send(text.into());
    }

    /// The replica has ended: keeps what is still in the pipes. A process that outlives the replica and holds its pipe
    /// is waited for no longer than `patience`.
    pub async fn finish(self, patience: Duration) {
        drop(self.notes);
        let mut task = self.task;
        if tokio::time::timeout(patience, &mut task).await.is_err() {
            task.abort();
        }
    }
}

async fn capture(
    mut writer: LogWriter,
    mut out: impl AsyncRead + Unpin,
    mut err: impl AsyncRead + Unpin,
    mut notes: mpsc::Receiver<String>,
) {
    let (mut out_cutter, mut err_cutter) = (Cutter::new(Stream::Out), Cutter::new(Stream::Err));
    let (mut out_chunk, mut err_chunk) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut out_open, mut err_open, mut notes_open) = (true, true, true);
    while out_open || err_open || notes_open {
        let mut kept = Vec::new();
        tokio::select! {
            read = out.read(&mut out_chunk), if out_open => {
                out_open = take(&out_chunk[..read.unwrap_or(0)], &mut out_cutter, &mut kept);
            }
            read = err.read(&mut err_chunk), if err_open => {
                err_open = take(&err_chunk[..read.unwrap_or(0)], &mut err_cutter, &mut kept);
            }
            note = notes.recv(), if notes_open => match note {
                Some(text) => append(&mut kept, Timestamp::now(), Stream::Note, text.as_bytes()),
                None => notes_open = false,
            },
        }
        if kept.is_empty() {
            continue;
        }
        // On a thread for such things: a disk that hangs must not hold up the runtime.
        let blocking = tokio::task::spawn_blocking(move || {
            writer.keep(&kept);
            writer
        });
        match blocking.await {
            Ok(back) => writer = back,
            // The runtime is going down, and the replicas with it.
            Err(_) => return,
        }
    }
}

/// Cuts what a pipe gave; `false` once it gives nothing more, because it is closed or failed.
fn take(read: &[u8], cutter: &mut Cutter, kept: &mut Vec<u8>) -> bool {
    let now = Timestamp::now();
    match read {
        [] => cutter.finish(now, kept),
        bytes => cutter.feed(bytes, now, kept),
    }
    !read.is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use uuid::Uuid;

    const POOL: fn() -> PoolKey =
        || PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() };

    fn size(folder: &std::path::Path) -> u64 {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_replica_never_takes_more_than_its_budget() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { replica_bytes_max: 20_000, ..Config::default() };
        let logs = LogFolder::open(dir.path(), config).unwrap();
        let replica = Uuid::now_v7().into();
        let mut writer = logs.writer(POOL(), replica).unwrap();
        for i in 0..5_000 {
            let mut line = Vec::new();
            append(&mut line, Timestamp::now(), Stream::Out, format!("line {i}").as_bytes());
            writer.keep(&line);
            assert!(size(&writer.folder) <= 20_000, "after line {i}");
        }
        let kept = logs.tail(POOL(), Some(replica), 10_000).unwrap();
        assert_eq!(kept.last().unwrap().text, "line 4999");
        assert!(kept.len() > 200, "at least one half is there: {}", kept.len());
    }

    #[test]
    fn one_large_write_is_cut_at_lines() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config { replica_bytes_max: 2_000, ..Config::default() }).unwrap();
        let mut writer = logs.writer(POOL(), Uuid::now_v7().into()).unwrap();
        let mut lines = Vec::new();
        (0..200).for_each(|i| append(&mut lines, Timestamp::now(), Stream::Out, i.to_string().as_bytes()));
        writer.keep(&lines);
        assert!(size(&writer.folder) <= 2_000);
        let kept = logs.tail(POOL(), None, 10_000).unwrap();
        let numbers: Vec<u32> = kept.iter().map(|line| line.text.parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&199));
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    }

    #[test]
    fn the_last_replicas_are_kept_and_running_ones_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config { replicas_kept: 3, ..Config::default() }).unwrap();
        let replicas: Vec<EndpointId> = (1..=6).map(|i| Uuid::from_u128(i).into()).collect();
        let running = logs.writer(POOL(), replicas[0]).unwrap();
        for replica in &replicas[1..] {
            logs.writer(POOL(), *replica).unwrap();
        }
        assert_eq!(logs.replicas(POOL()).unwrap(), [replicas[0], replicas[4], replicas[5]]);
        drop(running);
        logs.writer(POOL(), Uuid::from_u128(7).into()).unwrap();
        assert!(!logs.replicas(POOL()).unwrap().contains(&replicas[0]));
        assert_eq!(logs.pools().unwrap(), [POOL()]);
        logs.remove(POOL()).unwrap();
        assert_eq!(logs.pools().unwrap(), []);
    }

    #[tokio::test]
    async fn both_pipes_and_notes_end_up_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config::default()).unwrap();
        let replica = Uuid::now_v7().into();
        let capture = logs.writer(POOL(), replica).unwrap().capture(&b"one\ntwo"[..], &b"oops\n"[..]);
        capture.note("started");
        capture.finish(Duration::from_secs(10)).await;
        let mut kept: Vec<_> = logs
            .tail(POOL(), Some(replica), 10)
            .unwrap()
            .into_iter()
            .map(|line| (line.stream.as_str(), line.text))
            .collect();
        kept.sort();
        let expected = [("err", "oops"), ("note", "started"), ("out", "one"), ("out", "two")];
        assert_eq!(kept, expected.map(|(stream, text)| (stream, text.to_owned())));
    }

    #[tokio::test]
    async fn a_pipe_that_stays_open_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config::default()).unwrap();
        let (_held, pipe) = tokio::io::duplex(64);
        let capture = logs.writer(POOL(), Uuid::now_v7().into()).unwrap().capture(pipe, tokio::io::empty());
        capture.finish(Duration::from_millis(20)).await;
        assert!(logs.live.lock().unwrap().len() <= 1);
    }

    #[test]
    fn a_disk_that_fails_costs_lines_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(dir.path(), Config::default()).unwrap();
        let mut writer = logs.writer(POOL(), Uuid::now_v7().into()).unwrap();
        let folder = writer.folder.clone();
        fs::remove_dir(&folder).unwrap();
        let mut line = Vec::new();
        append(&mut line, Timestamp::now(), Stream::Out, b"lost");
        writer.keep(&line);
        fs::create_dir(&folder).unwrap();
        let mut line = Vec::new();
        append(&mut line, Timestamp::now(), Stream::Out, b"kept");
        writer.keep(&line);
        let kept = logs.tail(POOL(), None, 10).unwrap();
        assert!(kept[0].text.contains("bytes of output could not be kept"));
        assert_eq!(kept[1].text, "kept");
    }
}
