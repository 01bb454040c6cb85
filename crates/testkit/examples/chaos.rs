//! The demo's run on squad-mini through random `kill -9` and SIGSTOP of every
//! program, then its replay without faults; both must end with the same weights.
//!
//!   cargo run -p quarry-testkit --example chaos -- FOLDER [SEED] [FAULTS]
#![allow(clippy::unwrap_used)] // Its panics are its verdict.

use quarry_testkit::RunStore;
use quarry_testkit::chaos::{Schedule, Target};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of each of the two runs, on a slow machine.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        arguments.get(at).map_or(default, |text| {
            text.parse()
                .unwrap_or_else(|e| panic!("{text} is no number: {e}"))
        })
    };
    let folder = PathBuf::from(arguments.first().expect("chaos FOLDER [SEED] [FAULTS]"));
    let schedule = Schedule {
        seed: number(1, 1),
        faults: usize::try_from(number(2, 30)).unwrap(),
        gap: (Duration::from_secs(1), Duration::from_secs(8)),
        pause: Duration::from_secs(25), // the lease is 20 s
    };
    std::fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let disturbed = RunStore::new(folder.join("disturbed"));
    let replayed = RunStore::new(folder.join("replayed"));

    let log = folder.join("faults.jsonl");
    println!("seed {}, {} faults", schedule.seed, schedule.faults);
    println!("fault log        {}", log.display());
    let started = Instant::now();
    let mut sink = Both(BufWriter::new(File::create(&log).unwrap()));
    let faults = target().run_through(&disturbed, &schedule, &mut sink);
    println!("disturbed run    {:.0} s", started.elapsed().as_secs_f64());
    disturbed.assert_generations_complete();

    let started = Instant::now();
    let versions = disturbed.folder().join("versions.json");
    let replay = ["--replay", versions.to_str().unwrap()];
    let run = target().start(&replayed, false, &replay);
    let _ = run.wait_within(LIMIT).succeeded();
    println!(
        "undisturbed replay {:.0} s",
        started.elapsed().as_secs_f64()
    );

    let steps = disturbed.newest_checkpoint();
    assert_eq!(
        disturbed.losses().bits(),
        replayed.losses().bits(),
        "other losses"
    );
    let weights = |store: &RunStore| {
        std::fs::read(store.checkpoint_folder(steps).join("model.safetensors")).unwrap()
    };
    assert!(weights(&disturbed) == weights(&replayed), "other weights");
    println!(
        "{} faults, {} swaps, {steps} steps: the weights are equal, bit for bit",
        faults.len(),
        disturbed.losses().swaps().len()
    );
}

/// The demo, with more passes so that it lasts.
fn target() -> Target {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    Target {
        recipe: root.join("recipes/demo.toml"),
        data: root.join("data/squad-mini"),
        model: root.join(".deps/models/all-MiniLM-L6-v2"),
        arguments: Vec::new(),
        limit: LIMIT,
    }
}

/// Shows each fault as it happens and keeps it.
struct Both(BufWriter<File>);

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write_all(bytes)?;
        self.0.write_all(bytes)?;
        self.0.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
