//! The file that keeps the control stream's token.
//!
//! Made at the first start of a control plane, for its owner only. Proxies on
//! this machine read it where it is; others get a copy from the operator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::stream::Token;

/// Why there is no token. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("use {path} for the control stream's token: {source}; check its owner and mode", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("read {path}: {source}; put the token back, or remove the file and give proxies the new one", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        source: crate::stream::Error,
    },
}

/// The token in this file.
///
/// # Errors
///
/// When the file cannot be read or holds no token.
pub fn read(path: &Path) -> Result<Token, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    text.trim().parse().map_err(|source| Error::Content { path: path.to_owned(), source })
}

/// The token in this file, made if there is none.
///
/// # Errors
///
/// When the file cannot be read or written, or holds no token.
pub fn ensure(path: &Path) -> Result<Token, Error> {
    if !path.exists() {
        create(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    }
    read(path)
}

/// Writes a new token beside the file, and then gives it the file's name. A
/// start that dies in between leaves no file without a token, and of two starts
/// at once the first one's token stays.
fn create(path: &Path) -> io::Result<()> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", uuid::Uuid::new_v4()));
    let temporary = PathBuf::from(name);
    let written = write_private(&temporary, &Token::from_bytes(bytes));
    // A link, because a rename would replace what another start has made.
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // What cannot be removed is a stray file, and no reason not to start.
    let _ = fs::remove_file(&temporary);
    linked?;
    File::open(parent(path))?.sync_all()
}

fn write_private(path: &Path, token: &Token) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", token.reveal())?;
    file.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.token");
        let made = ensure(&path).unwrap();
        assert_eq!(ensure(&path).unwrap().reveal(), made.reveal());
        fs::write(&path, "two words").unwrap();
        assert!(matches!(ensure(&path), Err(Error::Content { .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(Error::File { .. })));
    }

    #[test]
    fn the_file_is_never_there_without_its_token() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let path = folder.path().join(format!("{round}.token"));
            let together = std::sync::Barrier::new(8);
            let start = || {
                together.wait();
                ensure(&path).unwrap().reveal().to_owned()
            };
            let tokens: Vec<String> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert!(tokens.iter().all(|token| *token == tokens[0]), "starts at the same moment agree");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 50, "nothing is left beside it");
    }

    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.token");
        ensure(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
