//! `quarry encode`: the texts of a JSON-lines file to a safetensors matrix.

use crate::collection::bar;
use crate::commands::eval::Dtype;
use crate::texts::{Seen, Texts, survey};
use crate::{model_source, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_corpus::Tokenize;
use quarry_model::{CPU_TOKEN_BUDGET, DualEncoder, Encoder, LoadOptions, TextTokenizer};
use quarry_service::args::MOST_THREADS;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tempfile::NamedTempFile;

/// Texts tokenised and encoded at a time: sorted by length among themselves.
const CHUNK: usize = 4096;

/// Arguments of `quarry encode`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each input line is an object with `text` (or `contents`), perhaps `title` and `_id`; without\n\
    one the line's number counts, from 0. Blank texts and repeated ids are counted and keep their rows.\n\
    The output holds one f32 tensor `embeddings` [N, D], rows in input order; the ids go to\n\
    OUTPUT.ids, one a line.\n\n\
    Example:\n  \
    quarry encode --model .deps/models/all-MiniLM-L6-v2 --input corpus.jsonl.gz --output corpus.safetensors"
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
    /// Longest text in tokens; 0 is the model's maximum.
    #[arg(long, default_value_t = 0)]
    max_length: usize,
    /// Use the query tower of a model with two.
    #[arg(long)]
    query: bool,
    /// Text put before every text.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Tokens of one forward pass.
    #[arg(long, default_value_t = CPU_TOKEN_BUDGET)]
    token_budget: usize,
    /// Threads; 0 takes every core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=MOST_THREADS))]
    threads: u16,
    /// Print texts and seconds (the model's loading apart) as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model or input cannot be read (with the line), or the output written.
pub fn execute(args: &EncodeArgs) -> Result<ExitCode> {
    tch::set_num_threads(i32::try_from(resources::threads(args.threads))?);
    let folder = model_source::resolve(&args.model)?;
    let output = Output::new(&args.input, &args.output)?;
    let texts = Texts::open(&args.input)?;
    let surveyed = survey(&args.input)?;
    surveyed.iter().for_each(warn);
    let tokenizer = TextTokenizer::from_dir(&folder)?;
    let options = LoadOptions {
        precision: args.dtype.into(),
        ..LoadOptions::default()
    };
    let model = DualEncoder::load(&folder, &options)?;
    let encoder = if args.query {
        model.query()
    } else {
        model.passage()
    };
    let started = Instant::now();
    let (ids, rows) = encode_file(args, texts, surveyed.as_ref(), &tokenizer, encoder)?;
    output.write(&args.model, usize::try_from(encoder.dim())?, &ids, &rows)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let told = serde_json::json!({ "texts": ids.len(), "seconds": seconds });
        println!("{told}");
    }
    eprintln!(
        "encoded {} texts in {seconds:.1} s, {:.1} texts/s, to {}",
        ids.len(),
        ids.len() as f64 / seconds,
        args.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Law 8: what is hardly meant is said.
fn warn(seen: &Seen) {
    for oddity in seen.oddities() {
        tracing::warn!("{oddity}");
    }
}

fn encode_file(
    args: &EncodeArgs,
    mut input: Texts,
    surveyed: Option<&Seen>,
    tokenizer: &TextTokenizer,
    encoder: &Encoder,
) -> Result<(Vec<String>, Vec<f32>)> {
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
    let (mut ids, mut rows, mut texts) = (Vec::new(), Vec::new(), Vec::with_capacity(CHUNK));
    let mut flush = |texts: &mut Vec<String>, done: usize| -> Result<()> {
        let tokens = tokenizer
            .content_ids(texts, length - 2)
            .map_err(anyhow::Error::msg)?;
        let slices: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        rows.extend(encoder.encode(
            &slices,
            tokenizer.specials(),
            length,
            args.token_budget,
            &mut |_| {},
        )?);
        texts.clear();
        progress.set_position(done as u64);
        Ok(())
    };
    for text in input.by_ref() {
        let (id, text) = text?;
        ids.push(id);
        texts.push(format!("{}{text}", args.prefix));
        if texts.len() == CHUNK {
            flush(&mut texts, ids.len())?;
        }
    }
    if !texts.is_empty() {
        flush(&mut texts, ids.len())?;
    }
    progress.finish_and_clear();
    if surveyed.is_none() {
        warn(input.seen());
    }
    if ids.is_empty() {
        bail!(
            "{} holds no texts; give JSON lines with a `text`",
            args.input.display()
        );
    }
    Ok((ids, rows))
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
