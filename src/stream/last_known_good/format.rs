//! The bytes of a checkpoint and of a journal.
//!
//! Both are a header of 40 bytes and frames. A frame is its length, a checksum
//! over length and content, and one message of the control stream as it came: a
//! checkpoint holds the parts of one snapshot, a journal the deltas after it. So
//! what is on disk is read by the rules that what is on the wire is read by.
//! All numbers are little-endian. `tests/golden.rs` keeps the bytes as they are.

use std::io::{self, Read};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::model::id::Lineage;
use crate::stream::client::FRAME_BYTES_MAX;
use crate::wire;
use crate::wire::proto::SyncResponse;
use crate::wire::response::Response;

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole table.
    Checkpoint,
    /// What changed since.
    Journal,
}

/// How a file begins: 8 bytes of magic, the format's number, the lineage, the
/// sequence number, a checksum over all of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// Whose history it is of.
    pub lineage: Lineage,
    /// Of checkpoints the highest is the newest; a journal continues the
    /// checkpoint of the same number.
    pub sequence: u64,
}

/// Why bytes are not used. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// They cannot be read.
    #[error("read it: {0}")]
    Io(#[from] io::Error),
    /// They end in the middle.
    #[error("read it to its end: it is cut short")]
    Short,
    /// They are something else.
    #[error("recognise it: it does not begin as it should")]
    Foreign,
    /// A newer build wrote them.
    #[error("understand it: it has format {0}, and this build reads format {FORMAT}")]
    Newer(u32),
    /// They are not what was written.
    #[error("trust it: a checksum does not hold")]
    Checksum,
    /// They are what was written, and no message.
    #[error(transparent)]
    Message(#[from] wire::Error),
    /// They are messages that do not belong together.
    #[error("use it: {0}")]
    Order(String),
}

/// Raised by every change that this build's reader would not understand.
pub const FORMAT: u32 = 1;
/// Where the frames begin.
pub const HEADER_BYTES: usize = 40;

const FRAME_HEAD_BYTES: usize = 8;
const CHECKPOINT_MAGIC: &[u8; 8] = b"RPTTABLE";
const JOURNAL_MAGIC: &[u8; 8] = b"RPTDELTA";

impl Header {
    /// The bytes a file begins with.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(match self.kind {
            Kind::Checkpoint => CHECKPOINT_MAGIC,
            Kind::Journal => JOURNAL_MAGIC,
        });
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..28].copy_from_slice(self.lineage.uuid().as_bytes());
        bytes[28..36].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads it back. Every format has this header, so that a flipped bit is not
    /// taken for the work of a newer build.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Bad> {
        let kind = match &bytes[..8] {
            magic if magic == CHECKPOINT_MAGIC => Kind::Checkpoint,
            magic if magic == JOURNAL_MAGIC => Kind::Journal,
            _ => return Err(Bad::Foreign),
        };
        if crc32fast::hash(&bytes[..36]) != u32::from_le_bytes(part(bytes, 36)) {
            return Err(Bad::Checksum);
        }
        match u32::from_le_bytes(part(bytes, 8)) {
            FORMAT => {}
            newer if newer > FORMAT => return Err(Bad::Newer(newer)),
            _ => return Err(Bad::Foreign),
        }
        let lineage = Uuid::from_bytes(part(bytes, 12)).into();
        Ok(Self { kind, lineage, sequence: u64::from_le_bytes(part(bytes, 28)) })
    }
}

/// Puts a message behind `buffer` as a frame.
pub fn encode_frame(message: Response, buffer: &mut Vec<u8>) {
    let message = SyncResponse::from(message);
    let begin = buffer.len();
    buffer.extend([0; FRAME_HEAD_BYTES]);
    message.encode(buffer).expect("a vector grows as far as it must");
    let length = u32::try_from(buffer.len() - begin - FRAME_HEAD_BYTES).unwrap_or(u32::MAX);
    buffer[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(length, &buffer[begin + FRAME_HEAD_BYTES..]);
    buffer[begin + 4..begin + FRAME_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads a file frame by frame.
pub struct Frames {
    input: Box<dyn Read>,
    good: u64,
}

impl Frames {
    /// Reads the header, which must be this one but for its lineage.
    pub fn open(mut input: Box<dyn Read>, kind: Kind, sequence: u64) -> Result<(Self, Lineage), Bad> {
        let mut bytes = [0; HEADER_BYTES];
        fill(&mut input, &mut bytes)?;
        let header = Header::decode(&bytes)?;
        if header.kind != kind || header.sequence != sequence {
            return Err(Bad::Foreign);
        }
        Ok((Self { input, good: HEADER_BYTES as u64 }, header.lineage))
    }

    /// How many bytes have been read and found good.
    pub fn good(&self) -> u64 {
        self.good
    }

    /// The next message; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<Response>, Bad> {
        let mut head = [0; FRAME_HEAD_BYTES];
        match fill(&mut self.input, &mut head[..1]) {
            Err(Bad::Short) => return Ok(None),
            begun => begun?,
        }
        fill(&mut self.input, &mut head[1..])?;
        let length = u32::from_le_bytes(part(&head, 0));
        if length as usize > 2 * FRAME_BYTES_MAX {
            return Err(Bad::Checksum);
        }
        // Grows with what is there, not with what a damaged length says.
        let mut content = Vec::new();
        self.input.by_ref().take(length.into()).read_to_end(&mut content)?;
        if content.len() < length as usize {
            return Err(Bad::Short);
        }
        if checksum(length, &content) != u32::from_le_bytes(part(&head, 4)) {
            return Err(Bad::Checksum);
        }
        let message = SyncResponse::decode(Bytes::from(content))
            .map_err(|error| Bad::Order(format!("it holds no message ({error})")))?;
        let response = Response::try_from(message)?;
        self.good += FRAME_HEAD_BYTES as u64 + u64::from(length);
        Ok(Some(response))
    }
}

/// Over the length too: a run of zeros is no frame.
fn checksum(length: u32, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), Bad> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Bad::Short,
        _ => Bad::Io(error),
    })
}

fn part<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[from..from + N]);
    part
}
