//! What a row of probes means, and how soon to probe again.
//!
//! Pure: results come in, a verdict comes out.

use std::time::Duration;

use super::Probe;

/// The verdict on one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Not enough is known to say anything.
    Unknown,
    /// It answers.
    Healthy,
    /// It failed several times in a row.
    Unhealthy,
}

/// What is known about one target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Health {
    pub verdict: Verdict,
    /// What the last probe said, if it failed.
    pub error: Option<String>,
    failures: u32,
    /// It answered once, or somebody says that it did: no hurry.
    settled: bool,
}

/// After the first failed probe; doubles until it is the pause of the settings.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Probing in a hurry ends after so long: what has not come up by then is not about to.
const HURRY_MAX: Duration = Duration::from_secs(120);

impl Health {
    /// Nothing probed yet. `settled`: it was ready when it was seen last.
    pub fn new(settled: bool) -> Self {
        Self { verdict: Verdict::Unknown, error: None, failures: 0, settled }
    }

    /// Whether nobody waits for it: it answered once, or is said to have.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Takes a probe's result in.
    pub fn take(&mut self, result: Result<(), String>, probe: &Probe) {
        match result {
            Ok(()) => *self = Self { verdict: Verdict::Healthy, error: None, failures: 0, settled: true },
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error);
                if self.failures >= probe.failures_max {
                    self.verdict = Verdict::Unhealthy;
                }
            }
        }
    }

    /// How long to wait before the next probe of something probed for `age`.
    pub fn pause(&self, age: Duration, probe: &Probe) -> Duration {
        if self.settled || age > HURRY_MAX {
            return probe.every;
        }
        // Workers that start at once should not wait a quarter of a second to be noticed.
        let doublings = self.failures.saturating_sub(1).min(8);
        probe.starting_every.min(FIRST_PAUSE * (1 << doublings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(settled: bool, results: &[bool]) -> Health {
        let mut health = Health::new(settled);
        for good in results {
            health.take(if *good { Ok(()) } else { Err("refused".to_owned()) }, &Probe::default());
        }
        health
    }

    #[test]
    fn one_success_is_health_and_three_failures_are_none() {
        let cases: [(&[bool], Verdict); 7] = [
            (&[], Verdict::Unknown),
            (&[true], Verdict::Healthy),
            (&[false, false], Verdict::Unknown),
            (&[false, false, false], Verdict::Unhealthy),
            (&[true, false, false], Verdict::Healthy),
            (&[true, false, false, true, false, false], Verdict::Healthy),
            (&[true, false, false, false, true], Verdict::Healthy),
        ];
        for (results, expected) in cases {
            assert_eq!(after(false, results).verdict, expected, "{results:?}");
        }
        assert_eq!(after(false, &[true, false]).error.as_deref(), Some("refused"));
        assert_eq!(after(false, &[false, true]).error, None);
    }

    #[test]
    fn probes_hurry_until_the_first_success_or_two_minutes() {
        let probe = Probe::default();
        let pause = |health: &Health, age| health.pause(Duration::from_secs(age), &probe);
        let first: Vec<_> = (1..7).map(|count| pause(&after(false, &vec![false; count]), 0).as_millis()).collect();
        assert_eq!(first, [20, 40, 80, 160, 250, 250]);
        assert_eq!(pause(&after(false, &[false; 9]), 100), probe.starting_every);
        assert_eq!(pause(&after(false, &[false; 9]), 121), probe.every);
        assert_eq!(pause(&after(false, &[true]), 1), probe.every);
        assert_eq!(pause(&after(false, &[true, false, false, false]), 1), probe.every);
        assert_eq!(pause(&after(true, &[]), 1), probe.every);
    }
}
