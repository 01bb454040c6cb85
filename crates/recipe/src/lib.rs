//! The whole run as plain data: every knob of a training run, its default, and
//! the rules that make a combination of knobs possible.
//!
//! Owns: the types, the TOML form, `--set` overrides and validation messages
//! that name the key and the fix. Refuses: files other than the recipe itself,
//! any knowledge of tensors, stores or processes.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod data;
mod fleet;
mod index;
mod load;
mod mining;
mod model;
mod names;
mod refresh;
mod train;
mod validate;

pub use data::{Data, Policy, Strictness};
pub use fleet::Fleet;
pub use index::Index;
pub use load::RecipeError;
pub use mining::{Draw, Mining};
pub use model::{Model, Pooling, Precision, Towers};
pub use refresh::{OnStale, Refresh, RefreshWhen};
pub use train::{Dropout, Loss, Optimizer, Schedule, Train};

use serde::{Deserialize, Serialize};

/// One training run. A recipe file holds any subset of these keys; the rest
/// keep the defaults documented on each field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// A short name, shown in reports; the store is `runs/NAME` unless it is given.
    pub name: String,
    /// Root of every random draw of the run: data order, negatives, dropout.
    pub seed: u64,
    /// The collection: which splits, how strict the readers are.
    pub data: Data,
    /// The dual encoder: towers, pooling, lengths, prefixes.
    pub model: Model,
    /// The search structure of a generation.
    pub index: Index,
    /// Which passages become hard negatives.
    pub mining: Mining,
    /// When a new generation is opened and how old negatives may become.
    pub refresh: Refresh,
    /// Loss, batch, optimizer, schedule.
    pub train: Train,
    /// Processes and threads on one machine.
    pub fleet: Fleet,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "run".to_owned(),
            seed: 13,
            data: Data::default(),
            model: Model::default(),
            index: Index::default(),
            mining: Mining::default(),
            refresh: Refresh::default(),
            train: Train::default(),
            fleet: Fleet::default(),
        }
    }
}

impl Recipe {
    /// Threads of the trainer on a machine with `cores` cores. With static
    /// negatives the fleet rests once generation 0 is mined, for which the trainer
    /// waits anyway: it then gets every core.
    #[must_use]
    pub fn trainer_threads(&self, cores: usize) -> usize {
        match (self.fleet.trainer_threads, self.refresh.when) {
            (0, RefreshWhen::Never) => cores,
            _ => self.fleet.threads_of_trainer(cores),
        }
    }

    /// Writes down the numbers of threads that it leaves open, as they are on a
    /// machine with `cores` cores: another number gives other bits.
    pub fn fix_threads(&mut self, cores: usize) {
        let (trainer, worker) = (
            self.trainer_threads(cores),
            self.fleet.threads_of_worker(cores),
        );
        self.fleet.trainer_threads = trainer;
        self.fleet.worker_threads = worker;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_threads_stay_on_another_machine_and_with_other_workers() {
        let mut recipe = Recipe::default();
        recipe.fix_threads(8);
        assert_eq!(
            (recipe.fleet.trainer_threads, recipe.fleet.worker_threads),
            (4, 4)
        );
        recipe.fleet.workers = 3;
        assert_eq!(
            (recipe.trainer_threads(2), recipe.fleet.threads_of_worker(2)),
            (4, 4)
        );
    }

    #[test]
    fn a_static_recipe_trains_on_every_core() {
        let mut recipe = Recipe::default();
        assert_eq!(recipe.trainer_threads(2), 1);
        recipe.refresh.when = RefreshWhen::Never;
        assert_eq!(recipe.trainer_threads(2), 2);
        recipe.fleet.trainer_threads = 1;
        assert_eq!(recipe.trainer_threads(2), 1);
    }
}
