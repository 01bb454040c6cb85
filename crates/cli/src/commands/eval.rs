//! `quarry eval`: a model, BM25 or their mixture on a collection.

use crate::collection::{Collection, NoTokens, Reading};
use crate::commands::score::report;
use crate::ranking::{self, Lengths};
use crate::{model_source, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_corpus::{Format, Policy, Strictness};
use quarry_eval::{Metric, evaluate, write_run};
use quarry_index::{Hit, Language, fusion};
use quarry_model::{DualEncoder, LoadOptions, Pooling, Precision, TextTokenizer};
use quarry_service::DeviceChoice;
use quarry_service::args::MOST_THREADS;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `quarry eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quarry eval --model .deps/models/all-MiniLM-L6-v2 --data data/squad-mini --split dev\n  \
    quarry eval --bm25 --data data/squad-mini --split dev --run-file bm25.trec\n\n\
    The search is exact. Lengths, pooling and normalisation are the model folder's own\n\
    unless given here.")]
pub struct EvalArgs {
    /// Model folder, or a Hugging Face id in the local cache. --bm25 needs none.
    #[arg(long)]
    model: Option<String>,
    /// Collection: a BEIR, MS MARCO, DPR or Tevatron folder.
    #[arg(long)]
    data: PathBuf,
    /// Split whose queries are scored.
    #[arg(long)]
    split: String,
    /// Layout of the collection: beir, msmarco, dpr or tevatron; looked at if not given.
    #[arg(long)]
    format: Option<Format>,
    /// Write the rankings as a TREC run, gzipped if it ends in .gz.
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Score BM25 instead of a model.
    #[arg(long, conflicts_with = "hybrid")]
    bm25: bool,
    /// Add ALPHA times the BM25 score to the model's.
    #[arg(long, value_name = "ALPHA", value_parser = alpha)]
    hybrid: Option<f32>,
    /// Language of BM25's analyser; looked at if not given.
    #[arg(long)]
    language: Option<Language>,
    /// Comma-separated metrics.
    #[arg(long, default_value = "mrr@10,ndcg@10,recall@100,map")]
    metrics: String,
    /// Passages ranked for each query.
    #[arg(long, default_value_t = 1000)]
    depth: usize,
    /// Longest query in tokens; 0 is the model's maximum.
    #[arg(long, default_value_t = 0)]
    query_length: usize,
    /// Longest passage in tokens; 0 is the model's maximum.
    #[arg(long, default_value_t = 0)]
    passage_length: usize,
    /// Text put before every query.
    #[arg(long, default_value = "")]
    query_prefix: String,
    /// Text put before every passage.
    #[arg(long, default_value = "")]
    passage_prefix: String,
    /// Arithmetic of the encoder: f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Where the model encodes and its vectors are searched: auto (a GPU if there is one), cpu or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Override the folder's pooling: cls or mean.
    #[arg(long)]
    pooling: Option<Pool>,
    /// Threads; 0 takes every core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=MOST_THREADS))]
    threads: u16,
    /// Leave faulty items of the collection out, counted, instead of refusing it.
    #[arg(long)]
    lenient: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arithmetic of an encoder, as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16 products.
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        }
    }
}

/// Pooling, as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pool {
    /// State of the first token.
    Cls,
    /// Mean over all tokens.
    Mean,
}

impl From<Pool> for Pooling {
    fn from(pool: Pool) -> Self {
        match pool {
            Pool::Cls => Pooling::Cls,
            Pool::Mean => Pooling::Mean,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If model or collection cannot be read, or an output cannot be written.
pub fn execute(args: &EvalArgs) -> Result<ExitCode> {
    let metrics = Metric::parse_list(&args.metrics)?;
    check_depth(args.depth, &metrics)?;
    let (collection, hits) = match (&args.model, args.bm25) {
        (model, true) => {
            if model.is_some() {
                tracing::warn!("--bm25 scores BM25 alone: --model is not used");
            }
            if matches!(args.device, DeviceChoice::Cuda(_)) {
                tracing::warn!("--bm25 scores BM25 alone, on the CPU: --device is not used");
            }
            sparse_only(args)?
        }
        (Some(model), false) => with_model(args, model)?,
        (None, false) => bail!("say what to score: --model DIR or --bm25"),
    };
    let run = ranking::to_run(&hits, &collection.queries, &collection.corpus)?;
    let evaluation = evaluate(
        &ranking::qrels(&collection.queries, &collection.corpus)?,
        &run,
        &metrics,
    );
    if let Some(path) = &args.run_file {
        write_run(path, &run, tag(args))
            .with_context(|| format!("cannot write --run-file {}", path.display()))?;
    }
    print!("{}", report(&evaluation, &metrics, args.json)?);
    Ok(ExitCode::SUCCESS)
}

/// The weight of BM25 in a mixture.
fn alpha(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(alpha) if alpha.is_finite() && alpha >= 0.0 => Ok(alpha),
        _ => Err("the weight of the BM25 score is a finite number of at least 0".to_owned()),
    }
}

/// Refuses a depth at which a metric would look at passages that were never ranked.
fn check_depth(depth: usize, metrics: &[Metric]) -> Result<()> {
    if depth == 0 {
        bail!("--depth must be at least 1, the number of passages ranked for each query");
    }
    for metric in metrics {
        if let Some(cutoff) = metric.cutoff().filter(|cutoff| *cutoff > depth) {
            bail!(
                "--metrics {metric} needs {cutoff} passages for each query, but --depth ranks {depth}; \
                 give --depth {cutoff} or more, or other --metrics"
            );
        }
    }
    Ok(())
}

fn tag(args: &EvalArgs) -> &'static str {
    match (args.bm25, args.hybrid) {
        (true, _) => "bm25",
        (false, Some(_)) => "hybrid",
        (false, None) => "dense",
    }
}

fn sparse_only(args: &EvalArgs) -> Result<(Collection, Vec<Vec<Hit>>)> {
    let collection = Collection::open(&args.data, &args.split, &NoTokens, &reading(args, 1, 1))?;
    let hits = ranking::sparse(&collection, args.language, args.depth)?;
    Ok((collection, hits))
}

fn with_model(args: &EvalArgs, model: &str) -> Result<(Collection, Vec<Vec<Hit>>)> {
    // CUDA is loaded before anything else asks libtorch for it.
    let device = resources::device(args.device)?;
    tch::set_num_threads(i32::try_from(resources::threads(args.threads))?);
    let folder = model_source::resolve(model)?;
    let tokenizer = TextTokenizer::from_dir(&folder)?;
    let encoder = DualEncoder::load(
        &folder,
        &LoadOptions {
            device,
            precision: args.dtype.into(),
            pooling: args.pooling.map(Pooling::from),
            ..LoadOptions::default()
        },
    )?;
    let limit = encoder.max_length();
    let within = |flag: &str, length: usize| match length {
        0 => Ok(limit),
        length if (3..=limit).contains(&length) => Ok(length),
        length => Err(anyhow::anyhow!(
            "{flag} {length} is outside 3 to {limit}, what the model takes"
        )),
    };
    let lengths = Lengths {
        query: within("--query-length", args.query_length)?,
        passage: within("--passage-length", args.passage_length)?,
    };
    let specials = 2; // first and last token of the BERT family
    let reading = reading(args, lengths.query - specials, lengths.passage - specials);
    let collection = Collection::open(&args.data, &args.split, &tokenizer, &reading)?;
    let dense = ranking::dense(
        &encoder,
        tokenizer.specials(),
        &collection,
        lengths,
        args.depth,
    )?;
    let hits = match args.hybrid {
        None => dense,
        Some(alpha) => {
            let sparse = ranking::sparse(&collection, args.language, args.depth)?;
            dense
                .iter()
                .zip(&sparse)
                .map(|(d, s)| fusion::weighted(d, s, alpha, args.depth))
                .collect()
        }
    };
    Ok((collection, hits))
}

fn reading(args: &EvalArgs, query_tokens: usize, passage_tokens: usize) -> Reading {
    let policy = if args.lenient {
        Policy::Drop
    } else {
        Policy::Refuse
    };
    Reading {
        format: args.format,
        passage_tokens,
        query_tokens,
        passage_prefix: args.passage_prefix.clone(),
        query_prefix: args.query_prefix.clone(),
        strictness: Strictness {
            empty_text: policy,
            unknown_id: policy,
            no_positive: policy,
            malformed: policy,
            duplicate_id: policy,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_needs_the_depth_it_looks_at() {
        let metrics = Metric::parse_list("mrr@10,recall@100,map").unwrap();
        check_depth(100, &metrics).unwrap();
        check_depth(1, &[Metric::Map(None)]).unwrap();
        let message = check_depth(5, &metrics[1..]).unwrap_err().to_string();
        assert_eq!(
            message,
            "--metrics recall@100 needs 100 passages for each query, but --depth ranks 5; \
             give --depth 100 or more, or other --metrics"
        );
        assert!(check_depth(0, &metrics).is_err());
    }

    #[test]
    fn a_weight_is_finite_and_not_negative() {
        assert_eq!(alpha("0"), Ok(0.0));
        assert_eq!(alpha("0.25"), Ok(0.25));
        for text in ["nan", "inf", "1e39", "-0.1", "much", ""] {
            assert!(alpha(text).is_err(), "{text:?} was taken");
        }
    }
}
