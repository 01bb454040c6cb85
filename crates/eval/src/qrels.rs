//! Relevance judgements: which documents answer which query, and how well.

use std::collections::BTreeMap;
use std::path::Path;

use crate::EvalError;
use crate::lines::{fields, for_each_line};

/// A grade of at least this much counts as relevant in binary measures (trec_eval's default `-l 1`).
pub(crate) const RELEVANT: i32 = 1;

/// Judgements: query id → document id → grade.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qrels(BTreeMap<String, BTreeMap<String, i32>>);

impl Qrels {
    /// Adds one judgement; a second judgement of the same pair is refused.
    pub fn insert(&mut self, query: &str, document: &str, grade: i32) -> Result<(), EvalError> {
        let judged = self.0.entry(query.to_owned()).or_default();
        if judged.insert(document.to_owned(), grade).is_some() {
            return Err(EvalError::Duplicate {
                query: query.to_owned(),
                document: document.to_owned(),
            });
        }
        Ok(())
    }

    /// Number of judged queries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is judged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The judgements of one query.
    pub fn get(&self, query: &str) -> Option<&BTreeMap<String, i32>> {
        self.0.get(query)
    }

    /// All queries with their judgements, by query id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, i32>)> {
        self.0
            .iter()
            .map(|(query, judged)| (query.as_str(), judged))
    }
}

/// Reads judgements, plain or `.gz`: BEIR (`query-id corpus-id score` with that header, three columns) or TREC and
/// MS MARCO (`query 0 document grade`, four columns), separated by tabs or white space.
pub fn read_qrels(path: impl AsRef<Path>) -> Result<Qrels, EvalError> {
    let path = path.as_ref();
    let mut qrels = Qrels::default();
    let mut first = true;
    for_each_line(path, |line, text| {
        let fields = fields(text);
        let header = std::mem::take(&mut first)
            && matches!(fields[..], ["query-id" | "query_id" | "qid", _, _]);
        if header {
            return Ok(());
        }
        let refuse = |problem: String| EvalError::Malformed {
            path: path.to_owned(),
            line,
            problem,
            fix: "write `query-id corpus-id score` or `query 0 document grade`",
        };
        let (query, document, grade) = match fields[..] {
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            _ => return Err(refuse(format!("{} fields instead of 3 or 4", fields.len()))),
        };
        if query.is_empty() || document.is_empty() {
            return Err(refuse("an empty id".to_owned()));
        }
        let grade = parse_grade(grade)
            .ok_or_else(|| refuse(format!("the grade {grade:?} is not a whole number")))?;
        qrels
            .insert(query, document, grade)
            .map_err(|error| refuse(error.to_string()))
    })?;
    Ok(qrels)
}

/// Grades are whole numbers; some tools write them as `1.0`.
fn parse_grade(text: &str) -> Option<i32> {
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}
