//! Which of several: the less loaded of two taken at random.
//!
//! Two random choices come close to the least loaded of all without looking at
//! all, and without the herd that the very least loaded one attracts when every
//! core picks it at once. Pure.

use std::time::Duration;

/// Picks one of `count` for which `takes` says yes, the one with less `load` of
/// two at random. `random(n)` answers a number below n.
pub(super) fn pick(
    count: usize,
    takes: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> u64,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let (first, second) = two_of(count, &mut random);
    // Nearly always both take requests, and nobody else is looked at.
    if takes(first) && takes(second) {
        return Some(lesser(first, second, load));
    }
    let able = (0..count).filter(|at| takes(*at)).count();
    if able == 0 {
        return None;
    }
    let nth = |n: usize| (0..count).filter(|at| takes(*at)).nth(n);
    let (first, second) = two_of(able, &mut random);
    Some(lesser(nth(first)?, nth(second)?, load))
}

/// The load of an endpoint that runs `running` requests and is known for `age`:
/// while that is less than `window`, as much more as its share is to be smaller.
/// The share grows evenly, from a tenth on.
pub(super) fn weighed(running: u64, age: Duration, window: Duration) -> u64 {
    let permille = (age.as_millis() * 1_000 / window.as_millis().max(1)).clamp(100, 1_000);
    (running + 1).saturating_mul(1_000) / u64::try_from(permille).unwrap_or(1_000)
}

/// Two different numbers below `count`, or the only one twice.
fn two_of(count: usize, random: &mut impl FnMut(usize) -> usize) -> (usize, usize) {
    if count == 1 {
        return (0, 0);
    }
    let first = random(count);
    let second = random(count - 1);
    (first, if second < first { second } else { second + 1 })
}

fn lesser(first: usize, second: usize, load: impl Fn(usize) -> u64) -> usize {
    if load(second) < load(first) { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_gets_a_tenth_and_then_more_until_it_is_like_the_others() {
        let window = Duration::from_secs(10);
        let of = |running, seconds| weighed(running, Duration::from_secs(seconds), window);
        assert_eq!([of(0, 0), of(0, 1), of(0, 5), of(0, 10), of(0, 3_600)], [10, 10, 2, 1, 1]);
        // Others have to run nine before one that has just come is given its first.
        assert!(of(8, 60) < of(0, 0) && of(9, 60) >= of(0, 0));
    }

    fn spread(loads: &[u64], takes: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; loads.len()];
        for _ in 0..10_000 {
            if let Some(at) = pick(loads.len(), &takes, |at| loads[at], |below| random.usize(..below)) {
                counts[at] += 1;
            }
        }
        counts
    }

    #[test]
    fn the_most_loaded_of_several_is_never_picked() {
        let counts = spread(&[0, 5, 9], |_| true);
        assert_eq!(counts[2], 0);
        assert!(counts[0] > counts[1], "{counts:?}");
    }

    #[test]
    fn equal_ones_share_evenly() {
        for count in spread(&[1, 1, 1, 1], |_| true) {
            assert!((2_200..2_800).contains(&count), "{count}");
        }
    }

    #[test]
    fn what_takes_nothing_is_passed_over() {
        let counts = spread(&[0, 0, 0, 0], |at| at > 1);
        assert_eq!((counts[0], counts[1]), (0, 0));
        assert!((4_500..5_500).contains(&counts[2]), "{counts:?}");
        assert_eq!(spread(&[0, 0], |_| false), [0, 0]);
        assert_eq!(spread(&[3], |_| true), [10_000]);
        assert_eq!(spread(&[], |_| true), Vec::<usize>::new());
    }
}
