//! `quarry encode`: the texts of a JSON-lines file to a safetensors matrix.

use crate::collection::bar;
use crate::commands::eval::Dtype;
use crate::{model_source, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use flate2::read::MultiGzDecoder;
use quarry_corpus::Tokenize;
use quarry_model::{CPU_TOKEN_BUDGET, DualEncoder, Encoder, LoadOptions, TextTokenizer};
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Texts tokenised and encoded at a time: sorted by length among themselves.
const CHUNK: usize = 4096;

/// Arguments of `quarry encode`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each input line is an object with `text` (or `contents`), perhaps `title` and `_id`.\n\
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
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print texts and seconds (the model's loading apart) as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model or input cannot be read (with the line), or the output written.
pub fn execute(args: &EncodeArgs) -> Result<ExitCode> {
    let threads = if args.threads == 0 {
        resources::cores()
    } else {
        args.threads
    };
    tch::set_num_threads(i32::try_from(threads)?);
    let folder = model_source::resolve(&args.model)?;
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
    let (ids, rows) = encode_file(args, &tokenizer, encoder)?;
    write(
        &args.output,
        &args.model,
        usize::try_from(encoder.dim())?,
        &ids,
        &rows,
    )?;
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

fn encode_file(
    args: &EncodeArgs,
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
    let progress = bar("texts", 0);
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
    for (number, line) in lines(&args.input)?.enumerate() {
        let place = || format!("{}, line {}", args.input.display(), number + 1);
        let line = line.with_context(place)?;
        let (id, text) = parse(&line, number).with_context(place)?;
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
    if ids.is_empty() {
        bail!(
            "{} holds no texts; give JSON lines with a `text`",
            args.input.display()
        );
    }
    Ok((ids, rows))
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
    let file =
        File::open(path).with_context(|| format!("cannot read --input {}", path.display()))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    Ok(BufReader::with_capacity(1 << 20, reader).lines())
}

/// The id (or the line's number) and text of one line.
fn parse(line: &str, number: usize) -> Result<(String, String)> {
    let object: serde_json::Value =
        serde_json::from_str(line).context("not a JSON object; fix or remove the line")?;
    let field = |name: &str| object.get(name).and_then(serde_json::Value::as_str);
    let Some(text) = field("text").or_else(|| field("contents")) else {
        bail!("no string `text`; each line needs one");
    };
    let text = match field("title") {
        Some(title) if !title.is_empty() => format!("{title} {text}"),
        _ => text.to_owned(),
    };
    Ok((
        field("_id").map_or_else(|| number.to_string(), str::to_owned),
        text,
    ))
}

fn write(output: &Path, model: &str, width: usize, ids: &[String], rows: &[f32]) -> Result<()> {
    let failed = || {
        format!(
            "cannot write {}; choose a writable --output with room",
            output.display()
        )
    };
    let view = TensorView::new(
        Stored::F32,
        vec![ids.len(), width],
        bytemuck::cast_slice(rows),
    )?;
    let metadata = HashMap::from([("model".to_owned(), model.to_owned())]);
    let partial = output.with_extension("partial");
    safetensors::serialize_to_file([("embeddings", view)], Some(metadata), &partial)
        .with_context(failed)?;
    std::fs::rename(&partial, output).with_context(failed)?;
    let mut names = File::create(format!("{}.ids", output.display())).with_context(failed)?;
    names
        .write_all((ids.join("\n") + "\n").as_bytes())
        .with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_is_title_and_text_with_its_id() {
        assert_eq!(
            parse(r#"{"_id":"a","title":"T","text":"x"}"#, 4).unwrap(),
            ("a".to_owned(), "T x".to_owned())
        );
        assert_eq!(
            parse(r#"{"text":"x"}"#, 4).unwrap(),
            ("4".to_owned(), "x".to_owned())
        );
        assert!(parse(r#"{"body":"x"}"#, 4).is_err());
        assert!(parse("not json", 4).is_err());
    }
}
