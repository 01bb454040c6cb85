//! Sha256 digests as checked text. Owns hashing of bytes and files; refuses any
//! text that is not 64 lowercase hexadecimal digits.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{ArtifactError, Result};

/// A sha256 as 64 lowercase hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Digest of a local file's content (blocking; reads the whole file).
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self> {
        hash_file(path.as_ref()).map(|(digest, _)| digest)
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as used in object names.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// Digest and size in bytes of a local file.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64)> {
    let fail = |e: std::io::Error| ArtifactError::local(path, &e);
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// Hashes a stream piece by piece.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut text = String::with_capacity(64);
        for byte in self.0.finalize() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest(text)
    }
}

impl FromStr for Digest {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self> {
        let valid = text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            return Ok(Self(text.to_string()));
        }
        Err(ArtifactError::NotADigest {
            text: text.chars().take(80).collect(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = ArtifactError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digest_of_abc_is_the_standards_example() {
        assert_eq!(Digest::of(b"abc").as_str(), ABC);
        assert_eq!(Digest::of(b"abc").short(), "ba7816bf8f01");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(hash_file(&path).unwrap(), (ABC.parse().unwrap(), 3));
    }

    #[test]
    fn only_lowercase_hex_of_64_digits_is_a_digest() {
        for text in [
            "",
            "ba78",
            &ABC.to_uppercase(),
            &format!("{ABC}0"),
            &ABC.replace('b', "g"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<Digest>(&json).is_err(), "{text}");
        }
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }
}
