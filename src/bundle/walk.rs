//! What a directory holds for packing: its entries without the ignored ones, in order.
//!
//! Reads names and kinds, no contents. Rules are git's, so that what an author
//! does not commit is not deployed either.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use ignore::WalkBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::Rejected;
use super::pack::Error;
use super::tree::{Kind, Member, relative_path};

/// What is to be packed, sorted by path.
pub(super) fn members(dir: &Path, patterns: &[String]) -> Result<Vec<Member>, Error> {
    let ignored = ignored(dir, patterns)?;
    // Rules above the directory count inside a repository only, as git reads them; a stray `/tmp/.gitignore` does not.
    let in_repository = dir.canonicalize().is_ok_and(|dir| dir.ancestors().any(|above| above.join(".git").exists()));
    let walk = WalkBuilder::new(dir)
        .standard_filters(false)
        .git_ignore(true)
        .parents(in_repository)
        .require_git(false)
        .follow_links(false)
        .filter_entry(move |entry| {
            let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
            entry.depth() == 0 || entry.file_name() != ".git" && !ignored.matched(entry.path(), is_dir).is_ignore()
        })
        .build();
    let mut members = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|error| Error::Walk { dir: dir.to_owned(), detail: error.to_string() })?;
        // A `.gitignore` that is half understood would silently pack what it should not.
        if let Some(error) = entry.error() {
            return Err(Error::Walk { dir: dir.to_owned(), detail: error.to_string() });
        }
        let inner = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        if !inner.as_os_str().is_empty() {
            members.push(member(dir, inner)?);
        }
    }
    members.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(members)
}

fn ignored(dir: &Path, patterns: &[String]) -> Result<Gitignore, Error> {
    let mut builder = GitignoreBuilder::new(dir);
    for pattern in patterns {
        let wrong = |error: ignore::Error| Error::Pattern { pattern: pattern.clone(), detail: error.to_string() };
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder.build().map_err(|error| Error::Pattern { pattern: patterns.join(", "), detail: error.to_string() })
}

fn member(dir: &Path, inner: &Path) -> Result<Member, Error> {
    let rejected = |rejected| Error::Rejected { dir: dir.to_owned(), rejected };
    let full = dir.join(inner);
    let read = |source| Error::Read { path: full.clone(), source };
    let metadata = fs::symlink_metadata(&full).map_err(read)?;
    let path = relative_path(inner.as_os_str().as_encoded_bytes()).map_err(rejected)?.unwrap_or_default();
    let special = |kind| rejected(Rejected::Kind { path: path.clone(), kind });
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_file() => {
            Kind::File { size: metadata.len(), executable: metadata.permissions().mode() & 0o111 != 0 }
        }
        kind if kind.is_symlink() => {
            let target = fs::read_link(&full).map_err(read)?;
            let what = "points at what is no UTF-8 text";
            let target = target.into_os_string().into_string();
            Kind::Link { target: target.map_err(|_| rejected(Rejected::Path { path: path.clone(), what }))? }
        }
        kind if kind.is_socket() => return Err(special("socket")),
        kind if kind.is_fifo() => return Err(special("named pipe")),
        _ => return Err(special("device")),
    };
    Ok(Member { path, kind })
}
