//! Combinations of keys that cannot work, each refused with the fix. Names are
//! `names`'.

use crate::{Loss, OnStale, Recipe, RecipeError, RefreshWhen};

/// Passes over the training queries that nobody means to take: beyond, the number of
/// steps is no longer one to count with.
const MOST_EPOCHS: f64 = 1e6;

impl Recipe {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// [`RecipeError::Impossible`] with the key to change and how.
    pub fn validate(&self) -> Result<(), RecipeError> {
        self.validate_names()?;
        self.validate_train()?;
        self.validate_optimizer()?;
        self.validate_mining()?;
        self.validate_refresh()?;
        self.validate_sizes()
    }

    fn validate_train(&self) -> Result<(), RecipeError> {
        let t = &self.train;
        require(t.batch_size >= 1, "train.batch_size", "must be at least 1")?;
        require(
            t.accumulation >= 1 && t.batch_size.is_multiple_of(t.accumulation.max(1)),
            "train.accumulation",
            &format!(
                "{} does not divide train.batch_size {}; choose a divisor",
                t.accumulation, t.batch_size
            ),
        )?;
        require(
            t.epochs.is_finite() && t.epochs <= MOST_EPOCHS,
            "train.epochs",
            &format!(
                "must be a number of at most {MOST_EPOCHS}; train.max_steps sets the length in steps"
            ),
        )?;
        require(
            t.max_steps > 0 || t.epochs > 0.0,
            "train.epochs",
            "must be positive unless train.max_steps is set",
        )?;
        require(
            t.loss != Loss::Pairwise || t.negatives >= 1,
            "train.negatives",
            "the pairwise loss needs at least 1 hard negative a query",
        )?;
        require(
            t.negatives >= 1 || t.in_batch,
            "train.in_batch",
            "with train.negatives = 0 there is nothing to contrast; set in_batch = true",
        )?;
        require(
            t.loss != Loss::InfoNce
                || t.negatives >= 1
                || t.batch_size / t.accumulation.max(1) >= 2,
            "train.batch_size",
            "in-batch negatives need at least 2 queries in a micro-batch",
        )?;
        require(
            t.temperature > 0.0 && t.temperature.is_finite(),
            "train.temperature",
            "must be positive; 0.05 suits normalised vectors, 1 plain dot products",
        )?;
        for (key, p) in [
            ("train.dropout.hidden", t.dropout.hidden),
            ("train.dropout.attention", t.dropout.attention),
        ] {
            require((0.0..1.0).contains(&p), key, "must lie in [0, 1)")?;
        }
        require(
            t.checkpoint_every >= 1,
            "train.checkpoint_every",
            "must be at least 1 step",
        )?;
        require(
            t.keep_checkpoints >= 1,
            "train.keep_checkpoints",
            "must be at least 1, or nothing is left to resume from",
        )
    }

    fn validate_optimizer(&self) -> Result<(), RecipeError> {
        let t = &self.train;
        require(
            t.learning_rate > 0.0 && t.learning_rate.is_finite(),
            "train.learning_rate",
            "must be positive, such as 2e-5",
        )?;
        require(
            (0.0..1.0).contains(&t.beta1),
            "train.beta1",
            "must lie in [0, 1)",
        )?;
        require(
            (0.0..1.0).contains(&t.beta2),
            "train.beta2",
            "must lie in [0, 1)",
        )?;
        require(
            t.epsilon > 0.0 && t.epsilon.is_finite(),
            "train.epsilon",
            "must be positive",
        )?;
        require(
            t.weight_decay >= 0.0 && t.weight_decay.is_finite(),
            "train.weight_decay",
            "must not be negative",
        )?;
        require(
            t.clip_norm >= 0.0 && t.clip_norm.is_finite(),
            "train.clip_norm",
            "must not be negative; 0 turns clipping off",
        )?;
        require(
            (0.0..=1.0).contains(&t.warmup_ratio),
            "train.warmup_ratio",
            "must lie in [0, 1]",
        )
    }

    fn validate_mining(&self) -> Result<(), RecipeError> {
        let m = &self.mining;
        require(m.depth >= 1, "mining.depth", "must be at least 1")?;
        require(
            m.keep >= self.train.negatives && m.keep >= 1,
            "mining.keep",
            &format!(
                "{} is fewer than train.negatives {}; keep at least as many as a batch draws",
                m.keep, self.train.negatives
            ),
        )?;
        require(
            m.keep <= m.depth,
            "mining.keep",
            &format!("{} is more than mining.depth {}", m.keep, m.depth),
        )?;
        require(
            m.depth >= 100,
            "mining.depth",
            "must be at least 100, because the same search scores recall@100 on dev",
        )?;
        for (key, ratio) in [
            ("mining.max_positive_ratio", m.max_positive_ratio),
            (
                "mining.sparse_max_positive_ratio",
                m.sparse_max_positive_ratio,
            ),
        ] {
            require(
                (0.0..=1.0).contains(&ratio),
                key,
                "must lie in [0, 1]; 0 turns the filter off",
            )?;
        }
        Ok(())
    }

    fn validate_refresh(&self) -> Result<(), RecipeError> {
        let r = &self.refresh;
        require(
            r.when != RefreshWhen::Steps || r.every_steps >= 1,
            "refresh.every_steps",
            "must be at least 1 with refresh.when = \"steps\"",
        )?;
        require(
            r.keep_generations >= 1,
            "refresh.keep_generations",
            "must be at least 1, the active one",
        )?;
        require(
            !(r.when == RefreshWhen::Never && r.on_stale == OnStale::Block && r.max_staleness > 0),
            "refresh.on_stale",
            "blocking on staleness would wait for ever with refresh.when = \"never\"; use \"off\"",
        )?;
        let reach = self.train.checkpoint_every.max(r.every_steps);
        require(
            !(r.on_stale == OnStale::Block && r.max_staleness > 0 && r.max_staleness < reach),
            "refresh.max_staleness",
            &format!(
                "{} steps is less than the {reach} steps between two refreshes, so training would block for ever; raise it or checkpoint more often",
                r.max_staleness
            ),
        )
    }

    fn validate_sizes(&self) -> Result<(), RecipeError> {
        let min_length = 3; // two specials and one token of text
        require(
            self.model.query_length >= min_length,
            "model.query_length",
            "must be at least 3 tokens",
        )?;
        require(
            self.train.passage_length >= min_length,
            "train.passage_length",
            "must be at least 3 tokens",
        )?;
        require(
            self.model.passage_length == 0
                || self.model.passage_length >= self.train.passage_length,
            "model.passage_length",
            "is shorter than train.passage_length; the corpus would lack the tokens to train on",
        )?;
        require(
            self.data.shard_passages >= 1,
            "data.shard_passages",
            "must be at least 1",
        )?;
        require(
            self.data.block_queries >= 1,
            "data.block_queries",
            "must be at least 1",
        )?;
        require(
            self.index.partition_passages >= 1,
            "index.partition_passages",
            "must be at least 1",
        )?;
        require(self.index.nprobe >= 1, "index.nprobe", "must be at least 1")?;
        require(
            self.index.ef_search >= 1,
            "index.ef_search",
            "must be at least 1",
        )?;
        require(
            self.fleet.cache_gib > 0.0 && self.fleet.cache_gib.is_finite(),
            "fleet.cache_gib",
            "must be positive",
        )?;
        require(
            self.fleet.workers >= 1,
            "fleet.workers",
            "must be at least 1",
        )?;
        require(
            self.fleet.lease_seconds >= 1,
            "fleet.lease_seconds",
            "must be at least 1",
        )
    }
}

pub(crate) fn require(holds: bool, key: &'static str, reason: &str) -> Result<(), RecipeError> {
    if holds {
        return Ok(());
    }
    Err(RecipeError::Impossible {
        key,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_refused(change: impl Fn(&mut Recipe)) -> &'static str {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        match recipe.validate() {
            Err(RecipeError::Impossible { key, .. }) => key,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn the_default_is_possible() {
        Recipe::default().validate().unwrap();
    }

    #[test]
    fn impossible_combinations_name_the_key() {
        assert_eq!(
            key_refused(|r| r.train.accumulation = 5),
            "train.accumulation"
        );
        assert_eq!(
            key_refused(|r| {
                r.train.loss = Loss::Pairwise;
                r.train.negatives = 0;
            }),
            "train.negatives"
        );
        assert_eq!(
            key_refused(|r| {
                r.train.negatives = 0;
                r.train.in_batch = false;
            }),
            "train.in_batch"
        );
        // JSON has no infinity: `run.json` could not be read back.
        assert_eq!(
            key_refused(|r| {
                r.train.max_steps = 10;
                r.train.epochs = f64::INFINITY;
            }),
            "train.epochs"
        );
        assert_eq!(key_refused(|r| r.train.epochs = 2e6), "train.epochs");
        assert_eq!(key_refused(|r| r.index.ef_search = 0), "index.ef_search");
        assert_eq!(key_refused(|r| r.mining.keep = 500), "mining.keep");
        assert_eq!(
            key_refused(|r| r.mining.max_positive_ratio = 1.5),
            "mining.max_positive_ratio"
        );
        assert_eq!(
            key_refused(|r| r.refresh.when = RefreshWhen::Steps),
            "refresh.every_steps"
        );
        assert_eq!(
            key_refused(|r| {
                r.refresh.when = RefreshWhen::Never;
                r.refresh.on_stale = OnStale::Block;
                r.refresh.max_staleness = 10;
            }),
            "refresh.on_stale"
        );
        assert_eq!(
            key_refused(|r| {
                r.refresh.on_stale = OnStale::Block;
                r.refresh.max_staleness = 10;
            }),
            "refresh.max_staleness"
        );
        assert_eq!(key_refused(|r| r.data.test = "dev".into()), "data.dev");
        assert_eq!(key_refused(|r| r.data.test = "train".into()), "data.dev");
        assert_eq!(key_refused(|r| r.fleet.cache_gib = 0.0), "fleet.cache_gib");
        assert_eq!(
            key_refused(|r| r.train.temperature = f64::NAN),
            "train.temperature"
        );
    }

    #[test]
    fn threads_share_out_the_cores() {
        let fleet = crate::Fleet::default();
        assert_eq!(
            (fleet.threads_of_worker(2), fleet.threads_of_trainer(2)),
            (1, 1)
        );
        assert_eq!(
            (fleet.threads_of_worker(16), fleet.threads_of_trainer(16)),
            (8, 8)
        );
        assert_eq!(
            (fleet.threads_of_worker(1), fleet.threads_of_trainer(1)),
            (1, 1)
        );
    }
}
