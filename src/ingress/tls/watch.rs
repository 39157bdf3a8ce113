//! Reading certificates again when their files change, beside the requests.
//!
//! A thread of its own looks at the files, because a slow disk holds up nobody
//! then; what has changed is swapped in whole. What cannot be used changes
//! nothing: the certificate that was read before is served on, and it is told.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{io, thread};

use crate::ingress::config::Tls;
use crate::ingress::tls::collection::Collection;
use crate::ingress::tls::metrics::Reloads;
use crate::ingress::tls::{Error, Served};
use crate::telemetry::metrics::Metrics;

/// Certificates that were read, and what it takes to read them again.
pub(in crate::ingress) struct Loaded {
    served: Arc<Served>,
    collection: Collection,
    reloads: Reloads,
    interval: Duration,
}

/// Looks at the files from time to time until it is dropped.
pub(in crate::ingress) struct Watching(Sender<()>);

impl Loaded {
    /// Reads every file that the settings name. Of a folder, what cannot be used
    /// is left out and told of, as long as something can.
    pub(in crate::ingress) fn new(tls: &Tls) -> Result<Self, Error> {
        let mut collection = Collection::read(tls)?;
        let served = Served::new(collection.certificates());
        let reloads = Reloads::new(Arc::clone(&served));
        reloads.failed(collection.tell());
        Ok(Self { served, collection, reloads, interval: tls.reload_interval.duration() })
    }

    /// What handshakes choose from.
    pub(in crate::ingress) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    /// Goes on looking at the files; shows on `metrics` what comes of it.
    pub(in crate::ingress) fn watch(self, metrics: &Metrics) -> io::Result<Watching> {
        self.reloads.register(metrics);
        let (again, asked) = channel();
        thread::Builder::new().name("certificates".to_owned()).spawn(move || self.keep_looking(&asked))?;
        Ok(Watching(again))
    }

    fn keep_looking(mut self, asked: &Receiver<()>) {
        loop {
            let all = match asked.recv_timeout(self.interval) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.collection.look(all) {
                self.served.replace(self.collection.certificates());
                self.reloads.done();
            }
            self.reloads.failed(self.collection.tell());
        }
    }
}

impl Watching {
    /// Reads everything again now, changed or not.
    pub(in crate::ingress) fn again(&self) {
        // Its thread ends only after this.
        let _ = self.0.send(());
    }
}
