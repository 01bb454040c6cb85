//! The worker's loop against a stub coordinator over real gRPC: heartbeats,
//! cancellation, failure, shutdown, and a coordinator that restarts.
#![allow(clippy::unwrap_used)]

use quarry_artifacts::{CheckpointRef, Digest, layout};
use quarry_inferencer::{Ended, Engine, Link, Perform, Progress, TaskError, Worker, WorkerError};
use quarry_proto::{Lease, Task, TaskOutput, Work};
use quarry_service::{CancellationToken, Token};
use quarry_testkit::coordinator::{Script, Stub};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;

const STEP: Duration = Duration::from_millis(10);

/// Does shard `n` in `n` steps of 10 ms; some numbers mean trouble.
#[derive(Clone, Default)]
struct Actor {
    begun: Arc<AtomicUsize>,
}

const DAMAGED: u32 = 1001;
const PANICS: u32 = 1002;
const LOSES_GPU: u32 = 1003;
const ASSERTS: u32 = 1004;

impl Perform for Actor {
    fn perform(&mut self, task: &Task, progress: &Progress) -> Result<TaskOutput, TaskError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let Work::EncodeShard { shard } = task.work else {
            panic!("only shards are scripted")
        };
        match shard {
            DAMAGED => return Err(TaskError::Refused("shard 1001 is damaged".to_owned())),
            PANICS => panic!("out of luck\nwith a backtrace"),
            LOSES_GPU => panic!("CUDA error: unspecified launch failure\nwith a backtrace"),
            ASSERTS => panic!("CUDA error: device-side assert triggered\nwith a backtrace"),
            _ => {}
        }
        progress.begin(shard as usize);
        for _ in 0..shard {
            std::thread::sleep(STEP);
            progress.advance(1)?;
        }
        let counts = [("steps".to_owned(), u64::from(shard))].into();
        Ok(TaskOutput {
            counts,
            ..TaskOutput::default()
        })
    }
}

fn lease(id: u64, shard: u32) -> quarry_proto::v1::Lease {
    let digest = Digest::of(b"model");
    let manifest = layout::checkpoint_manifest(0, &digest);
    let checkpoint = CheckpointRef {
        step: 0,
        digest,
        manifest,
    };
    let task = Task {
        generation: 3,
        number: shard,
        checkpoint,
        work: Work::EncodeShard { shard },
    };
    Lease {
        id,
        attempt: 1,
        epoch: 1,
        duration_ms: 200,
        task,
    }
    .into()
}

struct Fixture {
    script: Script,
    stub: Option<Stub>,
    addr: SocketAddr,
    actor: Actor,
    shutdown: CancellationToken,
}

impl Fixture {
    fn new(leases: &[(u64, u32)]) -> Self {
        let script = Script::default();
        script.orders().leases = leases.iter().map(|&(id, shard)| lease(id, shard)).collect();
        let stub = Stub::start(&script);
        let addr = stub.addr;
        Self {
            script,
            stub: Some(stub),
            addr,
            actor: Actor::default(),
            shutdown: CancellationToken::new(),
        }
    }

    fn start(&self) -> std::thread::JoinHandle<Result<Ended, WorkerError>> {
        let url = format!("http://{}", self.addr);
        let (actor, shutdown) = (self.actor.clone(), self.shutdown.clone());
        std::thread::spawn(move || run(&url, actor, &shutdown))
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited too long until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn begun(&self) -> usize {
        self.actor.begun.load(Ordering::SeqCst)
    }
}

fn run(url: &str, actor: Actor, shutdown: &CancellationToken) -> Result<Ended, WorkerError> {
    run_with(url, actor, shutdown, false)
}

fn run_with(
    url: &str,
    actor: Actor,
    shutdown: &CancellationToken,
    once: bool,
) -> Result<Ended, WorkerError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let link = Link::new(url, None, "worker-a".to_owned()).unwrap();
        let worker = Worker::new(link, Engine::start(1, actor).unwrap(), once);
        worker.run(shutdown).await
    })
}

#[test]
fn a_task_is_done_with_heartbeats_beside_it_and_the_run_ends() {
    let fixture = Fixture::new(&[(1, 40), (2, 1)]);
    assert_eq!(fixture.start().join().unwrap().unwrap(), Ended::RunFinished);
    let heard = fixture.script.heard();
    let first = || heard.heartbeats.iter().filter(|b| b.lease == 1);
    let beats: Vec<f64> = first().map(|b| b.progress).collect();
    // With the task's name a restarted coordinator can take the lease over.
    assert!(first().all(|b| (b.epoch, b.generation, b.task) == (1, Some(3), Some(40))));
    // 400 ms of work, a beat each 100 ms.
    assert!(beats.len() >= 2, "{beats:?}");
    assert!(
        beats.windows(2).all(|w| w[0] <= w[1]) && beats.iter().any(|b| *b > 0.3),
        "{beats:?}"
    );
    let done: Vec<_> = heard
        .completed
        .iter()
        .map(|c| (c.lease, c.epoch, c.generation, c.task))
        .collect();
    assert_eq!(done, [(1, 1, 3, 40), (2, 1, 3, 1)]);
    assert_eq!(
        heard.completed[0].output.as_ref().unwrap().counts["steps"],
        40
    );
    assert_eq!(heard.completed[0].worker, "worker-a");
    assert!(heard.returned.is_empty());
}

#[test]
fn a_completion_brings_the_next_task() {
    let fixture = Fixture::new(&[(1, 1), (2, 5000)]);
    let worker = fixture.start();
    fixture.wait_until("the second task has begun", |f| f.begun() == 2);
    fixture.shutdown.cancel();
    assert_eq!(worker.join().unwrap().unwrap(), Ended::Stopped);
    let heard = fixture.script.heard();
    assert_eq!(heard.acquired, 1);
    let done: Vec<_> = heard.completed.iter().map(|c| (c.lease, c.go_on)).collect();
    assert_eq!(done, [(1, true)]);
    let returned: Vec<_> = heard.returned.iter().map(|r| (r.lease, r.failed)).collect();
    assert_eq!(returned, [(2, false)]);
}

#[test]
fn a_task_that_comes_while_the_worker_is_asked_to_stop_is_returned_unbegun() {
    let fixture = Fixture::new(&[(1, 40), (2, 5000)]);
    let worker = fixture.start();
    fixture.wait_until("the first task has begun", |f| f.begun() == 1);
    // No call is answered until this is dropped: not the completion, 400 ms from here.
    let heard = fixture.script.heard();
    std::thread::sleep(Duration::from_secs(2));
    fixture.shutdown.cancel();
    drop(heard);
    assert_eq!(worker.join().unwrap().unwrap(), Ended::Stopped);
    assert_eq!(fixture.begun(), 1);
    let heard = fixture.script.heard();
    let returned: Vec<_> = heard.returned.iter().map(|r| (r.lease, r.failed)).collect();
    assert_eq!(returned, [(2, false)]);
}

#[test]
fn a_worker_for_one_task_asks_for_no_other() {
    let fixture = Fixture::new(&[(1, 1), (2, 1)]);
    let url = format!("http://{}", fixture.addr);
    let ended = run_with(&url, fixture.actor.clone(), &fixture.shutdown, true);
    assert_eq!(ended.unwrap(), Ended::OneTask);
    let heard = fixture.script.heard();
    let done: Vec<_> = heard.completed.iter().map(|c| (c.lease, c.go_on)).collect();
    assert_eq!(done, [(1, false)]);
}

#[test]
fn a_cancelled_task_stops_at_once_and_is_neither_delivered_nor_returned() {
    let fixture = Fixture::new(&[(1, 5000), (2, 1)]);
    fixture.script.orders().cancel.push(1);
    let started = Instant::now();
    assert_eq!(fixture.start().join().unwrap().unwrap(), Ended::RunFinished);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "50 s of work were not cut short"
    );
    let heard = fixture.script.heard();
    assert_eq!(
        heard.completed.iter().map(|c| c.lease).collect::<Vec<_>>(),
        [2]
    );
    assert!(heard.returned.is_empty());
}

#[test]
fn a_finished_output_outlives_a_restart_of_the_coordinator() {
    let mut fixture = Fixture::new(&[(1, 60)]);
    let worker = fixture.start();
    fixture.wait_until("the task has begun", |f| f.begun() == 1);
    drop(fixture.stub.take());
    // The task ends meanwhile, and its delivery fails for a while.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(fixture.script.heard().completed.is_empty());
    fixture.stub = Some(Stub::start_at(fixture.addr, &fixture.script, None));
    assert_eq!(worker.join().unwrap().unwrap(), Ended::RunFinished);
    let heard = fixture.script.heard();
    assert_eq!(heard.completed.len(), 1);
    assert_eq!(
        heard.completed[0].output.as_ref().unwrap().counts["steps"],
        60
    );
}

#[test]
fn a_failed_task_is_returned_with_its_sentence_and_the_worker_goes_on() {
    let fixture = Fixture::new(&[(1, DAMAGED), (2, PANICS), (3, 1)]);
    assert_eq!(fixture.start().join().unwrap().unwrap(), Ended::RunFinished);
    let heard = fixture.script.heard();
    let returned: Vec<_> = heard
        .returned
        .iter()
        .map(|r| (r.lease, r.failed, r.reason.as_str()))
        .collect();
    assert_eq!(
        returned,
        [
            (1, true, "shard 1001 is damaged"),
            (2, true, "the computation failed: out of luck")
        ]
    );
    assert_eq!(
        heard.completed.iter().map(|c| c.lease).collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn a_worker_whose_gpu_failed_returns_the_lease_and_ends() {
    let cases = [
        (LOSES_GPU, "unspecified launch failure", false),
        // Three workers that this ends, and the generation is given up.
        (ASSERTS, "device-side assert", true),
    ];
    for (shard, words, blames) in cases {
        let fixture = Fixture::new(&[(1, shard), (2, 1)]);
        let error = fixture.start().join().unwrap().unwrap_err();
        assert!(matches!(error, WorkerError::DeviceLost(_)), "{error}");
        let sentence = error.to_string();
        assert!(sentence.contains(words), "{sentence}");
        assert_eq!(sentence.lines().count(), 1);
        let heard = fixture.script.heard();
        let returned: Vec<_> = heard.returned.iter().map(|r| (r.lease, r.failed)).collect();
        assert_eq!(returned, [(1, blames)]);
        assert!(heard.completed.is_empty());
        assert_eq!(fixture.begun(), 1);
    }
}

#[test]
fn a_refused_output_gives_the_lease_back_as_failed() {
    let fixture = Fixture::new(&[(1, 1), (2, 1)]);
    fixture.script.orders().refuse.push(1);
    assert_eq!(fixture.start().join().unwrap().unwrap(), Ended::RunFinished);
    let heard = fixture.script.heard();
    let returned: Vec<_> = heard.returned.iter().map(|r| (r.lease, r.failed)).collect();
    assert_eq!(returned, [(1, true)]);
    let reason = &heard.returned[0].reason;
    assert!(reason.ends_with("it gave no object"), "{reason}");
    assert_eq!(heard.completed.len(), 1);
}

#[test]
fn a_stopping_worker_returns_its_lease() {
    let fixture = Fixture::new(&[(1, 5000)]);
    let worker = fixture.start();
    fixture.wait_until("the task has begun", |f| f.begun() == 1);
    fixture.shutdown.cancel();
    assert_eq!(worker.join().unwrap().unwrap(), Ended::Stopped);
    let heard = fixture.script.heard();
    let returned: Vec<_> = heard.returned.iter().map(|r| (r.lease, r.failed)).collect();
    assert_eq!(returned, [(1, false)]);
    assert!(heard.completed.is_empty());
}

#[test]
fn a_worker_without_a_coordinator_stops_when_asked() {
    let mut fixture = Fixture::new(&[]);
    drop(fixture.stub.take());
    let worker = fixture.start();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!worker.is_finished(), "an absent coordinator is waited for");
    fixture.shutdown.cancel();
    assert_eq!(worker.join().unwrap().unwrap(), Ended::Stopped);
}

#[test]
fn a_wrong_token_ends_the_worker_with_the_coordinators_words() {
    let script = Script::default();
    let token = Token::new("correct-horse-battery").unwrap();
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let stub = Stub::start_at(anywhere, &script, Some(token));
    let error = run(&stub.url(), Actor::default(), &CancellationToken::new()).unwrap_err();
    assert!(
        matches!(&error, WorkerError::Refused(status) if status.code() == Code::Unauthenticated),
        "{error}"
    );
}
