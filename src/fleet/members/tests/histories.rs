//! Any history of what proxies say and of their silence, beside a reference that
//! keeps every word and reads all of them again for each answer.

use proptest::prelude::*;

use super::*;

/// One step of a history. Streams are named by when they were opened, in turn.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Hello {
        run: Run,
        applied: Option<u64>,
        keeps_table: bool,
        ended: Option<u128>,
    },
    Says(usize, Word),
    Lost(usize),
    Goodbye(usize),
    Forget(&'static str, Option<u128>),
    Sweep,
    /// The control plane, with all that it had stored.
    Restart,
}

type Run = (&'static str, u128);

/// What the reference keeps of a run.
#[derive(Clone, Debug)]
enum Word {
    Hello { applied: Option<u64>, keeps_table: bool },
    Restored { durable: Option<u64>, keeps_table: bool },
    Ack { applied: Option<u64>, durable: Option<u64> },
    Nack { revision: u64, lasting: bool },
    Status { applied: Option<u64>, busy: Vec<u128>, truncated: bool },
}

const PROXIES: [&str; 3] = ["a", "b", "c"];
const REVISIONS: std::ops::RangeInclusive<u64> = 1..=5;
const POOLS: std::ops::RangeInclusive<u128> = 1..=2;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let revision = || prop::option::weighted(0.9, REVISIONS);
    let run = (prop::sample::select(&PROXIES), 1..=2u128);
    let stream = 0..40usize;
    // Around every limit: live, suspect, gone and its grace, a day.
    let seconds = prop::sample::select(&[0, 1, 1, 5, 9, 10, 11, 49, 50, 59, 60, 61, 290, 299, 300, 301, 360, 86_400]);
    let busy = prop::sample::subsequence(POOLS.collect::<Vec<_>>(), 0..=2);
    let word = prop_oneof![
        4 => (revision(), revision()).prop_map(|(applied, durable)| Word::Ack { applied, durable }),
        1 => (REVISIONS, any::<bool>()).prop_map(|(revision, lasting)| Word::Nack { revision, lasting }),
        4 => (revision(), busy, prop::bool::weighted(0.1))
            .prop_map(|(applied, busy, truncated)| Word::Status { applied, busy, truncated }),
    ];
    let hello = (run, revision(), any::<bool>(), prop::option::weighted(0.2, 1..=2u128))
        .prop_map(|(run, applied, keeps_table, ended)| Step::Hello { run, applied, keeps_table, ended });
    let forget = (prop::sample::select(&PROXIES), prop::option::of(1..=2u128));
    let step = prop_oneof![
        6 => seconds.prop_map(Step::Pass),
        5 => hello,
        12 => (stream.clone(), word).prop_map(|(stream, word)| Step::Says(stream, word)),
        1 => stream.clone().prop_map(Step::Lost),
        1 => stream.prop_map(Step::Goodbye),
        1 => forget.prop_map(|(proxy, instance)| Step::Forget(proxy, instance)),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

/// A run, with every word it said on a stream that was its own then.
struct Transcript {
    run: Run,
    stream: Option<usize>,
    words: Vec<(u64, Word)>,
    /// When it was heard, also before a restart of the control plane.
    heard: u64,
    /// For how long it had not been heard when the control plane restarted.
    unheard: u64,
}

impl Transcript {
    /// Seconds without a word, or since the start where it has not said any.
    fn silent(&self, now: u64) -> u64 {
        now - self.words.last().unwrap().0
    }

    fn is_live(&self, now: u64) -> bool {
        self.silent(now) <= 10 && !matches!(self.words.last(), Some((_, Word::Restored { .. })))
    }

    /// Its words since it last began a stream.
    fn stream_words(&self) -> impl DoubleEndedIterator<Item = &Word> {
        let hello = self.words.iter().rposition(|(_, word)| matches!(word, Word::Hello { .. })).unwrap_or(0);
        self.words[hello..].iter().map(|(_, word)| word)
    }

    fn applied(&self) -> Option<u64> {
        let said = self.stream_words().filter_map(|word| match word {
            Word::Hello { applied, .. } | Word::Ack { applied, .. } => *applied,
            _ => None,
        });
        said.max()
    }

    /// Its words since it last turned to this history of the store.
    fn history_words(&self) -> &[(u64, Word)] {
        let other = self.words.iter().rposition(|(_, word)| matches!(word, Word::Hello { applied: None, .. }));
        &self.words[other.unwrap_or(0)..]
    }

    fn durable(&self) -> Option<u64> {
        let said = self.history_words().iter().filter_map(|(_, word)| match word {
            Word::Restored { durable, .. } | Word::Ack { durable, .. } => *durable,
            _ => None,
        });
        said.max()
    }

    fn keeps_table(&self) -> bool {
        let said = self.words.iter().rev().find_map(|(_, word)| match word {
            Word::Hello { keeps_table, .. } | Word::Restored { keeps_table, .. } => Some(*keeps_table),
            _ => None,
        });
        said.unwrap()
    }

    fn refuses_for_good(&self, revision: u64) -> bool {
        let last = self.stream_words().rev().find(|word| matches!(word, Word::Nack { .. }));
        matches!(last, Some(Word::Nack { revision: refused, lasting: true }) if *refused >= revision)
    }

    fn knows(&self, revision: u64) -> bool {
        self.applied() >= Some(revision) && (!self.keeps_table() || self.durable() >= Some(revision))
    }

    fn has_shown_idle(&self, pool: u128, closing: u64) -> bool {
        let said = self.history_words().iter().rev().find_map(|(_, word)| match word {
            Word::Status { applied, busy, truncated } => Some((*applied, busy, *truncated)),
            _ => None,
        });
        let idle = said
            .is_some_and(|(read_at, busy, truncated)| read_at >= Some(closing) && !busy.contains(&pool) && !truncated);
        idle && self.knows(closing)
    }
}

/// Everything that was said to a control plane.
#[derive(Default)]
struct Reference {
    now: u64,
    started: u64,
    runs: Vec<Transcript>,
    streams: usize,
}

impl Reference {
    fn required(&self) -> impl Iterator<Item = &Transcript> {
        self.runs.iter().filter(|run| run.silent(self.now) <= 60)
    }

    fn is_complete(&self, revision: u64) -> bool {
        self.required().all(|run| run.applied() >= Some(revision))
    }

    fn is_settled(&self, revision: u64) -> bool {
        self.required().all(|run| run.applied() >= Some(revision) || run.refuses_for_good(revision))
    }

    fn is_shown_by_all(&self, shows: impl Fn(&Transcript) -> bool) -> bool {
        let may_serve = |run: &&Transcript| run.silent(self.now) <= 60 + 300;
        self.now - self.started >= 60 && self.runs.iter().filter(may_serve).all(shows)
    }

    fn hello(&mut self, run: Run, word: Word, ended: Option<u128>) {
        self.runs.retain(|known| known.run == run || (known.run.0, Some(known.run.1)) != (run.0, ended));
        let stream = Some(self.streams);
        self.streams += 1;
        let (now, said) = (self.now, (self.now, word));
        match self.runs.iter_mut().find(|known| known.run == run) {
            Some(known) => {
                known.words.push(said);
                (known.stream, known.heard, known.unheard) = (stream, now, 0);
            }
            None => self.runs.push(Transcript { run, stream, words: vec![said], heard: now, unheard: 0 }),
        }
    }

    fn says(&mut self, stream: usize, word: Word) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.stream == Some(stream)) {
            run.words.push((self.now, word));
            (run.heard, run.unheard) = (self.now, 0);
        }
    }

    fn lost(&mut self, stream: usize) -> bool {
        let mut spoke = self.runs.iter_mut().filter(|run| run.stream == Some(stream));
        spoke.next().is_some_and(|run| run.stream.take().is_some())
    }

    fn goodbye(&mut self, stream: usize) -> bool {
        self.runs.extract_if(.., |run| run.stream == Some(stream)).next().is_some()
    }

    fn forget(&mut self, proxy: &str, instance: Option<u128>) {
        let now = self.now;
        let asked = |run: &Transcript| run.run.0 == proxy && instance.is_none_or(|asked| asked == run.run.1);
        self.runs.retain(|run| !asked(run) || run.is_live(now));
    }

    fn sweep(&mut self) {
        let now = self.now;
        self.runs.retain(|run| run.unheard + run.silent(now) <= 24 * 3_600);
    }

    fn restart(&mut self) {
        let newest = self.runs.iter().map(|run| run.heard).max().unwrap_or(0);
        for run in &mut self.runs {
            let restored = Word::Restored { durable: run.durable(), keeps_table: run.keeps_table() };
            (run.stream, run.unheard, run.words) = (None, newest - run.heard, vec![(self.now, restored)]);
        }
        self.started = self.now;
    }
}

/// The members under test, with what the reference calls things.
struct Tested {
    table: Table,
    sessions: Vec<Option<Session>>,
    waits: Vec<(u64, Until, Wait)>,
}

impl Tested {
    fn new() -> Self {
        let wait = |until| REVISIONS.map(move |revision| (revision, until, Wait::new(Revision(revision), until)));
        let waits = wait(Until::Complete).chain(wait(Until::Settled)).collect();
        Self { table: Table::started(Config::default()), sessions: Vec::new(), waits }
    }

    fn hello(
        &mut self,
        (proxy, instance): Run,
        applied: Option<u64>,
        keeps_table: bool,
        ended: Option<u128>,
        now: u64,
    ) {
        let ended = ended.map(|n| Uuid::from_u128(n).into()).into_iter().collect();
        let greeting = Greeting { applied: applied.map(Revision), keeps_table, ended, ..greeting(proxy, instance) };
        let now = self.table.at(now);
        self.sessions.push(Some(self.table.members.hello(greeting, now)));
    }

    fn says(&mut self, stream: usize, word: &Word, now: u64) {
        let (now, Some(session)) = (self.table.at(now), &self.sessions[stream]) else { return };
        let members = &mut self.table.members;
        match word {
            Word::Ack { applied, durable } => {
                members.ack(session, applied.map(Revision), durable.map(Revision), now);
            }
            Word::Nack { revision, lasting } => {
                let reason = if *lasting { Reason::Invalid } else { Reason::Gap };
                members.nack(session, Refused { revision: Revision(*revision), reason, detail: String::new() }, now);
            }
            Word::Status { applied, busy, truncated } => {
                members.status(session, Report { truncated: *truncated, ..report(*applied, busy) }, now);
            }
            Word::Hello { .. } | Word::Restored { .. } => unreachable!("not said on a stream"),
        }
    }

    fn restart(&mut self, seconds: u64) {
        let (now, wall) = (self.table.at(seconds), Timestamp::from_second(seconds as i64).unwrap());
        let members = &self.table.members;
        let stored = members.members.keys().filter_map(|key| members.stored_form(key, wall, now)).collect();
        self.table.members = Members::new(Config::default(), now);
        self.table.members.restore(stored, wall, now);
        // Streams end with the process.
        self.sessions.iter_mut().for_each(|session| *session = None);
    }

    fn agrees_with(&mut self, reference: &Reference) -> Result<(), TestCaseError> {
        let seconds = reference.now;
        let now = self.table.at(seconds);
        for revision in REVISIONS {
            let shown = self.table.propagation(revision, seconds);
            let have = |run: &&Transcript| run.applied() >= Some(revision);
            let gone = reference.runs.iter().filter(|run| run.silent(seconds) > 60);
            prop_assert_eq!(shown.required as usize, reference.required().count());
            prop_assert_eq!(shown.applied as usize, reference.required().filter(have).count(), "at {}", revision);
            prop_assert_eq!(shown.unconfirmed as usize, gone.filter(|run| !have(run)).count());
            prop_assert_eq!(shown.complete, reference.is_complete(revision));
            let known = reference.is_shown_by_all(|run| run.knows(revision));
            prop_assert_eq!(self.table.known(revision, seconds), known, "closing {} known", revision);
            for pool in POOLS {
                let drained = reference.is_shown_by_all(|run| run.has_shown_idle(pool, revision));
                prop_assert_eq!(
                    self.table.drained(pool, revision, seconds),
                    drained,
                    "{} closed at {}",
                    pool,
                    revision
                );
            }
        }
        // Each has looked at every step before this one.
        for (revision, until, wait) in &mut self.waits {
            let over = match until {
                Until::Complete => reference.is_complete(*revision),
                Until::Settled => reference.is_settled(*revision),
            };
            let gone_at = wait.look(&self.table.members, now);
            prop_assert_eq!(gone_at.is_none(), over, "{:?} of {}", until, revision);
            prop_assert!(gone_at.is_none_or(|at| at > now));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn any_history_allows_what_every_word_together_does(steps in steps()) {
        let (mut tested, mut reference) = (Tested::new(), Reference::default());
        for step in steps {
            let now = reference.now;
            let instant = tested.table.at(now);
            match step {
                Step::Pass(seconds) => reference.now += seconds,
                Step::Hello { run, applied, keeps_table, ended } => {
                    tested.hello(run, applied, keeps_table, ended, now);
                    reference.hello(run, Word::Hello { applied, keeps_table }, ended);
                }
                Step::Says(stream, word) if reference.streams > 0 => {
                    let stream = stream % reference.streams;
                    tested.says(stream, &word, now);
                    reference.says(stream, word);
                }
                Step::Lost(stream) | Step::Goodbye(stream) if reference.streams > 0 => {
                    let stream = stream % reference.streams;
                    let Some(session) = &tested.sessions[stream] else { continue };
                    let (done, permitted) = match step {
                        Step::Lost(_) => (tested.table.members.lost(session), reference.lost(stream)),
                        _ => (tested.table.members.goodbye(session), reference.goodbye(stream)),
                    };
                    prop_assert_eq!(done, permitted);
                }
                Step::Says(..) | Step::Lost(_) | Step::Goodbye(_) => {}
                Step::Forget(proxy, instance) => {
                    let instance_id = instance.map(|n| Uuid::from_u128(n).into());
                    // A refusal, because all of them are live, forgets nobody.
                    let _ = tested.table.members.forget(proxy, instance_id, instant);
                    reference.forget(proxy, instance);
                }
                Step::Sweep => {
                    tested.table.members.sweep(instant);
                    reference.sweep();
                }
                Step::Restart => {
                    tested.restart(now);
                    reference.restart();
                }
            }
            tested.agrees_with(&reference)?;
        }
    }
}
