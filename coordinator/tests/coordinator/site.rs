//! For tests of the whole process on loopback: a prepared run, coordinators on it,
//! and a fake worker and trainer that call them.

use crate::fixture::content;
use quarry_artifacts::{
    CheckpointManifest, CheckpointOrigin, CheckpointRef, CorpusLocation, Digest,
    GenerationManifest, ObjectRef, RunDocument, Store, layout, publish_checkpoint,
};
use quarry_coordinator::options::Options;
use quarry_coordinator::server::serve;
use quarry_proto::v1::coordinator_client::CoordinatorClient;
use quarry_proto::{Lease, TaskOutput, v1};
use quarry_recipe::Recipe;
use quarry_service::{CancellationToken, ServiceArgs, ServiceChannel, port_file};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Streaming};

pub type Client = CoordinatorClient<ServiceChannel>;
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A prepared run in a folder, and the processes on it.
pub struct Site {
    pub folder: TempDir,
    pub store: Store,
    starts: u32,
}

pub struct Process {
    pub client: Client,
    pub url: String,
    pub serving: JoinHandle<anyhow::Result<()>>,
    pub shutdown: CancellationToken,
}

pub async fn save(store: &Store, folder: &Path, step: u64) -> CheckpointManifest {
    let local = folder.join(format!("model-{step}"));
    std::fs::create_dir_all(&local).unwrap();
    std::fs::write(local.join("model.safetensors"), format!("weights {step}")).unwrap();
    publish_checkpoint(store, step, &local, CheckpointOrigin::default())
        .await
        .unwrap()
}

/// A small run that begins with the checkpoint `initial`.
pub fn document(initial: CheckpointRef) -> RunDocument {
    let mut recipe = Recipe::default();
    recipe.data.block_queries = 10;
    recipe.index.partition_passages = 200;
    let corpus = Digest::of(b"corpus");
    RunDocument {
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
        initial_checkpoint: initial,
        created: 0,
        replay: None,
    }
}

impl Site {
    pub async fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(root.to_str().unwrap()).await.unwrap();
        let run = document(save(&store, folder.path(), 0).await.reference());
        run.publish(&store).await.unwrap();
        Self {
            folder,
            store,
            starts: 0,
        }
    }

    /// How a coordinator of this run is started.
    pub fn options(&mut self) -> Options {
        self.starts += 1;
        let port = self.folder.path().join(format!("port-{}", self.starts));
        Options {
            store: self.folder.path().join("store").to_str().unwrap().into(),
            standby: false,
            takeover_after: Duration::from_millis(1500),
            advertise: None,
            service: ServiceArgs {
                listen: "127.0.0.1:0".parse().unwrap(),
                health_listen: None,
                token_file: None,
                insecure: false,
                log_json: false,
                port_file: Some(port),
            },
        }
    }

    pub async fn start(&mut self) -> Process {
        let options = self.options();
        Process::start(options).await
    }
}

impl Process {
    /// Starts a coordinator and waits until it leads or stands by.
    pub async fn start(options: Options) -> Self {
        let shutdown = CancellationToken::new();
        let port = options.service.port_file.clone().unwrap();
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move { serve(&options, stop).await });
        let addr = port_file::wait(&port, PATIENCE).await.unwrap();
        let url = format!("http://{addr}");
        Self {
            client: client(&url),
            url,
            serving,
            shutdown,
        }
    }

    /// Ends it as `kill -9` does: nothing is said or written any more.
    pub async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

/// A client of the coordinators at `urls`, separated by commas.
pub fn client(urls: &str) -> Client {
    CoordinatorClient::new(ServiceChannel::lazy(urls, None).unwrap())
}

impl Process {
    pub async fn acquire(&mut self, wait_ms: u32) -> v1::AcquireLeaseResponse {
        let worker = "worker-1".to_owned();
        let request = v1::AcquireLeaseRequest { worker, wait_ms };
        self.client
            .acquire_lease(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn lease(&mut self) -> Lease {
        let answer = self.acquire(10_000).await;
        answer
            .lease
            .expect("no work within 10 s")
            .try_into()
            .unwrap()
    }

    pub async fn complete(&mut self, lease: &Lease, output: TaskOutput) -> bool {
        self.completed(lease, output, false).await.accepted
    }

    /// The whole answer; with `go_on` it may bring the next lease.
    pub async fn completed(
        &mut self,
        lease: &Lease,
        output: TaskOutput,
        go_on: bool,
    ) -> v1::CompleteTaskResponse {
        let request = v1::CompleteTaskRequest {
            worker: "worker-1".into(),
            lease: lease.id,
            epoch: lease.epoch,
            generation: lease.task.generation,
            task: lease.task.number,
            output: Some(output.into()),
            go_on,
        };
        self.client
            .complete_task(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn watch(
        &mut self,
        after_activation: u64,
    ) -> Streaming<v1::WatchGenerationsResponse> {
        let request = v1::WatchGenerationsRequest { after_activation };
        self.client
            .watch_generations(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn publish(
        &mut self,
        checkpoint: v1::CheckpointRef,
        is_final: bool,
    ) -> Result<(), Code> {
        let request = v1::PublishCheckpointRequest {
            checkpoint: Some(checkpoint),
            r#final: is_final,
        };
        let answer = self.client.publish_checkpoint(request).await;
        answer.map(|_| ()).map_err(|status| status.code())
    }
}

/// Writes a task's outputs into the store, as a worker does.
pub async fn make(store: &Store, lease: &Lease) -> TaskOutput {
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
pub async fn work_until_activated(
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

pub async fn read(store: &Store, heard: &v1::WatchGenerationsResponse) -> GenerationManifest {
    let manifest = ObjectRef::try_from(heard.manifest.clone().unwrap()).unwrap();
    GenerationManifest::read(store, &manifest).await.unwrap()
}
