//! Many proxies in a process of their own, as far as the control stream sees them.
//!
//! Each has the client of `repoint proxy` and a table of its own, and neither listeners nor files. The process ends when
//! whoever started it closes its standard input.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use repoint::drain::Drain;
use repoint::routing::live::Live;
use repoint::stream::client::{self, Client};
use repoint::stream::metrics::ClientMetrics;
use repoint::stream::token_file;

use crate::control::Control;
use crate::process;

/// What tells this binary to be the proxies.
pub const ARGUMENT: &str = "simulate-proxies";

/// Between two proxies at the start: they would not all be switched on in one moment.
const BETWEEN_STARTS: Duration = Duration::from_micros(500);

/// The process that holds them; ends when dropped.
pub struct Proxies(Child);

impl Proxies {
    /// So many proxies of this control plane.
    pub fn start(count: usize, control: &Control) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("start {count} proxies: {error}");
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args([ARGUMENT, &count.to_string(), &format!("http://{}", control.stream())])
            .arg(control.token_file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).map_err(failed)?;
        if line.trim() != "started" {
            return Err(format!("start {count} proxies: their process ended before it had"));
        }
        Ok(Self(child))
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        // Its standard input is closed with this; it ends by itself, and at once.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Is the proxies, in the process that was started for that.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [count, control, token] = arguments else { return Err(format!("{ARGUMENT} N URL TOKEN_FILE")) };
    let count: usize = count.parse().map_err(|_| format!("{count} is no number"))?;
    process::require_descriptors(count + 200)?;
    let token = token_file::read(Path::new(token)).map_err(|error| error.to_string())?;
    let control: http::Uri = control.parse().map_err(|_| format!("{control} is no address"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let drain = Drain::new();
    for n in 0..count {
        let config = client::Config {
            control: control.clone(),
            token: token.clone(),
            proxy_id: format!("sim-{n:05}"),
            zone: String::new(),
            insecure: false,
        };
        let client = Client::new(config, Live::new(1), ClientMetrics::default()).map_err(|error| error.to_string())?;
        runtime.spawn(client.run(drain.watch()));
        std::thread::sleep(BETWEEN_STARTS);
    }
    println!("started");
    // Until the other side is closed: nothing is ever written there.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // Not a farewell of thousands: the control plane ends as well.
    std::process::exit(0);
}
