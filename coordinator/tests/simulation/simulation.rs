//! One simulation from its seed to its verdict.

use crate::audit::Audit;
use crate::chaos;
use crate::checkpoints;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::counts::Counts;
use crate::feed::digest_of;
use crate::mutation::Bug;
use crate::network::Link;
use crate::process::{Process, Roster, supervise};
use crate::scenario::Scenario;
use crate::site::Site;
use crate::trainer::Trainer;
use crate::worker::Worker;
use crate::world::World;
use quarry_artifacts::GenerationManifest;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Within which something must happen once nothing goes wrong any more.
const PATIENCE_S: u64 = 600;
/// Within which the run must end then.
const LIMIT: Duration = Duration::from_secs(40_000);

/// What became of a seed.
pub struct Report {
    /// The law that was broken, if one was.
    pub verdict: Option<String>,
    pub trace: Vec<String>,
    pub counts: Counts,
    /// How long the run took on its own clock, in milliseconds.
    pub virtual_ms: u64,
}

/// Simulates `seed`, with a bug in its coordinators if one is given.
pub fn simulate(seed: u64, bug: Option<Bug>) -> Report {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, bug));
        let audit = tokio::select! {
            biased;
            () = world.broken() => None,
            audit = live(&world) => Some(audit),
        };
        Report {
            verdict: world.verdict(),
            trace: world.trace(),
            counts: audit.map_or_else(Counts::default, |a| a.read(|b| b.ledger.counts.clone())),
            virtual_ms: world.now(),
        }
    })
}

/// The whole life of a run.
async fn live(world: &Arc<World>) -> Arc<Audit> {
    let scenario = Scenario::draw(world);
    let audit = Audit::new(world, scenario.settings());
    let site = Site::new(Arc::clone(world), Arc::clone(&audit));
    let cluster = found(world, &scenario, &site).await;
    let mut fleet: Vec<JoinHandle<()>> = (1..=scenario.workers)
        .map(|number| start_worker(&cluster, number))
        .collect();
    fleet.push(start_trainer(&cluster, &scenario));
    let keeper = tokio::spawn(Arc::clone(&cluster).keep_one());
    chaos::storm(&cluster, scenario.rolls_back).await;
    chaos::clear_up(&cluster);
    finish(&cluster, fleet).await;
    check_weights(&cluster).await;
    keeper.abort();
    audit
}

/// Prepares the store, before things go wrong.
async fn found(world: &Arc<World>, scenario: &Scenario, site: &Arc<Site>) -> Arc<Cluster> {
    let founder = Process::new(world, "founder".to_owned());
    let store = Client::open(world, &founder, site);
    let initial = checkpoints::publish_initial(&store).await.unwrap();
    world.begin();
    let roster = Arc::new(Roster::default());
    Cluster::new(world, &roster, site, scenario.document(initial))
}

fn start_worker(cluster: &Arc<Cluster>, number: u64) -> JoinHandle<()> {
    let of = Arc::clone(cluster);
    let main = move |process| Worker::new(&of, &process).run();
    let (world, roster) = (Arc::clone(&cluster.world), Arc::clone(&cluster.roster));
    tokio::spawn(supervise(world, roster, format!("worker-{number}"), main))
}

fn start_trainer(cluster: &Arc<Cluster>, scenario: &Scenario) -> JoinHandle<()> {
    let (of, scenario) = (Arc::clone(cluster), scenario.clone());
    let main = move |process| Trainer::new(&of, &process, &scenario).run();
    let (world, roster) = (Arc::clone(&cluster.world), Arc::clone(&cluster.roster));
    tokio::spawn(supervise(world, roster, "trainer".to_owned(), main))
}

/// Liveness: everybody says that the run is over, and nothing is left to be done.
async fn finish(cluster: &Arc<Cluster>, fleet: Vec<JoinHandle<()>>) {
    let all = async {
        for member in fleet {
            let _ = member.await; // supervisors tell of panics themselves
        }
        while cluster.audit.read(|b| b.ledger.unfinished()).is_some() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::select! {
        biased;
        ended = timeout(LIMIT, all) => ended.is_ok(),
        () = heed(cluster) => false,
        () = stand_still(cluster) => false,
    };
    if !ended {
        let left = cluster.audit.read(|b| b.ledger.unfinished());
        let left = left.unwrap_or_else(|| "somebody still waits".to_owned());
        cluster
            .world
            .violate(format!("liveness: the run does not end: {left}"));
    }
}

/// Returns once the log has not grown for as long as the patience lasts.
async fn stand_still(cluster: &Arc<Cluster>) {
    let (mut sequence, mut still) = (0, 0);
    while still < PATIENCE_S {
        sleep(Duration::from_secs(1)).await;
        let now = cluster.audit.read(|b| b.ledger.sequence);
        still = if now == sequence { still + 1 } else { 0 };
        sequence = now;
    }
}

/// An operator who lets the run go on, and does what `quarry status` advises. Never
/// ends.
async fn heed(cluster: &Arc<Cluster>) {
    let operator = Process::new(&cluster.world, "operator".to_owned());
    let link = Link::new(cluster, &operator);
    let mut unpublished = 0;
    loop {
        sleep(Duration::from_secs(20)).await;
        let Ok(status) = link.status().await else {
            continue;
        };
        if status.paused {
            // Also his own word, that came twice and late.
            cluster.world.note(format_args!("operator resumes"));
            let _ = link.pause(false).await;
        }
        // A trainer that waits where its checkpoint came short may have switched
        // since, and have another state than the one that would put it right.
        let stuck = status.trouble.contains("cannot publish a checkpoint");
        unpublished = if stuck { unpublished + 1 } else { 0 };
        let restarted = if status.trouble.contains("restart the coordinator") {
            "coordinator"
        } else if unpublished > 2 {
            unpublished = 0;
            "trainer"
        } else {
            continue;
        };
        let trouble = &status.trouble;
        cluster
            .world
            .note(format_args!("operator restarts a {restarted}: {trouble}"));
        let all = cluster.roster.of(restarted);
        all.iter().for_each(|process| process.kill());
    }
}

/// Law 4: the final weights are those that their version log gives again.
async fn check_weights(cluster: &Arc<Cluster>) {
    let process = Process::new(&cluster.world, "auditor".to_owned());
    let store = Client::open(&cluster.world, &process, &cluster.site);
    let Ok(Some(last)) = checkpoints::newest(&store).await else {
        return cluster.world.violate("law 4: there is no final checkpoint");
    };
    let initial = &cluster.run.initial_checkpoint.digest;
    let repeated = cluster.audit.read(|books| {
        last.repeated(initial, |generation| {
            let manifest = books
                .ledger
                .generations
                .get(&generation)?
                .manifest
                .as_ref()?;
            let bytes = books.objects.verified(manifest).ok()?;
            let manifest: GenerationManifest = serde_json::from_slice(bytes).ok()?;
            Some(digest_of(&manifest))
        })
    });
    if repeated.as_ref() != Some(&last.weights) {
        let swaps = &last.swaps;
        cluster
            .world
            .violate(format!("law 4: {swaps:?} does not give the weights again"));
    }
}
