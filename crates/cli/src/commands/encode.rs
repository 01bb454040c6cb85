//! `quarry encode`: the texts of a JSON-lines file to a safetensors matrix.

use crate::chunks::{Chunk, Chunks};
use crate::collection::bar;
use crate::commands::eval::Dtype;
use crate::output::Output;
use crate::texts::{Seen, Texts, survey};
use crate::{model_source, resources};
use anyhow::{Result, bail};
use clap::Args;
use quarry_model::{DualEncoder, Encoder, LoadOptions, TextTokenizer};
use quarry_service::DeviceChoice;
use quarry_service::args::MOST_THREADS;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tch::Device;

/// Texts tokenised and encoded at a time: sorted by length among themselves.
const CPU_CHUNK: usize = 4096;

/// The same on a GPU, which is idle between two of them: some 30 ms by calculation.
const GPU_CHUNK: usize = 65_536;

/// Texts that are encoded on a GPU before time is taken: some batches.
const WARM_UP: usize = 4096;

/// Arguments of `quarry encode`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each input line is an object with `text` (or `contents`), perhaps `title` and `_id`; without\n\
    one the line's number counts, from 0. Blank texts and repeated ids are counted and keep their rows.\n\
    The output holds one f32 tensor `embeddings` [N, D], rows in input order; the ids go to\n\
    OUTPUT.ids, one a line.\n\n\
    --json prints `texts`, `device` and times: `loading_seconds` of the model, with a GPU's first batches;\n\
    then `seconds` from the first text to the finished file. Within them `encode_seconds` go from handing\n\
    tokens over to having their vectors, and `tokenise_seconds` beside them on a GPU, between them on a CPU.\n\n\
    Examples:\n  \
    quarry encode --model .deps/models/all-MiniLM-L6-v2 --input corpus.jsonl.gz --output corpus.safetensors\n  \
    quarry encode --model my-model --input corpus.jsonl.gz --output corpus.safetensors --device cuda:1 --dtype bf16"
)]
pub struct EncodeArgs {
    /// Model folder, or a Hugging Face id in the local cache.
    #[arg(long)]
    model: String,
    /// JSON lines, plain or .gz.
    #[arg(long)]
    input: PathBuf,
    /// Safetensors file to write.
    #[arg(long)]
    output: PathBuf,
    /// Arithmetic of the encoder; the output is f32 either way.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Where to compute: auto (a GPU if there is one), cpu or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Longest text in tokens; 0 is the model's maximum.
    #[arg(long, default_value_t = 0)]
    max_length: usize,
    /// Use the query tower of a model with two.
    #[arg(long)]
    query: bool,
    /// Text put before every text.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Tokens of one forward pass [default: 1024 on a CPU, 65536 on a GPU].
    #[arg(long, value_name = "N")]
    token_budget: Option<usize>,
    /// Threads; 0 takes every core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=MOST_THREADS))]
    threads: u16,
    /// Print texts, device and seconds as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model or input cannot be read (with the line), or the output written.
pub fn execute(args: &EncodeArgs) -> Result<ExitCode> {
    // CUDA is loaded before anything else asks libtorch for it.
    let device = resources::device(args.device)?;
    tch::set_num_threads(i32::try_from(resources::threads(args.threads))?);
    let folder = model_source::resolve(&args.model)?;
    let output = Output::new(&args.input, &args.output)?;
    let texts = Texts::open(&args.input)?;
    let surveyed = survey(&args.input)?;
    surveyed.iter().for_each(warn);
    let loading = Instant::now();
    let tokenizer = TextTokenizer::from_dir(&folder)?;
    let options = LoadOptions {
        device,
        precision: args.dtype.into(),
        ..LoadOptions::default()
    };
    let model = DualEncoder::load(&folder, &options)?;
    let encoder = if args.query {
        model.query()
    } else {
        model.passage()
    };
    if device.is_cuda() {
        warm_up(args, surveyed.as_ref(), &tokenizer, encoder)?;
    }
    let loading = loading.elapsed();
    let started = Instant::now();
    let encoded = encode_file(args, texts, surveyed.as_ref(), &tokenizer, encoder)?;
    let width = usize::try_from(encoder.dim())?;
    output.write(&args.model, width, &encoded.ids, &encoded.rows)?;
    let seconds = started.elapsed().as_secs_f64();
    let texts = encoded.ids.len();
    if args.json {
        let told = serde_json::json!({
            "texts": texts,
            "device": name(device),
            "seconds": seconds,
            "loading_seconds": loading.as_secs_f64(),
            "tokenise_seconds": encoded.tokenising.as_secs_f64(),
            "encode_seconds": encoded.encoding.as_secs_f64(),
        });
        println!("{told}");
    }
    eprintln!(
        "encoded {texts} texts on {} in {seconds:.1} s, {:.1} texts/s, to {}",
        name(device),
        texts as f64 / seconds,
        args.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// A GPU loads its kernels and takes its memory when they are first wanted: with the model,
/// then, rather than with the first texts. The first texts do it, so that memory is taken for
/// their lengths; what can be read only once, a pipe, is left for later.
fn warm_up(
    args: &EncodeArgs,
    surveyed: Option<&Seen>,
    tokenizer: &TextTokenizer,
    encoder: &Encoder,
) -> Result<()> {
    let (length, budget) = sizes(args, encoder)?;
    let mut tokens = vec![Vec::new()];
    if surveyed.is_some() {
        let mut chunks = Chunks {
            texts: Texts::open(&args.input)?,
            prefix: &args.prefix,
            tokenizer,
            tokens: length - 2,
            size: WARM_UP,
        };
        if let Some(first) = chunks.next() {
            tokens.extend(first?.tokens);
        }
    }
    let slices: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    encoder.encode(&slices, tokenizer.specials(), length, budget, &mut |_| {})?;
    Ok(())
}

/// A device as `--device` takes it.
fn name(device: Device) -> String {
    match device {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    }
}

/// Law 8: what is hardly meant is said.
fn warn(seen: &Seen) {
    for oddity in seen.oddities() {
        tracing::warn!("{oddity}");
    }
}

/// The vectors of a file, and what they took.
#[derive(Default)]
struct Encoded {
    ids: Vec<String>,
    /// `[N · D]`.
    rows: Vec<f32>,
    tokenising: Duration,
    /// From handing tokens over to having their vectors in main memory.
    encoding: Duration,
}

fn encode_file(
    args: &EncodeArgs,
    texts: Texts,
    surveyed: Option<&Seen>,
    tokenizer: &TextTokenizer,
    encoder: &Encoder,
) -> Result<Encoded> {
    let (length, budget) = sizes(args, encoder)?;
    let progress = bar("texts", surveyed.map_or(0, |seen| seen.texts));
    let on_gpu = encoder.device().is_cuda();
    let mut found = Encoded::default();
    if let Some(seen) = surveyed {
        let width = usize::try_from(encoder.dim())?;
        found
            .rows
            .reserve_exact(usize::try_from(seen.texts)? * width);
    }
    let take = |chunk: Chunk| -> Result<()> {
        let slices: Vec<&[u32]> = chunk.tokens.iter().map(Vec::as_slice).collect();
        let started = Instant::now();
        let rows = encoder.encode(&slices, tokenizer.specials(), length, budget, &mut |_| {})?;
        found.encoding += started.elapsed();
        found.tokenising += chunk.tokenising;
        found.rows.extend(rows);
        found.ids.extend(chunk.ids);
        progress.set_position(found.ids.len() as u64);
        Ok(())
    };
    let chunks = Chunks {
        texts,
        prefix: &args.prefix,
        tokenizer,
        tokens: length - 2,
        size: if on_gpu { GPU_CHUNK } else { CPU_CHUNK },
    };
    let seen = chunks.each(on_gpu, take)?;
    progress.finish_and_clear();
    if surveyed.is_none() {
        warn(&seen);
    }
    if found.ids.is_empty() {
        bail!(
            "{} holds no texts; give JSON lines with a `text`",
            args.input.display()
        );
    }
    Ok(found)
}

/// Tokens of the longest text and of a batch.
fn sizes(args: &EncodeArgs, encoder: &Encoder) -> Result<(usize, usize)> {
    let length = length(args.max_length, encoder.max_length())?;
    let budget = args.token_budget.unwrap_or_else(|| encoder.token_budget());
    Ok((length, budget))
}

/// Tokens that texts are cut to, of a model that takes `limit`.
fn length(given: usize, limit: usize) -> Result<usize> {
    match given {
        0 => Ok(limit),
        given if (3..=limit).contains(&given) => Ok(given),
        given => bail!("--max-length {given} is outside 3 to {limit}, what the model takes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_model::{CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET};

    #[test]
    fn the_help_tells_the_budgets() {
        let mut command = EncodeArgs::augment_args(clap::Command::new("encode"));
        let help = command.render_long_help().to_string();
        for budget in [CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET] {
            assert!(help.contains(&budget.to_string()), "{help}");
        }
    }
}
