//! The whole process on loopback: a fake worker and a fake trainer make a BM25
//! and a dense generation over gRPC, through a kill of the coordinator.

use crate::fixture::content;
use quarry_artifacts::{
    CheckpointManifest, CheckpointOrigin, CorpusLocation, Digest, GenerationManifest, ObjectRef,
    RunDocument, Store, layout, publish_checkpoint,
};
use quarry_coordinator::server::{FENCED_EXIT, exit_code, serve};
use quarry_proto::v1::coordinator_client::CoordinatorClient;
use quarry_proto::{Lease, TaskOutput, v1};
use quarry_recipe::Recipe;
use quarry_service::{CancellationToken, ServiceArgs, ServiceChannel, channel, port_file};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Streaming};

type Client = CoordinatorClient<ServiceChannel>;
const PATIENCE: Duration = Duration::from_secs(20);

/// A prepared run in a folder, and the processes on it.
struct Site {
    folder: TempDir,
    store: Store,
    starts: u32,
}

struct Process {
    client: Client,
    serving: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

async fn save(store: &Store, folder: &Path, step: u64) -> CheckpointManifest {
    let local = folder.join(format!("model-{step}"));
    std::fs::create_dir_all(&local).unwrap();
    std::fs::write(local.join("model.safetensors"), format!("weights {step}")).unwrap();
    publish_checkpoint(store, step, &local, CheckpointOrigin::default())
        .await
        .unwrap()
}

impl Site {
    async fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(root.to_str().unwrap()).await.unwrap();
        let mut recipe = Recipe::default();
        recipe.data.block_queries = 10;
        recipe.index.partition_passages = 200;
        let corpus = Digest::of(b"corpus");
        let run = RunDocument {
            version: RunDocument::VERSION,
            recipe: serde_json::to_value(&recipe).unwrap(),
            corpus: CorpusLocation {
                folder: layout::corpus_folder(&corpus),
                digest: corpus,
                files: BTreeMap::new(),
                manifest: json!({
                    "shards": [{"passages": 100}, {"passages": 100}, {"passages": 50}],
                    "queries": {"train": {"queries": 25}, "dev": {"queries": 5}},
                }),
            },
            tokenizer_digest: Digest::of(b"tokenizer"),
            initial_checkpoint: save(&store, folder.path(), 0).await.reference(),
            created: 0,
            replay: None,
        };
        run.publish(&store).await.unwrap();
        Self {
            folder,
            store,
            starts: 0,
        }
    }

    fn store_path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    async fn start(&mut self) -> Process {
        self.starts += 1;
        let port = self.folder.path().join(format!("port-{}", self.starts));
        let args = ServiceArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            health_listen: None,
            token_file: None,
            insecure: false,
            log_json: false,
            port_file: Some(port.clone()),
        };
        let shutdown = CancellationToken::new();
        let (path, stop) = (self.store_path(), shutdown.clone());
        let serving = tokio::spawn(async move { serve(path.to_str().unwrap(), &args, stop).await });
        let addr = port_file::wait(&port, PATIENCE).await.unwrap();
        let url = format!("http://{addr}");
        let channel = channel::connect("the coordinator", &url, None)
            .await
            .unwrap();
        Process {
            client: CoordinatorClient::new(channel),
            serving,
            shutdown,
        }
    }
}

impl Process {
    async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    async fn acquire(&mut self, wait_ms: u32) -> v1::AcquireLeaseResponse {
        let worker = "worker-1".to_owned();
        let request = v1::AcquireLeaseRequest { worker, wait_ms };
        self.client
            .acquire_lease(request)
            .await
            .unwrap()
            .into_inner()
    }

    async fn lease(&mut self) -> Lease {
        let answer = self.acquire(10_000).await;
        answer
            .lease
            .expect("no work within 10 s")
            .try_into()
            .unwrap()
    }

    async fn complete(&mut self, lease: &Lease, output: TaskOutput) -> bool {
        let request = v1::CompleteTaskRequest {
            worker: "worker-1".into(),
            lease: lease.id,
            epoch: lease.epoch,
            generation: lease.task.generation,
            task: lease.task.number,
            output: Some(output.into()),
        };
        self.client
            .complete_task(request)
            .await
            .unwrap()
            .into_inner()
            .accepted
    }

    async fn watch(&mut self, after_activation: u64) -> Streaming<v1::WatchGenerationsResponse> {
        let request = v1::WatchGenerationsRequest { after_activation };
        self.client
            .watch_generations(request)
            .await
            .unwrap()
            .into_inner()
    }

    async fn publish(&mut self, checkpoint: v1::CheckpointRef, is_final: bool) -> Result<(), Code> {
        let request = v1::PublishCheckpointRequest {
            checkpoint: Some(checkpoint),
            r#final: is_final,
        };
        let answer = self.client.publish_checkpoint(request).await;
        answer.map(|_| ()).map_err(|status| status.code())
    }
}

/// Writes a task's outputs into the store, as a worker does.
async fn make(store: &Store, lease: &Lease) -> TaskOutput {
    let mut made = crate::fixture::output(&lease.task);
    let folder = layout::generation_folder(lease.task.generation);
    for (role, object) in &mut made.outputs {
        let bytes = content(&lease.task, *role).into();
        *object = store
            .put_content(&folder, "object", "bin", bytes)
            .await
            .unwrap();
    }
    made
}

/// Works until the watcher hears of an activation.
async fn work_until_activated(
    process: &mut Process,
    store: &Store,
    watcher: &mut Streaming<v1::WatchGenerationsResponse>,
) -> v1::WatchGenerationsResponse {
    let work = async {
        loop {
            if let Some(lease) = process.acquire(100).await.lease {
                let lease = lease.try_into().unwrap();
                let output = make(store, &lease).await;
                assert!(process.complete(&lease, output).await);
            }
        }
    };
    tokio::select! {
        () = work => unreachable!(),
        heard = timeout(PATIENCE, watcher.message()) => heard.unwrap().unwrap().unwrap(),
    }
}

async fn read(store: &Store, heard: &v1::WatchGenerationsResponse) -> GenerationManifest {
    let manifest = ObjectRef::try_from(heard.manifest.clone().unwrap()).unwrap();
    GenerationManifest::read(store, &manifest).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_generations_are_made_and_swapped_through_a_kill() {
    let mut site = Site::prepare().await;
    let store = site.store.clone();
    let mut process = site.start().await;
    let mut watcher = process.watch(0).await;
    let heard = work_until_activated(&mut process, &store, &mut watcher).await;
    assert_eq!((heard.activation, heard.generation), (1, 0));
    assert_eq!(read(&store, &heard).await.negatives.len(), 3);

    // Half of the dense generation, one object lost, one lease held; then a kill.
    for i in 0..9 {
        let lease = process.lease().await;
        assert_eq!(lease.task.generation, 1);
        let output = make(&store, &lease).await;
        assert!(process.complete(&lease, output.clone()).await);
        if i == 5 {
            store.delete(&output.outputs[0].1.path).await.unwrap();
        }
    }
    let held = process.lease().await;
    process.kill().await;
    let mut process = site.start().await;
    let run = process
        .client
        .get_run(v1::GetRunRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((run.epoch, run.open.unwrap().tasks_done), (2, 9));
    let beat = v1::HeartbeatRequest {
        worker: "worker-1".into(),
        lease: held.id,
        epoch: held.epoch,
        progress: 0.5,
        generation: Some(held.task.generation),
        task: Some(held.task.number),
    };
    assert!(
        !process
            .client
            .heartbeat(beat)
            .await
            .unwrap()
            .into_inner()
            .cancelled
    );
    let output = make(&store, &held).await;
    assert!(
        process.complete(&held, output).await,
        "an old epoch's work counts"
    );
    let mut watcher = process.watch(1).await;
    let heard = work_until_activated(&mut process, &store, &mut watcher).await;
    assert_eq!((heard.activation, heard.generation), (2, 1));
    let manifest = read(&store, &heard).await;
    assert_eq!(
        (manifest.embeddings.len(), manifest.counts["reopened_tasks"]),
        (3, 1)
    );

    trainer_side(&mut process, &site, &mut watcher, heard).await;
    // An open stream and a waiting worker do not hold the process up.
    process.shutdown.cancel();
    timeout(PATIENCE, process.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Swap, progress, status, rollback and the end, as the trainer sees them.
async fn trainer_side(
    process: &mut Process,
    site: &Site,
    watcher: &mut Streaming<v1::WatchGenerationsResponse>,
    heard: v1::WatchGenerationsResponse,
) {
    let swap = v1::ReportSwapRequest {
        step: 12,
        activation: heard.activation,
        generation: heard.generation,
        checkpoint_digest: heard.checkpoint.unwrap().digest,
    };
    process.client.report_swap(swap.clone()).await.unwrap();
    let forged = v1::ReportSwapRequest {
        generation: 0,
        ..swap
    };
    let refused = process.client.report_swap(forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let progress = v1::ReportProgressRequest {
        step: 15,
        total_steps: 40,
        refusal: Some(v1::Refusal {
            activation: 3,
            generation: 2,
            reason: "bad".to_owned(),
        }),
        ..Default::default()
    };
    process.client.report_progress(progress).await.unwrap();
    let run = process
        .client
        .get_run(v1::GetRunRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((run.staleness, run.trainer.unwrap().step), (15, 15));
    let trouble = "the trainer refuses generation 2: bad; it goes on with generation 1";
    assert_eq!(run.trouble, trouble);
    assert_eq!(
        (run.active.unwrap().generation, run.open, run.finished),
        (1, None, false)
    );
    let request = v1::ListGenerationsRequest {};
    let list = process
        .client
        .list_generations(request)
        .await
        .unwrap()
        .into_inner();
    let kinds: Vec<&str> = list.generations.iter().map(|g| g.kind.as_str()).collect();
    assert_eq!((kinds, list.swaps.len()), (vec!["bm25", "dense"], 1));
    assert!(list.generations[1].metrics.contains_key("dev/mrr@10"));

    let unknown = process
        .client
        .rollback(v1::RollbackRequest { generation: 9 })
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let answer = process
        .client
        .rollback(v1::RollbackRequest { generation: 0 })
        .await
        .unwrap();
    assert_eq!(answer.into_inner().activation, 3);
    let heard = timeout(PATIENCE, watcher.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!((heard.activation, heard.generation), (3, 0));

    let saved = save(&site.store, site.folder.path(), 40).await.reference();
    let mut absent: v1::CheckpointRef = saved.clone().into();
    absent.manifest = "checkpoints/none/manifest.json".into();
    assert_eq!(
        process.publish(absent, false).await,
        Err(Code::FailedPrecondition)
    );
    let mut mislabelled: v1::CheckpointRef = saved.clone().into();
    mislabelled.step = 41;
    assert_eq!(
        process.publish(mislabelled, false).await,
        Err(Code::InvalidArgument)
    );
    let mut garbled: v1::CheckpointRef = saved.clone().into();
    garbled.digest = "zz".into();
    assert_eq!(
        process.publish(garbled, false).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(process.publish(saved.into(), true).await, Ok(()));
    let answer = process.acquire(10_000).await;
    assert!(answer.run_finished && answer.lease.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_6_a_zombie_exits_at_its_next_write() {
    let mut site = Site::prepare().await;
    let mut old = site.start().await;
    let lease = old.lease().await;
    let mut new = site.start().await;
    let output = make(&site.store, &lease).await;
    let request = v1::CompleteTaskRequest {
        worker: "worker-1".into(),
        lease: lease.id,
        epoch: lease.epoch,
        generation: lease.task.generation,
        task: lease.task.number,
        output: Some(output.clone().into()),
    };
    let refused = old.client.complete_task(request).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unavailable,
        "nothing unwritten is acknowledged"
    );
    let error = timeout(PATIENCE, old.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("another coordinator"), "{error}");
    assert_eq!(exit_code(&error), FENCED_EXIT);
    assert!(new.complete(&lease, output).await);
    new.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_exceed_the_default_of_4_mib() {
    let mut site = Site::prepare().await;
    let mut process = site.start().await;
    let request = v1::ReturnLeaseRequest {
        worker: "worker-1".into(),
        reason: "x".repeat(5 << 20),
        ..Default::default()
    };
    process.client.return_lease(request).await.unwrap();
    process.kill().await;
}

#[tokio::test]
async fn a_store_without_a_run_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let args = ServiceArgs {
        listen: "127.0.0.1:0".parse().unwrap(),
        health_listen: None,
        token_file: None,
        insecure: false,
        log_json: false,
        port_file: None,
    };
    let path = folder.path().to_str().unwrap();
    let error = serve(path, &args, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(exit_code(&error), 1);
    let words = error.to_string();
    assert!(words.contains("quarry prepare --recipe"), "{words}");
}
