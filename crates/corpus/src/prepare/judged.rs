//! The judgements of all splits, and the queries and passages they name: what a preparation holds in memory.

use std::collections::HashMap;
use std::path::Path;

use super::admit::{Met, Stream};
use super::tally::Tally;
use crate::reader::Located;
use crate::{CorpusError, Judgement, Place, PrepareOptions, Query};

/// The ids of judged passages, numbered in order of appearance.
#[derive(Default)]
pub(super) struct JudgedPassages {
    numbers: HashMap<String, u32>,
    exists: Vec<bool>,
    rows: Vec<Option<u32>>,
}

impl JudgedPassages {
    fn number(&mut self, id: String) -> u32 {
        let next = self.exists.len() as u32;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.exists.push(false);
            self.rows.push(None);
        }
        number
    }

    /// Notes that the corpus holds the passage.
    pub(super) fn mark(&mut self, id: &str) {
        if let Some(number) = self.numbers.get(id) {
            self.exists[*number as usize] = true;
        }
    }

    /// Notes the corpus row of the passage, if it was judged.
    pub(super) fn place(&mut self, id: &str, row: u32) {
        if let Some(number) = self.numbers.get(id) {
            self.rows[*number as usize] = Some(row);
        }
    }

    /// The corpus row of a judged passage, once it was placed.
    pub(super) fn row(&self, number: u32) -> Option<u32> {
        self.rows[number as usize]
    }

    fn holds(&self, verdict: &Verdict) -> bool {
        self.exists[verdict.passage as usize]
    }

    fn id(&self, wanted: u32) -> String {
        // Only for a message: the map is not kept in both directions.
        let found = self.numbers.iter().find(|(_, number)| **number == wanted);
        found.map(|(id, _)| id.clone()).unwrap_or_default()
    }
}

/// One judged passage of a query.
#[derive(Clone, Copy)]
pub(super) struct Verdict {
    pub(super) passage: u32,
    pub(super) grade: i32,
    line: u64,
}

/// Whether the text of a judged query is known.
enum Found {
    No,
    /// Its text is empty, and the policy dropped it.
    Blank,
    /// Its text, and its ordinal in the file of queries.
    Text(u64, String),
}

/// One query of a split.
pub(super) struct JudgedQuery {
    pub(super) id: String,
    pub(super) verdicts: Vec<Verdict>,
    /// Its first judgement, or its record.
    place: Place,
    found: Found,
}

impl JudgedQuery {
    /// Its text; empty before [`Judged::settle`].
    pub(super) fn text(&self) -> &str {
        match &self.found {
            Found::Text(_, text) => text,
            _ => "",
        }
    }

    fn has_positive(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.grade >= 1)
    }

    fn ordinal(&self) -> u64 {
        match self.found {
            Found::Text(ordinal, _) => ordinal,
            _ => u64::MAX,
        }
    }
}

/// The queries of one split: those of its judgements, later by the order of the file of queries.
pub(super) struct JudgedSplit {
    pub(super) name: String,
    pub(super) queries: Vec<JudgedQuery>,
    numbers: HashMap<String, usize>,
}

impl JudgedSplit {
    /// The query, added if it is new.
    fn query(&mut self, id: String, place: &Place) -> &mut JudgedQuery {
        let number = *self.numbers.entry(id).or_insert_with_key(|id| {
            self.queries.push(JudgedQuery {
                id: id.clone(),
                verdicts: Vec::new(),
                place: place.clone(),
                found: Found::No,
            });
            self.queries.len() - 1
        });
        &mut self.queries[number]
    }

    fn find(&mut self, id: &str) -> Option<&mut JudgedQuery> {
        self.numbers
            .get(id)
            .map(|number| &mut self.queries[*number])
    }

    /// Takes the text of a query from its file. Where the split is `listed` by that file, a query without judgement
    /// belongs to it too. Of repeated ids the first counts; whether they are allowed is decided when all are known.
    fn meet(&mut self, query: &Met<Query>, ordinal: u64, listed: bool) {
        match query {
            Met::Full(Located { place, value }) => {
                let known = match listed {
                    true => Some(self.query(value.id.clone(), place)),
                    false => self.find(&value.id),
                };
                if let Some(known) = known.filter(|known| !matches!(known.found, Found::Text(..))) {
                    known.found = Found::Text(ordinal, value.text.clone());
                }
            }
            Met::Blank(value) => {
                if let Some(known) = self
                    .find(&value.id)
                    .filter(|known| matches!(known.found, Found::No))
                {
                    known.found = Found::Blank;
                }
            }
        }
    }
}

impl JudgedSplit {
    fn settle(&mut self, passages: &JudgedPassages, tally: &mut Tally) -> Result<(), CorpusError> {
        let strictness = tally.strictness;
        self.queries
            .retain(|query| matches!(query.found, Found::Text(..)));
        for query in &mut self.queries {
            for verdict in query
                .verdicts
                .iter()
                .filter(|verdict| !passages.holds(verdict))
            {
                let unknown = || CorpusError::UnknownId {
                    what: "passage",
                    id: passages.id(verdict.passage),
                    place: Place {
                        line: verdict.line,
                        ..query.place.clone()
                    },
                };
                tally.fault(strictness.unknown_id, "unknown_passages", 1, unknown)?;
            }
            query.verdicts.retain(|verdict| passages.holds(verdict));
            if !query.has_positive() {
                let lonely = || CorpusError::NoPositive {
                    id: query.id.clone(),
                    split: self.name.clone(),
                    place: query.place.clone(),
                };
                tally.fault(
                    strictness.no_positive,
                    "queries_without_positive",
                    1,
                    lonely,
                )?;
            }
        }
        self.queries.retain(JudgedQuery::has_positive);
        self.queries.sort_by_key(JudgedQuery::ordinal);
        Ok(())
    }
}

/// All splits.
pub(super) struct Judged {
    pub(super) passages: JudgedPassages,
    pub(super) splits: Vec<JudgedSplit>,
}

impl Judged {
    /// Reads the judgements of every split.
    pub(super) fn read(
        dir: &Path,
        options: &PrepareOptions,
        tally: &mut Tally,
    ) -> Result<Judged, CorpusError> {
        let mut passages = JudgedPassages::default();
        let mut splits = Vec::new();
        for name in &options.splits {
            let mut split = JudgedSplit {
                name: name.clone(),
                queries: Vec::new(),
                numbers: HashMap::new(),
            };
            for judgement in options.format.judgements(dir, name)? {
                let judged =
                    judgement.and_then(|judgement| enter(&mut passages, &mut split, judgement));
                tally.accept(judged)?;
            }
            splits.push(split);
        }
        Ok(Judged { passages, splits })
    }

    /// Finds the texts of the judged queries.
    pub(super) fn read_queries(
        &mut self,
        dir: &Path,
        spill: &Path,
        options: &PrepareOptions,
        tally: &mut Tally,
    ) -> Result<(), CorpusError> {
        let listed = options.format.split_lists_its_queries();
        for names in options.format.query_files(&options.splits) {
            let stream = Stream {
                open: || options.format.queries(dir, names[0]),
                union: false,
                dir,
                spill,
            };
            let mut ordinal = 0;
            stream.admit(tally, |query| {
                for split in self
                    .splits
                    .iter_mut()
                    .filter(|split| names.contains(&&split.name))
                {
                    split.meet(&query, ordinal, listed);
                }
                ordinal += 1;
            })?;
        }
        for split in &mut self.splits {
            // Nothing is looked up by id any more; the passages are still to come.
            split.numbers = HashMap::new();
            for query in split
                .queries
                .iter()
                .filter(|query| matches!(query.found, Found::No))
            {
                let many = query.verdicts.len() as u64;
                tally.fault(tally.strictness.unknown_id, "unknown_queries", many, || {
                    CorpusError::UnknownId {
                        what: "query",
                        id: query.id.clone(),
                        place: query.place.clone(),
                    }
                })?;
            }
        }
        Ok(())
    }

    /// With all passages known: drops or refuses judgements of unknown ones and queries without positives, and puts
    /// the queries that remain in the order of their file.
    pub(super) fn settle(&mut self, dir: &Path, tally: &mut Tally) -> Result<(), CorpusError> {
        for split in &mut self.splits {
            split.settle(&self.passages, tally)?;
            if split.queries.is_empty() {
                return Err(CorpusError::Nothing {
                    what: format!("the split {}", split.name),
                    dir: dir.to_path_buf(),
                });
            }
        }
        Ok(())
    }
}

/// Adds a judgement. The same one may stand there twice; another grade for the same pair is a fault of its line.
fn enter(
    passages: &mut JudgedPassages,
    split: &mut JudgedSplit,
    Located { place, value }: Located<Judgement>,
) -> Result<Located<()>, CorpusError> {
    let Judgement {
        query,
        passage,
        grade,
    } = value;
    let number = passages.number(passage);
    let query = split.query(query, &place);
    match query
        .verdicts
        .iter()
        .find(|verdict| verdict.passage == number)
    {
        Some(verdict) if verdict.grade != grade => {
            let (id, line) = (&query.id, verdict.line);
            let reason = format!(
                "it grades for query {id:?} a passage that line {line} graded {}",
                verdict.grade
            );
            return Err(CorpusError::Malformed { place, reason });
        }
        Some(_) => {}
        None => query.verdicts.push(Verdict {
            passage: number,
            grade,
            line: place.line,
        }),
    }
    Ok(Located { place, value: () })
}
