//! A worker: takes leases, reads inputs, takes its time, writes outputs, delivers.
//!
//! Behaves as the real one does (`inferencer/src/worker.rs`): heartbeats beside the
//! work, a finished output is offered until somebody answers.

use crate::client::Client;
use crate::cluster::Cluster;
use crate::network::Link;
use crate::objects::Content;
use crate::process::Process;
use quarry_artifacts::{ArtifactError, ObjectRef, Store, layout};
use quarry_proto::{Lease, Role, Task, TaskOutput, Work, v1};
use std::sync::Arc;

/// One worker process.
pub struct Worker {
    link: Link,
    store: Store,
}

/// Why a task gave no output, and whether the task is to blame.
struct Failure {
    reason: String,
    blames_task: bool,
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        Self {
            reason: error.to_string(),
            blames_task: !error.is_retryable(),
        }
    }
}

impl Worker {
    pub fn new(cluster: &Arc<Cluster>, process: &Arc<Process>) -> Self {
        Self {
            link: Link::new(cluster, process),
            store: Client::open(&cluster.world, process, &cluster.site),
        }
    }

    /// Works until nothing will be to do; true then.
    pub async fn run(self) -> bool {
        let mut next = None;
        loop {
            let lease = match next.take() {
                Some(lease) => lease,
                None => {
                    let Ok(answer) = self.link.until_answered(|| self.link.acquire()).await else {
                        return false;
                    };
                    if answer.run_finished {
                        return true;
                    }
                    let Some(lease) = answer.lease else {
                        continue;
                    };
                    lease
                }
            };
            let lease = Lease::try_from(lease).unwrap();
            let output = tokio::select! {
                biased;
                output = self.perform(&lease.task) => output,
                () = self.beat(&lease) => {
                    let name = &self.link.process.name;
                    self.link.world().note(format_args!("{name} drops a cancelled task"));
                    continue;
                }
            };
            next = self.deliver(&lease, output).await;
        }
    }

    /// What is next, if the coordinator said.
    async fn deliver(
        &self,
        lease: &Lease,
        output: Result<TaskOutput, Failure>,
    ) -> Option<v1::Lease> {
        let output = match output {
            Ok(output) => output,
            Err(failure) => {
                self.give_back(lease, failure).await;
                return None;
            }
        };
        let mut request = v1::CompleteTaskRequest {
            worker: self.link.process.name.clone(),
            lease: lease.id,
            epoch: lease.epoch,
            generation: lease.task.generation,
            task: lease.task.number,
            output: Some(output.into()),
            go_on: true,
        };
        let delivered = self.link.until_answered(|| {
            let call = self.link.complete(request.clone());
            request.go_on = false;
            call
        });
        match delivered.await {
            Ok(answer) => answer.next,
            Err(status) => {
                let reason = status.message().to_owned();
                let blames_task = true;
                self.give_back(
                    lease,
                    Failure {
                        reason,
                        blames_task,
                    },
                )
                .await;
                None
            }
        }
    }

    async fn give_back(&self, lease: &Lease, failure: Failure) {
        let name = &self.link.process.name;
        let (task, reason) = (lease.task.number, &failure.reason);
        self.link
            .world()
            .note(format_args!("{name} fails at task {task}: {reason}"));
        let request = v1::ReturnLeaseRequest {
            worker: name.clone(),
            lease: lease.id,
            epoch: lease.epoch,
            reason: failure.reason,
            failed: failure.blames_task,
        };
        let returned = self
            .link
            .until_answered(|| self.link.give_back(request.clone()));
        let _ = returned.await; // a lease that is not known is harmless
        self.link.process.sleep(1_000).await;
    }

    /// Renews the lease until the coordinator does not want the work any more.
    async fn beat(&self, lease: &Lease) {
        let mut missed = false;
        loop {
            let pause = lease.pause(missed).as_millis();
            self.link.process.sleep(pause as u64).await;
            let request = v1::HeartbeatRequest {
                worker: self.link.process.name.clone(),
                lease: lease.id,
                epoch: lease.epoch,
                progress: 0.5,
                generation: Some(lease.task.generation),
                task: Some(lease.task.number),
            };
            let limit = lease.patience().as_millis() as u64;
            missed = match self.link.heartbeat(limit, request).await {
                Ok(true) => return,
                Ok(false) => false,
                Err(_) => true,
            };
        }
    }

    async fn perform(&self, task: &Task) -> Result<TaskOutput, Failure> {
        let world = self.link.world();
        for input in inputs(&task.work) {
            let bytes = self.store.get(input).await?;
            let content: Content = serde_json::from_slice(&bytes).unwrap();
            if content.checkpoint != task.checkpoint.digest {
                return Err(Failure {
                    reason: format!("{} stems from another checkpoint", input.path),
                    blames_task: true,
                });
            }
        }
        let slow = world.fault(world.weather.task_slow);
        let ms = world.between(if slow { 5_000..40_000 } else { 50..1_500 });
        self.link.process.sleep(ms).await;
        if world.fault(world.weather.task_fails) {
            return Err(Failure {
                reason: "out of memory".to_owned(),
                blames_task: true,
            });
        }
        let noise = if world.fault(world.weather.task_noise) {
            self.link.process.name.clone()
        } else {
            String::new()
        };
        self.write(task, &noise).await
    }

    async fn write(&self, task: &Task, noise: &str) -> Result<TaskOutput, Failure> {
        let folder = layout::generation_folder(task.generation);
        let mut made = TaskOutput::default();
        for role in roles(&task.work) {
            let content = Content {
                checkpoint: task.checkpoint.digest.clone(),
                what: format!("{role:?} of {}", task.work),
                noise: noise.to_owned(),
            };
            let bytes = serde_json::to_vec(&content).unwrap().into();
            let stem = format!("{role:?}").to_lowercase();
            let object = self
                .store
                .put_content(&folder, &stem, "json", bytes)
                .await?;
            made.outputs.push((*role, object));
        }
        if made.of(Role::Run).count() > 0 {
            let mrr = (task.checkpoint.step as f64).ln_1p() / 10.0;
            made.metrics.insert("mrr@10".into(), mrr);
        }
        Ok(made)
    }
}

/// What a task is done from.
fn inputs(work: &Work) -> Vec<&ObjectRef> {
    match work {
        Work::BuildPartition { embeddings, .. } => embeddings.iter().collect(),
        Work::SearchBlock {
            query_embeddings,
            embeddings,
            index,
            ..
        } => query_embeddings
            .iter()
            .chain(embeddings)
            .chain(index)
            .collect(),
        Work::MergeBlock { candidates, .. } => candidates.iter().collect(),
        Work::EncodeQueries { .. } | Work::EncodeShard { .. } | Work::MineSparse { .. } => vec![],
    }
}

/// What a task makes.
fn roles(work: &Work) -> &'static [Role] {
    match work {
        Work::EncodeQueries { .. } => &[Role::QueryEmbeddings],
        Work::EncodeShard { .. } => &[Role::Embeddings],
        Work::BuildPartition { .. } => &[Role::Index],
        Work::SearchBlock { .. } => &[Role::Candidates],
        Work::MergeBlock { evaluate: true, .. } | Work::MineSparse { evaluate: true, .. } => {
            &[Role::Run, Role::Metrics]
        }
        Work::MergeBlock { .. } | Work::MineSparse { .. } => &[Role::Negatives],
    }
}
