//! The file that keeps the control stream's token.
//!
//! Made at the first start of a control plane, for its owner only. Proxies on
//! this machine read it where it is; others get a copy from the operator.

use std::fs::OpenOptions;
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
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    text.trim().parse().map_err(|source| Error::Content { path: path.to_owned(), source })
}

/// The token in this file, made if there is none.
///
/// # Errors
///
/// When the file cannot be read or written, or holds no token.
pub fn ensure(path: &Path) -> Result<Token, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| failed(io::Error::other(error)))?;
            let token = Token::from_bytes(bytes);
            writeln!(file, "{}", token.reveal()).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(token)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(failed(error)),
    }
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
        std::fs::write(&path, "two words").unwrap();
        assert!(matches!(ensure(&path), Err(Error::Content { .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(Error::File { .. })));
    }
}
