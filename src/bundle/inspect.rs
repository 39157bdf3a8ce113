//! Judging an uploaded bundle without writing a byte.
//!
//! The server's reading of the manifest is the one that counts, so it is taken
//! from inside the bytes that the digest names.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::model::manifest::{FILE_NAME, Manifest};

use super::digest::Digest;
use super::tree::{Kind, Member};
use super::{Error, MANIFEST_BYTES_MAX, PACKED_BYTES_MAX, Rejected, archive};

/// What a bundle turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// Read from inside it.
    pub manifest: Manifest,
    /// How many entries it has.
    pub entries: usize,
    /// Bytes of its files once unpacked.
    pub unpacked_bytes: u64,
}

/// Judges the bundle in `file`, which is said to be `digest`.
///
/// # Errors
///
/// When its bytes are others, or it is no acceptable bundle.
pub fn inspect(file: &Path, digest: &Digest) -> Result<Inspected, Error> {
    let mut packed = open(file, digest)?;
    let mut manifest = None;
    let tree = archive::read(&mut packed, |member, bytes| {
        if let Member { path, kind: Kind::File { .. } } = member
            && path == FILE_NAME
        {
            manifest = Some(parse_manifest(&manifest_bytes(bytes).map_err(archive::damaged)?)?);
        }
        Ok(())
    })?;
    let manifest = manifest.ok_or(Rejected::NoManifest)?;
    Ok(Inspected { manifest, entries: tree.entries(), unpacked_bytes: tree.bytes() })
}

/// Opens `file` at its start after comparing its bytes with its name.
pub(super) fn open(file: &Path, digest: &Digest) -> Result<File, Error> {
    let mut packed = File::open(file).map_err(Error::io("open the bundle", file))?;
    let size = packed.metadata().map_err(Error::io("read the bundle", file))?.len();
    if size > PACKED_BYTES_MAX {
        return Err(Rejected::PackedTooLarge.into());
    }
    let actual = Digest::of(&packed).map_err(Error::io("read the bundle", file))?;
    if actual != *digest {
        return Err(Rejected::Digest { named: *digest, actual }.into());
    }
    packed.rewind().map_err(Error::io("read the bundle", file))?;
    Ok(packed)
}

/// Reads what may be a manifest: a byte more than one may have, so that `parse_manifest` sees that it is too long.
pub(super) fn manifest_bytes(bytes: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    bytes.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Reads a manifest from its bytes.
pub(super) fn parse_manifest(bytes: &[u8]) -> Result<Manifest, Rejected> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() as u64 <= MANIFEST_BYTES_MAX => Ok(Manifest::parse(text)?),
        _ => Err(Rejected::ManifestUnreadable),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{EntryType, Header};

    use super::*;

    const MANIFEST: &[u8] = b"[worker]\ncommand = [\"./serve\"]\n";

    /// Writes frames that no honest packer writes.
    struct Forge(tar::Builder<GzEncoder<Vec<u8>>>);

    impl Forge {
        fn new() -> Self {
            Self(tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast())))
        }

        fn with_manifest() -> Self {
            Self::new().entry("repoint.toml", EntryType::Regular, "", MANIFEST)
        }

        /// The path goes into the header as it is; `Header::set_path` would refuse most of them.
        fn entry(mut self, path: &str, kind: EntryType, target: &str, bytes: &[u8]) -> Self {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_link_name_literal(target).unwrap();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            self.0.append(&header, bytes).unwrap();
            self
        }

        /// A header that promises more than follows.
        fn promising(mut self, path: &str, kind: EntryType, size: u64) -> Self {
            let mut header = Header::new_gnu();
            header.set_path(path).unwrap();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(size);
            header.set_cksum();
            self.0.append(&header, io::empty()).unwrap();
            self
        }

        fn bytes(self) -> Vec<u8> {
            self.0.into_inner().unwrap().finish().unwrap()
        }
    }

    fn judge(bytes: &[u8]) -> Result<Inspected, Rejected> {
        judge_as(bytes, &Digest::of(bytes).unwrap())
    }

    fn judge_as(bytes: &[u8], digest: &Digest) -> Result<Inspected, Rejected> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        inspect(file.path(), digest).map_err(|error| match error {
            Error::Rejected(rejected) => rejected,
            Error::Io { .. } => panic!("{error}"),
        })
    }

    #[test]
    fn an_honest_bundle_gives_its_manifest() {
        let forge = Forge::with_manifest()
            .entry("./lib/", EntryType::Directory, "", b"")
            .entry("lib/a", EntryType::Regular, "", b"12345")
            .entry("b", EntryType::Symlink, "lib/../lib/a", b"");
        let inspected = judge(&forge.bytes()).unwrap();
        assert_eq!(inspected.manifest.worker.command, ["./serve"]);
        assert_eq!((inspected.entries, inspected.unpacked_bytes), (4, 5 + MANIFEST.len() as u64));
    }

    #[test]
    fn a_bundle_whose_digest_lies_is_refused() {
        let other = Digest::of(&b"other"[..]).unwrap();
        let rejected = judge_as(&Forge::with_manifest().bytes(), &other).unwrap_err();
        assert!(matches!(rejected, Rejected::Digest { named, .. } if named == other));
    }

    #[test]
    fn traversal_and_absolute_paths_are_refused() {
        for path in ["../evil", "a/../../evil", "/etc/evil", "a/..", ".."] {
            let forge = Forge::with_manifest().entry(path, EntryType::Regular, "", b"x");
            assert!(matches!(judge(&forge.bytes()), Err(Rejected::Path { .. })), "{path}");
        }
    }

    #[test]
    fn long_names_are_judged_like_short_ones() {
        for (kind, name) in
            [(EntryType::GNULongName, "../evil\0".to_owned()), (EntryType::XHeader, pax("path", "/evil"))]
        {
            let forge = Forge::with_manifest().entry("././@LongLink", kind, "", name.as_bytes()).entry(
                "harmless",
                EntryType::Regular,
                "",
                b"x",
            );
            assert!(matches!(judge(&forge.bytes()), Err(Rejected::Path { .. })), "{kind:?}");
        }
        let forge = Forge::with_manifest()
            .entry("x", EntryType::XHeader, "", pax("linkpath", "/etc/passwd").as_bytes())
            .entry("harmless", EntryType::Symlink, "repoint.toml", b"");
        assert!(matches!(judge(&forge.bytes()), Err(Rejected::LinkOut { .. })));
    }

    #[test]
    fn links_leading_out_are_refused() {
        let forge = Forge::with_manifest().entry("l", EntryType::Symlink, "../../etc/passwd", b"");
        assert!(matches!(judge(&forge.bytes()), Err(Rejected::LinkOut { .. })));
        let chain = Forge::with_manifest().entry("d/x", EntryType::Symlink, "..", b"").entry(
            "d/y",
            EntryType::Symlink,
            "x/..",
            b"",
        );
        assert!(matches!(judge(&chain.bytes()), Err(Rejected::LinkOut { .. })));
        let through =
            Forge::with_manifest().entry("l", EntryType::Symlink, ".", b"").entry("l/f", EntryType::Regular, "", b"x");
        assert!(matches!(judge(&through.bytes()), Err(Rejected::Duplicate(_))));
    }

    #[test]
    fn hard_links_devices_and_pipes_are_refused() {
        for kind in [EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
            let forge = Forge::with_manifest().entry("x", kind, "repoint.toml", b"");
            assert!(matches!(judge(&forge.bytes()), Err(Rejected::Kind { .. })), "{kind:?}");
        }
    }

    #[test]
    fn duplicates_are_refused() {
        let forge = Forge::with_manifest().entry("./repoint.toml", EntryType::Regular, "", MANIFEST);
        assert_eq!(judge(&forge.bytes()), Err(Rejected::Duplicate("repoint.toml".to_owned())));
    }

    #[test]
    fn bombs_are_refused_before_they_go_off() {
        let huge = Forge::with_manifest().promising("huge", EntryType::Regular, 1 << 40);
        assert_eq!(judge(&huge.bytes()), Err(Rejected::UnpackedTooLarge));
        let name = Forge::with_manifest().promising("x", EntryType::GNULongName, 1 << 40);
        assert!(matches!(judge(&name.bytes()), Err(Rejected::Damaged(_))));
        let pax = Forge::with_manifest()
            .entry("x", EntryType::XHeader, "", pax("size", "1099511627776").as_bytes())
            .entry("small", EntryType::Regular, "", b"x");
        assert!(matches!(judge(&pax.bytes()), Err(Rejected::Kind { .. })));
    }

    #[test]
    fn too_many_entries_are_refused() {
        let mut forge = Forge::with_manifest();
        for i in 0..super::super::ENTRIES_MAX {
            forge = forge.entry(&i.to_string(), EntryType::Regular, "", b"");
        }
        assert_eq!(judge(&forge.bytes()), Err(Rejected::TooManyEntries));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = Forge::with_manifest().entry("a", EntryType::Regular, "", &[7; 9000]).bytes();
        let mut flipped = good.clone();
        let checksum = flipped.len() - 6;
        flipped[checksum] ^= 1;
        let followed = [good.as_slice(), b"more"].concat();
        let short = Forge::with_manifest().promising("cut", EntryType::Regular, 100_000).bytes();
        for bytes in [&b""[..], b"PK\x03\x04", &good[..good.len() / 2], &flipped, &followed, &short] {
            let judged = judge(bytes);
            assert!(matches!(judged, Err(Rejected::Damaged(_))), "{} bytes gave {judged:?}", bytes.len());
        }
    }

    #[test]
    fn a_manifest_is_demanded_and_read() {
        let none = Forge::new().entry("a", EntryType::Regular, "", b"");
        assert_eq!(judge(&none.bytes()), Err(Rejected::NoManifest));
        let below = Forge::new().entry("d/repoint.toml", EntryType::Regular, "", MANIFEST);
        assert_eq!(judge(&below.bytes()), Err(Rejected::NoManifest));
        let binary = Forge::new().entry("repoint.toml", EntryType::Regular, "", b"\xff");
        assert_eq!(judge(&binary.bytes()), Err(Rejected::ManifestUnreadable));
        let wrong = Forge::new().entry("repoint.toml", EntryType::Regular, "", b"[worker]");
        assert!(matches!(judge(&wrong.bytes()), Err(Rejected::Manifest(_))));
    }

    fn pax(key: &str, value: &str) -> String {
        let body = format!(" {key}={value}\n");
        let length = (body.len() + 1..).find(|length| length.to_string().len() + body.len() == *length).unwrap();
        format!("{length}{body}")
    }
}
