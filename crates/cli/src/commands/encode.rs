//! `quarry encode`: the texts of a JSON-lines file to a safetensors matrix.

use crate::chunks::{Chunk, Chunks};
use crate::collection::bar;
use crate::commands::eval::Dtype;
use crate::texts::{Seen, Texts, survey};
use crate::{model_source, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_model::{DualEncoder, Encoder, LoadOptions, TextTokenizer};
use quarry_service::DeviceChoice;
use quarry_service::args::MOST_THREADS;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tch::Device;
use tempfile::NamedTempFile;

/// Texts tokenised and encoded at a time: sorted by length among themselves.
const CPU_CHUNK: usize = 4096;

/// The same on a GPU, which is idle for a moment between two of them.
const GPU_CHUNK: usize = 16_384;

/// Arguments of `quarry encode`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each input line is an object with `text` (or `contents`), perhaps `title` and `_id`; without\n\
    one the line's number counts, from 0. Blank texts and repeated ids are counted and keep their rows.\n\
    The output holds one f32 tensor `embeddings` [N, D], rows in input order; the ids go to\n\
    OUTPUT.ids, one a line.\n\n\
    --json prints `texts`, `device` and times: `loading_seconds` of the model, with a GPU's first call;\n\
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
        warm_up(encoder, &tokenizer)?;
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

/// A GPU loads its libraries and kernels when they are first called: with the model, then,
/// rather than with the first texts.
fn warm_up(encoder: &Encoder, tokenizer: &TextTokenizer) -> Result<()> {
    let empty: &[u32] = &[];
    encoder.encode(&[empty], tokenizer.specials(), 3, 3, &mut |_| {})?;
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
    let limit = encoder.max_length();
    let length = if args.max_length == 0 {
        limit
    } else {
        args.max_length
    };
    if length > limit || length < 3 {
        bail!("--max-length {length} is outside 3 to {limit}, what the model takes");
    }
    let progress = bar("texts", surveyed.map_or(0, |seen| seen.texts));
    let on_gpu = encoder.device().is_cuda();
    let budget = args.token_budget.unwrap_or_else(|| encoder.token_budget());
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

/// The two files of one encoding.
struct Output {
    vectors: PathBuf,
    ids: PathBuf,
}

impl Output {
    /// Refuses, before the slow part, what cannot be written and what would replace the input.
    fn new(input: &Path, output: &Path) -> Result<Self> {
        let mut ids = output.as_os_str().to_owned();
        ids.push(".ids");
        let both = Self {
            vectors: output.to_owned(),
            ids: PathBuf::from(ids),
        };
        // An input that is not there is named when it is opened.
        let read = input.canonicalize().ok();
        for path in [&both.vectors, &both.ids] {
            if path.is_dir() {
                bail!(
                    "cannot write {}: it is a folder; name a file with --output",
                    path.display()
                );
            }
            if read.is_some() && path.canonicalize().ok() == read {
                bail!(
                    "{} would replace the texts of --input; choose another --output",
                    path.display()
                );
            }
        }
        both.neighbour()?;
        Ok(both)
    }

    /// A file beside the two, gone with the value, and readable by whom any new file is: the permissions that the
    /// tempfile crate chooses are its owner's alone.
    fn neighbour(&self) -> Result<NamedTempFile> {
        let folder = match self.vectors.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        tempfile::Builder::new()
            .prefix(".writing-")
            .make_in(folder, |candidate| File::create_new(candidate))
            .with_context(|| self.failed())
    }

    fn failed(&self) -> String {
        format!(
            "cannot write {}; choose a writable --output with room",
            self.vectors.display()
        )
    }

    /// Writes both under their names, complete.
    fn write(&self, model: &str, width: usize, ids: &[String], rows: &[f32]) -> Result<()> {
        let failed = || self.failed();
        let shape = vec![ids.len(), width];
        let view = TensorView::new(Stored::F32, shape, bytemuck::cast_slice(rows))?;
        let metadata = HashMap::from([("model".to_owned(), model.to_owned())]);
        let vectors = self.neighbour()?;
        let new = vectors.as_file().metadata().with_context(failed)?;
        safetensors::serialize_to_file([("embeddings", view)], Some(metadata), vectors.path())
            .with_context(failed)?;
        // safetensors puts a file of the tempfile crate in the place of ours.
        std::fs::set_permissions(vectors.path(), new.permissions()).with_context(failed)?;
        let mut names = self.neighbour()?;
        names
            .write_all((ids.join("\n") + "\n").as_bytes())
            .with_context(failed)?;
        for (file, path) in [(vectors, &self.vectors), (names, &self.ids)] {
            file.persist(path)
                .map_err(|failure| failure.error)
                .with_context(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_input_is_not_replaced_by_whatever_way_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("below")).unwrap();
        std::fs::write(path("texts.jsonl"), "texts").unwrap();
        std::fs::write(path("vectors.ids"), "texts").unwrap();
        symlink(path("texts.jsonl"), path("link")).unwrap();
        for (input, output) in [
            ("texts.jsonl", "texts.jsonl"),
            ("texts.jsonl", "below/../texts.jsonl"),
            ("texts.jsonl", "link"),
            ("link", "texts.jsonl"),
            ("vectors.ids", "vectors"),
        ] {
            let refused = Output::new(&path(input), &path(output)).err().unwrap();
            let message = refused.to_string();
            assert!(
                message.contains("would replace the texts of --input"),
                "{message}"
            );
        }
        assert!(Output::new(&path("texts.jsonl"), &path("vectors")).is_ok());
        assert_eq!(std::fs::read(path("texts.jsonl")).unwrap(), b"texts");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("texts.jsonl");
        for (output, reason) in [
            (folder.path().join("missing/vectors"), "writable --output"),
            (folder.path().to_owned(), "it is a folder"),
        ] {
            let refused = Output::new(&input, &output).err().unwrap();
            let message = refused.to_string();
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn both_files_get_the_permissions_of_any_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mode = |name: &str| {
            let metadata = std::fs::metadata(path(name)).unwrap();
            metadata.permissions().mode()
        };
        std::fs::write(path("new"), "").unwrap();
        let output = Output::new(&path("texts.jsonl"), &path("vectors")).unwrap();
        let ids = ["a".to_owned(), "b".to_owned()];
        output.write("model", 1, &ids, &[0.5, 0.25]).unwrap();
        assert_eq!(mode("vectors"), mode("new"));
        assert_eq!(mode("vectors.ids"), mode("new"));
        assert_eq!(std::fs::read(path("vectors.ids")).unwrap(), b"a\nb\n");
        assert!(
            std::fs::read(path("vectors"))
                .unwrap()
                .ends_with(&[0, 0, 0, 63, 0, 0, 128, 62])
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
