//! Reading a file: bytes as they arrive, into lines that can be understood.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::control::error::Error;
use crate::control::import::faults::Faults;
use crate::rest::error::ErrorCode;
use crate::rest::transfer::{DeploymentLine, EnvironmentLine, Line, PointerLine, ProjectLine};

/// Largest file: some 600,000 environments as an export writes them.
pub(in crate::control) const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Longest line. An environment with 64 hosts of full length has 17 KiB.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most lines. Their objects are held in memory together, at up to a kilobyte each.
const LINES_MAX: u64 = 1_000_000;

/// Longest pause between two pieces of a file.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A line with its number.
pub(super) struct Numbered<T> {
    pub line: u64,
    pub said: T,
}

/// Everything a file says, by kind, in its order.
#[derive(Default)]
pub struct File {
    pub(super) projects: Vec<Numbered<ProjectLine>>,
    pub(super) deployments: Vec<Numbered<DeploymentLine>>,
    pub(super) environments: Vec<Numbered<EnvironmentLine>>,
    pub(super) pointers: Vec<Numbered<PointerLine>>,
}

impl File {
    /// How many lines say something.
    pub(super) fn len(&self) -> usize {
        self.projects.len() + self.deployments.len() + self.environments.len() + self.pointers.len()
    }

    fn add(&mut self, line: u64, said: Line) {
        match said {
            Line::Project(said) => self.projects.push(Numbered { line, said }),
            Line::Deployment(said) => self.deployments.push(Numbered { line, said }),
            Line::Environment(said) => self.environments.push(Numbered { line, said }),
            Line::Pointer(said) => self.pointers.push(Numbered { line, said }),
            Line::Skipped(_) => {}
        }
    }
}

/// Reads a file as it arrives.
///
/// # Errors
///
/// [`Error::ImportInvalid`] with every line that is none, or what limit is passed.
pub(in crate::control) async fn read<E: Display>(
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<File, Error> {
    let mut reader = Reader::default();
    let mut bytes = 0;
    loop {
        let piece = tokio::time::timeout(PAUSE_MAX, body.next()).await;
        let piece = piece.map_err(|_| {
            Error::Invalid(format!("the file paused for more than {} s; nothing was imported", PAUSE_MAX.as_secs()))
        })?;
        let Some(piece) = piece else { return reader.finish() };
        let piece =
            piece.map_err(|error| Error::Invalid(format!("the file broke off, and nothing was imported: {error}")))?;
        bytes += piece.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(Error::TooLarge { what: "an import", limit: FILE_BYTES_MAX });
        }
        reader.take(&piece)?;
    }
}

#[derive(Default)]
struct Reader {
    file: File,
    faults: Faults,
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
    line: u64,
}

impl Reader {
    fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (end, next) = (&rest[..at], &rest[at + 1..]);
            if self.begun.is_empty() {
                self.line(end)?;
            } else {
                let mut begun = std::mem::take(&mut self.begun);
                begun.extend_from_slice(end);
                self.line(&begun)?;
                begun.clear();
                self.begun = begun;
            }
            rest = next;
        }
        self.begun.extend_from_slice(rest);
        if self.begun.len() > LINE_BYTES_MAX { Err(self.too_long()) } else { Ok(()) }
    }

    fn line(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(self.too_long());
        }
        self.line += 1;
        if self.line > LINES_MAX {
            let told =
                format!("the file has more than {LINES_MAX} lines; import it in parts, projects with what is in them");
            return Err(Error::Invalid(told));
        }
        if !bytes.iter().all(u8::is_ascii_whitespace) {
            match serde_json::from_slice(bytes) {
                Ok(said) => self.file.add(self.line, said),
                Err(error) => self.faults.say(self.line, ErrorCode::ImportInvalid, told(&error)),
            }
        }
        Ok(())
    }

    /// No line of ours: the file is something else, and reading on would not help.
    fn too_long(&mut self) -> Error {
        let mut faults = std::mem::take(&mut self.faults);
        let told = format!("it is longer than {LINE_BYTES_MAX} bytes; give one JSON object a line");
        faults.say(self.line + 1, ErrorCode::ImportInvalid, told);
        faults.refuse().err().unwrap_or(Error::Internal("a fault was noted and is gone"))
    }

    fn finish(mut self) -> Result<File, Error> {
        let last = std::mem::take(&mut self.begun);
        if !last.is_empty() {
            self.line(&last)?;
        }
        self.faults.refuse()?;
        Ok(self.file)
    }
}

/// What serde says, without the line of its own that it counts: that is always the first.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let said = text.split(" at line 1 column ").next().unwrap_or_default();
    match error.is_syntax() || error.is_eof() {
        true => format!("it is not one JSON object: {said} at column {}", error.column()),
        false => format!("it does not fit: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    async fn read_in_pieces(text: &str, size: usize) -> Result<File, Error> {
        let pieces: Vec<Result<Bytes, String>> =
            text.as_bytes().chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        read(stream::iter(pieces)).await
    }

    #[tokio::test]
    async fn lines_are_numbered_wherever_the_pieces_end() {
        let text = "{\"kind\":\"project\",\"name\":\"one\"}\r\n\n  \n{\"kind\":\"project\",\"name\":\"two\"}";
        for size in [1, 7, 1_000] {
            let file = read_in_pieces(text, size).await.unwrap();
            let lines: Vec<_> = file.projects.iter().map(|said| (said.line, said.said.name.as_str())).collect();
            assert_eq!(lines, [(1, "one"), (4, "two")], "{size}");
        }
    }

    #[tokio::test]
    async fn every_line_that_is_none_is_told_with_its_number() {
        let text = "{\"kind\":\"project\",\"name\":\"one\"}\nnonsense\n{\"kind\":\"project\"}\n[]\n{\"kind\":\"project\",\"name\":\"x\"} {}\n";
        let Err(Error::ImportInvalid { errors, total }) = read_in_pieces(text, 1_000).await else { panic!() };
        assert_eq!(total, 4);
        assert!(errors.iter().map(|error| error.line).eq(2..=5), "{errors:?}");
        assert!(errors[0].message.contains("not one JSON object") && errors[1].message.contains("name"), "{errors:?}");
        assert!(errors.iter().all(|error| !error.message.contains("line 1")), "{errors:?}");
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let text = format!("\n{}", "x".repeat(LINE_BYTES_MAX + 1));
        let Err(Error::ImportInvalid { errors, .. }) = read_in_pieces(&text, 4096).await else { panic!() };
        assert_eq!(errors[0].line, 2);
        assert!(errors[0].message.contains("longer than"), "{errors:?}");
    }
}
