//! `--losses FILE`: one JSON line a step, for plots, tests and replays.
//!
//! Owns: the line and the file. Refuses: lines of steps that a resumed run is
//! about to take again.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// The step, from 0.
    pub step: u64,
    /// Mean loss of the batch, before the update; the f32 with all its digits.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Queries (pairs of query and positive) a second in this step.
    pub pairs_per_second: f64,
    /// Duration of the step, waiting included.
    pub step_ms: f64,
    /// Generation the negatives came from.
    pub generation: u64,
    /// Steps between this one and the checkpoint of that generation.
    pub staleness: u64,
    /// Share of (query, negative) pairs masked as false negatives.
    pub masked_fraction: f64,
    /// Negatives that the mined lists were short of.
    pub short: usize,
    /// Time spent waiting for the loader.
    pub idle_ms: f64,
}

/// The open file.
pub struct Losses {
    file: File,
    path: PathBuf,
}

impl Losses {
    /// Opens `path` for appending. `first` is the first step to come: lines of it
    /// and of later steps, left by a process that was killed, are dropped.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path, first: u64) -> Result<Self> {
        let name = || format!("cannot write losses to {}", path.display());
        // Not a pipe or a device, which have no lines to drop.
        if path.is_file() {
            drop_lines_from(path, first).with_context(name)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(name)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Appends a line; a full disk is said, and training goes on.
    pub fn append(&mut self, line: &StepLine) {
        let written = serde_json::to_string(line)
            .map_err(std::io::Error::from)
            .and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "could not write a line of losses");
        }
    }
}

/// Drops the lines of step `first` and later ones, and a half-written one. The
/// file is replaced as a whole: a kill in between costs no line of an earlier step.
fn drop_lines_from(path: &Path, first: u64) -> std::io::Result<()> {
    let path = path.canonicalize()?; // Replace the file, not a link to it.
    let bytes = std::fs::read(&path)?;
    let text = String::from_utf8_lossy(&bytes);
    let earlier =
        |line: &&str| serde_json::from_str::<StepLine>(line).is_ok_and(|line| line.step < first);
    let kept: String = text
        .lines()
        .filter(earlier)
        .flat_map(|l| [l, "\n"])
        .collect();
    if kept.as_bytes() == bytes {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut fresh = tempfile::Builder::new()
        .prefix(".losses-")
        .permissions(std::fs::metadata(&path)?.permissions())
        .tempfile_in(folder)?;
    fresh.write_all(kept.as_bytes())?;
    fresh.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, loss: f64) -> StepLine {
        StepLine {
            step,
            loss,
            lr: 0.0,
            grad_norm: 0.0,
            pairs_per_second: 0.0,
            step_ms: 0.0,
            generation: 0,
            staleness: 0,
            masked_fraction: 0.0,
            short: 0,
            idle_ms: 0.0,
        }
    }

    #[test]
    fn resuming_drops_the_lines_of_steps_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("losses.jsonl");
        let third = f64::from(1.0_f32 / 3.0);
        let mut losses = Losses::open(&path, 0).unwrap();
        (0..4).for_each(|step| losses.append(&line(step, third)));
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(b"{\"step\": 4, \"los"))
            .unwrap();
        let mut losses = Losses::open(&path, 2).unwrap();
        losses.append(&line(2, 0.5));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<StepLine> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines, [line(0, third), line(1, third), line(2, 0.5)]);
        // Killed before the first checkpoint: every step is taken again.
        Losses::open(&path, 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "a temporary file was left behind");
    }
}
