//! `quarry export`: a checkpoint out of a store, as the folder it is.

use crate::block_on;
use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_artifacts::{
    Cache, CheckpointFiles, CheckpointManifest, GenerationKind, GenerationManifest, Store,
    fetch_checkpoint, layout, read_json,
};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `quarry export`.
#[derive(Debug, Args)]
#[command(
    after_help = "The folder loads in sentence-transformers and transformers as it stands.\n\n\
    Examples:\n  \
    quarry export --store runs/ance --output my-model\n  \
    quarry export --store runs/ance --checkpoint best --output my-model"
)]
pub struct ExportArgs {
    /// Store of the run.
    #[arg(long)]
    store: String,
    /// `last`; `best`, by dev MRR@10 of the generations made from it; or a step.
    #[arg(long, default_value = "last")]
    checkpoint: String,
    /// Folder to write; must not exist.
    #[arg(long)]
    output: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the store holds no such checkpoint, it is damaged, or the output exists.
pub fn execute(args: &ExportArgs) -> Result<ExitCode> {
    if args.output.exists() {
        bail!(
            "{} exists already; choose a new --output",
            args.output.display()
        );
    }
    let step = block_on(async {
        let store = Store::open_existing(&args.store).await?;
        let (step, manifest) = choose(&store, &args.checkpoint).await?;
        let scratch = tempfile::tempdir()?;
        let cache = Cache::new(scratch.path(), u64::MAX)?;
        // Copied rather than linked: the folder is the user's to change.
        let fetched = scratch.path().join("checkpoint");
        fetch_checkpoint(&store, &cache, &manifest, CheckpointFiles::Model, &fetched).await?;
        copy_folder(&fetched, &args.output)?;
        Ok(step)
    })?;
    println!("{}", args.output.display());
    eprintln!(
        "checkpoint of step {step}; in Python: SentenceTransformer(\"{}\")",
        args.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Step and manifest path of the checkpoint that `name` means.
async fn choose(store: &Store, name: &str) -> Result<(u64, String)> {
    let listed = store.list(layout::checkpoints_folder(), None).await?;
    let mut complete = Vec::new();
    for (path, _) in listed
        .iter()
        .filter(|(path, _)| path.ends_with(layout::MANIFEST))
    {
        match CheckpointManifest::read(store, path).await {
            Ok(manifest) => complete.push((manifest.step, path.clone())),
            Err(error) => tracing::warn!("passing over a checkpoint: {error}"),
        }
    }
    complete.sort();
    let last = complete
        .last()
        .with_context(|| format!("{} holds no complete checkpoint", store.url()))?;
    match name {
        "last" => Ok(last.clone()),
        "best" => best(store, &complete).await,
        step => {
            let step: u64 = step
                .parse()
                .with_context(|| format!("--checkpoint {step}: give last, best or a step"))?;
            complete
                .iter()
                .find(|(s, _)| *s == step)
                .cloned()
                .with_context(|| {
                    let kept: Vec<String> = complete.iter().map(|(s, _)| s.to_string()).collect();
                    format!(
                        "no checkpoint of step {step} is kept; there are {}",
                        kept.join(", ")
                    )
                })
        }
    }
}

/// The kept checkpoint whose generation scored highest on dev.
async fn best(store: &Store, complete: &[(u64, String)]) -> Result<(u64, String)> {
    let mut best: Option<(f64, u64, String)> = None;
    for (path, _) in store.list(layout::generations_folder(), None).await? {
        if !path.ends_with(layout::MANIFEST) {
            continue;
        }
        let manifest: GenerationManifest = read_json(store, &path, "generation manifest").await?;
        let score = manifest
            .metrics
            .iter()
            .find(|(name, _)| name.ends_with("mrr@10"))
            .map(|(_, v)| *v);
        let kept = complete
            .iter()
            .any(|(_, path)| *path == manifest.checkpoint.manifest);
        let (Some(score), true, GenerationKind::Dense) = (score, kept, manifest.kind) else {
            continue;
        };
        if best.as_ref().is_none_or(|(top, _, _)| score > *top) {
            best = Some((
                score,
                manifest.checkpoint.step,
                manifest.checkpoint.manifest,
            ));
        }
    }
    let (score, step, path) =
        best.context("no kept checkpoint was scored by a generation; use --checkpoint last")?;
    tracing::info!(step, score, "best on dev");
    Ok((step, path))
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_folder(&item.path(), &target)?;
        } else {
            std::fs::copy(item.path(), &target)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}
