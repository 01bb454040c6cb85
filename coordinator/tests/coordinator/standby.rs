//! A change of leader on loopback: callers that know both coordinators go on through
//! the same client, and a leader that comes back changes nothing.

use crate::site::{Client, PATIENCE, Process, Site, client, make};
use quarry_artifacts::Store;
use quarry_coordinator::log::Log;
use quarry_coordinator::options::Options;
use quarry_coordinator::server::{FENCED_EXIT, exit_code};
use quarry_proto::{Lease, v1};
use quarry_service::patience::{new_backoff, until_answered};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

/// What is promised of a take-over and of a restart.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(15);
const RESTART_LIMIT: Duration = Duration::from_secs(5);

/// Nobody listens here, so a leader that says it is here is never heard.
const NOWHERE: &str = "http://127.0.0.1:9";

impl Site {
    fn standby(&mut self) -> Options {
        Options {
            standby: true,
            ..self.options()
        }
    }
}

/// Works as an inferencer does, outlasting every coordinator.
async fn work(client: Client, store: Store) {
    loop {
        let acquire = || {
            let mut client = client.clone();
            let request = v1::AcquireLeaseRequest {
                worker: "worker-1".into(),
                wait_ms: 100,
            };
            async move { client.acquire_lease(request).await }
        };
        let answer = until_answered(acquire, |_| {}).await.unwrap().into_inner();
        let Some(lease) = answer.lease else { continue };
        let lease: Lease = lease.try_into().unwrap();
        let output = make(&store, &lease).await;
        let complete = || {
            let mut client = client.clone();
            let request = v1::CompleteTaskRequest {
                worker: "worker-1".into(),
                lease: lease.id,
                epoch: lease.epoch,
                generation: lease.task.generation,
                task: lease.task.number,
                output: Some(output.clone().into()),
                go_on: false,
            };
            async move { client.complete_task(request).await }
        };
        until_answered(complete, |_| {}).await.unwrap();
    }
}

/// Follows the activations as a trainer does, resuming after the last one.
async fn follow(client: Client, heard: mpsc::UnboundedSender<(u64, u64)>) {
    let (mut after, mut backoff) = (0, new_backoff());
    loop {
        let request = v1::WatchGenerationsRequest {
            after_activation: after,
        };
        if let Ok(stream) = client.clone().watch_generations(request).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(news)) = stream.message().await {
                after = news.activation;
                heard.send((news.activation, news.generation)).unwrap();
            }
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn run(client: &mut Client) -> Result<v1::GetRunResponse, tonic::Status> {
    let answer = client.get_run(v1::GetRunRequest {}).await;
    answer.map(tonic::Response::into_inner)
}

/// Waits until the coordinators at `client` answer for `epoch` or a later one.
async fn led(client: &mut Client, epoch: u64) -> v1::GetRunResponse {
    let answered = async {
        loop {
            match run(client).await {
                Ok(run) if run.epoch >= epoch => return run,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, answered).await.unwrap()
}

/// Waits until `process` says that it stands by and that `leader` leads.
async fn stands_by(process: &mut Process, leader: &str) {
    let words = format!("standing by; the leader is at {leader}");
    let said = async {
        loop {
            match run(&mut process.client).await {
                Err(status) if status.message() == words => return status.code(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, said).await.unwrap(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_and_worker_and_trainer_follow_it() {
    let mut site = Site::prepare().await;
    let leader = site.start().await;
    let mut standby = Process::start(site.standby()).await;
    stands_by(&mut standby, &leader.url).await;

    let mut both = client(&format!("{},{}", leader.url, standby.url));
    let (heard, mut activations) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    callers.spawn(follow(both.clone(), heard));
    callers.spawn(work(both.clone(), site.store.clone()));
    let first = timeout(PATIENCE, activations.recv()).await.unwrap();
    assert_eq!(first, Some((1, 0)));

    let killed = Instant::now();
    leader.kill().await;
    let run = led(&mut both, 2).await;
    let away = killed.elapsed();
    println!("led again after {:.2} s", away.as_secs_f64());
    assert!(away < TAKE_OVER_LIMIT, "nobody led for {away:?}");
    assert!(away > Duration::from_millis(700), "not patient: {away:?}");
    assert_eq!(run.epoch, 2);
    // Each activation is heard once, and the open generation is finished.
    let second = timeout(PATIENCE, activations.recv()).await.unwrap();
    assert_eq!(second, Some((2, 1)));
    let request = v1::RollbackRequest { generation: 0 };
    both.rollback(request).await.unwrap();
    let third = timeout(PATIENCE, activations.recv()).await.unwrap();
    assert_eq!(third, Some((3, 0)));
    callers.abort_all();

    standby.shutdown.cancel();
    let ended = timeout(PATIENCE, standby.serving).await.unwrap();
    ended.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_6_a_leader_that_is_only_out_of_sight_changes_nothing_any_more() {
    let mut site = Site::prepare().await;
    let mut options = site.options();
    options.advertise = Some(NOWHERE.to_owned());
    let mut zombie = Process::start(options).await;
    let lease = zombie.lease().await;
    let output = make(&site.store, &lease).await;
    let mut standby = Process::start(site.standby()).await;
    led(&mut standby.client, 2).await;

    let late = v1::CompleteTaskRequest {
        worker: "worker-1".into(),
        lease: lease.id,
        epoch: lease.epoch,
        generation: lease.task.generation,
        task: lease.task.number,
        output: Some(output.clone().into()),
        go_on: false,
    };
    let refused = zombie.client.complete_task(late).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let ended = timeout(PATIENCE, zombie.serving).await.unwrap().unwrap();
    assert_eq!(exit_code(&ended.unwrap_err()), FENCED_EXIT);
    let (_, durable) = Log::open(site.store.clone(), "reader".into())
        .await
        .unwrap();
    assert_eq!(durable.epoch, 2);
    assert!(durable.open.unwrap().done.is_empty(), "a zombie wrote");
    assert!(standby.complete(&lease, output).await);
    standby.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_leader_stands_by_and_leads_again() {
    let mut site = Site::prepare().await;
    let mut options = site.standby();
    options.advertise = Some(NOWHERE.to_owned());
    let mut first = Process::start(options).await;
    assert_eq!(led(&mut first.client, 1).await.epoch, 1);
    let mut second = Process::start(site.standby()).await;
    assert_eq!(led(&mut second.client, 2).await.epoch, 2);
    // It has nothing to write and finds out all the same.
    stands_by(&mut first, &second.url).await;
    second.kill().await;
    assert_eq!(led(&mut first.client, 3).await.epoch, 3);
    first.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_long_log_takes_seconds() {
    let mut site = Site::prepare().await;
    let mut process = site.start().await;
    for i in 0..700 {
        let paused = i % 2 == 0;
        let request = v1::PauseRefreshRequest { paused };
        process.client.pause_refresh(request).await.unwrap();
    }
    let before = run(&mut process.client).await.unwrap();
    // Started again where it led, it does not stand by for itself.
    let mut options = site.standby();
    options.service.listen = process.url["http://".len()..].parse().unwrap();
    options.takeover_after = PATIENCE;
    process.kill().await;
    let restarted = Instant::now();
    let mut process = Process::start(options).await;
    let after = led(&mut process.client, 2).await;
    let away = restarted.elapsed();
    println!("answered again after {:.2} s", away.as_secs_f64());
    assert!(away < RESTART_LIMIT, "{away:?}");
    assert_eq!((before.epoch, after.epoch), (1, 2));
    assert_eq!(before.open, after.open);
    process.kill().await;
}
