//! `repoint import` and `repoint export`: everything that is routed, as lines.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Done;
use crate::cli::args::Common;
use crate::cli::client::NO_QUERY;
use crate::cli::error::Error;
use crate::cli::progress::{Counter, Progress, Style, size};
use crate::cli::session::Session;
use crate::rest::transfer::{ImportQuery, Imported, Line, MEDIA_TYPE, Said, SkippedLine, Tally};

/// Arguments of `repoint import`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file has one JSON object a line, in any order; names stand for objects:

  {\"kind\":\"project\",\"name\":\"support\"}
  {\"kind\":\"deployment\",\"project\":\"support\",\"ref\":\"k3v9x2bb\",
   \"source\":{\"kind\":\"endpoints\",\"endpoints\":[\"http://127.0.0.1:9001\"]}}     (on one line)
  {\"kind\":\"environment\",\"project\":\"support\",\"name\":\"eu\",\"hosts\":[\"eu.example.com\"]}
  {\"kind\":\"pointer\",\"project\":\"support\",\"environment\":\"eu\",\"ref\":\"k3v9x2bb\"}

All of it happens in one change, or nothing does. What is there already stays; fields that a line leaves out stay
too. The same file again changes nothing. Endpoints count as ready at once and are probed afterwards.

Examples:
  repoint import routes.ndjson
  repoint import -")]
pub struct Import {
    #[command(flatten)]
    pub(super) common: Common,
    /// The file; - for standard input
    file: PathBuf,
}

/// Arguments of `repoint export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Bundles cannot be carried in lines: pointers at them are named on standard error and stand in the file as lines of the
kind \"skipped\", which import passes over. The exit code is 0 all the same.

Examples:
  repoint export routes.ndjson
  repoint export -")]
pub struct Export {
    #[command(flatten)]
    pub(super) common: Common,
    /// Where to write; - for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Between two words about progress: a hundredth of the whole on a terminal, a tenth elsewhere.
const PARTS: [u64; 2] = [100, 10];

/// Left-out pointers named one by one.
const SKIPPED_SHOWN_MAX: usize = 10;

impl Import {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        let (mut bytes, total) = open(&self.file)?;
        let progress = Progress::bytes(session.console, format!("sending {}", self.file.display()));
        let mut counted = Counted { bytes: &mut bytes, counter: progress.counter(), read: 0, total };
        let wait_ms = u64::try_from(session.patience.applied.as_millis()).ok();
        let answer = session.client.exchange("/api/v1/import", &ImportQuery { wait_ms }, MEDIA_TYPE, &mut counted);
        let sent = counted.read;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                drop(progress);
                tell_lines(session, &error);
                return Err(error);
            }
        };
        progress.finish(session.console, &format!("sent {}", size(sent)));
        let imported = follow(session, answer)?;
        show(session, &imported)?;
        Ok(if imported.propagation.complete { Done::Complete } else { Done::NotApplied })
    }
}

fn open(path: &Path) -> Result<(Box<dyn Read>, u64), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), 0));
    }
    let unusable = |source| Error::File { doing: "read", path: path.display().to_string(), source };
    let file = File::open(path).map_err(unusable)?;
    let length = file.metadata().map_err(unusable)?.len();
    Ok((Box::new(file), length))
}

/// Bytes on their way, with a word about how many.
struct Counted<'a> {
    bytes: &'a mut dyn Read,
    counter: Counter,
    read: u64,
    total: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.read += count as u64;
        self.counter.set(self.read, self.total.max(self.read));
        Ok(count)
    }
}

/// Each line that the server could not carry out, as it says it.
fn tell_lines(session: &mut Session, error: &Error) {
    let Error::Refused { body, .. } = error else { return };
    let Some(errors) = body["error"]["details"]["errors"].as_array() else { return };
    for error in errors {
        session.console.remark(&format!("line {}: {}", error["line"], error["message"].as_str().unwrap_or_default()));
    }
    let total = body["error"]["details"]["errors_total"].as_u64().unwrap_or(0);
    let more = total.saturating_sub(errors.len() as u64);
    if more > 0 {
        session.console.remark(&format!("and {more} more"));
    }
}

/// Shows how far the server is until it says what came of it.
fn follow(session: &mut Session, answer: impl Read) -> Result<Imported, Error> {
    let mut progress = Progress::waiting(session.console, "importing".to_owned());
    let parts = PARTS[usize::from(session.console.style() == Style::Lines)];
    let mut told = (String::new(), 0);
    for line in BufReader::new(answer).lines() {
        let line = line.map_err(|error| session.client.broken(&error))?;
        match serde_json::from_str(&line) {
            Ok(Said::Imported(imported)) => return Ok(imported),
            Ok(Said::Error(body)) => {
                let (code, message) = (body.code.as_str().to_owned(), body.message.clone());
                return Err(Error::Refused { code, message, body: serde_json::json!({ "error": body }) });
            }
            Ok(Said::Progress(said)) => {
                let part = (said.done * parts).checked_div(said.of).unwrap_or(0);
                if (said.step.as_str(), part) != (told.0.as_str(), told.1) {
                    let text = match said.of {
                        0 => said.step.clone(),
                        of => format!("{}: {} of {of}", said.step, said.done),
                    };
                    progress.goes_on(session.console, &text);
                    told = (said.step, part);
                }
            }
            // A newer server may say more.
            Err(_) => {}
        }
    }
    let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without saying what came of it");
    Err(session.client.broken(&ended))
}

fn show(session: &mut Session, imported: &Imported) -> Result<(), Error> {
    if session.console.is_json() {
        return session.console.print_json(imported);
    }
    let nouns = [
        ("projects", imported.projects, "changed"),
        ("deployments", imported.deployments, "changed"),
        ("environments", imported.environments, "changed"),
        ("pointers", imported.pointers, "moved"),
    ];
    let title = match imported.changed {
        true => format!("imported as revision {}", imported.revision),
        false => "nothing changed: everything is there already".to_owned(),
    };
    session.console.print(&title)?;
    for (noun, Tally { created, changed, unchanged }, word) in nouns {
        session.console.print(&format!("  {noun:<13}{created} new, {changed} {word}, {unchanged} unchanged"))?;
    }
    let propagation = &imported.propagation;
    if !propagation.complete {
        session.console.remark(&format!(
            "committed, but only {} of {} proxies have applied it yet; see `repoint proxies`",
            propagation.applied, propagation.required
        ));
    }
    Ok(())
}

impl Export {
    pub(super) fn run(&self, session: &mut Session) -> Result<Done, Error> {
        let answer = session.client.stream("/api/v1/export", &NO_QUERY)?;
        if self.file == Path::new("-") {
            let (lines, skipped) = write(session, answer, &mut io::stdout().lock(), Error::Output)?;
            return tell(session, lines, &skipped, None);
        }
        let unusable = |source| Error::File { doing: "write", path: self.file.display().to_string(), source };
        let mut file = io::BufWriter::new(File::create(&self.file).map_err(unusable)?);
        let (lines, skipped) = write(session, answer, &mut file, unusable)?;
        file.into_inner().map_err(|error| unusable(error.into_error()))?.sync_all().map_err(unusable)?;
        tell(session, lines, &skipped, Some(&self.file))
    }
}

/// Writes lines as they come; answers how many, and what they say was left out.
fn write(
    session: &mut Session,
    answer: impl Read,
    to: &mut dyn Write,
    unusable: impl Fn(io::Error) -> Error,
) -> Result<(u64, Vec<SkippedLine>), Error> {
    let mut progress = Progress::waiting(session.console, "exporting".to_owned());
    let (mut answer, mut line) = (BufReader::new(answer), Vec::new());
    let (mut lines, mut skipped) = (0, Vec::new());
    loop {
        line.clear();
        if answer.read_until(b'\n', &mut line).map_err(|error| session.client.broken(&error))? == 0 {
            return to.flush().map(|()| (lines, skipped)).map_err(unusable);
        }
        to.write_all(&line).map_err(&unusable)?;
        if line.starts_with(br#"{"kind":"skipped""#)
            && let Ok(Line::Skipped(left_out)) = serde_json::from_slice(&line)
        {
            skipped.push(left_out);
        }
        lines += 1;
        if lines % 50_000 == 0 {
            progress.goes_on(session.console, &format!("exporting: {lines} lines"));
        }
    }
}

fn tell(session: &mut Session, lines: u64, skipped: &[SkippedLine], file: Option<&Path>) -> Result<Done, Error> {
    if let Some(file) = file {
        session.console.remark(&format!("wrote {lines} lines to {}", file.display()));
    }
    if !skipped.is_empty() {
        session.console.remark(&format!(
            "{} pointers are left out, because lines cannot carry the bytes of bundles; deploy these again:",
            skipped.len()
        ));
    }
    for SkippedLine { project, environment, reference, .. } in skipped.iter().take(SKIPPED_SHOWN_MAX) {
        session.console.remark(&format!("  {project}/{environment} ({reference})"));
    }
    if skipped.len() > SKIPPED_SHOWN_MAX {
        session.console.remark("  … and those that the file names in lines of the kind \"skipped\"");
    }
    Ok(Done::Complete)
}
