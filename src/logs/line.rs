//! One line of output, as kept and as shown.
//!
//! Kept as `2026-11-23T12:00:00.123Z out text`: a time stamp (RFC 3339, when
//! Repoint read it), where it came from, and the bytes as they were. `grep` and
//! `less` work on the files; bytes that are no UTF-8 are replaced when read.

use std::io::Write;

use jiff::Timestamp;

use crate::model::id::EndpointId;

/// One line that a replica printed, or that the supervisor noted about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it was read.
    pub at: Timestamp,
    /// Whose it is.
    pub replica: EndpointId,
    /// Where it came from.
    pub stream: Stream,
    /// What it says, without its end.
    pub text: String,
}

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// The supervisor: started, ended, why.
    Note,
}

/// Longest line kept in one piece. A longer one goes on in the next line, so that a child that never ends its line
/// costs bounded memory.
pub const LINE_BYTES_MAX: usize = 16 << 10;

impl Stream {
    /// The tag in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Note => "note",
        }
    }
}

impl Line {
    /// Reads a kept line; `None` if it is none, as after a crash in the middle of one.
    pub(super) fn parse(replica: EndpointId, bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.splitn(3, |byte| *byte == b' ');
        let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let stream = match parts.next()? {
            b"out" => Stream::Out,
            b"err" => Stream::Err,
            b"note" => Stream::Note,
            _ => return None,
        };
        let text = String::from_utf8_lossy(parts.next()?).into_owned();
        Some(Self { at, replica, stream, text })
    }
}

/// Cuts what a pipe gives into kept lines.
#[derive(Debug)]
pub(super) struct Cutter {
    stream: Stream,
    partial: Vec<u8>,
}

impl Cutter {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, partial: Vec::new() }
    }

    /// Appends the lines that `bytes` complete to `kept`.
    pub(super) fn feed(&mut self, bytes: &[u8], at: Timestamp, kept: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            for chunk in text.chunks(LINE_BYTES_MAX) {
                let room = LINE_BYTES_MAX - self.partial.len();
                let (first, rest) = chunk.split_at(room.min(chunk.len()));
                self.partial.extend_from_slice(first);
                if self.partial.len() == LINE_BYTES_MAX {
                    self.end(at, kept);
                    self.partial.extend_from_slice(rest);
                }
            }
            if ends {
                self.end(at, kept);
            }
        }
    }

    /// The pipe has closed: what was begun is a line too.
    pub(super) fn finish(&mut self, at: Timestamp, kept: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.end(at, kept);
        }
    }

    fn end(&mut self, at: Timestamp, kept: &mut Vec<u8>) {
        append(kept, at, self.stream, &self.partial);
        self.partial.clear();
    }
}

/// Appends one line in its kept form.
pub(super) fn append(kept: &mut Vec<u8>, at: Timestamp, stream: Stream, text: &[u8]) {
    // Writing to memory does not fail.
    let _ = write!(kept, "{at:.3} {} ", stream.as_str());
    kept.extend_from_slice(text);
    kept.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> EndpointId {
        uuid::Uuid::from_u128(7).into()
    }

    fn texts(kept: &[u8]) -> Vec<String> {
        let lines = kept.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| Line::parse(replica(), &line[..line.len() - 1]).unwrap().text).collect()
    }

    #[test]
    fn a_line_survives_the_file() {
        let at: Timestamp = "2026-11-23T12:00:00.123Z".parse().unwrap();
        let mut kept = Vec::new();
        append(&mut kept, at, Stream::Err, b"hello  world ");
        assert_eq!(kept, b"2026-11-23T12:00:00.123Z err hello  world \n");
        let line = Line::parse(replica(), &kept[..kept.len() - 1]).unwrap();
        assert_eq!((line.at, line.stream, line.text.as_str()), (at, Stream::Err, "hello  world "));
        for broken in [&b""[..], b"2026-11-23T12:00:00.123Z", b"half a line", b"2026-11-23T12:00:00Z odd x"] {
            assert_eq!(Line::parse(replica(), broken), None);
        }
    }

    #[test]
    fn pieces_become_lines_whatever_their_borders() {
        let text = b"one\ntwo\n\nfour\xff\nlast";
        for size in 1..text.len() {
            let (mut cutter, mut kept) = (Cutter::new(Stream::Out), Vec::new());
            text.chunks(size).for_each(|piece| cutter.feed(piece, Timestamp::UNIX_EPOCH, &mut kept));
            cutter.finish(Timestamp::UNIX_EPOCH, &mut kept);
            assert_eq!(texts(&kept), ["one", "two", "", "four\u{fffd}", "last"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let (mut cutter, mut kept) = (Cutter::new(Stream::Out), Vec::new());
        let long = vec![b'x'; 3 * LINE_BYTES_MAX + 10];
        long.chunks(7_000).for_each(|piece| cutter.feed(piece, Timestamp::UNIX_EPOCH, &mut kept));
        assert_eq!(texts(&kept).len(), 3);
        cutter.finish(Timestamp::UNIX_EPOCH, &mut kept);
        let lines = texts(&kept);
        assert_eq!(lines.iter().map(String::len).sum::<usize>(), long.len());
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    }
}
