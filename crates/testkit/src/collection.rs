//! A BEIR folder small enough for a run of seconds, cut from squad-mini: real
//! questions, real passages, shortened.

use crate::programs::workspace;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How much there is of what.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Passages.
    pub passages: usize,
    /// Training questions.
    pub train: usize,
    /// Dev questions.
    pub dev: usize,
    /// Test questions.
    pub test: usize,
}

/// Of the usual tiny collection.
pub const SIZES: Sizes = Sizes {
    passages: 60,
    train: 80,
    dev: 20,
    test: 20,
};

/// Passages are cut to this many characters, at a word.
const PASSAGE_CHARACTERS: usize = 280;

/// Writes `corpus.jsonl`, `queries.jsonl` and `qrels/` into `dir`, and returns
/// every text of them.
///
/// # Panics
/// If squad-mini is not where the repository has it, or the disk fails.
pub fn write_collection(dir: &Path, sizes: Sizes) -> Vec<String> {
    let source = workspace().join("data/squad-mini");
    let mut judged = BTreeMap::new();
    let mut kept = BTreeSet::new();
    for (split, count) in [
        ("train", sizes.train),
        ("dev", sizes.dev),
        ("test", sizes.test),
    ] {
        let rows = judgements(&source.join(format!("qrels/{split}.tsv")), count);
        kept.extend(rows.iter().map(|(_, passage)| passage.clone()));
        judged.insert(split, rows);
    }
    let passages = lines(&source.join("corpus.jsonl.gz"));
    let others = passages
        .iter()
        .map(|p| id(p).to_owned())
        .filter(|id| !kept.contains(id));
    let missing = sizes.passages.checked_sub(kept.len()).unwrap_or_else(|| {
        panic!(
            "the questions need {} passages, more than {}",
            kept.len(),
            sizes.passages
        )
    });
    let others: Vec<String> = others.take(missing).collect();
    kept.extend(others);

    let asked: BTreeSet<&String> = judged.values().flatten().map(|(query, _)| query).collect();
    let queries: Vec<Value> = lines(&source.join("queries.jsonl.gz"))
        .into_iter()
        .filter(|query| asked.iter().any(|a| *a == id(query)))
        .collect();
    let passages: Vec<Value> = passages
        .iter()
        .filter(|p| kept.contains(id(p)))
        .map(shortened)
        .collect();

    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    write_lines(&dir.join("corpus.jsonl"), &passages);
    write_lines(&dir.join("queries.jsonl"), &queries);
    for (split, rows) in &judged {
        let rows: String = rows.iter().map(|(q, p)| format!("{q}\t{p}\t1\n")).collect();
        let text = format!("query-id\tcorpus-id\tscore\n{rows}");
        std::fs::write(dir.join(format!("qrels/{split}.tsv")), text).unwrap();
    }
    let texts = passages
        .iter()
        .chain(&queries)
        .flat_map(|line| [&line["title"], &line["text"]]);
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn id(line: &Value) -> &str {
    line["_id"].as_str().unwrap()
}

/// The first `count` judgements: query and passage.
fn judgements(path: &Path, count: usize) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let row = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    };
    text.lines().skip(1).take(count).map(row).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn shortened(passage: &Value) -> Value {
    let text = passage["text"].as_str().unwrap();
    let end = text
        .char_indices()
        .nth(PASSAGE_CHARACTERS)
        .map_or(text.len(), |(end, _)| end);
    let end = if end == text.len() {
        end
    } else {
        text[..end].rfind(' ').unwrap_or(end)
    };
    json!({ "_id": passage["_id"], "title": passage["title"], "text": text[..end] })
}

fn write_lines(path: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).unwrap();
}
