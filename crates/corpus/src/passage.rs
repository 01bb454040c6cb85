//! What a collection is made of: passages, queries, judgements.

use sha2::{Digest, Sha256};

/// One passage of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The id of the collection; unique.
    pub id: String,
    /// The title, empty where the collection has none.
    pub title: String,
    /// The body.
    pub text: String,
}

impl Passage {
    /// `title + " " + text`, as BEIR encodes it; where one of the two is empty, the other alone.
    pub fn full_text(&self) -> String {
        match (self.title.is_empty(), self.text.is_empty()) {
            (true, _) => self.text.clone(),
            (false, true) => self.title.clone(),
            (false, false) => format!("{} {}", self.title, self.text),
        }
    }
}

/// One query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The id of the collection; unique inside its split.
    pub id: String,
    /// The question.
    pub text: String,
}

/// One row of qrels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The query that was judged.
    pub query: String,
    /// The passage that was judged.
    pub passage: String,
    /// The relevance grade; 1 and above is relevant (trec_eval's rule).
    pub grade: i32,
}

/// The first eight bytes, big-endian, of the sha256 of `text` with its white space normalised (runs become one space,
/// ends are trimmed): equal for passages that differ in layout alone.
pub fn text_hash(text: &str) -> u64 {
    let mut hasher = Sha256::new();
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 {
            hasher.update(b" ");
        }
        hasher.update(word.as_bytes());
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_text_joins_what_is_there() {
        let passage = |title: &str, text: &str| Passage {
            id: "1".into(),
            title: title.into(),
            text: text.into(),
        };
        assert_eq!(passage("a", "b c").full_text(), "a b c");
        assert_eq!(passage("", "b c").full_text(), "b c");
        assert_eq!(passage("a", "").full_text(), "a");
    }

    #[test]
    fn text_hash_is_sha256_of_the_normalised_text() {
        // printf 'a b' | sha256sum
        assert_eq!(text_hash(" a\t\nb "), 0xc8687a08aa5d6ed2);
        assert_ne!(text_hash("ab"), text_hash("a b"));
    }
}
