//! Text that lies where it is used: in the route itself, up to a usual length.
//!
//! A host is compared with what a route holds; text of its own on the heap
//! would be one more wait for memory in every resolve.

use std::fmt;

/// A text that never changes.
#[derive(Clone)]
pub enum Text {
    /// Short: in place.
    Inline {
        /// How many of the bytes are text.
        length: u8,
        /// The text, then zeros.
        bytes: [u8; INLINE_MAX],
    },
    /// Long: elsewhere.
    Heap(Box<[u8]>),
}

/// With the length and the kind a multiple of eight; most hosts are shorter.
const INLINE_MAX: usize = 46;

impl Text {
    /// The text as bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; INLINE_MAX];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self::Inline { length: text.len() as u8, bytes }
            }
            None => Self::Heap(text.as_bytes().into()),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(self.as_bytes()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_texts_are_kept_whole() {
        for length in [0, 1, 45, 46, 47, 48, 253] {
            let text = "x".repeat(length);
            assert_eq!(Text::from(text.as_str()).as_bytes(), text.as_bytes());
        }
        assert_eq!(size_of::<Text>(), 48);
    }
}
