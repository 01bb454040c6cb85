//! Whole runs on a tiny model against a stub coordinator: learning, determinism,
//! resuming, refusals, and every kind of recipe.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_recipe::{Draw, Loss, Optimizer, Precision, Recipe, Schedule, Towers};
use quarry_service::CancellationToken;
use quarry_testkit::coordinator::{Script, Stub};
use quarry_trainer::losses::StepLine;
use quarry_trainer::options::Options;
use quarry_trainer::run::run_until;
use support::{DUPLICATE, TinyRun, all_others, turn};
use tch::Tensor;

fn train(run: &TinyRun, options: &Options) -> anyhow::Result<()> {
    run_until(options, &run.runtime, &CancellationToken::new())
}

/// Trains to the end on one generation; the lines and what the coordinator heard.
fn train_on(run: &TinyRun, change: impl Fn(&mut Options)) -> (Vec<StepLine>, Script) {
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let stub = Stub::start(&script);
    let mut options = run.options(&stub.url());
    change(&mut options);
    train(run, &options).unwrap();
    (run.lines(), script)
}

fn losses(lines: &[StepLine]) -> Vec<(u64, u64, u64)> {
    lines
        .iter()
        .map(|l| (l.step, l.loss.to_bits(), l.grad_norm.to_bits()))
        .collect()
}

fn last_digest(script: &Script) -> String {
    let heard = script.heard();
    let last = heard.checkpoints.last().unwrap();
    last.checkpoint.clone().unwrap().digest
}

#[test]
fn the_loss_goes_down_and_the_last_checkpoint_is_final() {
    let _turn = turn();
    let run = TinyRun::new(|r| r.train.max_steps = 60);
    let (lines, script) = train_on(&run, |_| {});
    let mean = |lines: &[StepLine]| lines.iter().map(|l| l.loss).sum::<f64>() / lines.len() as f64;
    let (first, last) = (mean(&lines[..6]), mean(&lines[54..]));
    assert!(last < 0.5 * first, "loss went from {first} to {last}");
    // Warm-up: 6 of 60 steps, the first at rate 0.
    assert_eq!((lines[0].lr, lines[3].lr, lines[6].lr), (0.0, 1e-3, 2e-3));
    let heard = script.heard();
    assert_eq!(heard.checkpoints.len(), 1);
    assert!(heard.checkpoints[0].r#final);
    assert_eq!(heard.checkpoints[0].checkpoint.as_ref().unwrap().step, 60);
    assert_eq!(
        heard
            .swaps
            .iter()
            .map(|s| (s.step, s.generation))
            .collect::<Vec<_>>(),
        [(0, 0)]
    );
    assert_ne!(
        heard.checkpoints[0].checkpoint.as_ref().unwrap().digest,
        run.run.initial_checkpoint.digest.to_string()
    );
    // Query 1 has a second positive, and passage 39 repeats the positive of query 0.
    assert!(lines.iter().any(|l| l.masked_fraction > 0.0), "{DUPLICATE}");
}

#[test]
fn the_same_seed_gives_the_same_bits_on_one_thread_and_on_two() {
    let _turn = turn();
    for threads in [1, 2] {
        let once = || {
            let run = TinyRun::new(|_| {});
            let (lines, script) = train_on(&run, |o| o.threads = Some(threads));
            (losses(&lines), last_digest(&script))
        };
        assert_eq!(once(), once(), "{threads} threads");
    }
    let other = TinyRun::new(|r| r.seed = 14);
    let base = TinyRun::new(|_| {});
    assert_ne!(
        losses(&train_on(&other, |_| {}).0),
        losses(&train_on(&base, |_| {}).0)
    );
}

#[test]
fn resuming_gives_the_bits_of_an_uninterrupted_run() {
    let _turn = turn();
    let kinds: [fn(&mut Recipe); 2] = [
        |r| r.train.schedule = Schedule::Linear,
        |r| {
            r.train.optimizer = Optimizer::Lamb;
            r.model.towers = Towers::Separate;
            r.train.accumulation = 2;
        },
    ];
    for kind in kinds {
        let straight = TinyRun::new(kind);
        let (expected, script) = train_on(&straight, |_| {});
        let digest = last_digest(&script);

        let broken = TinyRun::new(kind);
        let (half, script) = train_on(&broken, |o| o.stop_after_step = Some(6));
        assert_eq!(half.len(), 6);
        assert!(!script.heard().checkpoints[0].r#final);
        let (all, script) = train_on(&broken, |o| o.resume = true);
        assert_eq!(losses(&all), losses(&expected));
        assert_eq!(last_digest(&script), digest);
        assert_eq!(
            script.heard().swaps[0].step,
            6,
            "the resumed run says what it uses"
        );
    }
}

#[test]
fn a_store_with_a_checkpoint_is_not_trained_on_from_scratch() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    train_on(&run, |o| o.stop_after_step = Some(3));
    let stub = Stub::start(&Script::default());
    let refused = train(&run, &run.options(&stub.url()))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("checkpoint of step 3; pass --resume"),
        "{refused}"
    );
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let _turn = turn();
    let run = TinyRun::new(|r| r.train.checkpoint_every = 4);
    let (expected, script) = train_on(&run, |o| o.stop_after_step = Some(8));
    let newest = script
        .heard()
        .checkpoints
        .last()
        .unwrap()
        .checkpoint
        .clone()
        .unwrap();
    assert_eq!(newest.step, 8);
    let folder = newest.manifest.strip_suffix("manifest.json").unwrap();
    let weights = run
        .store
        .local_folder()
        .unwrap()
        .join(folder)
        .join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (all, _) = train_on(&run, |o| o.resume = true);
    assert_eq!(all.len(), 12);
    // Steps 4 to 7 were taken again from the checkpoint of step 4, to the same bits.
    assert_eq!(losses(&all)[..8], losses(&expected)[..]);
}

#[test]
fn a_store_of_damaged_checkpoints_is_not_taken_for_an_empty_one() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    let (_, script) = train_on(&run, |o| o.stop_after_step = Some(3));
    let manifest = script.heard().checkpoints[0]
        .checkpoint
        .clone()
        .unwrap()
        .manifest;
    let root = run.store.local_folder().unwrap();
    let refuse = || {
        let stub = Stub::start(&Script::default());
        let mut options = run.options(&stub.url());
        options.resume = true;
        let refused = train(&run, &options).unwrap_err().to_string();
        assert!(refused.contains(&manifest), "{refused}");
        assert!(refused.contains("can be resumed from"), "{refused}");
        assert_eq!(run.lines().len(), 3);
    };
    std::fs::write(
        root.join(manifest.replace("manifest.json", "trainer/state.json")),
        "{}",
    )
    .unwrap();
    refuse();
    std::fs::write(root.join(&manifest), "{").unwrap();
    refuse();
}

#[test]
fn another_initial_model_than_that_of_the_run_is_refused() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    let path = run.store.local_folder().unwrap().join("run.json");
    let mut document = run.run.clone();
    document.initial_checkpoint.digest = quarry_artifacts::Digest::of(b"another model");
    std::fs::write(path, serde_json::to_vec(&document).unwrap()).unwrap();
    let stub = Stub::start(&Script::default());
    let refused = train(&run, &run.options(&stub.url()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("run.json says"), "{refused}");
}

#[test]
fn a_number_that_is_none_stops_the_run_before_it_is_published() {
    let _turn = turn();
    for damaged in [
        "embeddings.word_embeddings.weight",
        "encoder.layer.1.output.dense.bias",
        "encoder.layer.1.attention.self.key.bias",
    ] {
        let run = TinyRun::with_model(
            |_| {},
            |model| {
                let path = model.join("model.safetensors");
                let mut weights = Tensor::read_safetensors(&path).unwrap();
                let (_, values) = weights.iter_mut().find(|(n, _)| n == damaged).unwrap();
                *values = Tensor::full_like(values, f64::NAN);
                Tensor::write_safetensors(&weights, &path).unwrap();
            },
        );
        let script = Script::default();
        script.announce(&run.generation(1, 0, all_others));
        let stub = Stub::start(&script);
        let refused = train(&run, &run.options(&stub.url()))
            .unwrap_err()
            .to_string();
        let said = "step 0: the loss is NaN";
        assert!(refused.contains(said), "{damaged}: {refused}");
        assert!(refused.contains("lower train.learning_rate"), "{refused}");
        assert!(script.heard().checkpoints.is_empty());
        assert!(run.lines().is_empty());
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    let _turn = turn();
    let without_dropout = |r: &mut Recipe| {
        r.train.dropout.hidden = 0.0;
        r.train.max_steps = 1;
    };
    let first = |change: &dyn Fn(&mut Recipe)| {
        let run = TinyRun::new(|r| {
            without_dropout(r);
            change(r);
        });
        // Ragged: query q has q negatives, so micro-batches hold unequal pairs.
        let script = Script::default();
        script.announce(&run.generation(1, 0, |q| all_others(q)[..(q as usize) % 3].to_vec()));
        let stub = Stub::start(&script);
        train(&run, &run.options(&stub.url())).unwrap();
        run.lines()[0].clone()
    };
    let pairwise = |accumulation| {
        first(&move |r: &mut Recipe| {
            r.train.loss = Loss::Pairwise;
            r.train.accumulation = accumulation;
        })
    };
    let own = |accumulation| {
        first(&move |r: &mut Recipe| {
            r.train.in_batch = false;
            r.train.accumulation = accumulation;
        })
    };
    for (whole, parts) in [(pairwise(1), pairwise(3)), (own(1), own(3))] {
        assert!(whole.short > 0);
        assert!(
            (whole.loss - parts.loss).abs() < 1e-5 * whole.loss,
            "{whole:?} {parts:?}"
        );
        assert!(
            (whole.grad_norm - parts.grad_norm).abs() < 1e-4 * whole.grad_norm,
            "{whole:?} {parts:?}"
        );
    }
    // With in-batch negatives the columns come from the micro-batch: another loss.
    let in_batch = |accumulation| first(&move |r: &mut Recipe| r.train.accumulation = accumulation);
    assert!(in_batch(1).loss > in_batch(3).loss + 0.1);
}

#[test]
fn nothing_left_to_contrast_leaves_the_weights_alone() {
    let _turn = turn();
    let run = TinyRun::new(|r| {
        r.train.loss = Loss::Pairwise;
        r.train.max_steps = 2;
    });
    let script = Script::default();
    // Only false negatives and nothing at all.
    script.announce(&run.generation(1, 0, |q| if q == 0 { vec![DUPLICATE] } else { vec![] }));
    let stub = Stub::start(&script);
    train(&run, &run.options(&stub.url())).unwrap();
    let lines = run.lines();
    assert_eq!(
        lines
            .iter()
            .map(|l| (l.loss, l.grad_norm))
            .collect::<Vec<_>>(),
        [(0.0, 0.0); 2]
    );
    assert!(
        lines
            .iter()
            .any(|l| l.masked_fraction == 1.0 || l.short == 12)
    );
}

#[test]
fn every_kind_of_recipe_trains() {
    let _turn = turn();
    let kinds: [fn(&mut Recipe); 6] = [
        |r| r.train.precision = Precision::Bf16,
        |r| r.train.dropout.attention = 0.1,
        |r| {
            r.train.negatives = 0;
            r.train.temperature = 1.0;
        },
        |r| {
            r.mining.draw = Draw::Top;
            r.train.clip_norm = 0.0;
            r.train.schedule = Schedule::Cosine;
        },
        |r| {
            r.train.loss = Loss::Pairwise;
            r.model.normalize = Some(true);
            r.model.pooling = quarry_recipe::Pooling::Mean;
        },
        |r| {
            r.train.max_steps = 0;
            r.train.epochs = 1.5;
            r.train.batch_size = 7;
        },
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let run = TinyRun::new(kind);
        let (lines, _) = train_on(&run, |_| {});
        let steps = if number == 5 { 5 } else { 12 };
        assert_eq!(lines.len(), steps, "kind {number}");
        assert!(
            lines.iter().all(|l| l.loss.is_finite() && l.loss > 0.0),
            "kind {number}"
        );
    }
}
