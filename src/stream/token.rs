//! The shared secret of the control stream.

use std::fmt;
use std::str::FromStr;

use crate::stream::Error;

/// What a proxy shows to be let in, as `authorization: Bearer …`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Makes one from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The token itself, for the file it is kept in.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The metadata value that shows it.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a metadata value shows this token. Takes the same time wherever
    /// they differ, so that guessing byte by byte does not pay.
    pub(super) fn admits(&self, value: &[u8]) -> bool {
        let expected = self.bearer();
        let differing = expected.bytes().zip(value).fold(0, |sum, (a, b)| sum | (a ^ b));
        differing == 0 && expected.len() == value.len()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let valid = (16..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if valid { Ok(Self(text.to_owned())) } else { Err(Error::Token) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_admits() {
        let token: Token = "0123456789abcdef\n".parse().unwrap();
        assert!(token.admits(b"Bearer 0123456789abcdef"));
        for wrong in ["", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0"] {
            assert!(!token.admits(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_neither_short_nor_blank_nor_printed() {
        for bad in ["", "short", "0123456789 abcdef", &"x".repeat(513)] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        let token = Token::from_bytes([7; 32]);
        assert!(token.reveal().parse::<Token>().is_ok());
        assert!(!format!("{token:?}").contains("07"));
    }
}
