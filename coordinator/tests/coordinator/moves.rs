//! Anything that can happen to a state, for property tests: late, doubled and forged
//! messages, restarts and lost objects among them.

use crate::fixture::{Bench, checkpoint, completed, heartbeat, key, output, settings};
use proptest::prelude::*;
use proptest::sample::Index;
use quarry_artifacts::GenerationManifest;
use quarry_coordinator::state::{Change, Effect, Event, TrainerReport};
use quarry_proto::Lease;
use std::collections::BTreeMap;

/// One thing that happens. An `Index` picks among all there ever were.
#[derive(Debug, Clone)]
pub enum Move {
    /// A worker asks for work, and hangs up or not if there is none.
    Ask(u8, bool),
    Beat(Index),
    /// A worker completes a lease it was ever given, with other bits or not.
    Finish(Index, bool),
    /// A worker hands a lease back that it was ever given, as a failure or not.
    HandBack(Index, bool),
    Wait(u64),
    Stall(u64),
    Save(u64, bool),
    Swap(u64, Index),
    Report(u64, bool),
    /// A manifest that was ever asked for is written.
    Written(Index),
    PublicationFailed,
    /// The output of a task turns out to be missing.
    Lose(Index),
    /// What is to be deleted is.
    Collect,
    RollBack(u64),
    Pause(bool),
    Restart,
}

pub fn moves() -> impl Strategy<Value = Vec<Move>> {
    let any_lease = any::<Index>;
    let one = prop_oneof![
        20 => (0u8..4, prop::bool::weighted(0.7)).prop_map(|(w, hangs_up)| Move::Ask(w, hangs_up)),
        4 => any_lease().prop_map(Move::Beat),
        16 => (any_lease(), prop::bool::weighted(0.1)).prop_map(|(l, noisy)| Move::Finish(l, noisy)),
        3 => (any_lease(), any::<bool>()).prop_map(|(l, failed)| Move::HandBack(l, failed)),
        4 => prop_oneof![1u64..2_000, 1_000u64..45_000].prop_map(Move::Wait),
        1 => (1u64..60_000).prop_map(Move::Stall),
        4 => (0u64..200, prop::bool::weighted(0.1)).prop_map(|(s, last)| Move::Save(s, last)),
        3 => (0u64..250, any::<Index>()).prop_map(|(step, a)| Move::Swap(step, a)),
        1 => (0u64..250, any::<bool>()).prop_map(|(step, blocked)| Move::Report(step, blocked)),
        8 => any::<Index>().prop_map(Move::Written),
        1 => Just(Move::PublicationFailed),
        1 => any::<Index>().prop_map(Move::Lose),
        2 => Just(Move::Collect),
        1 => (0u64..8).prop_map(Move::RollBack),
        1 => any::<bool>().prop_map(Move::Pause),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 1..160)
}

/// A bench and everybody's memory of it. Every move checks every invariant.
pub struct Play {
    pub bench: Bench,
    /// Lengths of the log after moves that changed it: where records end.
    pub ends: Vec<usize>,
    /// Every lease ever granted, with its holder.
    leases: Vec<(String, Lease)>,
    /// Who asked under which ticket and did not hang up.
    asked: BTreeMap<u64, String>,
    manifests: Vec<GenerationManifest>,
}

impl Play {
    /// A small run: a block a split, so that generations come and go.
    pub fn new() -> Self {
        let settings = settings(|recipe| {
            recipe.data.block_queries = 25;
            recipe.refresh.keep_generations = 1;
            recipe.train.keep_checkpoints = 1;
        });
        let bench = Bench::new(settings);
        let ends = vec![bench.log.len()];
        Self {
            bench,
            ends,
            leases: vec![],
            asked: BTreeMap::new(),
            manifests: vec![],
        }
    }

    pub fn play(&mut self, what: &Move) {
        match what {
            Move::Ask(worker, hangs_up) => self.ask(&format!("w{worker}"), *hangs_up),
            Move::Restart => self.bench.restart(),
            Move::Wait(ms) => self.bench.wait(*ms),
            Move::Collect => self.collect(),
            Move::Written(at) => {
                if let Some(manifest) = pick(&self.manifests, at) {
                    self.bench.written(&manifest);
                }
            }
            Move::Stall(ms) => {
                self.bench.now = self.bench.now.plus(*ms);
                self.tell(Event::Stalled { ms: *ms });
            }
            _ => {
                let event = self.event(what);
                event.into_iter().for_each(|event| self.tell(event));
            }
        }
        self.take_notes();
        self.ends.push(self.bench.log.len());
        self.ends.dedup();
    }

    /// The event of a move that is nothing else.
    fn event(&self, what: &Move) -> Option<Event> {
        let run = &self.bench.state.run;
        Some(match what {
            Move::Beat(at) => {
                let (worker, lease) = pick(&self.leases, at)?;
                heartbeat(&worker, &lease)
            }
            Move::Finish(at, noisy) => {
                let (worker, lease) = pick(&self.leases, at)?;
                let mut output = output(&lease.task);
                if *noisy {
                    output.outputs[0].1.path.push('x');
                }
                completed(&worker, &lease, output)
            }
            Move::HandBack(at, failed) => {
                let (worker, lease) = pick(&self.leases, at)?;
                Event::LeaseReturned {
                    worker,
                    lease: key(&lease),
                    reason: "no memory".to_owned(),
                    failed: *failed,
                }
            }
            Move::Save(step, is_final) => Event::CheckpointPublished {
                checkpoint: checkpoint(*step),
                is_final: *is_final,
            },
            Move::Swap(step, at) => {
                let generation = pick(&run.activations, at)?;
                Event::TrainerSwapped {
                    step: *step,
                    activation: at.index(run.activations.len()) as u64 + 1,
                    generation,
                    checkpoint: run.published[&generation].checkpoint.digest.clone(),
                    session: step.checked_rem(3),
                }
            }
            Move::Report(step, blocked) => Event::TrainerProgressed(TrainerReport {
                step: *step,
                blocked: *blocked,
                ..TrainerReport::default()
            }),
            Move::PublicationFailed => Event::PublicationFailed {
                generation: run.open.as_ref()?.generation,
                reason: "the store is away".to_owned(),
            },
            Move::Lose(at) => {
                let open = run.open.as_ref()?;
                let outputs: Vec<_> = open.done.values().cloned().collect();
                Event::ObjectsMissing {
                    generation: open.generation,
                    paths: vec![pick(&outputs, at)?.outputs[0].1.path.clone()],
                }
            }
            Move::RollBack(generation) => Event::RollbackRequested {
                generation: *generation,
            },
            Move::Pause(paused) => Event::PauseRequested { paused: *paused },
            _ => return None,
        })
    }

    /// A refusal is an answer like any other.
    fn tell(&mut self, event: Event) {
        let _ = self.bench.tell(event);
    }

    fn ask(&mut self, worker: &str, hangs_up: bool) {
        if hangs_up {
            let lease = match self.asked.len() % 2 {
                0 => self.bench.ask(worker),
                _ => self.bench.ask_at_once(worker),
            };
            self.leases.extend(lease.map(|l| (worker.to_owned(), l)));
            return;
        }
        let ticket = 10_000 + self.asked.len() as u64;
        self.asked.insert(ticket, worker.to_owned());
        let (worker, wait_ms) = (worker.to_owned(), 30_000);
        self.tell(Event::WorkRequested {
            ticket,
            worker,
            wait_ms,
        });
    }

    fn collect(&mut self) {
        for effect in std::mem::take(&mut self.bench.effects) {
            match effect {
                Effect::CollectGeneration { generation, .. } => {
                    self.tell(Event::GenerationCollected { generation });
                }
                Effect::CollectCheckpoint { checkpoint } => {
                    self.tell(Event::CheckpointCollected { checkpoint });
                }
                other => self.bench.effects.push(other),
            }
        }
    }

    /// Leases that came late, and manifests that are wanted.
    fn take_notes(&mut self) {
        for (ticket, worker) in &self.asked {
            let lease = self.bench.granted(*ticket);
            self.leases.extend(lease.map(|l| (worker.clone(), l)));
        }
        while let Some((manifest, _)) = self.bench.wanted() {
            manifest.check().unwrap();
            self.manifests.push(manifest);
        }
    }

    /// Lets one good worker do what there is to do, until nothing is.
    pub fn come_to_rest(&mut self) {
        self.bench.wait(100_000); // leases lapse, waits are over
        for _ in 0..10 {
            self.bench.work_off("good");
            self.take_notes();
            for manifest in std::mem::take(&mut self.manifests) {
                self.bench.written(&manifest);
            }
            self.bench.wait(5_000); // a publication that failed is tried again
        }
    }

    /// Every change that became durable.
    pub fn log(&self) -> &[Change] {
        &self.bench.log
    }
}

fn pick<T: Clone>(all: &[T], at: &Index) -> Option<T> {
    (!all.is_empty()).then(|| at.get(all).clone())
}
