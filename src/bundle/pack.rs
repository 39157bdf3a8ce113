//! Packing a directory: the same tree gives the same bytes, hence the same name.
//!
//! Called by the command line. What a bundle may hold is `tree`'s to judge, so
//! that what packs here is accepted there; the remedies differ, because here the
//! author's own files are at hand.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::model::manifest::{FILE_NAME, Manifest};

use super::digest::Digest;
use super::inspect::{manifest_bytes, parse_manifest};
use super::tree::{Kind, Member, Tree};
use super::walk::members;
use super::{PACKED_BYTES_MAX, Rejected};

/// A packed directory.
#[derive(Debug)]
pub struct Packed {
    /// The bundle, at its start. The file has no name, so that nobody has to remove it.
    pub file: File,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How many files and links it holds.
    pub files: usize,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// How far packing has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of files packed.
    pub bytes: u64,
    /// Bytes of files there are.
    pub bytes_total: u64,
    /// Entries packed.
    pub entries: usize,
    /// Entries there are.
    pub entries_total: usize,
}

/// Why a directory could not be packed. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It would be refused by the server.
    #[error("pack {dir}: {rejected}")]
    Rejected {
        /// The directory.
        dir: PathBuf,
        /// Why.
        rejected: Rejected,
    },
    /// The manifest would be left out.
    #[error("pack {0}: repoint.toml is ignored by .gitignore or by `ignore`; take it out of there")]
    ManifestIgnored(PathBuf),
    /// A pattern that is none.
    #[error("pack: {pattern:?} in `ignore` is no pattern ({detail}); write it as in .gitignore, such as \"*.log\"")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file changed between looking and reading.
    #[error("pack {0}: it changed while it was read; try again when nothing writes to it, or ignore it")]
    Changed(PathBuf),
    /// A directory or a `.gitignore` could not be read.
    #[error("pack {dir}: {detail}; make it readable, or ignore it")]
    Walk {
        /// The directory.
        dir: PathBuf,
        /// What failed, where.
        detail: String,
    },
    /// A file could not be read.
    #[error("pack {path}; make it readable, or ignore it")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bundle could not be written.
    #[error("write the bundle to {dir}; make room there, or set TMPDIR")]
    Write {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Packs `dir`, leaving out `.git`, what `.gitignore` files say, and what `ignore` or the manifest's own `ignore` say.
///
/// # Errors
///
/// When something in it cannot be carried; the message names it and what to do.
pub fn pack(dir: &Path, ignore: &[String], progress: &mut dyn FnMut(Progress)) -> Result<Packed, Error> {
    let rejected = |rejected| Error::Rejected { dir: dir.to_owned(), rejected };
    let manifest = manifest_of(dir)?;
    let patterns = [ignore, manifest.deploy.ignore.as_slice()].concat();
    let members = members(dir, &patterns)?;
    if !members.iter().any(|member| member.path == FILE_NAME && matches!(member.kind, Kind::File { .. })) {
        return Err(Error::ManifestIgnored(dir.to_owned()));
    }
    let mut tree = Tree::default();
    members.iter().try_for_each(|member| tree.add(member)).map_err(rejected)?;
    tree.check_links().map_err(rejected)?;

    let temporary = std::env::temp_dir();
    let write = |source| Error::Write { dir: temporary.clone(), source };
    let output = Hashed::new(nameless(&temporary).map_err(write)?);
    let mut builder = tar::Builder::new(GzEncoder::new(output, Compression::default()));
    let mut so_far = Progress { bytes: 0, bytes_total: tree.bytes(), entries: 0, entries_total: members.len() };
    progress(so_far);
    for member in &members {
        append(&mut builder, dir, member, &mut |bytes| {
            so_far.bytes += bytes;
            progress(so_far);
        })
        .map_err(|failed| failed.into_error(&temporary))?;
        so_far.entries += 1;
        progress(so_far);
        if builder.get_ref().get_ref().written > PACKED_BYTES_MAX {
            return Err(rejected(Rejected::PackedTooLarge));
        }
    }
    let (file, digest, size) =
        builder.into_inner().and_then(GzEncoder::finish).and_then(Hashed::finish).map_err(write)?;
    if size > PACKED_BYTES_MAX {
        return Err(rejected(Rejected::PackedTooLarge));
    }
    let files = members.iter().filter(|member| member.kind != Kind::Directory).count();
    Ok(Packed { file, digest, size, files, manifest })
}

/// Reads the manifest of a directory that is to be packed.
///
/// # Errors
///
/// When there is none, or it is wrong.
pub fn manifest_of(dir: &Path) -> Result<Manifest, Error> {
    let path = dir.join(FILE_NAME);
    let rejected = |rejected| Error::Rejected { dir: dir.to_owned(), rejected };
    match File::open(&path).and_then(manifest_bytes) {
        Ok(bytes) => parse_manifest(&bytes).map_err(rejected),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(rejected(Rejected::NoManifest)),
        Err(source) => Err(Error::Read { path, source }),
    }
}

enum Failed {
    Reading(Error),
    Writing(io::Error),
}

impl Failed {
    fn into_error(self, temporary: &Path) -> Error {
        match self {
            Self::Reading(error) => error,
            Self::Writing(source) => Error::Write { dir: temporary.to_owned(), source },
        }
    }
}

fn append(
    builder: &mut tar::Builder<impl Write>,
    dir: &Path,
    member: &Member,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failed> {
    let full = dir.join(&member.path);
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match &member.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, format!("{}/", member.path), io::empty()).map_err(Failed::Writing)
        }
        Kind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, &member.path, target).map_err(Failed::Writing)
        }
        Kind::File { size, executable } => {
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            let file =
                open_file(&full).map_err(|source| Failed::Reading(Error::Read { path: full.clone(), source }))?;
            let mut exact = Exact { file, left: *size, failed: None, progress };
            let appended = builder.append_data(&mut header, &member.path, &mut exact);
            match exact.failed {
                Some(None) => Err(Failed::Reading(Error::Changed(full))),
                Some(Some(source)) => Err(Failed::Reading(Error::Read { path: full, source })),
                None => appended.map_err(Failed::Writing),
            }
        }
    }
}

/// A link or a pipe that took the file's place since it was looked at is not followed, and not waited for.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Gives exactly as many bytes as the header promises, or fails; `failed` is `Some(None)` when the length differs.
struct Exact<'a> {
    file: File,
    left: u64,
    failed: Option<Option<io::Error>>,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(Some(error));
            kind
        })?;
        if read as u64 > self.left || read == 0 && self.left > 0 && !buffer.is_empty() {
            self.failed = Some(None);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.left -= read as u64;
        (self.progress)(read as u64);
        Ok(read)
    }
}

/// A file without a name: gone when nobody holds it any more, also after a crash.
fn nameless(dir: &Path) -> io::Result<File> {
    loop {
        let path = dir.join(format!(".repoint-pack-{:016x}", fastrand::u64(..)));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes to a file and hashes what goes there.
struct Hashed {
    file: BufWriter<File>,
    hasher: Sha256,
    written: u64,
}

impl Hashed {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(64 << 10, file), hasher: Sha256::new(), written: 0 }
    }

    fn finish(self) -> io::Result<(File, Digest, u64)> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok((file, Digest::from_hasher(self.hasher), self.written))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::super::archive;
    use super::*;

    fn project() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "repoint.toml", "[worker]\ncommand = [\"./serve\"]\n[deploy]\nignore = [\"*.log\"]");
        write(dir.path(), "serve", "#!/bin/sh");
        fs::set_permissions(dir.path().join("serve"), fs::Permissions::from_mode(0o750)).unwrap();
        dir
    }

    fn write(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn packed(dir: &Path) -> Packed {
        pack(dir, &[], &mut |_| {}).unwrap()
    }

    fn refusal(dir: &Path) -> String {
        pack(dir, &[], &mut |_| {}).unwrap_err().to_string()
    }

    fn listing(packed: &Packed) -> Vec<String> {
        let mut names = Vec::new();
        archive::read(&packed.file, |member, _| {
            names.push(member.path.clone());
            Ok(())
        })
        .unwrap();
        names
    }

    #[test]
    fn the_same_tree_has_the_same_name() {
        let (one, two) = (project(), project());
        for dir in [&one, &two] {
            write(dir.path(), "lib/deep/a.py", "a");
        }
        // Another time, another order of creation, another mode: none of it counts.
        write(two.path(), "b", "b");
        write(one.path(), "b", "b");
        fs::set_permissions(two.path().join("serve"), fs::Permissions::from_mode(0o711)).unwrap();
        File::options().write(true).open(one.path().join("b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(packed(one.path()).digest, packed(two.path()).digest);
        write(two.path(), "b", "c");
        assert_ne!(packed(one.path()).digest, packed(two.path()).digest);
    }

    #[test]
    fn a_packed_directory_is_accepted_under_its_name() {
        let dir = project();
        let deep = format!("{}/name", vec!["directory"; 30].join("/"));
        write(dir.path(), &deep, "beyond the 100 bytes of a tar header");
        symlink("serve", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        let mut packed = packed(dir.path());
        let file = tempfile::NamedTempFile::new().unwrap();
        io::copy(&mut packed.file, &mut File::create(file.path()).unwrap()).unwrap();
        let inspected = super::super::inspect::inspect(file.path(), &packed.digest).unwrap();
        assert_eq!(inspected.manifest, packed.manifest);
        assert_eq!(packed.files, 4);
        assert_eq!(packed.size, fs::metadata(file.path()).unwrap().len());
    }

    #[test]
    fn ignored_files_stay_behind_and_hidden_ones_come_along() {
        let dir = project();
        for path in [".git/config", "a.log", "out/x", "sub/.gitignore", "sub/secret", ".env.example", "extra/y"] {
            write(dir.path(), path, if path == "sub/.gitignore" { "secret" } else { "x" });
        }
        write(dir.path(), ".gitignore", "/out/\n");
        let packed = pack(dir.path(), &["extra".to_owned()], &mut |_| {}).unwrap();
        let expected = [".env.example", ".gitignore", "repoint.toml", "serve", "sub", "sub/.gitignore"];
        assert_eq!(listing(&packed), expected);
    }

    #[test]
    fn progress_ends_at_the_total() {
        let dir = project();
        write(dir.path(), "big", &"x".repeat(300_000));
        let mut last = None;
        pack(dir.path(), &[], &mut |progress| last = Some(progress)).unwrap();
        let last = last.unwrap();
        assert_eq!((last.bytes, last.entries), (last.bytes_total, last.entries_total));
        assert!(last.bytes > 300_000);
    }

    #[test]
    fn what_cannot_be_carried_is_named_with_a_remedy() {
        type Make = fn(&Path);
        let cases: [(&str, Make); 5] = [
            ("away", |path| symlink("/etc/passwd", path).unwrap()),
            ("climbs", |path| symlink("../../x", path).unwrap()),
            ("circle", |path| symlink("circle", path).unwrap()),
            ("sock", |path| drop(UnixListener::bind(path).unwrap())),
            ("pipe", |path| {
                assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
            }),
        ];
        for (name, make) in cases {
            let dir = project();
            make(&dir.path().join(name));
            let message = refusal(dir.path());
            assert!(message.contains(&format!("{name:?}")), "{message}");
            assert!(message.contains("ignore") || message.contains("remove"), "{message}");
        }
    }

    #[test]
    fn a_manifest_is_needed_and_must_not_be_ignored() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(dir.path()).contains("repoint.toml"));
        let dir = project();
        write(dir.path(), ".gitignore", "*.toml");
        assert!(matches!(pack(dir.path(), &[], &mut |_| {}), Err(Error::ManifestIgnored(_))));
        write(dir.path(), "repoint.toml", "[worker]\ncommand = 3");
        assert!(refusal(dir.path()).contains("command"));
    }

    #[test]
    fn a_file_that_changes_its_length_is_no_damaged_bundle() {
        for promised in [1, 100] {
            let dir = project();
            write(dir.path(), "grows", "12345");
            let member = Member { path: "grows".to_owned(), kind: Kind::File { size: promised, executable: false } };
            let failed = append(&mut tar::Builder::new(Vec::new()), dir.path(), &member, &mut |_| {});
            assert!(matches!(failed, Err(Failed::Reading(Error::Changed(_)))), "{promised}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        let dir = project();
        assert!(matches!(pack(dir.path(), &["a{".to_owned()], &mut |_| {}), Err(Error::Pattern { .. })));
    }
}
