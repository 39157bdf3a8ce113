//! `repoint proxy`: one ingress, fed by a control plane elsewhere.
//!
//! Owns the order in which one takes over from another that runs, and hands over
//! to the next: `handover` has their words, `data_plane` what is handed. Until a
//! successor serves, whatever fails changes nothing for the one that runs.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::app::activation::{ADMIN, Sockets};
use crate::app::bound::Bound;
use crate::app::data_plane::{DataPlane, Kept, Prepared};
use crate::app::{LOOPBACK_ADMIN, ProxyArgs, SERVING, admin, kept, notify, serve_admin, stop, successors};
use crate::config::ServerArgs;
use crate::drain::Drain;
use crate::handover::{self, Door, Estate, Passed, Predecessor, Successor};
use crate::stream::client;
use crate::stream::last_known_good::folder::Folder;
use crate::stream::last_known_good::keeper::Paused;
use crate::stream::{self, BUILD};

/// What a proxy begins with.
struct Inherited {
    sockets: Sockets,
    folder: Option<Folder>,
    /// The proxy that runs, and where its table stands.
    predecessor: Option<(Predecessor, Option<handover::Place>)>,
}

/// A successor that serves.
struct Heir {
    successor: Successor,
    /// The files, which are to be its own.
    paused: Paused,
}

/// Runs until it is stopped, or until its successor serves and what it had then
/// is finished.
pub(super) async fn run(arguments: &ProxyArgs, mut args: ServerArgs, sockets: Sockets) -> anyhow::Result<()> {
    let token = stream::token_file::read(&arguments.token_file)?;
    // From the first moment on: unheard, this signal would end the process.
    let mut replacements = signal(SignalKind::user_defined2()).context("listen for SIGUSR2")?;
    let mut stops = stop::Signals::listen()?;
    let Inherited { mut sockets, folder, predecessor } = inherit(arguments, &args, sockets).await?;
    let given = sockets.ingress(&mut args);
    let following = client::Config {
        control: arguments.control.clone(),
        token,
        proxy_id: kept::proxy_id(folder.as_ref(), arguments.proxy_id.as_deref(), &args),
        zone: String::new(),
        insecure: arguments.insecure_control,
    };
    let is_fixed = sockets.is_fixed(ADMIN);
    let admin = admin(&args, &mut sockets).await?;
    let admin_shared = Passed {
        name: ADMIN.to_owned(),
        asked: args.admin.unwrap_or(LOOPBACK_ADMIN),
        is_fixed,
        listener: socket2::SockRef::from(&admin).try_clone().context("share the admin listener")?.into(),
    };
    let kept = folder.map(|folder| Kept { folder, config: arguments.kept(), is_paused: predecessor.is_some() });
    let prepared = DataPlane::prepare(&args, following, kept, given)?;
    let (prepared, mut predecessor) = succeed(prepared, predecessor, &mut stops).await?;
    let (mut data, waiting) = prepared.start()?;
    if let Some(predecessor) = &mut predecessor {
        predecessor.serving().await;
    }
    let bound = Bound { admin: admin.local_addr()?, ..data.bound(Bound::nowhere()) };
    let probed = Drain::new();
    let mut stop_probes = probed.watch();
    serve_admin(admin, data.shown(), async move { stop_probes.asked().await });
    bound.announce(&args, &[]);
    notify::status("waiting for the routing table");
    let heir = tokio::select! {
        () = stops.requested() => None,
        Err(error) = serving(&data) => return Err(error),
        heir = replaced(&data, predecessor.zip(waiting), &admin_shared, arguments.handover_deadline()) => Some(heir),
        never = successors::start(&mut replacements) => match never {},
    };
    let Some(heir) = heir else {
        data.drain(args.stop_timeout()).await;
        return Ok(());
    };
    drop(admin_shared);
    probed.ask();
    leave(heir, &mut data);
    // Cut short by a signal, it is drained like any other.
    data.hand_over(arguments.handover_drain(), stops.requested(), args.stop_timeout()).await;
    info!("everything is finished here");
    Ok(())
}

/// What the proxy that runs leaves, if one does and it is asked for; else the
/// sockets that were passed and a folder that nobody has.
async fn inherit(arguments: &ProxyArgs, args: &ServerArgs, sockets: Sockets) -> anyhow::Result<Inherited> {
    if arguments.take_over {
        let path = kept::path(args)?;
        if let Some((predecessor, estate)) = handover::meet(&path, BUILD).await? {
            let Estate { sockets, lock, position } = estate;
            let folder = Some(Folder::inherited(&path, lock));
            return Ok(Inherited { sockets: sockets.into(), folder, predecessor: Some((predecessor, position)) });
        }
        info!(folder = %path.display(), "no proxy runs there that could be taken over from");
    }
    let folder = if arguments.no_state { None } else { kept::owned(args)? };
    Ok(Inherited { sockets, folder, predecessor: None })
}

/// Returns when this proxy may serve: at once, or when it could take the place
/// of its predecessor and that lets it. Before that the control plane has
/// written this run down, so that nothing is stopped that it serves.
async fn succeed(
    prepared: Prepared,
    predecessor: Option<(Predecessor, Option<handover::Place>)>,
    stops: &mut stop::Signals,
) -> anyhow::Result<(Prepared, Option<Predecessor>)> {
    let Some((mut predecessor, position)) = predecessor else { return Ok((prepared, None)) };
    let let_go = async {
        tokio::select! {
            current = prepared.current(position) => current?,
            reason = predecessor.gone() => {
                let problem = prepared.problem().unwrap_or_else(|| "it was not told why".to_owned());
                return Err(anyhow::Error::from(reason).context(format!("be ready in time: {problem}")));
            }
            () = stops.requested() => bail!("take over: stopped before that"),
        }
        Ok(predecessor.ready().await?)
    };
    match let_go.await {
        Ok(()) => Ok((prepared, Some(predecessor))),
        Err(error) => {
            prepared.give_up().await;
            Err(error)
        }
    }
}

/// Says when a proxy has its table. Goes on for ever if all is well.
async fn serving(data: &DataPlane) -> anyhow::Result<Infallible> {
    data.first_table().await?;
    notify::ready(SERVING);
    std::future::pending().await
}

/// Returns when a successor serves in the place of this proxy.
async fn replaced(
    data: &DataPlane,
    predecessor: Option<(Predecessor, Paused)>,
    admin: &Passed,
    deadline: Duration,
) -> Heir {
    if let Some((mut predecessor, waiting)) = predecessor {
        // Its end, however it comes, says that the folder is ours alone.
        predecessor.gone().await;
        waiting.resume();
    }
    let Some(custody) = data.custody() else { return std::future::pending().await };
    custody.sign();
    let door = match Door::open(custody.path()) {
        Ok(door) => door,
        Err(error) => {
            warn!(%error, "this proxy cannot be replaced while it runs");
            return std::future::pending().await;
        }
    };
    loop {
        let mut successor = door.knocked().await;
        let handed_over = tokio::select! {
            handed_over = hand_over(&mut successor, data, admin, deadline) => handed_over,
            never = door.turn_away("another successor prepares already") => match never {},
        };
        match handed_over {
            Ok(paused) => return Heir { successor, paused },
            Err(error) => {
                warn!(error = format!("{error:#}"), "the hand-over is given up; this proxy goes on as before");
                successor.refuse(&format!("it failed to {error:#}")).await;
            }
        }
    }
}

/// Offers all there is. On an error nothing has happened: dropping the pause
/// lets the table be kept again.
async fn hand_over(
    successor: &mut Successor,
    data: &DataPlane,
    admin: &Passed,
    deadline: Duration,
) -> anyhow::Result<Paused> {
    let (paused, estate) = data.estate(admin).await?;
    successor.offer(&estate).await?;
    drop(estate);
    successor.ready(deadline).await?;
    successor.go().await?;
    Ok(paused)
}

/// Lets go of everything that is the successor's now.
fn leave(heir: Heir, data: &mut DataPlane) {
    let Heir { successor, paused } = heir;
    notify::succeeded_by(successor.pid);
    paused.give_up();
    data.leave_folder();
    info!(pid = successor.pid, build = successor.build, "a successor serves; what runs here is finished");
    // Its end is the successor's sign that the folder is its own.
    drop(successor);
}
