//! What a coordinator costs: the real program on loopback, with a fleet of stub workers
//! that make one generation of many tasks.
//!
//! Owns: the measurement. Every worker has a connection of its own, asks for leases,
//! sends heartbeats and completes tasks through the crate that inferencers use; it
//! sleeps where they compute and writes a tiny object where they write vectors. Prints
//! one JSON object. Refuses: judging the figures.
//!
//! ```sh
//! cargo build --bin quarry-coordinator && cargo run -p quarry-client --example scale -- --workers 1000 --tasks 100000
//! ```

mod meter;
mod site;
mod worker;

use anyhow::{Context, Result, bail};
use clap::Parser;
use meter::{Log, Usage, percentile};
use quarry_client::Client;
use quarry_client::worker::Link;
use quarry_proto::v1;
use quarry_service::ServiceChannel;
use serde_json::{Value, json};
use site::Site;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Streaming;
use worker::{Pace, Shared};

/// Milliseconds a task takes in life, on average.
const REAL_TASK_MS: u64 = 30_000;
/// Wait until workers that hurried are spread over the length of a real task.
const SETTLING: Duration = Duration::from_secs(60);

/// Measures the coordinator with stub workers
#[derive(Debug, Parser)]
struct Options {
    /// The program to measure
    #[arg(long, default_value = "target/debug/quarry-coordinator")]
    coordinator: PathBuf,
    /// Stub workers, each with its own connection
    #[arg(long, default_value_t = 100)]
    workers: u64,
    /// Tasks of the generation, nearly
    #[arg(long, default_value_t = 10_000)]
    tasks: u32,
    /// How long a task takes on average, in milliseconds [default: as many as there are
    /// workers, so that a thousand tasks end in a second]
    #[arg(long)]
    task_ms: Option<u64>,
    /// Once half of the tasks are done, let tasks take 30 s as in life, and measure that
    /// for so many seconds instead of the whole generation
    #[arg(long, value_name = "SECONDS")]
    real_pace: Option<u64>,
    /// Of the lengths of tasks
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let site = Site::prepare(options.tasks).await?;
    let coordinator = site.start(&options.coordinator).await?;
    let client = Client::new(ServiceChannel::lazy(&coordinator.url, None)?);
    let mut watched = watch(&client).await?;
    let shared = Arc::new(Shared::new(
        site.store.clone(),
        Pace::new(options.seed, options.task_ms.unwrap_or(options.workers)),
    ));
    for number in 0..options.workers {
        let link = Link::new(&coordinator.url, None, format!("stub-{number:04}"))?;
        tokio::spawn(worker::work(shared.clone(), link, number));
    }
    // Generation 0 only brings the fleet together.
    heard_of(&mut watched, 0).await?;
    let start = Point::now(&coordinator, &site).await?;
    let found = match options.real_pace {
        Some(seconds) => real_pace(&coordinator, &shared, &site, seconds).await?,
        None => {
            heard_of(&mut watched, 1).await?;
            let published = Instant::now();
            let end = Point::now(&coordinator, &site).await?;
            whole_generation(&shared, &start, &end, published)
        }
    };
    let mut report = json!({
        "workers": options.workers,
        "tasks": site.tasks,
        "task_ms": options.task_ms.unwrap_or(options.workers),
        "memory_mib": coordinator.peak_memory_mib()?,
    });
    if let (Some(report), Value::Object(found)) = (report.as_object_mut(), found) {
        report.extend(found);
    }
    println!("{report}");
    coordinator.stop().await
}

/// Where coordinator and log are at a moment.
struct Point {
    at: Instant,
    usage: Usage,
    log: Log,
}

impl Point {
    async fn now(coordinator: &site::Coordinator, site: &Site) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            usage: coordinator.usage()?,
            log: Log::of(&site.store).await?,
        })
    }
}

fn whole_generation(shared: &Shared, start: &Point, end: &Point, published: Instant) -> Value {
    let (mut idle, mut answers, last) = shared.take_samples();
    let processor = end.usage.seconds() - start.usage.seconds();
    let log = end.log.since(&start.log);
    json!({
        "seconds": (published - start.at).as_secs_f64(),
        "cpu_seconds": processor,
        "cpu_system_seconds": end.usage.system - start.usage.system,
        "idle_ms": spread(&mut idle),
        "complete_ms": spread(&mut answers),
        "publish_seconds": last.map(|last| (published - last).as_secs_f64()),
        "log": log.json(),
    })
}

/// Median, 99th percentile and maximum.
fn spread(samples: &mut [f64]) -> Value {
    json!({
        "p50": percentile(samples, 0.5),
        "p99": percentile(samples, 0.99),
        "max": percentile(samples, 1.0),
    })
}

/// The second half of a generation at the pace of life, for a while.
async fn real_pace(
    coordinator: &site::Coordinator,
    shared: &Arc<Shared>,
    site: &Site,
    seconds: u64,
) -> Result<Value> {
    while shared.done() < u64::from(site.tasks / 2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shared.slow_down(REAL_TASK_MS);
    tokio::time::sleep(SETTLING).await;
    shared.take_samples();
    let (start, before) = (Point::now(coordinator, site).await?, shared.done());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (end, after) = (Point::now(coordinator, site).await?, shared.done());
    let wall = (end.at - start.at).as_secs_f64();
    let processor = end.usage.seconds() - start.usage.seconds();
    let (mut idle, mut answers, _) = shared.take_samples();
    Ok(json!({
        "task_ms": REAL_TASK_MS,
        "seconds": wall,
        "cpu_seconds": processor,
        "core_share": processor / wall,
        "tasks_done": after - before,
        "idle_ms": spread(&mut idle),
        "complete_ms": spread(&mut answers),
        "log": end.log.since(&start.log).json(),
    }))
}

async fn watch(client: &Client) -> Result<Streaming<v1::WatchGenerationsResponse>> {
    let request = v1::WatchGenerationsRequest {
        after_activation: 0,
    };
    let stream = client.clone().watch_generations(request).await;
    Ok(stream
        .context("the coordinator does not announce generations")?
        .into_inner())
}

async fn heard_of(
    watched: &mut Streaming<v1::WatchGenerationsResponse>,
    generation: u64,
) -> Result<()> {
    while let Some(news) = watched.message().await? {
        if news.generation >= generation {
            return Ok(());
        }
    }
    bail!("the coordinator ended before generation {generation} was published; see its log")
}
