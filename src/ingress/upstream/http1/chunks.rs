//! Chunked bodies, as they come in (RFC 9112 §7.1). Pure.
//!
//! Strict where leniency would let two readers disagree: sizes are hex digits
//! only, lines end with CR LF, and what may be ignored has a limit.

use bytes::{Buf, Bytes};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::ingress::upstream::http1::body::Step;
use crate::ingress::upstream::http1::{FIELDS_MAX, HEAD_BYTES_MAX, Malformed};

/// Where in a chunked body we are.
#[derive(Default, Debug)]
pub(in crate::ingress) struct Chunks {
    state: State,
    /// Of the chunk: its size so far, then what is left of it.
    left: u64,
    /// Bytes of extensions, in the whole body: nobody needs many.
    extension_bytes: usize,
    /// The trailer section, up to its empty line.
    trailers: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size,
    /// Blanks behind the size.
    Blank,
    /// What follows a semicolon there.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

const EXTENSION_BYTES_MAX: usize = 16 * 1024;

impl Chunks {
    /// Whether the end has been seen.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next step out of `bytes`.
    pub(super) fn step(&mut self, bytes: &mut Bytes) -> Result<Step, Malformed> {
        while !bytes.is_empty() {
            match self.state {
                State::Data => {
                    let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step::Data(bytes.split_to(taken)));
                }
                State::Trailers => return self.take_trailers(bytes),
                State::Done => return Ok(Step::End),
                _ => {
                    self.state = self.after(bytes.get_u8())?;
                }
            }
        }
        Ok(if self.is_done() { Step::End } else { Step::More })
    }

    /// The state after one byte of a line.
    fn after(&mut self, byte: u8) -> Result<State, Malformed> {
        let digit = char::from(byte).to_digit(16);
        match (self.state, byte) {
            (State::Start | State::Size, _) if digit.is_some() => {
                let size = self.left.checked_mul(16).ok_or(Malformed("a chunk's size is too large"))?;
                self.left = size + u64::from(digit.unwrap_or(0));
                Ok(State::Size)
            }
            (State::Size | State::Blank | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::Blank, b';') => Ok(State::Extension),
            (State::Size | State::Blank, b' ' | b'\t') => self.ignored(State::Blank),
            (State::Extension, b'\n') => Err(Malformed("a line break within a chunk's extension")),
            (State::Extension, _) => self.ignored(State::Extension),
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::Trailers),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Start),
            (State::DataCr | State::DataLf, _) => Err(Malformed("a chunk is longer than its size")),
            _ => Err(Malformed("a chunk's size is not a hexadecimal number")),
        }
    }

    fn ignored(&mut self, state: State) -> Result<State, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Malformed("chunk extensions of more than 16 KiB"));
        }
        Ok(state)
    }

    /// Collects the trailer section; nearly always it is the empty line alone.
    fn take_trailers(&mut self, bytes: &mut Bytes) -> Result<Step, Malformed> {
        while !bytes.is_empty() {
            self.trailers.push(bytes.get_u8());
            if self.trailers == b"\r\n" {
                self.state = State::Done;
                return Ok(Step::End);
            }
            if self.trailers.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
                return Ok(Step::Trailers(fields(&std::mem::take(&mut self.trailers))?));
            }
            if self.trailers.len() > HEAD_BYTES_MAX {
                return Err(Malformed("trailers of more than 64 KiB"));
            }
        }
        Ok(Step::More)
    }
}

fn fields(section: &[u8]) -> Result<HeaderMap, Malformed> {
    const BAD: Malformed = Malformed("the trailers are not header fields");
    // A line feed alone would end a line for some readers and not for others.
    if section.iter().zip(&section[1..]).any(|(before, byte)| *byte == b'\n' && *before != b'\r') {
        return Err(BAD);
    }
    let mut slots = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let Ok(httparse::Status::Complete((read, fields))) = httparse::parse_headers(section, &mut slots) else {
        return Err(BAD);
    };
    if read != section.len() {
        return Err(BAD);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD)?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| BAD)?);
    }
    Ok(trailers)
}
