//! Passages encoded a second, and seconds of a training step.
//!
//! `cargo run -p quarry-model --example speed -- MODEL_DIR TEXTS.txt [THREADS] [ROUNDS] [WHAT] [BUDGETS]`
//!
//! TEXTS.txt holds one passage a line. WHAT is any of `encode`, `train`, joined by a
//! comma. Rounds interleave every variant, because machines drift.
#![allow(clippy::unwrap_used)]

use quarry_corpus::Tokenize;
use quarry_model::loss::{Contrast, info_nce};
use quarry_model::{
    Dropout, DualEncoder, LoadOptions, PackedBatch, Precision, Specials, TextTokenizer,
};
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const PASSAGES: usize = 600;
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: usize| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (threads, rounds) = (number(2, 2), number(3, 3));
    let what = arguments.get(4).map_or("encode,train", String::as_str);
    let budgets: Vec<usize> = arguments
        .get(5)
        .map_or("1024", String::as_str)
        .split(',')
        .map(|b| b.parse().unwrap())
        .collect();
    tch::set_num_threads(i32::try_from(threads).unwrap());
    let dir = Path::new(&arguments[0]);
    let texts: Vec<String> = std::fs::read_to_string(&arguments[1])
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let tokenizer = TextTokenizer::from_dir(dir).unwrap();
    let ids = tokenizer.content_ids(&texts, 254).unwrap();
    let specials = tokenizer.specials();
    for round in 0..rounds {
        for precision in PRECISIONS {
            if what.contains("encode") {
                for &budget in &budgets {
                    encode(dir, &ids, specials, precision, budget, round);
                }
            }
            if what.contains("train") {
                train(dir, &ids, specials, precision, round);
            }
        }
    }
}

/// Seconds of processor time of this process so far, where Linux tells: on a busy
/// machine, with one thread, the figure to trust.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn encode(
    dir: &Path,
    ids: &[Vec<u32>],
    specials: Specials,
    precision: Precision,
    budget: usize,
    round: usize,
) {
    let options = LoadOptions {
        precision,
        ..LoadOptions::default()
    };
    let model = DualEncoder::load(dir, &options).unwrap();
    // Spread over the collection: neighbours share an article.
    let stride = (ids.len() / PASSAGES).max(1);
    let passages: Vec<&[u32]> = ids
        .iter()
        .step_by(stride)
        .take(PASSAGES)
        .map(Vec::as_slice)
        .collect();
    let run = |passages: &[&[u32]]| {
        model
            .passage()
            .encode(passages, specials, 256, budget, &mut |_| {})
            .unwrap()
    };
    run(&passages[..passages.len().min(32)]);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    run(&passages);
    let rate = passages.len() as f64 / start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    println!(
        "round {round} encode {precision:?} budget {budget}: {rate:.1} passages/s, cpu {cpu:.2} s"
    );
}

fn train(dir: &Path, ids: &[Vec<u32>], specials: Specials, precision: Precision, round: usize) {
    let options = LoadOptions {
        precision,
        trainable: true,
        ..LoadOptions::default()
    };
    let model = DualEncoder::load(dir, &options).unwrap();
    let parameters = model.parameters();
    let passages = PackedBatch::new(
        ids.iter().step_by(7).take(64).map(Vec::as_slice),
        specials,
        160,
    );
    let queries = PackedBatch::new(
        ids.iter()
            .skip(3)
            .step_by(11)
            .take(32)
            .map(|s| &s[..s.len().min(14)]),
        specials,
        64,
    );
    let targets = Tensor::arange(32, (Kind::Int64, Device::Cpu)) * 2;
    for hidden in [0.0, 0.1] {
        let dropout = Some(Dropout {
            hidden,
            attention: 0.0,
        });
        let mut times = Vec::new();
        for step in 0..4 {
            tch::manual_seed(step);
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let (q, p) = model.embed_pair(&queries, &passages, dropout).unwrap();
            let input = Contrast {
                queries: &q,
                passages: &p,
                targets: &targets,
                masked: None,
                temperature: 0.05,
            };
            let loss = info_nce(&input).unwrap().loss;
            let forward = start.elapsed().as_secs_f64();
            loss.backward();
            times.push((start.elapsed().as_secs_f64(), forward, cpu_seconds() - cpu));
            for parameter in &parameters {
                let _ = parameter.tensor.grad().zero_();
            }
        }
        let best = times[1..]
            .iter()
            .copied()
            .reduce(|a, b| if a.0 < b.0 { a } else { b })
            .unwrap();
        println!(
            "round {round} train {precision:?} dropout {hidden}: {:.3} s/step (forward {:.3}, cpu {:.2}), {} tokens",
            best.0,
            best.1,
            best.2,
            queries.tokens() + passages.tokens()
        );
    }
}
