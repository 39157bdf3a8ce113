//! Reading one replica's output: the last lines, then what comes after them.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;

use super::LogFolder;
use super::line::{LINE_BYTES_MAX, Line};

/// Lines answered at most, whatever is asked for: some megabytes.
pub const LINES_MAX: usize = 10_000;
/// Bytes read at once while following, so that a burst comes in bounded pieces.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// Bytes read at once from the end backwards.
const BLOCK_BYTES: u64 = 64 << 10;

impl LogFolder {
    /// The last lines of one replica, or of all of a pool by time. None is no error: nothing was printed yet.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn tail(&self, pool: PoolKey, replica: Option<EndpointId>, lines: usize) -> io::Result<Vec<Line>> {
        let replicas = match replica {
            Some(replica) => vec![replica],
            None => self.replicas(pool)?,
        };
        let mut all = Vec::new();
        for replica in replicas {
            all.extend(self.reader(pool, replica).tail(lines)?);
        }
        sort_by_time(&mut all);
        let surplus = all.len().saturating_sub(lines.min(LINES_MAX));
        all.drain(..surplus);
        Ok(all)
    }

    /// Reads one replica's output from its beginning.
    pub(super) fn reader(&self, pool: PoolKey, replica: EndpointId) -> Reader {
        Reader { folder: self.replica_path(pool, replica), replica, at: None }
    }
}

/// Lines of several replicas by time; those of one keep their order.
pub(super) fn sort_by_time(lines: &mut [Line]) {
    lines.sort_by_key(|line| line.at);
}

/// A place in one replica's output.
#[derive(Debug)]
pub(super) struct Reader {
    folder: PathBuf,
    replica: EndpointId,
    at: Option<At>,
}

/// A half, held open: it can be read to its end after it was renamed or removed.
#[derive(Debug)]
struct At {
    half: File,
    inode: u64,
    offset: u64,
}

impl Reader {
    /// The last `count` lines; reading goes on behind them.
    pub(super) fn tail(&mut self, count: usize) -> io::Result<Vec<Line>> {
        let count = count.min(LINES_MAX);
        // In this order a rotation in between is seen as one half twice, never as a half that is skipped.
        let (current, previous) = (self.open("current")?, self.open("previous")?);
        let previous = previous.filter(|previous| current.as_ref().is_none_or(|at| at.inode != previous.inode));
        let mut lines = Vec::new();
        for mut half in [current, previous].into_iter().flatten() {
            let end = whole_lines_end(&half.half)?;
            let mut found = last_lines(&half.half, end, count - lines.len())?;
            half.offset = end;
            // The first half that exists is the newer one: following goes on in it.
            self.at.get_or_insert(half);
            found.append(&mut lines);
            lines = found;
        }
        Ok(self.parse(&lines))
    }

    /// What was printed since; empty when there is nothing yet.
    pub(super) fn next(&mut self) -> io::Result<Vec<Line>> {
        loop {
            if self.at.is_none() {
                // From the beginning: the older half comes first.
                self.at = self.open("previous")?.map_or_else(|| self.open("current"), |half| Ok(Some(half)))?;
            }
            let Some(at) = &mut self.at else { return Ok(Vec::new()) };
            // Looked up before reading: if it was replaced already then, what is read now is its end.
            let replaced = inode_of(&self.folder.join("current"))? != Some(at.inode);
            let bytes = read_lines(&at.half, at.offset)?;
            at.offset += bytes.len() as u64;
            if !bytes.is_empty() {
                let lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                return Ok(self.parse(&lines));
            }
            if !replaced || !self.move_on()? {
                return Ok(Vec::new());
            }
        }
    }

    /// From a half that is full to the one after it; `false` while that is not there.
    fn move_on(&mut self) -> io::Result<bool> {
        let here = self.at.as_ref().map(|at| at.inode);
        let next = match self.open("previous")? {
            // Two halves were filled meanwhile; what lay between is gone, as it is for everybody.
            Some(previous) if Some(previous.inode) != here => Some(previous),
            _ => self.open("current")?,
        };
        let moved = next.as_ref().is_some_and(|next| Some(next.inode) != here);
        if moved {
            self.at = next;
        }
        Ok(moved)
    }

    fn open(&self, half: &str) -> io::Result<Option<At>> {
        match File::open(self.folder.join(half)) {
            Ok(half) => {
                let inode = half.metadata()?.ino();
                Ok(Some(At { half, inode, offset: 0 }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(&self, lines: &[Vec<u8>]) -> Vec<Line> {
        lines.iter().filter_map(|line| Line::parse(self.replica, line.strip_suffix(b"\n").unwrap_or(line))).collect()
    }
}

fn inode_of(path: &std::path::Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last whole line ends. The writer appends whole lines, but one write may be seen half done.
fn whole_lines_end(half: &File) -> io::Result<u64> {
    let length = half.metadata()?.len();
    // A kept line is a little longer than what it holds.
    let start = length.saturating_sub(2 * LINE_BYTES_MAX as u64);
    let block = read_between(half, start, length)?;
    Ok(block.iter().rposition(|byte| *byte == b'\n').map_or(start, |at| start + at as u64 + 1))
}

/// The last `count` lines before `end`, read backwards.
fn last_lines(half: &File, end: u64, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut start = end;
    let mut bytes: Vec<u8> = Vec::new();
    // One more line end than lines: the end of the line before the first.
    while start > 0 && bytes.iter().filter(|byte| **byte == b'\n').count() <= count {
        let from = start.saturating_sub(BLOCK_BYTES);
        let mut block = read_between(half, from, start)?;
        block.append(&mut bytes);
        bytes = block;
        start = from;
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let surplus = lines.len().saturating_sub(count);
    Ok(lines[surplus..].iter().map(|line| line.to_vec()).collect())
}

fn read_between(half: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or_default()];
    half.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// Whole lines from `offset` on, in a bounded piece.
fn read_lines(mut half: &File, offset: u64) -> io::Result<Vec<u8>> {
    half.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    half.take(PIECE_BYTES_MAX).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    Ok(bytes)
}
