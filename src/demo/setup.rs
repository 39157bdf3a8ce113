//! What `repoint up --demo` deploys, by means of the command line itself.
//!
//! Owns the demo's story: v1 in preview, staging and production, then v2 in
//! preview. Runs this same binary as a client, so that the demo shows nothing
//! that a reader could not type.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The demo's project.
pub const PROJECT: &str = "demo";

/// Why the demo could not be deployed. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundles' directory or this binary cannot be used.
    #[error("write the demo's bundles to {path}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A client command failed; the text is what it said.
    #[error("run `repoint {command}`: {said}")]
    Client {
        /// Which.
        command: String,
        /// What it said.
        said: String,
    },
}

/// A server to deploy the demo to.
pub struct Setup<'a> {
    /// Its REST API.
    pub server: &'a str,
    /// A key that may deploy.
    pub key: &'a str,
    /// Where the bundles' directories are written.
    pub folder: &'a Path,
    /// Whether workers run as users of their own, who must be able to reach
    /// this binary.
    pub own_users: bool,
}

impl Setup<'_> {
    /// Deploys both versions, unless an earlier start has. Blocks until they are
    /// ready; answers the ref of v2 if it was deployed now.
    ///
    /// # Errors
    ///
    /// When a directory cannot be written or a command fails.
    pub fn deploy(&self) -> Result<Option<String>, Error> {
        let projects = self.client(&["project", "list", "--json"])?;
        if projects.contains("\"demo\"") {
            return Ok(None);
        }
        let first = self.deploy_version("v1")?;
        for environment in ["staging", "production"] {
            self.client(&["promote", &first, "--to", environment, "--project", PROJECT, "--yes"])?;
        }
        self.deploy_version("v2").map(Some)
    }

    /// Deploys a version to preview; answers its ref.
    fn deploy_version(&self, version: &str) -> Result<String, Error> {
        let folder = self.folder.join(version);
        self.write_bundle(&folder, version).map_err(|source| Error::Folder { path: folder.clone(), source })?;
        let message = format!("demo worker {version}");
        let folder = folder.to_string_lossy();
        let arguments = ["deploy", &*folder, "--project", PROJECT, "--message", &message, "--yes", "--json"];
        let answer = self.client(&arguments)?;
        let deployed: Option<serde_json::Value> = serde_json::from_str(&answer).ok();
        let reference = deployed.and_then(|deployed| deployed["deployment"]["ref"].as_str().map(str::to_owned));
        reference.ok_or_else(|| Error::Client { command: arguments.join(" "), said: answer })
    }

    /// The bundle names this very binary, so that two versions cost two small
    /// files. Where the workers' users could not reach it (a home directory that
    /// is closed to others), the binary is packed along.
    fn write_bundle(&self, folder: &Path, version: &str) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let binary = std::env::current_exe()?;
        let program = if self.own_users && !is_open_to_all(&binary) {
            fs::copy(&binary, folder.join("repoint"))?;
            "./repoint".to_owned()
        } else {
            binary.to_string_lossy().into_owned()
        };
        let manifest = format!(
            "project = \"{PROJECT}\"\n\n[worker]\ncommand = [{program:?}, \"demo-worker\", \"--version\", \"{version}\"]\n\
             health_path = \"/healthz\"\n"
        );
        fs::write(folder.join("repoint.toml"), manifest)
    }

    fn client(&self, arguments: &[&str]) -> Result<String, Error> {
        let failed = |said: String| Error::Client { command: arguments.join(" "), said };
        let binary = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let output = Command::new(binary)
            .args(arguments)
            .env("REPOINT_SERVER", self.server)
            .env("REPOINT_API_KEY", self.key)
            .env_remove("REPOINT_PROJECT")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }
}

/// Whether any user may run this file: the file itself, and every folder above.
fn is_open_to_all(file: &Path) -> bool {
    let others_may = |path: &Path, wanted: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & wanted == wanted)
    };
    let folders = file.ancestors().skip(1).filter(|folder| folder.as_os_str() != OsStr::new(""));
    others_may(file, 0o005) && folders.into_iter().all(|folder| others_may(folder, 0o001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_below_a_closed_folder_is_not_open_to_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_open_to_all(&file));
    }
}
