//! Whether another user can get to a folder: asked before a replica is started
//! as that user, because the kernel's own answer would not say where it failed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The outermost folder on the way to `path`, `path` included, that `user` cannot enter; its group has the same number.
///
/// # Errors
///
/// When one of them cannot be looked at.
pub(super) fn first_closed_to(path: &Path, user: u32) -> io::Result<Option<PathBuf>> {
    let mut on_the_way: Vec<&Path> = path.ancestors().collect();
    on_the_way.reverse();
    for folder in on_the_way {
        let metadata = fs::metadata(folder)?;
        if !may_enter(metadata.mode(), (metadata.uid(), metadata.gid()), user) {
            return Ok(Some(folder.to_owned()));
        }
    }
    Ok(None)
}

/// path_resolution(7): the first class that fits decides.
fn may_enter(mode: u32, (owner, group): (u32, u32), user: u32) -> bool {
    let bit = match user {
        _ if user == owner => 0o100,
        _ if user == group => 0o010,
        _ => 0o001,
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let cases = [
            (0o755, 7, true),
            (0o711, 7, true),
            (0o700, 7, false),
            (0o700, 5, true),
            (0o077, 5, false),
            (0o750, 6, true),
            (0o705, 6, false),
        ];
        for (mode, user, expected) in cases {
            assert_eq!(may_enter(mode, (5, 6), user), expected, "{mode:o} for {user}");
        }
    }

    #[test]
    fn the_folder_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().join("outer"), dir.path().join("outer/inner"));
        fs::create_dir_all(&inner).unwrap();
        let stranger = 61_000;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(dir.path(), 0o711);
        set(&outer, 0o700);
        set(&inner, 0o755);
        assert_eq!(first_closed_to(&inner, stranger).unwrap(), Some(outer.clone()));
        set(&outer, 0o711);
        assert_eq!(first_closed_to(&inner, stranger).unwrap(), None);
        assert!(first_closed_to(&inner.join("missing"), stranger).is_err());
    }
}
