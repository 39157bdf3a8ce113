//! What is asked of a disk: few enough operations that a test can have one of
//! its own, which loses what was not synced and fails when told.
//!
//! Names are those of files in one folder. [`folder`](super::folder) is the real
//! one; `tests` have the other.

use std::io::{self, Read, Write};
use std::time::SystemTime;

/// A folder of files.
pub trait Disk: Send {
    /// Every file in it.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Reads a file from its beginning.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read>>;
    /// When a file was last written, where that is known.
    fn changed_at(&self, name: &str) -> Option<SystemTime>;
    /// An empty file of that name, whatever was there.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>>;
    /// Goes on writing a file after its first `length` bytes; the rest of it is
    /// thrown away.
    fn resume(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>>;
    /// Gives a file another name, over whatever has it.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals outlive a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is being written.
pub trait Sink: Write + Send {
    /// Makes what was written outlive a power cut.
    fn sync(&mut self) -> io::Result<()>;
}
