//! `repoint check`: what is wrong with settings, before a server is started with
//! them.
//!
//! Tells everything at once, each with what to do. An address that is in use is
//! no fault: whatever serves now has it, and is to be replaced. Leaves nothing
//! behind. Knows the settings of every server, and asks each module for its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Error, anyhow, bail};
use clap::Args;
use rustix::fs::{Access, access};

use crate::app::bound::say;
use crate::app::{LOOPBACK_ADMIN, LOOPBACK_API, LOOPBACK_STREAM};
use crate::config::ServerArgs;
use crate::{ingress, stream, telemetry};

/// Arguments of `repoint check`.
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// For a proxy: file with the stream's token
    #[arg(long, env = "REPOINT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Says what is wrong with these settings, on standard error.
///
/// # Errors
///
/// When something is.
pub fn check(arguments: &CheckArgs) -> anyhow::Result<()> {
    let args = arguments.server.clone().with_file()?;
    let mut problems = settings(&args);
    problems.extend(ingress::check::check(&args.ingress()).into_iter().map(Error::from));
    let token = arguments.token_file.as_deref().map(stream::token_file::read);
    problems.extend(token.and_then(Result::err).map(Error::from));
    let listeners = listeners(&args);
    problems.extend(overlaps(&listeners));
    let (in_use, refused) = bound(&listeners);
    problems.extend(refused);
    if problems.is_empty() {
        say(&in_use.into_iter().chain(["the settings can be used".to_owned()]).collect::<Vec<_>>());
        return Ok(());
    }
    for problem in &problems {
        eprintln!("repoint: would fail to {problem:#}");
    }
    bail!("use these settings: {} to put right, see above", problems.len())
}

fn settings(args: &ServerArgs) -> Vec<Error> {
    let mut problems: Vec<Error> = Vec::new();
    problems.extend(telemetry::log::filter().err().map(Error::from));
    problems.extend(args.base_domain().err().map(Error::from));
    problems.extend(args.fleet().err().map(Error::from));
    match args.data_dir() {
        Ok(path) => {
            problems.extend(args.worker().err().map(Error::from));
            problems.extend(is_usable(&path).err().map(|error| {
                anyhow!(
                    "keep data in {}: {error}; give --data-dir a folder that this user may write to",
                    path.display()
                )
            }));
        }
        Err(error) => problems.push(error.into()),
    }
    problems
}

/// A folder that is there, or can be made.
fn is_usable(path: &Path) -> io::Result<()> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(there, Access::WRITE_OK)?)
}

/// Every address that some server listens on with these settings.
fn listeners(args: &ServerArgs) -> Vec<(&'static str, SocketAddr)> {
    let ingress = args.ingress();
    let requests = ingress.listen.into_iter().map(|address| ("ingress", address));
    let encrypted = ingress.tls.listen.into_iter().map(|address| ("tls", address));
    let others = [
        ("api", args.api.unwrap_or(LOOPBACK_API)),
        ("stream", args.stream.unwrap_or(LOOPBACK_STREAM)),
        ("admin", args.admin.unwrap_or(LOOPBACK_ADMIN)),
    ];
    requests.chain(encrypted).chain(others).collect()
}

/// Pairs of which only one could be listened on.
fn overlaps(listeners: &[(&'static str, SocketAddr)]) -> Vec<Error> {
    let is_same = |one: &SocketAddr, other: &SocketAddr| {
        let covers = |ip: std::net::IpAddr| ip.is_unspecified() && one.is_ipv4() == other.is_ipv4();
        one.port() != 0
            && one.port() == other.port()
            && (one.ip() == other.ip() || covers(one.ip()) || covers(other.ip()))
    };
    let mut problems = Vec::new();
    for (at, (name, address)) in listeners.iter().enumerate() {
        for (other_name, other) in listeners[..at].iter().filter(|(_, other)| is_same(address, other)) {
            problems.push(anyhow!(
                "listen on {address} for {name} and on {other} for {other_name}: give one of them another port"
            ));
        }
    }
    problems
}

/// Binds each for a moment: says which are in use, and which cannot be bound.
fn bound(listeners: &[(&'static str, SocketAddr)]) -> (Vec<String>, Vec<Error>) {
    let (mut in_use, mut refused) = (Vec::new(), Vec::new());
    for (name, address) in listeners {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                in_use.push(format!("{name:<8} {address} is in use now; whatever has it is to be stopped or replaced"));
            }
            Err(source) => {
                let what = match source.kind() {
                    io::ErrorKind::PermissionDenied => "give a port above 1023, or the right to bind this one",
                    _ => "give an address of this machine",
                };
                refused.push(anyhow!("listen on {address} for {name}: {source}; {what}"));
            }
        }
    }
    (in_use, refused)
}
