//! A disk that forgets what was not synced, and fails when told.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::stream::last_known_good::disk::{Disk, Sink};

/// The disk. Cloning shares.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

type Names = BTreeMap<String, usize>;

#[derive(Default)]
struct Inner {
    files: Vec<File>,
    names: Names,
    /// What a power cut may leave of the names: as they were at the last sync,
    /// and after every operation since.
    possible: Vec<Names>,
    /// Bytes that may still be written.
    room: Option<usize>,
    failing_syncs: usize,
    is_held: bool,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// A sync of it has failed: those pages are never written, and a later sync
    /// does not say so.
    is_doomed: bool,
}

impl Memory {
    /// Lets so many bytes be written, or as many as there are.
    pub fn room(&self, bytes: Option<usize>) {
        self.inner().room = bytes;
    }

    /// Lets the next syncs fail.
    pub fn fail_syncs(&self, count: usize) {
        self.inner().failing_syncs = count;
    }

    /// Every sync waits until it is let go.
    pub fn hold(&self, is_held: bool) {
        self.inner().is_held = is_held;
    }

    /// The power goes. `chance` chooses below its argument.
    pub fn crash(&self, mut chance: impl FnMut(usize) -> usize) {
        let mut inner = self.inner();
        let possible = inner.possible.len() + 1;
        let at = chance(possible);
        inner.names = if at + 1 == possible { inner.names.clone() } else { inner.possible[at].clone() };
        inner.possible = vec![inner.names.clone()];
        for file in &mut inner.files {
            let tail = file.bytes.strip_prefix(file.synced.as_slice()).unwrap_or_default();
            let mut left = [&file.synced[..], &tail[..chance(tail.len() + 1)]].concat();
            if left.len() > file.synced.len() && chance(3) == 0 {
                // Written out of order: a page that holds something else.
                let damaged = file.synced.len() + chance(left.len() - file.synced.len());
                left[damaged] ^= 1 << chance(8);
            }
            *file = File { bytes: left.clone(), synced: left, is_doomed: false };
        }
        (inner.room, inner.failing_syncs) = (None, 0);
    }

    /// What a power cut now would leave in the worst case, on another disk.
    pub fn after_worst_crash(&self) -> Self {
        let worst = self.copy();
        worst.inner().possible = self.inner().possible.clone();
        worst.crash(|_| 0);
        worst
    }

    /// The same files on another disk, for a test that damages them.
    pub fn copy(&self) -> Self {
        let inner = self.inner();
        let (files, names) = (inner.files.clone(), inner.names.clone());
        Self(Arc::new(Mutex::new(Inner { files, names, ..Inner::default() })))
    }

    /// Changes a file behind everybody's back.
    pub fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let file = inner.names[name];
        damage(&mut inner.files[file].bytes);
    }

    /// A file as it is.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner();
        inner.files[inner.names[name]].bytes.clone()
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut inner = self.inner();
        inner.files.push(File { bytes: bytes.to_vec(), synced: bytes.to_vec(), is_doomed: false });
        let file = inner.files.len() - 1;
        inner.names.insert(name.to_owned(), file);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn sync(&mut self) -> io::Result<()> {
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            return Err(io::Error::other("the disk has failed"));
        }
        Ok(())
    }

    fn renamed(&mut self, change: impl FnOnce(&mut Names)) {
        let before = self.names.clone();
        self.possible.push(before);
        change(&mut self.names);
    }
}

impl Disk for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let inner = self.inner();
        let file = inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(inner.files[*file].bytes.clone())))
    }

    fn changed_at(&self, _name: &str) -> Option<SystemTime> {
        None
    }

    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>> {
        let mut inner = self.inner();
        inner.files.push(File::default());
        let file = inner.files.len() - 1;
        inner.renamed(|names| _ = names.insert(name.to_owned(), file));
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn resume(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>> {
        let mut inner = self.inner();
        let file = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        inner.files[file].bytes.truncate(usize::try_from(length).unwrap());
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.renamed(|names| {
            names.remove(from);
            names.insert(to.to_owned(), file);
        });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        inner.renamed(|names| _ = names.remove(name));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.sync()?;
        inner.possible.clear();
        Ok(())
    }
}

struct Open {
    disk: Memory,
    file: usize,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.disk.inner();
        let fits = inner.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.room = inner.room.map(|room| room - fits);
        inner.files[self.file].bytes.extend(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Open {
    fn sync(&mut self) -> io::Result<()> {
        while self.disk.inner().is_held {
            std::thread::yield_now();
        }
        let mut inner = self.disk.inner();
        let done = inner.sync();
        let file = &mut inner.files[self.file];
        match done {
            Err(error) => {
                file.is_doomed = true;
                Err(error)
            }
            Ok(()) => {
                if !file.is_doomed {
                    file.synced = file.bytes.clone();
                }
                Ok(())
            }
        }
    }
}
