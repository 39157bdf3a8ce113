//! The context: which server the client commands talk to when nobody says.
//!
//! `repoint up` writes it for the user who started it, the client commands read
//! it. It holds the admin key, so only its owner may read the file.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Which server, and the key it knows us by.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its REST API, such as `http://127.0.0.1:8090`.
    pub server: String,
    /// Sent as `X-API-KEY`, to this server only.
    pub api_key: String,
}

// Not derived: a key must not end up in a log by way of `{:?}`.
impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why the context cannot be used. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither variable that would say where it is.
    #[error("find the directory of the context: set REPOINT_CONFIG_DIR or HOME, or give --server and --api-key")]
    Nowhere,
    /// The file cannot be read or written.
    #[error("use the context {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("read the context {path}: {source}; remove it, `repoint up` writes it anew", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

const FILE_NAME: &str = "context.json";

/// Where the context of this process's user is.
///
/// # Errors
///
/// [`Error::Nowhere`].
pub fn path() -> Result<PathBuf, Error> {
    directory(|name| std::env::var_os(name)).map(|directory| directory.join(FILE_NAME)).ok_or(Error::Nowhere)
}

/// What `up` wrote last, if it did.
///
/// # Errors
///
/// When there is a context that cannot be used.
pub fn read() -> Result<Option<Context>, Error> {
    read_from(&path()?)
}

/// Makes `context` the one that client commands find. Answers where it is.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(context: &Context) -> Result<PathBuf, Error> {
    let path = path()?;
    write_to(&path, context).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(path)
}

fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REPOINT_CONFIG_DIR")
        // The XDG base directory specification: a relative path is to be ignored.
        .or_else(|| set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).map(|path| path.join("repoint")))
        .or_else(|| set("HOME").map(|path| path.join(".config/repoint")))
}

fn read_from(path: &Path) -> Result<Option<Context>, Error> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Content { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// A new file renamed over the old one: a reader never sees half of it, and a
/// file that had a laxer mode does not keep it.
fn write_to(path: &Path, context: &Context) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let partial = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    let written = serde_json::to_vec_pretty(context)
        .map_err(io::Error::other)
        .and_then(|bytes| file.write_all(&bytes))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the first error is the one worth telling.
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    }

    #[test]
    fn the_nearest_variable_says_where() {
        let all = [("REPOINT_CONFIG_DIR", "/r"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")];
        let cases = [(&all[..], "/r"), (&all[1..], "/x/repoint"), (&all[2..], "/h/.config/repoint")];
        for (set, expected) in cases {
            assert_eq!(directory(variables(set)), Some(PathBuf::from(expected)));
        }
        let relative = [("REPOINT_CONFIG_DIR", ""), ("XDG_CONFIG_HOME", "x"), ("HOME", "/h")];
        assert_eq!(directory(variables(&relative)), Some(PathBuf::from("/h/.config/repoint")));
        assert_eq!(directory(variables(&[])), None);
    }

    #[test]
    fn a_written_context_is_read_and_is_its_owners_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/context.json");
        assert_eq!(read_from(&path).unwrap(), None);
        let context = Context { server: "http://127.0.0.1:8090".into(), api_key: "secret".into() };
        write_to(&path, &context).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_to(&path, &context).unwrap();
        assert_eq!(read_from(&path).unwrap(), Some(context.clone()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(!format!("{context:?}").contains("secret"));
    }

    #[test]
    fn a_spoilt_context_says_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("context.json");
        fs::write(&path, "{").unwrap();
        assert!(read_from(&path).unwrap_err().to_string().contains("remove it"));
    }
}
