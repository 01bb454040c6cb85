//! The commands behind `quarry`: prepare a collection, run the three processes
//! on one machine, encode, evaluate, search, and look at a run.
//!
//! Owns the command line (a contract: users' scripts call it), the pre-flight
//! and the supervision of local processes. Results go to stdout, everything
//! else to stderr. Refuses: any knowledge of how trainer, inferencer and
//! coordinator work inside; it starts them and talks to them over gRPC.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod chunks;
mod collection;
mod commands;
mod model_source;
mod output;
mod ranking;
mod resources;
mod run;
mod table;
mod texts;
mod vectors;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Trains dense retrievers on hard negatives that are re-mined while training goes on.
#[derive(Debug, Parser)]
#[command(name = "quarry", version, long_about = None, propagate_version = true)]
#[command(after_help = "Start here:\n  \
    quarry run recipes/ance.toml --data data/squad-mini --model .deps/models/all-MiniLM-L6-v2\n\n\
    Each command explains itself with --help. RUST_LOG=debug shows more.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train: start coordinator, inferencers and trainer here and watch them.
    Run(run::RunArgs),
    /// Read, check and tokenise a collection into a store.
    Prepare(commands::prepare::PrepareArgs),
    /// Encode the texts of a JSON-lines file.
    Encode(commands::encode::EncodeArgs),
    /// Score a model, BM25 or their mixture on a collection.
    Eval(commands::eval::EvalArgs),
    /// Score a TREC run against judgements.
    Score(commands::score::ScoreArgs),
    /// Hold one system's TREC runs against another's, with a paired test.
    Compare(commands::compare::CompareArgs),
    /// Search a run's corpus with its newest generation.
    Search(commands::search::SearchArgs),
    /// Show what a running run is doing.
    Status(commands::status::StatusArgs),
    /// List the generations of a running run, with their dev metrics.
    Generations(commands::generations::GenerationsArgs),
    /// Make an earlier generation active again.
    Rollback(commands::rollback::RollbackArgs),
    /// Copy a checkpoint out as a sentence-transformers folder.
    Export(commands::export::ExportArgs),
}

/// Runs one command.
///
/// # Errors
/// One sentence: what, where, what to do.
pub fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::execute(args),
        Command::Prepare(args) => commands::prepare::execute(&args),
        Command::Encode(args) => commands::encode::execute(&args),
        Command::Eval(args) => commands::eval::execute(&args),
        Command::Score(args) => commands::score::execute(&args),
        Command::Compare(args) => commands::compare::execute(&args),
        Command::Search(args) => commands::search::execute(&args),
        Command::Status(args) => commands::status::execute(&args),
        Command::Generations(args) => commands::generations::execute(&args),
        Command::Rollback(args) => commands::rollback::execute(&args),
        Command::Export(args) => commands::export::execute(&args),
    }
}

/// Blocks on `future` in a runtime of the command's own.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // waiting, not computing
        .enable_all()
        .build()?
        .block_on(future)
}
