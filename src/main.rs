//! The `repoint` binary: arguments to exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use repoint::app::{self, CheckArgs, ProxyArgs, UpArgs};
use repoint::config::ServerArgs;
use repoint::{cli, demo, worker};

/// A request makes some thirty small allocations, most of them hyper's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An ingress for agent workers: environments are pointers to immutable deployments, and moving one loses nothing
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process: ingress, control plane, workers
    #[command(
        after_help = "Examples:\n  repoint up --demo\n  repoint up --ingress 0.0.0.0:80 --base-domain agents.example.com"
    )]
    Up(UpArgs),
    /// Run the control plane and the workers, for proxies that run apart
    #[command(after_help = "Examples:\n  repoint control --data-dir /var/lib/repoint")]
    Control(ServerArgs),
    /// Run one ingress, fed by a control plane
    #[command(after_help = "Examples:\n  repoint proxy --control http://127.0.0.1:8091 --token-file stream.token")]
    Proxy(ProxyArgs),
    /// Look at settings without starting: the file, what it names, the addresses
    #[command(after_help = "Examples:\n  repoint check --config /etc/repoint/settings.toml")]
    Check(CheckArgs),
    #[command(flatten)]
    Client(cli::args::Command),
    /// The built-in worker of `up --demo`
    #[command(hide = true)]
    DemoWorker {
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// Ends the workers of a supervisor that died
    #[command(hide = true)]
    WorkerGuard,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(arguments) => app::up(&arguments),
        Command::Control(arguments) => app::control(&arguments),
        Command::Proxy(arguments) => app::proxy(&arguments),
        Command::Check(arguments) => app::check(&arguments),
        Command::Client(command) => return cli::run(&command),
        Command::DemoWorker { version } => demo::run(&version).map_err(Into::into),
        Command::WorkerGuard => return worker::guard::main(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("repoint: failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}
