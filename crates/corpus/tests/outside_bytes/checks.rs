//! What holds for any bytes given as a file of a collection or of a run; shared
//! with the fuzz targets.

use std::path::Path;

use quarry_corpus::{
    CandidateList, Candidates, Corpus, CorpusError, Embeddings, Format, NegativesBlock, Passage,
    QuerySet, Records, Shard, read_passages,
};

/// Reads `bytes` as every JSON file of BEIR, Tevatron and DPR, plain or gzipped.
pub fn json(folder: &Path, bytes: &[u8]) {
    let (input, end) = Input::of(bytes);
    let whole = folder.join("whole");
    let carried = folder.join("carried"); // no corpus file: the records carry the passages
    for dir in [&whole, &carried] {
        std::fs::create_dir_all(dir).expect("a folder is made");
        remove_files(dir);
    }
    for name in ["corpus.jsonl", "queries.jsonl", "train.jsonl"] {
        std::fs::write(whole.join(format!("{name}{end}")), bytes).expect("the input is written");
    }
    for name in ["train.jsonl", "train.json"] {
        std::fs::write(carried.join(format!("{name}{end}")), bytes).expect("the input is written");
    }
    let passages = input.walk(Format::Beir.passages(&whole, &[]));
    passages_survive(folder, &passages);
    input.walk(Format::Beir.queries(&whole, "train"));
    input.walk(Format::Tevatron.passages(&whole, &[]));
    for format in [Format::Tevatron, Format::Dpr] {
        input.walk(format.passages(&carried, &["train".to_owned()]));
        let queries = input.walk(format.queries(&carried, "train"));
        let judgements = input.walk(format.judgements(&carried, "train"));
        assert!(judgements.iter().all(|judgement| judgement.grade == 1));
        assert!(queries.len() >= usize::from(!judgements.is_empty()));
    }
}

/// Reads `bytes` as every table of tab-separated values of BEIR, MS MARCO and DPR,
/// plain or gzipped.
pub fn tsv(folder: &Path, bytes: &[u8]) {
    let (input, end) = Input::of(bytes);
    let dir = folder.join("tsv");
    std::fs::create_dir_all(dir.join("qrels")).expect("a folder is made");
    remove_files(&dir);
    remove_files(&dir.join("qrels"));
    for name in [
        "qrels/train.tsv",
        "collection.tsv",
        "queries.train.tsv",
        "qrels.train.tsv",
        "psgs_w100.tsv",
    ] {
        std::fs::write(dir.join(format!("{name}{end}")), bytes).expect("the input is written");
    }
    let passages = input.walk(Format::MsMarco.passages(&dir, &[]));
    table_survives(folder, &passages);
    passages_survive(folder, &passages);
    input.walk(Format::MsMarco.queries(&dir, "train"));
    input.walk(Format::MsMarco.judgements(&dir, "train"));
    input.walk(Format::Beir.judgements(&dir, "train"));
    let passages = input.walk(Format::Dpr.passages(&dir, &[]));
    passages_survive(folder, &passages);
}

/// Reads `bytes` as every Arrow table of a run, down to the last value.
pub fn arrow(folder: &Path, bytes: &[u8]) {
    let path = folder.join("table.arrow");
    // A new file: what is mapped is never overwritten.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("the input is written");
    told_well(Shard::open(&path)).inspect(walk_shard);
    told_well(Corpus::open(std::slice::from_ref(&path))).inspect(|corpus| {
        assert_eq!(corpus.texts().count(), corpus.passages());
    });
    told_well(QuerySet::open(&path)).inspect(walk_queries);
    let lists = told_well(Candidates::read(&path));
    let block = told_well(NegativesBlock::open(&path));
    assert_eq!(lists.is_some(), block.is_some());
    if let Some(lists) = lists {
        lists_survive(folder, &lists);
    }
}

/// Reads `bytes` as embeddings.
pub fn safetensors(folder: &Path, bytes: &[u8]) {
    let path = folder.join("table.safetensors");
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("the input is written");
    let Some(embeddings) = told_well(Embeddings::open(&path)) else {
        return;
    };
    let rows = embeddings.rows();
    assert_eq!(rows.len(), embeddings.len() * embeddings.dim());
    assert!(size_of_val(rows) <= bytes.len());
    let (dim, first_row) = (embeddings.dim(), embeddings.first_row());
    let checkpoint = embeddings.checkpoint();
    let copy = folder.join("copy.safetensors");
    match Embeddings::write(&copy, rows, dim, first_row, checkpoint) {
        Ok(_) => {
            let again = Embeddings::open(&copy).expect("written embeddings read back");
            assert_eq!(again.rows(), rows);
            assert_eq!(
                (
                    again.len(),
                    again.dim(),
                    again.first_row(),
                    again.checkpoint()
                ),
                (embeddings.len(), dim, first_row, checkpoint)
            );
        }
        Err(_) => assert!(rows.iter().any(|value| !value.is_finite())),
    }
}

/// What is known of an input before it is read.
struct Input {
    /// Lines it may have; every record and every error lies in one of them.
    lines: u64,
    /// Records it may hold.
    records: usize,
}

impl Input {
    /// The input, and how the names of its files end.
    fn of(bytes: &[u8]) -> (Self, &'static str) {
        if bytes.starts_with(b"\x1f\x8b") {
            let (lines, records) = (u64::MAX, usize::MAX);
            return (Self { lines, records }, ".gz");
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let records = bytes.len();
        (Self { lines, records }, "")
    }

    /// All records; faults are told well, and only those of one line are survived.
    fn walk<T>(&self, records: Result<Records<T>, CorpusError>) -> Vec<T> {
        let Some(mut records) = told_well(records) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        while let Some(record) = records.next() {
            let ended = !matches!(record, Ok(_) | Err(CorpusError::Malformed { .. }));
            if let Err(CorpusError::Malformed { place, .. } | CorpusError::Broken { place, .. }) =
                &record
            {
                assert!((1..=self.lines).contains(&place.line), "{place}");
            }
            if let Some(located) = told_well(record) {
                assert!((1..=self.lines).contains(&located.place.line));
                all.push(located.value);
            }
            if ended {
                assert!(records.next().is_none(), "it reads on");
                break;
            }
        }
        assert!(all.len() <= self.records);
        all
    }
}

/// The value, or nothing after an error of one line.
fn told_well<T>(outcome: Result<T, CorpusError>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?}");
            None
        }
    }
}

fn remove_files(dir: &Path) {
    for item in std::fs::read_dir(dir).expect("the folder is there") {
        let path = item.expect("the folder can be read").path();
        if path.is_file() {
            std::fs::remove_file(path).expect("the file can be removed");
        }
    }
}

/// Passages written as BEIR's JSON lines read back as they were.
fn passages_survive(folder: &Path, passages: &[Passage]) {
    let path = folder.join("passages.jsonl");
    let mut text = String::new();
    for Passage {
        id,
        title,
        text: body,
    } in passages
    {
        let line = serde_json::json!({"_id": id, "title": title, "text": body});
        text.push_str(&format!("{line}\n"));
    }
    std::fs::write(&path, text).expect("the passages are written");
    let read = read_passages(&path).expect("the file is there");
    let again: Vec<Passage> = read
        .map(|passage| passage.expect("a written passage reads back").value)
        .collect();
    assert_eq!(again, passages);
}

/// Passages written as MS MARCO's table read back as they were.
fn table_survives(folder: &Path, passages: &[Passage]) {
    let dir = folder.join("again");
    std::fs::create_dir_all(&dir).expect("a folder is made");
    // The mark and the carriage returns are the reader's to take off, so that it takes none of the text's.
    let mut text = String::from("\u{feff}");
    for Passage { id, text: body, .. } in passages {
        text.push_str(&format!("{id}\t{body}\r\n"));
    }
    std::fs::write(dir.join("collection.tsv"), text).expect("the passages are written");
    let read = Format::MsMarco
        .passages(&dir, &[])
        .expect("the file is there");
    let again: Vec<Passage> = read
        .map(|passage| passage.expect("a written passage reads back").value)
        .collect();
    assert_eq!(again, passages);
}

fn walk_shard(shard: &Shard) {
    assert!(u64::from(shard.first_row()) + shard.len() as u64 <= u64::from(u32::MAX));
    for i in 0..shard.len() {
        let text = shard.text(i);
        assert!(text.len() >= text.chars().count() && shard.id(i).len() < usize::MAX);
        let _ = (shard.tokens(i).iter().max(), shard.text_hash(i));
    }
}

fn walk_queries(queries: &QuerySet) {
    for i in 0..queries.len() {
        let (judged, grades) = queries.judged(i);
        assert_eq!(judged.len(), grades.len());
        assert!(queries.positives(i).count() <= judged.len());
        assert!(queries.known_positives(i).is_sorted());
        let _ = (
            queries.id(i).chars().count(),
            queries.text(i).chars().count(),
        );
        let _ = queries.tokens(i).iter().max();
    }
}

fn lists_survive(folder: &Path, lists: &[CandidateList]) {
    let path = folder.join("lists.arrow");
    let mut scores = lists
        .iter()
        .flat_map(|list| list.scores.iter().chain(&list.positive_scores));
    match Candidates::write(&path, lists) {
        Ok(_) => assert_eq!(
            Candidates::read(&path).expect("written lists read back"),
            lists
        ),
        Err(_) => assert!(scores.any(|score| score.is_nan())),
    }
}
