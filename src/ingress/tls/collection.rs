//! Every certificate that the settings name, with what came of reading it.
//!
//! Owns what is kept when something cannot be read. Knows nothing of threads and
//! of who is served.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;

use crate::ingress::config::{CertificateSource, Tls};
use crate::ingress::tls::authority::{Authority, Minting};
use crate::ingress::tls::files::{Pair, Stamp, pairs};
use crate::ingress::tls::{Certificate, Certificates, Error, read};

/// How often it is told again that a certificate ends.
const WARNED_EVERY: SignedDuration = SignedDuration::from_hours(24);

pub(super) const NO_CERTIFICATE: Error =
    Error::Settings("listening needs at least one entry in certificates, or self-signed to try it out");
const NO_FOLDER: Error = Error::Settings("self-signed keeps its authority in the data directory; give --data-dir");
const NO_DEFAULT: Error = Error::Settings("default has to name the certificate file of one of certificates");

/// Which entry of the settings, and the certificate's file: the first of two that
/// have a name gets it.
type Place = (usize, PathBuf);

/// Every certificate, and what is wrong with those that could not be read.
pub(super) struct Collection {
    tls: Tls,
    base: ServerConfig,
    client_ca: Option<Stamp>,
    known: BTreeMap<Place, Known>,
    wrong: BTreeMap<Place, Wrong>,
    /// Vouches for every other name.
    authority: Option<Arc<Authority>>,
}

/// A certificate as it was last read.
struct Known {
    pair: Pair,
    stamps: [Option<Stamp>; 2],
    certificate: Arc<Certificate>,
    /// When it was told that it ends.
    warned: Option<Timestamp>,
}

/// Why a file cannot be used now.
struct Wrong {
    error: Error,
    is_told: bool,
}

impl Collection {
    /// Reads everything. Each entry of the settings has to give a certificate.
    pub(super) fn read(tls: &Tls) -> Result<Self, Error> {
        if tls.certificates.is_empty() && !tls.self_signed {
            return Err(NO_CERTIFICATE);
        }
        let authority = authority_folder(tls)?.map(Authority::open).transpose()?.map(Arc::new);
        let client_ca = tls.client_ca.as_deref().and_then(Stamp::of);
        let (known, wrong) = (BTreeMap::new(), BTreeMap::new());
        let mut all = Self { tls: tls.clone(), base: read::base(tls)?, client_ca, known, wrong, authority };
        all.look(true);
        for (index, source) in tls.certificates.iter().enumerate() {
            if !all.known.keys().any(|(of, _)| *of == index) {
                let first = all.wrong.keys().find(|(of, _)| *of == index).cloned();
                let wrong = first.and_then(|place| all.wrong.remove(&place));
                return Err(wrong.map_or_else(|| nothing_in(source), |wrong| wrong.error));
            }
        }
        if tls.default.is_some() && all.certificates().default.is_none() {
            return Err(NO_DEFAULT);
        }
        Ok(all)
    }

    /// Everything that is wrong with these settings and the files they name,
    /// rather than the first of it.
    pub(super) fn problems(tls: &Tls) -> Vec<Error> {
        let base = match read::base(tls) {
            Ok(base) => base,
            Err(error) => return vec![error],
        };
        let (known, wrong) = (BTreeMap::new(), BTreeMap::new());
        let mut all = Self { tls: tls.clone(), base, client_ca: None, known, wrong, authority: None };
        all.look(true);
        let gives = |index: usize| all.known.keys().chain(all.wrong.keys()).any(|(of, _)| *of == index);
        let sources = tls.certificates.iter().enumerate();
        let mut problems: Vec<_> =
            sources.filter(|(index, _)| !gives(*index)).map(|(_, source)| nothing_in(source)).collect();
        let now = Timestamp::now();
        let certificates = all.known.values().map(|known| &known.certificate);
        problems.extend(certificates.filter_map(|certificate| certificate.expired(now)));
        if tls.default.is_some() && all.certificates().default.is_none() {
            problems.push(NO_DEFAULT);
        }
        let authority = authority_folder(tls).and_then(|folder| folder.map_or(Ok(()), Authority::check));
        problems.extend(authority.err());
        problems.extend(all.wrong.into_values().map(|wrong| wrong.error));
        problems
    }

    /// What is to be served now.
    pub(super) fn certificates(&self) -> Certificates {
        let all = self.known.values().map(|known| Arc::clone(&known.certificate)).collect();
        let minting = self.authority.as_ref().map(|authority| Minting::new(Arc::clone(authority), self.base.clone()));
        Certificates::new(all, self.tls.default.as_ref(), minting)
    }

    /// Reads what has changed, or `all`; answers whether there is something new
    /// to serve. What cannot be read stays as it was.
    pub(super) fn look(&mut self, all: bool) -> bool {
        let mut wrong = BTreeMap::new();
        let mut is_new = self.look_at_client_ca(&mut wrong);
        // Pairs whose files are gone are among them: reading says so.
        let mut found: BTreeMap<_, _> =
            self.known.iter().map(|(place, known)| (place.clone(), known.pair.clone())).collect();
        for (index, source) in self.tls.certificates.iter().enumerate() {
            match pairs(source) {
                Ok(pairs) => found.extend(pairs.into_iter().map(|pair| ((index, pair.certificate.clone()), pair))),
                Err(error) => drop(wrong.insert((index, PathBuf::new()), error)),
            }
        }
        for (place, pair) in found {
            // Before reading, so that a change meanwhile is seen the next time.
            let stamps = pair.stamps();
            let as_known = |known: &Known| known.pair == pair && known.stamps == stamps;
            if !all && self.known.get(&place).is_some_and(as_known) {
                continue;
            }
            match read::certificate(&pair, &self.base) {
                Ok(certificate) => {
                    let certificate = Arc::new(certificate);
                    self.known.insert(place, Known { pair, stamps, certificate, warned: None });
                    is_new = true;
                }
                Err(error) => drop(wrong.insert(place, error)),
            }
        }
        self.note(wrong, all);
        is_new
    }

    /// Whoever was signed by an authority that is gone is let in no more, also
    /// with a certificate of ours that cannot be read now, or an older session.
    fn look_at_client_ca(&mut self, wrong: &mut BTreeMap<Place, Error>) -> bool {
        let Some(path) = &self.tls.client_ca else { return false };
        let stamp = Stamp::of(path);
        if stamp == self.client_ca {
            return false;
        }
        match read::base(&self.tls) {
            Ok(base) => {
                for known in self.known.values_mut() {
                    known.certificate = Arc::new(known.certificate.under(&base));
                }
                (self.base, self.client_ca) = (base, stamp);
                true
            }
            Err(error) => {
                // Behind every entry of certificates.
                wrong.insert((self.tls.certificates.len(), path.clone()), error);
                false
            }
        }
    }

    /// What was told already is not told again, unless somebody asked for `all`.
    fn note(&mut self, wrong: BTreeMap<Place, Error>, all: bool) {
        let before = std::mem::take(&mut self.wrong);
        let is_same = |place: &Place, error: &Error| {
            before.get(place).is_some_and(|before| before.error.to_string() == error.to_string())
        };
        self.wrong = wrong
            .into_iter()
            .map(|(place, error)| {
                let is_told = !all && is_same(&place, &error);
                (place, Wrong { error, is_told })
            })
            .collect();
    }

    /// Says what is wrong and was not told yet, and which certificates end.
    /// Answers how much is wrong, and how much of it was told just now.
    pub(super) fn tell(&mut self) -> (usize, usize) {
        let mut told = 0;
        for wrong in self.wrong.values_mut().filter(|wrong| !wrong.is_told) {
            wrong.is_told = true;
            told += 1;
            let error = &wrong.error as &dyn std::error::Error;
            tracing::error!(error, "failed to read certificates; what was served before is served on");
        }
        let now = Timestamp::now();
        for known in self.known.values_mut() {
            let is_due = known.warned.is_none_or(|told| now.duration_since(told) >= WARNED_EVERY);
            if known.certificate.validity.ends_soon(now) && is_due {
                known.warned = Some(now);
                known.certificate.warn(now);
            }
        }
        (self.wrong.len(), told)
    }
}

/// Where the authority of self-signed certificates is, if there is to be one.
fn authority_folder(tls: &Tls) -> Result<Option<&Path>, Error> {
    let folder = tls.self_signed.then_some(tls.data_dir.as_deref());
    folder.map(|folder| folder.ok_or(NO_FOLDER)).transpose()
}

fn nothing_in(source: &CertificateSource) -> Error {
    let (CertificateSource::Path(path) | CertificateSource::Files { certificate: path, .. }) = source;
    Error::Folder { path: path.clone(), reason: "none in it has its key".to_owned() }
}
