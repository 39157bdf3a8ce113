//! Whether a failed attempt is followed by another. Pure.
//!
//! What no replica can have seen may be sent again whatever its method is. What
//! one may have seen is sent again only if doing it twice is doing it once.

use crate::ingress::error::Error;

/// How one attempt failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Attempts made, this one included.
    pub(super) made: u32,
    /// The request was handed back: not one byte of it was written.
    pub(super) handed_back: bool,
    /// The connection had served before.
    pub(super) reused: bool,
    /// An attempt was lost after bytes of it may have arrived: this one, or one
    /// before.
    pub(super) lost: u32,
    /// Doing it twice is doing it once: a safe method without a body, or an
    /// `Idempotency-Key`.
    pub(super) repeatable: bool,
    /// The deployment says so for requests on reused connections.
    pub(super) repeatable_on_reuse: bool,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Send it again; nothing was sent, so it costs no replica anything.
    Free,
    /// Send it again if the budget allows.
    Budgeted,
    /// Tell the client.
    GiveUp,
}

/// Decides.
pub(super) fn verdict(error: &Error, facts: Facts, attempts_max: u32) -> Verdict {
    if facts.made >= attempts_max {
        return Verdict::GiveUp;
    }
    if facts.handed_back {
        return Verdict::Free;
    }
    if error.is_retry_safe() {
        return Verdict::Budgeted;
    }
    let repeatable = facts.repeatable || facts.repeatable_on_reuse && facts.reused;
    // Once: a request that ends two replicas should not meet a third.
    match error {
        Error::UpstreamReset(_) if repeatable && facts.lost <= 1 => Verdict::Budgeted,
        _ => Verdict::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Facts =
        Facts { made: 1, handed_back: false, reused: true, lost: 1, repeatable: false, repeatable_on_reuse: false };

    fn connect() -> Error {
        let source = std::io::ErrorKind::ConnectionRefused.into();
        Error::Connect { endpoint: "127.0.0.1:1".parse().unwrap(), source }
    }

    #[test]
    fn the_verdict_goes_by_what_a_replica_may_have_seen() {
        let reset = || Error::UpstreamReset(None);
        let repeatable = Facts { repeatable: true, ..LOST };
        let by_deployment = Facts { repeatable_on_reuse: true, ..LOST };
        let cases = [
            (reset(), LOST, Verdict::GiveUp),
            (reset(), Facts { handed_back: true, ..LOST }, Verdict::Free),
            (connect(), Facts { lost: 0, ..LOST }, Verdict::Budgeted),
            (reset(), repeatable, Verdict::Budgeted),
            (reset(), Facts { lost: 2, ..repeatable }, Verdict::GiveUp),
            (reset(), by_deployment, Verdict::Budgeted),
            (reset(), Facts { reused: false, ..by_deployment }, Verdict::GiveUp),
            (Error::ResponseTimeout, repeatable, Verdict::GiveUp),
            (Error::RequestTooLarge(1), repeatable, Verdict::GiveUp),
            (connect(), Facts { made: 3, ..LOST }, Verdict::GiveUp),
        ];
        for (error, facts, expected) in cases {
            assert_eq!(verdict(&error, facts, 3), expected, "{error} {facts:?}");
        }
    }
}
