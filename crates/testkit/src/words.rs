//! A collection of made-up words, where it is known which passage answers what.
//!
//! Passage `p` has 4 to 10 words, drawn by its number; query `q` of a split asks
//! with the first three of its positive.

use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// Different words that there are.
const WORDS: usize = 40;

/// What the collection holds.
#[derive(Debug, Clone)]
pub struct WordCollection {
    /// Passages, called `d0`, `d1`, …
    pub passages: u32,
    /// This passage repeats the text of passage 0.
    pub duplicate: u32,
    /// Passages of a shard once prepared.
    pub shard_passages: usize,
    /// The queries.
    pub splits: Vec<WordSplit>,
}

/// The queries of one split, called `train00`, `train01`, … in `train`.
#[derive(Debug, Clone)]
pub struct WordSplit {
    /// Its name.
    pub name: &'static str,
    /// Its queries.
    pub queries: u32,
    /// The positive of query 0.
    pub first: u32,
    /// From the positive of one query to that of the next.
    pub step: u32,
    /// A second positive of query 1, more relevant and without a word of it.
    pub second: Option<u32>,
}

impl WordCollection {
    /// Every word of every collection.
    pub fn vocabulary() -> impl Iterator<Item = String> {
        (0..WORDS).map(|number| format!("word{number}"))
    }

    /// Writes the collection as a BEIR folder.
    ///
    /// # Panics
    /// If the disk fails.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir.join("qrels")).unwrap();
        let (mut corpus, mut queries) = (String::new(), String::new());
        for p in 0..self.passages {
            let length = if p == self.duplicate { 4 } else { 4 + p % 7 };
            let line = json!({"_id": format!("d{p}"), "title": "", "text": self.text(p, length)});
            writeln!(corpus, "{line}").unwrap();
        }
        for split in &self.splits {
            let name = split.name;
            let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
            for q in 0..split.queries {
                let positive = split.first + q * split.step;
                let line = json!({"_id": format!("{name}{q:02}"), "text": self.text(positive, 3)});
                writeln!(queries, "{line}").unwrap();
                writeln!(qrels, "{name}{q:02}\td{positive}\t1").unwrap();
            }
            if let Some(second) = split.second {
                writeln!(qrels, "{name}01\td{second}\t2").unwrap();
            }
            std::fs::write(dir.join("qrels").join(format!("{name}.tsv")), qrels).unwrap();
        }
        std::fs::write(dir.join("corpus.jsonl"), corpus).unwrap();
        std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
    }

    /// The first `count` words of passage `p`: a fixed pseudo-random draw.
    fn text(&self, p: u32, count: u32) -> String {
        let p = if p == self.duplicate { 0 } else { p };
        let mut state = u64::from(p) * 7919 + 17;
        // Knuth's MMIX generator: its high bits are random enough.
        let draw = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            format!("word{}", (state >> 33) as usize % WORDS)
        };
        (0..count).map(draw).collect::<Vec<_>>().join(" ")
    }
}
