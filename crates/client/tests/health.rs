//! What a probe hears of a coordinator: that it serves while it leads, and only then.
#![allow(clippy::unwrap_used)]

#[path = "network/run.rs"]
mod run;

use quarry_artifacts::Store;
use quarry_coordinator::options::Options;
use quarry_coordinator::server::serve;
use quarry_service::{CancellationToken, ServiceArgs, ServiceChannel, port_file};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(800);

/// A coordinator of the run in `folder`.
struct Member {
    serving: JoinHandle<anyhow::Result<()>>,
    probed: SocketAddr,
}

impl Member {
    /// Starts one and waits until it leads, or else stands by.
    async fn start(folder: &Path, name: &str, standby: bool) -> Self {
        let probed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let (probed, port) = (probed.unwrap(), folder.join(name));
        let options = Options {
            store: folder.join("store").to_str().unwrap().into(),
            standby,
            takeover_after: PATIENCE,
            advertise: None,
            service: ServiceArgs {
                listen: "127.0.0.1:0".parse().unwrap(),
                health_listen: Some(probed),
                token_file: None,
                insecure: false,
                log_json: false,
                port_file: Some(port.clone()),
            },
        };
        let serving = tokio::spawn(async move { serve(&options, CancellationToken::new()).await });
        port_file::wait(&port, LIMIT).await.unwrap();
        Self { serving, probed }
    }

    async fn status(&self) -> ServingStatus {
        let channel = ServiceChannel::lazy(&self.probed.to_string(), None).unwrap();
        let mut client = HealthClient::new(channel);
        let answer = client.check(HealthCheckRequest::default()).await;
        answer.unwrap().into_inner().status()
    }

    async fn becomes(&self, wanted: ServingStatus) {
        let became = async {
            while self.status().await != wanted {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, became).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_does_not_serve_until_it_leads_nor_after() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = Store::open(root.to_str().unwrap()).await.unwrap();
    run::prepare(&store, 1, Duration::from_secs(20)).await;

    let leader = Member::start(folder.path(), "leader", false).await;
    leader.becomes(Serving).await;
    let standby = Member::start(folder.path(), "standby", true).await;
    for _ in 0..10 {
        assert_eq!(standby.status().await, NotServing);
        sleep(PATIENCE / 4).await;
    }
    leader.serving.abort();
    standby.becomes(Serving).await;
    // Whom an operator starts, leads; the one before stands by again.
    let third = Member::start(folder.path(), "third", false).await;
    standby.becomes(NotServing).await;
    assert_eq!(third.status().await, Serving);
}
