//! Reading a bundle's bytes: gzip, tar frames, and nothing taken on trust.
//!
//! Turns frames into [`Member`]s that the [`Tree`] has accepted, each with its
//! bytes, and sees to it that the archive ends where it should. Writes nothing;
//! `inspect` and `unpack` decide what becomes of the members. Frames are taken
//! raw, because the tar crate would read a long name of any size into memory.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use tar::{Entry, EntryType, PaxExtensions};

use super::tree::{Kind, Member, Tree, relative_path, shortened};
use super::{ENTRIES_MAX, Error, Rejected, UNPACKED_BYTES_MAX};

/// Longest block of extended headers: several paths of the allowed length with attributes around them.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Longest stream of frames: the files, and two frames of header and padding for every entry allowed.
const STREAM_BYTES_MAX: u64 = UNPACKED_BYTES_MAX + 4 * 512 * ENTRIES_MAX as u64;

/// Reads a bundle, giving each member with its bytes to `visit`; links are judged at the end.
///
/// # Errors
///
/// When the bundle is not acceptable, or `visit` fails. What was visited is to be thrown away then.
pub fn read(
    packed: impl Read,
    mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), Error>,
) -> Result<Tree, Error> {
    let mut packed = BufReader::with_capacity(64 << 10, packed);
    let mut archive = tar::Archive::new(Bounded { inner: GzDecoder::new(&mut packed), left: STREAM_BYTES_MAX });
    let mut tree = Tree::default();
    let mut extension = Extension::default();
    let mut frames = 0;
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        frames += 1;
        // An entry needs three at most: long name, long link target, itself.
        if frames > 3 * ENTRIES_MAX {
            return Err(Rejected::TooManyEntries.into());
        }
        if extension.absorb(&mut entry)? {
            continue;
        }
        if let Some(member) = member(&entry, std::mem::take(&mut extension))? {
            tree.add(&member)?;
            let mut bytes = Counted { inner: &mut entry, read: 0 };
            visit(&member, &mut bytes)?;
            io::copy(&mut bytes, &mut io::sink()).map_err(damaged)?;
            if bytes.read != entry.size() {
                return Err(Rejected::Damaged("it ends inside a file".to_owned()).into());
            }
        }
    }
    if !extension.is_empty() {
        return Err(Rejected::Damaged("it ends after a long name".to_owned()).into());
    }
    finish(archive.into_inner())?;
    if !packed.fill_buf().map_err(damaged)?.is_empty() {
        return Err(Rejected::Damaged("more bytes follow its end".to_owned()).into());
    }
    tree.check_links()?;
    Ok(tree)
}

/// Reads what follows the last frame: padding only. Reaching the end is what makes gzip compare its checksum.
fn finish(mut rest: impl Read) -> Result<(), Rejected> {
    let mut chunk = [0; 8192];
    loop {
        match rest.read(&mut chunk).map_err(damaged)? {
            0 => return Ok(()),
            read if chunk[..read].iter().all(|byte| *byte == 0) => {}
            _ => return Err(Rejected::Damaged("something follows its last entry".to_owned())),
        }
    }
}

fn member<R: Read>(entry: &Entry<'_, R>, extension: Extension) -> Result<Option<Member>, Rejected> {
    let header = entry.header();
    let raw = extension.path.unwrap_or_else(|| entry.path_bytes().into_owned());
    let Some(path) = relative_path(&raw)? else {
        // The top itself, as `tar -C dir .` writes it.
        return match header.entry_type() {
            EntryType::Directory => Ok(None),
            _ => Err(Rejected::Path { path: "./".to_owned(), what: "is the top, but no directory" }),
        };
    };
    let kind = match header.entry_type() {
        EntryType::Regular => {
            let mode = header.mode().map_err(damaged)?;
            Kind::File { size: entry.size(), executable: mode & 0o111 != 0 }
        }
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target = extension.target.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
            let target = String::from_utf8(target.unwrap_or_default())
                .map_err(|_| Rejected::Path { path: path.clone(), what: "points at what is no UTF-8 text" })?;
            Kind::Link { target }
        }
        other => return Err(Rejected::Kind { path: shortened(&path), kind: name_of(other) }),
    };
    match kind {
        Kind::Directory | Kind::Link { .. } if entry.size() != 0 => {
            Err(Rejected::Damaged(format!("{} carries bytes and is no file", shortened(&path))))
        }
        kind => Ok(Some(Member { path, kind })),
    }
}

fn name_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "hard link",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "named pipe",
        EntryType::GNUSparse => "sparse file",
        _ => "special entry",
    }
}

/// What came ahead of an entry because it did not fit its header.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Extension {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.target.is_none()
    }

    /// Takes in a frame that only describes the next one; `false` if it is an entry itself.
    fn absorb<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, Rejected> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(name(extension_bytes(entry)?)),
            EntryType::GNULongLink => self.target = Some(name(extension_bytes(entry)?)),
            EntryType::XHeader => self.absorb_pax(&extension_bytes(entry)?, entry)?,
            // Holds comments only, such as the commit that `git archive` leaves.
            EntryType::XGlobalHeader => drop(extension_bytes(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// POSIX.1-2024, pax extended header. Times, owners and attributes are not carried; sizes and sparse maps would
    /// make what follows mean something else to another reader, so they are refused.
    fn absorb_pax<R: Read>(&mut self, records: &[u8], entry: &Entry<'_, R>) -> Result<(), Rejected> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(damaged)?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.target = Some(record.value_bytes().to_vec()),
                key if key == b"size" || key.starts_with(b"GNU.sparse.") => {
                    let path = shortened(&String::from_utf8_lossy(&entry.path_bytes()));
                    return Err(Rejected::Kind { path, kind: "sparse file" });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn extension_bytes<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, Rejected> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(Rejected::Damaged("a name in it is longer than any path".to_owned()));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

/// GNU tar ends long names with a zero byte.
fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Reading these bytes failed: because of the bytes, or because there are too many.
#[expect(clippy::needless_pass_by_value, reason = "a `map_err` argument")]
pub(super) fn damaged(error: io::Error) -> Rejected {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Rejected::UnpackedTooLarge,
        _ => Rejected::Damaged(shortened(&error.to_string())),
    }
}

/// Fails past a number of bytes, so that a small upload cannot keep the reader busy for ever.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}
