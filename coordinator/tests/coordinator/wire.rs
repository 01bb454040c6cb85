//! The whole process on loopback: a fake worker and a fake trainer make a BM25
//! and a dense generation over gRPC, through a kill of the coordinator.

use crate::site::{PATIENCE, Process, Site, make, read, save, work_until_activated};
use quarry_coordinator::server::{FENCED_EXIT, PORT_TAKEN_EXIT, exit_code, serve};
use quarry_proto::v1;
use quarry_service::CancellationToken;
use tokio::time::timeout;
use tonic::{Code, Streaming};

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
        session: Some(1),
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

    let manifest = save(&site.store, site.folder.path(), 40).await;
    let saved = manifest.reference();
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
    let model = &manifest.files["model.safetensors"].path;
    let short = site.folder.path().join("store").join(model);
    std::fs::write(short, "weig").unwrap();
    assert_eq!(
        process.publish(saved.clone().into(), false).await,
        Err(Code::FailedPrecondition),
        "a checkpoint that came short would replace older ones that are whole"
    );
    save(&site.store, site.folder.path(), 40).await; // which puts the file back
    assert_eq!(process.publish(saved.into(), true).await, Ok(()));
    let answer = process.acquire(10_000).await;
    assert!(answer.run_finished && answer.lease.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_brings_the_next_lease_to_who_asks_for_it() {
    let mut site = Site::prepare().await;
    let mut process = site.start().await;
    let mut lease = process.lease().await;
    let mut done = vec![lease.task.number];
    // The BM25 generation has three blocks and dev's; the dense one opens behind it.
    loop {
        let output = make(&site.store, &lease).await;
        let answer = process.completed(&lease, output, true).await;
        assert!(answer.accepted);
        let Some(next) = answer.next else { break };
        lease = next.try_into().unwrap();
        if lease.task.generation > 0 {
            break;
        }
        done.push(lease.task.number);
    }
    assert_eq!(done, [0, 1, 2, 3]);

    // Who does not ask for it gets none; a repetition is answered like the first.
    let held = process.lease().await;
    let output = make(&site.store, &held).await;
    let answer = process.completed(&held, output.clone(), false).await;
    assert_eq!((answer.accepted, answer.next), (true, None));
    let again = process.completed(&held, output, true).await;
    assert!(again.accepted && again.next.is_some());
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
        go_on: false,
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
    let mut options = Site::prepare().await.options();
    options.store = folder.path().to_str().unwrap().into();
    let stop = CancellationToken::new();
    let error = serve(&options, stop).await.unwrap_err();
    assert_eq!(exit_code(&error), 1);
    let words = error.to_string();
    assert!(words.contains("quarry prepare --recipe"), "{words}");
}

#[tokio::test]
async fn a_taken_port_has_an_exit_code_of_its_own() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::prepare().await;
    let mut options = site.options();
    options.service.listen = taken.local_addr().unwrap();
    let error = serve(&options, CancellationToken::new()).await.unwrap_err();
    assert_eq!(exit_code(&error), PORT_TAKEN_EXIT, "{error}");
}
