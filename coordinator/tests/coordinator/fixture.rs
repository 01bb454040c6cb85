//! A small run, and a bench that feeds events to a state and checks every law
//! after each.

use quarry_artifacts::{CheckpointRef, Digest, GenerationManifest, ObjectRef, layout};
use quarry_coordinator::state::{
    Answer, Change, CorpusShape, Effect, Event, LeaseKey, QueriesShape, Rejected, Settings,
    ShardShape, State, TaskKey, Timestamp, check,
};
use quarry_proto::{Lease, Role, Task, TaskOutput, Work};
use quarry_recipe::Recipe;
use std::collections::BTreeMap;

/// 3 shards in 2 partitions, 25 training queries in blocks of 10, 5 dev queries.
pub fn settings(change: impl FnOnce(&mut Recipe)) -> Settings {
    let mut recipe = Recipe::default();
    recipe.data.block_queries = 10;
    recipe.data.shard_passages = 100;
    recipe.index.partition_passages = 200;
    change(&mut recipe);
    let queries = |n| QueriesShape { queries: n };
    let shape = CorpusShape {
        shards: [100, 100, 50]
            .map(|passages| ShardShape { passages })
            .to_vec(),
        queries: BTreeMap::from([("train".into(), queries(25)), ("dev".into(), queries(5))]),
    };
    Settings::new(recipe, Digest::of(b"corpus"), shape).unwrap()
}

pub fn checkpoint(step: u64) -> CheckpointRef {
    let digest = Digest::of(format!("model {step}").as_bytes());
    CheckpointRef {
        step,
        manifest: layout::checkpoint_manifest(step, &digest),
        digest,
    }
}

pub fn object(folder: &str, content: &str) -> ObjectRef {
    let digest = Digest::of(content.as_bytes());
    let path = format!("{folder}/{}", digest.short());
    ObjectRef::new(path, content.len() as u64, digest).unwrap()
}

/// Content of a task's outputs: a function of checkpoint and task alone, as a
/// deterministic worker's is.
pub fn content(task: &Task, role: Role) -> String {
    format!("{role:?} of {} with {}", task.work, task.checkpoint.digest)
}

/// What a worker makes of a task.
pub fn output(task: &Task) -> TaskOutput {
    let folder = layout::generation_folder(task.generation);
    let roles: &[Role] = match &task.work {
        Work::EncodeQueries { .. } => &[Role::QueryEmbeddings],
        Work::EncodeShard { .. } => &[Role::Embeddings],
        Work::BuildPartition { .. } => &[Role::Index],
        Work::SearchBlock { .. } => &[Role::Candidates],
        Work::MergeBlock { evaluate: true, .. } | Work::MineSparse { evaluate: true, .. } => {
            &[Role::Run, Role::Metrics]
        }
        Work::MergeBlock { .. } | Work::MineSparse { .. } => &[Role::Negatives],
    };
    let objects = roles
        .iter()
        .map(|role| (*role, object(&folder, &content(task, *role))));
    let mut made = TaskOutput {
        outputs: objects.collect(),
        ..TaskOutput::default()
    };
    if roles[0] == Role::Run {
        let mrr = (task.checkpoint.step as f64 + 1.0).ln_1p() / 10.0;
        made.metrics.insert("mrr@10".into(), mrr);
    }
    if roles[0] == Role::Negatives {
        made.counts.insert("dropped_positives".into(), 7);
    }
    made
}

/// A state under test and everything it ever made durable.
pub struct Bench {
    pub state: State,
    pub now: Timestamp,
    pub log: Vec<Change>,
    /// Effects not looked at yet.
    pub effects: Vec<Effect>,
    tickets: u64,
}

impl Bench {
    /// A run just started, its initial checkpoint known.
    pub fn new(settings: Settings) -> Self {
        let mut bench = Self {
            state: State::new(settings),
            now: Timestamp(0),
            log: vec![],
            effects: vec![],
            tickets: 0,
        };
        bench.take_over();
        bench
    }

    fn take_over(&mut self) {
        let epoch = self.state.run.epoch + 1;
        let taken_over = Event::TakenOver {
            epoch,
            address: None,
            initial: checkpoint(0),
        };
        self.tell(taken_over).unwrap();
    }

    /// Kills the coordinator and starts another from the log.
    pub fn restart(&mut self) {
        let settings = self.state.settings.clone();
        let state = State::replay(settings, &self.log, self.now).unwrap();
        assert_eq!(
            state.run, self.state.run,
            "the replay differs from what was lived"
        );
        self.state = state;
        self.effects.clear();
        self.take_over();
    }

    /// Applies an event, keeps its changes and effects, and checks every law.
    pub fn tell(&mut self, event: Event) -> Result<Option<Answer>, Rejected> {
        let before = self.state.run.clone();
        let effects = match self.state.apply(self.now, event) {
            Ok(effects) => effects,
            Err(rejected) => {
                assert_eq!(self.state.run, before, "a rejected event changed the run");
                return Err(rejected);
            }
        };
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::Append(change) => self.log.push(change),
                Effect::Answer(given) => answer = Some(given),
                other => self.effects.push(other),
            }
        }
        check(&self.state).unwrap();
        Ok(answer)
    }

    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.tell(Event::Tick).unwrap();
    }

    /// Asks for work; `None` if the request is now parked.
    pub fn ask(&mut self, worker: &str) -> Option<Lease> {
        self.tickets += 1;
        let ticket = self.tickets;
        let (worker, wait_ms) = (worker.to_owned(), 30_000);
        self.tell(Event::WorkRequested {
            ticket,
            worker,
            wait_ms,
        })
        .unwrap();
        let lease = self.granted(ticket);
        if lease.is_none() {
            self.tell(Event::RequestAbandoned { ticket }).unwrap();
        }
        lease
    }

    /// Asks for work that is ready now. `None` if there is none; that is said at once.
    pub fn ask_at_once(&mut self, worker: &str) -> Option<Lease> {
        self.tickets += 1;
        let ticket = self.tickets;
        let (worker, wait_ms) = (worker.to_owned(), 0);
        let asked = Event::WorkRequested {
            ticket,
            worker,
            wait_ms,
        };
        self.tell(asked).unwrap();
        let lease = self.granted(ticket);
        let is_nothing =
            |effect: &Effect| matches!(effect, Effect::NoWork { ticket: t, .. } if *t == ticket);
        assert_ne!(lease.is_some(), self.effects.iter().any(is_nothing));
        lease
    }

    pub fn granted(&mut self, of: u64) -> Option<Lease> {
        let at = self
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::Grant { ticket, .. } if *ticket == of))?;
        match self.effects.remove(at) {
            Effect::Grant { lease, .. } => Some(lease),
            _ => None,
        }
    }

    pub fn finish(&mut self, worker: &str, lease: &Lease) -> bool {
        let event = completed(worker, lease, output(&lease.task));
        self.tell(event).unwrap() == Some(Answer::Completed { accepted: true })
    }

    pub fn hand_back(&mut self, worker: &str, lease: &Lease, failed: bool) {
        let (worker, lease) = (worker.to_owned(), key(lease));
        let reason = "the disk is full".to_owned();
        self.tell(Event::LeaseReturned {
            worker,
            lease,
            reason,
            failed,
        })
        .unwrap();
    }

    /// One worker alone fails at a task until the open generation is given up.
    pub fn give_up(&mut self) {
        let open = self.open();
        while self.open() == open {
            let lease = self.ask("w").unwrap();
            self.hand_back("w", &lease, true);
            self.wait(5_000);
        }
    }

    /// One worker does all there is to do; returns the tasks in order.
    pub fn work_off(&mut self, worker: &str) -> Vec<Task> {
        let mut tasks = vec![];
        while let Some(lease) = self.ask(worker) {
            self.now = self.now.plus(10);
            assert!(self.finish(worker, &lease));
            tasks.push(lease.task);
        }
        tasks
    }

    /// The manifest the state wants written, if any.
    pub fn wanted(&mut self) -> Option<(GenerationManifest, Vec<ObjectRef>)> {
        let wants = |e: &Effect| matches!(e, Effect::Publish { .. });
        let at = self.effects.iter().position(wants)?;
        match self.effects.remove(at) {
            Effect::Publish { manifest, objects } => Some((*manifest, objects)),
            _ => None,
        }
    }

    /// Confirms the manifest that was asked for.
    pub fn publish(&mut self) -> GenerationManifest {
        let (manifest, _) = self.wanted().expect("no manifest is wanted");
        manifest.check().unwrap();
        self.written(&manifest);
        manifest
    }

    pub fn written(&mut self, manifest: &GenerationManifest) {
        let generation = manifest.generation;
        let folder = layout::generation_folder(generation);
        let manifest = object(&folder, &format!("manifest {generation}"));
        self.tell(Event::ManifestWritten {
            generation,
            manifest,
        })
        .unwrap();
    }

    /// Makes and publishes the open generation.
    pub fn complete(&mut self) -> GenerationManifest {
        self.work_off("w");
        self.publish()
    }

    pub fn save(&mut self, step: u64) {
        self.save_as(step, false);
    }

    pub fn save_as(&mut self, step: u64, is_final: bool) {
        let checkpoint = checkpoint(step);
        self.tell(Event::CheckpointPublished {
            checkpoint,
            is_final,
        })
        .unwrap();
    }

    pub fn swap(&mut self, step: u64, activation: u64) -> Result<Option<Answer>, Rejected> {
        self.swap_in(None, step, activation)
    }

    /// A swap that the trainer's process `session` reports.
    pub fn swap_in(
        &mut self,
        session: Option<u64>,
        step: u64,
        activation: u64,
    ) -> Result<Option<Answer>, Rejected> {
        let generation = self.state.run.activations[activation as usize - 1];
        let checkpoint = self.state.run.published[&generation]
            .checkpoint
            .digest
            .clone();
        self.tell(Event::TrainerSwapped {
            step,
            activation,
            generation,
            checkpoint,
            session,
        })
    }

    /// Generation and checkpoint step of what is open.
    pub fn open(&self) -> Option<(u64, u64)> {
        self.state
            .run
            .open
            .as_ref()
            .map(|o| (o.generation, o.checkpoint.step))
    }
}

pub fn key(lease: &Lease) -> LeaseKey {
    LeaseKey {
        epoch: lease.epoch,
        id: lease.id,
    }
}

pub fn task_key(task: &Task) -> TaskKey {
    TaskKey {
        generation: task.generation,
        number: task.number,
    }
}

pub fn completed(worker: &str, lease: &Lease, output: TaskOutput) -> Event {
    Event::TaskCompleted {
        worker: worker.to_owned(),
        lease: key(lease),
        task: task_key(&lease.task),
        output,
    }
}

pub fn heartbeat(worker: &str, lease: &Lease) -> Event {
    Event::Heartbeat {
        worker: worker.to_owned(),
        lease: key(lease),
        task: Some(task_key(&lease.task)),
        progress: 0.5,
    }
}
