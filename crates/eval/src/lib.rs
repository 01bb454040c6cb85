//! Retrieval metrics with trec_eval's rules, TREC files, significance tests.
//!
//! ```
//! use quarry_eval::{Metric, Qrels, Run, evaluate};
//!
//! let mut qrels = Qrels::default();
//! qrels.insert("q1", "d2", 1)?;
//! let mut run = Run::default();
//! run.insert("q1", "d1", 2.0)?;
//! run.insert("q1", "d2", 1.0)?;
//! let evaluation = evaluate(&qrels, &run, &Metric::DEFAULT);
//! assert_eq!(evaluation.means["mrr@10"], 0.5);
//! # Ok::<(), quarry_eval::EvalError>(())
//! ```
//!
//! Owns: which documents count, how ties are broken, what a mean runs over. Refuses: searching, models, anything
//! that needs more than ids, grades and scores.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod comparison;
mod error;
mod evaluate;
mod lines;
mod measures;
mod metric;
mod qrels;
mod run;
pub mod significance;
mod student;

pub use comparison::{Comparison, OverRuns, compare};
pub use error::EvalError;
pub use evaluate::{Evaluation, evaluate};
pub use metric::Metric;
pub use qrels::{Qrels, read_qrels};
pub use run::{Run, read_run, write_run};
