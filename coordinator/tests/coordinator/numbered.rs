//! The log in the store, whoever writes, follows, takes snapshots and in what order:
//! numbers without gaps, one writer at a time, the same run to every reader.

use crate::fixture::checkpoint;
use crate::properties::fixed;
use proptest::prelude::*;
use quarry_artifacts::{Store, layout};
use quarry_coordinator::log::{Log, LogError};
use quarry_coordinator::state::{Change, Run};

/// What one of three coordinators does.
#[derive(Debug, Clone)]
enum Act {
    Open,
    Follow,
    Append(Vec<Change>),
    Look,
    Snapshot,
    /// A snapshot as a full disk leaves it.
    TornSnapshot,
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let change = prop_oneof![
        (1u64..100).prop_map(|epoch| Change::EpochStarted {
            epoch,
            address: None
        }),
        any::<bool>().prop_map(|paused| Change::RefreshPaused { paused }),
        (0u64..50, any::<bool>()).prop_map(|(step, is_final)| Change::CheckpointPublished {
            checkpoint: checkpoint(step),
            is_final
        }),
    ];
    let act = prop_oneof![
        2 => Just(Act::Open),
        3 => Just(Act::Follow),
        6 => prop::collection::vec(change, 1..4).prop_map(Act::Append),
        1 => Just(Act::Look),
        2 => Just(Act::Snapshot),
        1 => Just(Act::TornSnapshot),
    ];
    prop::collection::vec((0usize..3, act), 1..60)
}

/// The run that records tell of.
fn told(records: &[Vec<Change>]) -> Run {
    let mut run = Run::default();
    records.iter().flatten().for_each(|c| run.evolve(c));
    run
}

/// Three coordinators over one store, and the records as they should be.
struct Writers {
    store: Store,
    open: Vec<(Log, Run)>,
    records: Vec<Vec<Change>>,
}

impl Writers {
    async fn new() -> Self {
        let store = Store::open("memory:").await.unwrap();
        let mut open = vec![];
        for n in 0..3 {
            open.push(Log::open(store.clone(), format!("c{n}")).await.unwrap());
        }
        Self {
            store,
            open,
            records: vec![],
        }
    }

    async fn act(&mut self, who: usize, act: &Act) -> Result<(), TestCaseError> {
        let end = self.records.len() as u64;
        let (log, run) = &mut self.open[who];
        let behind = end - log.last();
        match act {
            Act::Open => {
                let opened = Log::open(self.store.clone(), format!("c{who}")).await;
                (*log, *run) = opened.unwrap();
                prop_assert_eq!((log.last(), &*run), (end, &told(&self.records)));
            }
            Act::Follow => {
                prop_assert_eq!(log.follow(run).await.unwrap(), behind);
                prop_assert_eq!((log.last(), &*run), (end, &told(&self.records)));
            }
            Act::Append(changes) => match log.append(1, changes).await {
                Ok(sequence) => {
                    prop_assert_eq!((sequence, behind), (end + 1, 0));
                    changes.iter().for_each(|change| run.evolve(change));
                    self.records.push(changes.clone());
                }
                Err(LogError::Fenced { sequence }) => {
                    prop_assert!(behind > 0 && sequence == end + 1 - behind);
                }
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            },
            Act::Look => prop_assert_eq!(log.check_unfenced().await.is_err(), behind > 0),
            Act::Snapshot => {
                log.snapshot(run.clone()).await.unwrap();
            }
            Act::TornSnapshot => {
                let path = layout::log_snapshot(log.last());
                self.store.create(&path, "{\"vers".into()).await.unwrap();
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(fixed(150))]

    #[test]
    fn every_reader_reads_what_the_one_writer_wrote(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut writers = Writers::new().await;
            for (who, act) in &acts {
                writers.act(*who, act).await?;
            }
            writers.act(0, &Act::Open).await
        })?;
    }
}
