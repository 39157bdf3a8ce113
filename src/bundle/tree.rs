//! What a bundle may hold: the one judge of entries, for packing and reading.
//!
//! Pure: entries come in one by one, links are judged when all are known. Since
//! nothing may lie beneath a link, and links are followed component by
//! component as the kernel would, a tree that passes cannot write or point
//! outside, whatever the order of its entries.

use std::collections::BTreeMap;

use super::{ENTRIES_MAX, PATH_BYTES_MAX, Rejected, UNPACKED_BYTES_MAX};

/// One entry of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where, as plain names separated by `/`.
    pub path: String,
    /// What.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length.
        size: u64,
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
}

/// The entries seen so far.
#[derive(Default, Debug)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    bytes: u64,
    entries: usize,
}

#[derive(Debug)]
enum Node {
    File,
    /// A directory; explicit once it had an entry of its own.
    Directory {
        explicit: bool,
    },
    Link(String),
}

/// As many links as the kernel follows before it says ELOOP (path_resolution(7)).
const LINKS_FOLLOWED_MAX: usize = 40;
/// Steps spent on all links together. Ten million map look-ups take seconds; honest bundles need thousands.
const STEPS_MAX: usize = 10_000_000;

impl Tree {
    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// When a bundle may not hold it. The tree is of no use then.
    pub fn add(&mut self, member: &Member) -> Result<(), Rejected> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(Rejected::TooManyEntries);
        }
        self.add_ancestors(&member.path)?;
        let duplicate = || Rejected::Duplicate(member.path.clone());
        let node = match &member.kind {
            Kind::Directory => Node::Directory { explicit: true },
            Kind::File { size, .. } => {
                self.bytes = self.bytes.saturating_add(*size);
                if self.bytes > UNPACKED_BYTES_MAX {
                    return Err(Rejected::UnpackedTooLarge);
                }
                Node::File
            }
            Kind::Link { target } if target.starts_with('/') => return Err(link_out(&member.path, target)),
            Kind::Link { target } if target.is_empty() || target.len() > PATH_BYTES_MAX => {
                return Err(bad_path(&member.path, "points nowhere, or further than 1024 bytes"));
            }
            Kind::Link { target } => Node::Link(target.clone()),
        };
        match (self.nodes.get(&member.path), &node) {
            (None, _) | (Some(Node::Directory { explicit: false }), Node::Directory { .. }) => {
                self.nodes.insert(member.path.clone(), node);
                Ok(())
            }
            _ => Err(duplicate()),
        }
    }

    /// Judges the links, once every entry is in.
    ///
    /// # Errors
    ///
    /// Names the first link that leads out or in circles.
    pub fn check_links(&self) -> Result<(), Rejected> {
        let mut steps_left = STEPS_MAX;
        for (path, node) in &self.nodes {
            if let Node::Link(target) = node {
                self.follow(path, target, &mut steps_left)?;
            }
        }
        Ok(())
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries
    }

    fn add_ancestors(&mut self, path: &str) -> Result<(), Rejected> {
        for (slash, _) in path.match_indices('/') {
            let ancestor = &path[..slash];
            match self.nodes.get(ancestor) {
                Some(Node::Directory { .. }) => {}
                Some(_) => return Err(Rejected::Duplicate(shortened(path))),
                // A path is at most 1024 bytes, so that one entry implies a few hundred directories at worst; they
                // count, or nesting would get around the limit.
                None if self.nodes.len() >= ENTRIES_MAX => return Err(Rejected::TooManyEntries),
                None => {
                    self.nodes.insert(ancestor.to_owned(), Node::Directory { explicit: false });
                }
            }
        }
        Ok(())
    }

    /// Walks from the folder of `path` along `target` as the kernel would. A missing component is not an error: such a
    /// link dangles, inside.
    fn follow(&self, path: &str, target: &str, steps_left: &mut usize) -> Result<(), Rejected> {
        let mut at: Vec<&str> = path.split('/').collect();
        at.pop();
        let mut ahead: Vec<&str> = target.rsplit('/').collect();
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            *steps_left = steps_left.checked_sub(1).ok_or(Rejected::TooTangled)?;
            match name {
                "" | "." => {}
                ".." => {
                    at.pop().ok_or_else(|| link_out(path, target))?;
                }
                name => {
                    at.push(name);
                    if let Some(Node::Link(next)) = self.nodes.get(&at.join("/")) {
                        at.pop();
                        ahead.extend(next.rsplit('/'));
                        followed += 1;
                    }
                }
            }
            if followed > LINKS_FOLLOWED_MAX {
                return Err(Rejected::LinkLoop(path.to_owned()));
            }
        }
        Ok(())
    }
}

/// Reads an entry's path; `None` is the bundle's own top, `./`.
///
/// # Errors
///
/// When it is absolute, climbs, or is no plain UTF-8 text.
pub fn relative_path(raw: &[u8]) -> Result<Option<String>, Rejected> {
    let shown = || shortened(&String::from_utf8_lossy(raw));
    let refuse = |what| Err(Rejected::Path { path: shown(), what });
    let Ok(text) = std::str::from_utf8(raw) else {
        return refuse("is no UTF-8 text");
    };
    if text.len() > PATH_BYTES_MAX {
        return refuse("is longer than 1024 bytes");
    }
    if text.starts_with('/') {
        return refuse("is absolute");
    }
    if text.contains('\0') {
        return refuse("holds a zero byte");
    }
    let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return refuse("climbs out through ..");
    }
    if names.iter().any(|name| name.len() > 255) {
        return refuse("has a name longer than 255 bytes");
    }
    match names.is_empty() {
        true if text.is_empty() => refuse("has no name"),
        true => Ok(None),
        false => Ok(Some(names.join("/"))),
    }
}

fn link_out(path: &str, target: &str) -> Rejected {
    Rejected::LinkOut { path: path.to_owned(), target: shortened(target) }
}

fn bad_path(path: &str, what: &'static str) -> Rejected {
    Rejected::Path { path: path.to_owned(), what }
}

/// Echo a bounded part: the text may be anything a client sent.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(members: &[(&str, &str)]) -> Result<(), Rejected> {
        let mut tree = Tree::default();
        for (path, what) in members {
            let kind = match *what {
                "dir" => Kind::Directory,
                "file" => Kind::File { size: 1, executable: false },
                target => Kind::Link { target: target.trim_start_matches("-> ").to_owned() },
            };
            tree.add(&Member { path: (*path).to_owned(), kind })?;
        }
        tree.check_links()
    }

    #[test]
    fn links_that_stay_inside_pass() {
        let cases: &[&[(&str, &str)]] = &[
            &[("a", "file"), ("b", "-> a")],
            &[("d", "dir"), ("d/up", "-> ../a"), ("a", "file")],
            &[("d/e", "dir"), ("l", "-> d/e/../../x"), ("x", "file")],
            &[("l", "-> nowhere"), ("m", "-> l/deeper")],
            &[("here", "-> .")],
        ];
        for case in cases {
            assert_eq!(judge(case), Ok(()), "{case:?}");
        }
    }

    #[test]
    fn links_that_lead_out_are_refused_also_through_others() {
        let cases: &[&[(&str, &str)]] = &[
            &[("l", "-> /etc/passwd")],
            &[("l", "-> ..")],
            &[("d/l", "-> ../../x")],
            &[("d/l", "-> a/b/../../../../x")],
            // Two links that look harmless one by one: x is the top itself, so x/.. is outside.
            &[("d/e/x", "-> ../.."), ("d/e/y", "-> x/..")],
            &[("a", "-> b/.."), ("b", "-> c"), ("c", "-> .")],
        ];
        for case in cases {
            assert!(matches!(judge(case), Err(Rejected::LinkOut { .. })), "{case:?} gave {:?}", judge(case));
        }
    }

    #[test]
    fn circles_are_refused() {
        for case in [&[("a", "-> b"), ("b", "-> a")][..], &[("a", "-> a/x")]] {
            assert!(matches!(judge(case), Err(Rejected::LinkLoop(_))), "{case:?}");
        }
    }

    #[test]
    fn nothing_lies_beneath_a_link_or_a_file_and_nothing_is_there_twice() {
        let cases: &[&[(&str, &str)]] = &[
            &[("l", "-> d"), ("l/f", "file")],
            &[("l/f", "file"), ("l", "-> d")],
            &[("f", "file"), ("f/g", "file")],
            &[("f", "file"), ("f", "file")],
            &[("d", "dir"), ("d", "dir")],
            &[("d/f", "file"), ("d", "file")],
        ];
        for case in cases {
            assert!(matches!(judge(case), Err(Rejected::Duplicate(_))), "{case:?}");
        }
        assert_eq!(judge(&[("d/f", "file"), ("d", "dir")]), Ok(()), "a directory may follow what it holds");
    }

    #[test]
    fn sizes_are_added_up_without_wrapping() {
        let mut tree = Tree::default();
        let member = |path: &str, size| Member { path: path.to_owned(), kind: Kind::File { size, executable: false } };
        tree.add(&member("a", UNPACKED_BYTES_MAX)).unwrap();
        assert_eq!(tree.add(&member("b", u64::MAX)), Err(Rejected::UnpackedTooLarge));
    }

    #[test]
    fn tangled_links_cost_a_bounded_time() {
        // Each link goes through the one before it twice: 2^i steps if nobody counted.
        let names: Vec<String> = (0..60).map(|i| format!("l{i:02}")).collect();
        let mut tree = Tree::default();
        tree.add(&Member { path: "l00".to_owned(), kind: Kind::Directory }).unwrap();
        for pair in names.windows(2) {
            let target = format!("{0}/../{0}/..", pair[0]);
            tree.add(&Member { path: pair[1].clone(), kind: Kind::Link { target } }).unwrap();
        }
        assert!(tree.check_links().is_err());
    }

    #[test]
    fn paths_are_plain_and_relative() {
        assert_eq!(relative_path(b"./a//b/"), Ok(Some("a/b".to_owned())));
        assert_eq!(relative_path(b"./"), Ok(None));
        let long = "x".repeat(256);
        for bad in [&b""[..], b"/etc/passwd", b"../x", b"a/../../x", b"a/..", b"a\0b", b"\xff", long.as_bytes()] {
            assert!(relative_path(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
