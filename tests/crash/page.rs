//! The test's end of `killer.c`: the library, built once, and the page that
//! both map. Knows nothing of what is killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The page of one process under test, as a file.
pub struct Page {
    path: PathBuf,
    file: File,
}

// Where things are: the layout of `struct page`.
const LOADED: u64 = 0;
const ARMED: u64 = 8;
const ANSWERS: u64 = 16;
const TORN: u64 = 24;
const KILL_AT: u64 = 32;
const COUNT: u64 = 40;
const WHAT: u64 = 48;
const WHAT_LENGTH: usize = 256;
const KINDS: u64 = WHAT + WHAT_LENGTH as u64;
const KINDS_LENGTH: usize = 1024;

impl Page {
    pub fn new(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(path).expect("a folder takes a file");
        file.set_len(KINDS + KINDS_LENGTH as u64).expect("a page fits");
        Self { path: path.to_owned(), file }
    }

    /// What a process is given so that it is counted.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("CRASH_PAGE", self.path.clone()), ("LD_PRELOAD", library().to_owned())]
    }

    /// Whether a process took the page. Where it did not, libc is not where the loader could get in between.
    pub fn is_loaded(&self) -> bool {
        self.read(LOADED) == 1
    }

    /// Counts from now, and kills at the n-th call; every other time that is a
    /// write, half of it is still written.
    pub fn arm(&self, kill_at: u64) {
        self.disarm();
        for (at, value) in [(COUNT, 0), (KILL_AT, kill_at), (TORN, kill_at % 2), (ANSWERS, 1), (ARMED, 1)] {
            self.write(at, value);
        }
    }

    pub fn disarm(&self) {
        self.write(ARMED, 0);
    }

    /// Whether it was armed and has counted anything: then a start may end in a kill.
    pub fn may_kill(&self) -> bool {
        self.read(ARMED) == 1 && self.count() > 0
    }

    /// What is answered from now on is not the step any more: the test asks how things are.
    pub fn answered(&self) {
        self.write(ANSWERS, 0);
    }

    /// Calls since it was armed.
    pub fn count(&self) -> u64 {
        self.read(COUNT)
    }

    /// The call that it ended at.
    pub fn what(&self) -> String {
        let mut bytes = [0; WHAT_LENGTH];
        self.file.read_exact_at(&mut bytes, WHAT).expect("the page is whole");
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Of the calls since it was armed, those that are no plain writes of a file: where a commit is made, an answer
    /// goes out, a process starts.
    pub fn turning_points(&self) -> Vec<u64> {
        let mut kinds = [0; KINDS_LENGTH];
        self.file.read_exact_at(&mut kinds, KINDS).expect("the page is whole");
        (1..=self.count()).zip(kinds).filter(|(_, kind)| *kind == b'o').map(|(number, _)| number).collect()
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).expect("the page is whole");
        u64::from_ne_bytes(bytes)
    }

    fn write(&self, at: u64, value: u64) {
        self.file.write_all_at(&value.to_ne_bytes(), at).expect("the page is whole");
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/killer.c");
        // Under a name of its own first: another run may be loading the one that is there.
        let (fresh, library) = (folder.join(format!("killer-{}.so", std::process::id())), folder.join("killer.so"));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&fresh).arg(&source).arg("-ldl");
        let built = compiler.output().expect("a C compiler is installed as `cc`");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        std::fs::rename(&fresh, &library).expect("a folder takes a file");
        library
    })
}
