//! Bundles: a directory as one content-addressed archive.
//!
//! A bundle is a gzip-compressed tar: entries sorted, times and owners zeroed,
//! holding regular files, directories and links that stay inside. Its name is
//! the SHA-256 of its bytes. Packing (`cli`), inspecting what was uploaded
//! (`control`) and unpacking (`worker`) judge entries by the same [`tree`].
//! Knows nothing of deployments, HTTP or processes.

pub mod archive;
pub mod digest;
pub mod inspect;
pub mod pack;
pub mod tree;
pub mod unpack;
mod walk;

use std::path::{Path, PathBuf};

use crate::model::manifest::InvalidManifest;

/// Largest bundle as uploaded: 256 MiB carries a service with a small model; weights belong in a volume.
pub const PACKED_BYTES_MAX: u64 = 256 << 20;
/// Largest bundle once unpacked: 1 GiB, so that a small upload cannot fill a disk.
pub const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Most entries of a bundle: several times a large `node_modules`.
pub const ENTRIES_MAX: usize = 100_000;
/// Longest path inside a bundle, in bytes; the file system's own limit for one name is 255.
pub const PATH_BYTES_MAX: usize = 1024;
/// Longest manifest; a page of TOML is 4 KiB.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Where the bundle of this name lies in a data directory, once it was uploaded.
pub fn archive_path(data_dir: &Path, digest: &digest::Digest) -> PathBuf {
    archives(data_dir).join(format!("{}.tar.gz", digest.hex()))
}

/// The folder of a data directory that holds uploaded bundles.
pub fn archives(data_dir: &Path) -> PathBuf {
    data_dir.join("bundles")
}

/// Why a bundle could not be read. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no acceptable bundle: the sender's fault.
    #[error("accept the bundle: {0}")]
    Rejected(#[from] Rejected),
    /// The file system failed: this machine's fault.
    #[error("{doing} {path}")]
    Io {
        /// What was being tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What is wrong with a bundle, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The bytes are not those the name promises.
    #[error("its bytes hash to {actual}, not to {named} as it was named; upload it again")]
    Digest {
        /// The name it came under.
        named: digest::Digest,
        /// What the bytes hash to.
        actual: digest::Digest,
    },
    /// Not a gzip-compressed tar, or a damaged one.
    #[error("it is no intact gzip-compressed tar ({0}); pack it again with `repoint deploy`")]
    Damaged(String),
    /// Too large to upload.
    #[error("it is larger than {} MiB packed; leave files out with `ignore` in repoint.toml", PACKED_BYTES_MAX >> 20)]
    PackedTooLarge,
    /// Too large to unpack.
    #[error(
        "it holds more than {} MiB of files; leave files out with `ignore` in repoint.toml",
        UNPACKED_BYTES_MAX >> 20
    )]
    UnpackedTooLarge,
    /// Too many files.
    #[error("it holds more than {ENTRIES_MAX} entries; leave directories out with `ignore` in repoint.toml")]
    TooManyEntries,
    /// Links upon links, more than anybody needs.
    #[error("its links refer to each other too often; replace some by the files they lead to")]
    TooTangled,
    /// A path nobody should unpack.
    #[error("its entry {path:?} {what}; give a relative path of plain names")]
    Path {
        /// As it stands in the archive, shortened.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The same path twice, or a file where a directory is needed.
    #[error("its entry {0:?} is there twice, or lies beneath something that is no directory; leave one out")]
    Duplicate(String),
    /// A link that leads out.
    #[error(
        "its link {path:?} to {target:?} leads out of the bundle; use a relative link to something inside, or ignore it"
    )]
    LinkOut {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// Links that lead nowhere but to each other.
    #[error("its link {0:?} goes in circles; remove it")]
    LinkLoop(String),
    /// Something a bundle does not carry.
    #[error(
        "its entry {path:?} is a {kind}; only files, directories and links that stay inside are carried, ignore it"
    )]
    Kind {
        /// The entry.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A manifest is missing.
    #[error("there is no repoint.toml at its top; write one beside your worker, or check that it is not ignored")]
    NoManifest,
    /// The manifest is no text, or larger than a manifest is.
    #[error("its repoint.toml is no UTF-8 text of at most {} KiB", MANIFEST_BYTES_MAX >> 10)]
    ManifestUnreadable,
    /// The manifest is wrong.
    #[error("{0}")]
    Manifest(#[from] InvalidManifest),
}

impl Error {
    /// Whether the bundle is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { doing: "open the bundle", source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// For `map_err`: what was being tried, where.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
