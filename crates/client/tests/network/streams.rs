//! The stream of activations, cut around each of them: every one that stays the
//! newest is heard, once and in order.

use crate::coordinator::{serve, url};
use crate::fault::Fault;
use crate::work::until_active;
use crate::world::{World, network, play};
use quarry_client::outbox::Outbox;
use quarry_client::{Activation, Client, follow, trainer, worker};
use quarry_proto::v1;
use quarry_service::ServiceChannel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

/// From the end of a cut, a connection that died in it is found dead in this time,
/// and replaced.
const SETTLED: Duration = Duration::from_secs(30);
/// When the cut begins, before and after the activation.
const BEFORE: [u64; 3] = [2_000, 30, 0];
const AFTER: [u64; 4] = [0, 10, 40, 200];

/// The activations that a trainer heard, in order.
pub type Heard = Arc<Mutex<Vec<Activation>>>;

/// Their numbers.
pub fn numbers(heard: &Heard) -> Vec<u64> {
    let heard = heard.lock().unwrap();
    heard.iter().map(|news| news.activation).collect()
}

/// Follows the activations as a trainer does that reports its progress, and writes
/// down which.
pub async fn listen(urls: String, heard: Heard) -> turmoil::Result {
    let link = trainer::Link::new(ServiceChannel::lazy(&urls, None)?);
    let (announce, mut announced) = watch::channel(None);
    tokio::spawn(follow(link.clone(), 0, announce));
    tokio::spawn(async move {
        let outbox = Outbox::start(&Handle::current(), link);
        for step in 1.. {
            outbox.progress(v1::ReportProgressRequest {
                step,
                ..Default::default()
            });
            sleep(Duration::from_secs(1)).await;
        }
    });
    while announced.changed().await.is_ok() {
        let news = announced.borrow_and_update().clone();
        heard.lock().unwrap().extend(news);
    }
    Ok(())
}

/// Makes one generation or the other active by turns.
struct Operator {
    client: Client,
    made: u64,
}

impl Operator {
    async fn activate(&mut self) {
        let generation = self.made % 2;
        let request = v1::RollbackRequest { generation };
        let answer = self.client.rollback(request).await.unwrap();
        self.made += 1;
        assert_eq!(answer.into_inner().activation, self.made);
    }
}

/// Two generations, and then what `operate` does with the operator and the way from
/// the trainer to the coordinator; returns what the trainer heard, and how many
/// activations there were.
fn operated<Fut>(operate: impl FnOnce(Operator) -> Fut + 'static) -> (Vec<u64>, u64)
where
    Fut: Future<Output = Operator>,
{
    let world = World::prepare(1, Duration::from_secs(20));
    let mut sim = network(2).build();
    let (heard, made) = (Heard::default(), Arc::new(Mutex::new(0)));
    let (here, there) = (world.clone(), world.clone());
    sim.host("leader", move || serve("leader", here.clone(), true));
    let (ear, total) = (Arc::clone(&heard), Arc::clone(&made));
    sim.host("trainer", move || listen(url("leader"), Arc::clone(&ear)));
    sim.client("operator", async move {
        let link = worker::Link::new(&url("leader"), None, "worker-1".to_owned())?;
        let client = Client::new(ServiceChannel::lazy(&url("leader"), None)?);
        until_active(&there, &link, &client, 1).await;
        let operator = operate(Operator { client, made: 2 }).await;
        *total.lock().unwrap() = operator.made;
        Ok(())
    });
    play(sim, &world);
    let made = *made.lock().unwrap();
    (numbers(&heard), made)
}

fn hears_all(fault: Fault, cut: Duration) {
    let (heard, made) = operated(async move |mut operator| {
        for ms in BEFORE {
            fault.strike("trainer", "leader", cut);
            sleep(Duration::from_millis(ms)).await;
            operator.activate().await;
            sleep(cut + SETTLED).await;
        }
        for ms in AFTER {
            operator.activate().await;
            sleep(Duration::from_millis(ms)).await;
            fault.strike("trainer", "leader", cut);
            sleep(cut + SETTLED).await;
        }
        operator
    });
    let all: Vec<u64> = (1..=made).collect();
    assert_eq!(heard, all, "{fault:?} for {cut:?}");
}

#[test]
fn a_stream_that_is_cut_resumes_without_loss_or_repetition() {
    for cut in [1, 8, 30].map(Duration::from_secs) {
        hears_all(Fault::Lost, cut);
        hears_all(Fault::Late, cut);
    }
}

#[test]
fn of_activations_during_a_cut_the_newest_is_heard() {
    let (heard, made) = operated(async |mut operator| {
        sleep(SETTLED).await;
        Fault::Lost.strike("trainer", "leader", SETTLED);
        for _ in 0..3 {
            sleep(Duration::from_secs(2)).await;
            operator.activate().await;
        }
        sleep(SETTLED * 2).await;
        operator.activate().await;
        sleep(SETTLED).await;
        operator
    });
    assert_eq!((heard, made), (vec![1, 2, 5, 6], 6));
}
