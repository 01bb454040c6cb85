//! `quarry prepare`: a collection into a store, ready for runs.

use crate::run::setup;
use crate::{block_on, model_source};
use anyhow::Result;
use clap::Args;
use quarry_corpus::Format;
use quarry_model::{ModelFolder, TextTokenizer};
use quarry_recipe::Recipe;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `quarry prepare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads, checks, tokenises and publishes the collection under its digest. Faults are refused with\n\
    file and line; `--set data.strictness.empty_text=drop` and its like relax one kind, and what is\n\
    dropped is counted in the manifest.\n\n\
    With --recipe the store then holds a whole run at step 0 (run.json and the initial checkpoint):\n\
    start quarry-coordinator, quarry-inferencer and quarry-trainer on it wherever you like, or\n\
    `quarry run RECIPE --store URL --resume`. `quarry run` alone prepares by itself."
)]
pub struct PrepareArgs {
    /// Collection folder.
    #[arg(long)]
    data: PathBuf,
    /// Layout: beir, msmarco, dpr or tevatron; looked at if not given.
    #[arg(long)]
    format: Option<Format>,
    /// Model whose tokenizer and lengths are used.
    #[arg(long)]
    model: String,
    /// Where to publish: file:///…, s3://…, gs://…, az://…, or a path.
    #[arg(long)]
    store: String,
    /// Recipe of a run to set up; its lengths, prefixes, splits and strictness are used.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Override a recipe key. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print the manifest as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The first fault of the input, with file and line, or the store's.
pub fn execute(args: &PrepareArgs) -> Result<ExitCode> {
    let mut overrides = args.overrides.clone();
    if let Some(format) = args.format {
        overrides.push(format!("data.format={format}"));
    }
    let recipe = match &args.recipe {
        Some(path) => Recipe::load(path, &overrides)?,
        None => Recipe::from_toml("", "the default recipe", &overrides)?,
    };
    let model = model_source::resolve(&args.model)?;
    let tokenizer = TextTokenizer::from_dir(&model)?;
    let folder = ModelFolder::open(&model)?;
    setup::check_search_keys(&recipe, usize::try_from(folder.config.hidden_size)?)?;
    let options = setup::prepare_options(&recipe, &args.data, folder.max_length)?;
    let (location, manifest) = block_on(async {
        let store = setup::open_store(&args.store, true).await?;
        store.probe_create_if_absent().await?;
        setup::refuse_existing_run(&store, args.recipe.is_some()).await?;
        let published = setup::publish_collection(&store, &args.data, &tokenizer, &options).await?;
        if args.recipe.is_some() {
            let checkpoint = setup::publish_initial_model(&store, &recipe, &model).await?;
            setup::publish_run(
                &store,
                &recipe,
                published.0.clone(),
                &tokenizer,
                checkpoint,
                None,
            )
            .await?;
        }
        Ok(published)
    })?;
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "folder": location.folder, "manifest": manifest })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", location.folder);
    println!(
        "{} passages in {} shards, {} cut to {} tokens",
        manifest.passages,
        manifest.shards.len(),
        manifest.truncated_passages,
        manifest.passage_tokens
    );
    for (split, entry) in &manifest.queries {
        println!(
            "{split}: {} queries, {} positives, {} cut to {} tokens",
            entry.queries, entry.positives, entry.truncated, manifest.query_tokens
        );
    }
    for (kind, count) in &manifest.dropped {
        println!("dropped {}: {count}", kind.replace('_', " "));
    }
    Ok(ExitCode::SUCCESS)
}
