//! An inferencer without a model: the real calls and heartbeats around outputs that
//! are made up.

use crate::world::World;
use quarry_artifacts::{Store, layout};
use quarry_client::worker::{Acquired, Link};
use quarry_client::{Client, Heartbeats, overview};
use quarry_proto::{Lease, Role, Task, TaskOutput, Work};
use std::time::Duration;

/// What an inferencer makes of a task, put into the store.
pub async fn make(store: &Store, task: &Task) -> TaskOutput {
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
    let mut output = TaskOutput::default();
    for role in roles {
        let bytes = format!("{role:?} of {} with {}", task.work, task.checkpoint.digest);
        let object = store.put_content(&folder, "object", "bin", bytes.into());
        output.outputs.push((*role, object.await.unwrap()));
    }
    if roles[0] == Role::Run {
        output.metrics.insert("mrr@10".into(), 0.5);
    }
    output
}

/// Does one task as the worker's loop does; returns whether its output was the one
/// that counts.
pub async fn perform(world: &World, link: &Link, lease: &Lease, time: Duration) -> bool {
    let (sender, mut cancelled) = tokio::sync::oneshot::channel();
    let heartbeats = Heartbeats::start(
        link.clone(),
        lease.clone(),
        || 0.5,
        move || {
            let _ = sender.send(());
        },
    );
    tokio::select! {
        biased;
        Ok(()) = &mut cancelled => return false,
        () = tokio::time::sleep(time) => {}
    }
    drop(heartbeats);
    let output = make(&world.store("worker"), &lease.task).await;
    let completed = link.complete(lease, &output, false).await;
    completed.unwrap().accepted
}

/// Works until `generation` is active.
pub async fn until_active(world: &World, link: &Link, client: &Client, generation: u64) {
    loop {
        let run = overview::look_within(client, Duration::from_secs(60)).await;
        let active = run.unwrap().active.map(|active| active.generation);
        if active.is_some_and(|active| active >= generation) {
            return;
        }
        if let Acquired::Lease(lease) = link.acquire().await.unwrap() {
            perform(world, link, &lease, Duration::from_millis(50)).await;
        }
    }
}

/// The worker's loop, until the run is finished.
pub async fn work(world: World, link: Link, time: Duration) {
    loop {
        match link.acquire().await.unwrap() {
            Acquired::RunFinished => return world.note(format_args!("the worker is done")),
            Acquired::Nothing => {}
            Acquired::Lease(lease) => {
                let counts = perform(&world, &link, &lease, time).await;
                let task = (lease.task.generation, lease.task.number);
                world.note(format_args!("task {task:?} is done, and counts: {counts}"));
            }
        }
    }
}
