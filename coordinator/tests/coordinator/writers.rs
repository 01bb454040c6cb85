//! The log: one writer at a time, and everything acknowledged comes back.

use crate::fixture::checkpoint;
use quarry_artifacts::{Store, layout};
use quarry_coordinator::log::{Log, LogError};
use quarry_coordinator::state::{Change, Run};

async fn store() -> Store {
    Store::open("memory:").await.unwrap()
}

fn saved(step: u64) -> Vec<Change> {
    let checkpoint = checkpoint(step);
    vec![Change::CheckpointPublished {
        checkpoint,
        is_final: false,
    }]
}

async fn open(store: &Store, writer: &str) -> (Log, Run) {
    Log::open(store.clone(), writer.to_owned()).await.unwrap()
}

#[tokio::test]
async fn law_6_of_two_writers_one_is_fenced() {
    let store = store().await;
    let (mut old, _) = open(&store, "old").await;
    old.append(1, &saved(0)).await.unwrap();
    let (mut new, run) = open(&store, "new").await;
    assert_eq!(run.checkpoints.len(), 1);
    let address = Some("http://head:7600".to_owned());
    let started = Change::EpochStarted { epoch: 2, address };
    new.append(2, &[started]).await.unwrap();
    let error = old.append(1, &saved(10)).await.unwrap_err();
    assert!(matches!(error, LogError::Fenced { sequence: 2 }), "{error}");
    assert!(error.to_string().contains("another coordinator"));
    new.append(2, &saved(10)).await.unwrap();
    let (log, run) = open(&store, "reader").await;
    assert_eq!((log.last(), run.epoch, run.checkpoints.len()), (3, 2, 2));
}

#[tokio::test]
async fn a_record_written_again_after_an_unclear_answer_is_one_record() {
    let store = store().await;
    let (mut log, _) = open(&store, "w").await;
    log.append(1, &saved(0)).await.unwrap();
    // The same process, unaware that its write landed, sends the same bytes.
    let (_, _) = open(&store, "w").await;
    let bytes = store
        .get_raw(&layout::log_record(1))
        .await
        .unwrap()
        .unwrap();
    let again = store.create(&layout::log_record(1), bytes).await.unwrap();
    assert_eq!(again, quarry_artifacts::Created::Yes);
}

#[tokio::test]
async fn a_snapshot_gives_the_same_run_as_the_records() {
    let store = store().await;
    let (mut log, mut run) = open(&store, "w").await;
    for step in 0..100 {
        let changes = saved(step);
        log.append(1, &changes).await.unwrap();
        changes.iter().for_each(|change| run.evolve(change));
        if step == 60 {
            log.snapshot(run.clone()).await.unwrap();
        }
    }
    let (again, replayed) = open(&store, "r").await;
    assert_eq!((again.last(), &replayed), (100, &run));
    // Records before the snapshot are not read any more …
    store.delete(&layout::log_record(3)).await.unwrap();
    assert_eq!(open(&store, "r").await.1, run);
    // … but one after it is needed.
    store.delete(&layout::log_record(80)).await.unwrap();
    let error = Log::open(store.clone(), "r".into()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("00080 is damaged: it is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_record_is_refused_and_a_damaged_snapshot_ignored() {
    let store = store().await;
    let (mut log, mut run) = open(&store, "w").await;
    log.append(1, &saved(0)).await.unwrap();
    saved(0).iter().for_each(|change| run.evolve(change));
    store
        .create(&layout::log_snapshot(1), "{}".into())
        .await
        .unwrap();
    assert_eq!(open(&store, "r").await.1, run);
    store
        .create(&layout::log_record(2), "not json".into())
        .await
        .unwrap();
    let error = Log::open(store.clone(), "r".into()).await.unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_log_that_is_followed_tells_what_others_write() {
    let store = store().await;
    let (mut writer, _) = open(&store, "writer").await;
    writer.append(1, &saved(0)).await.unwrap();
    let (mut reader, mut run) = open(&store, "reader").await;
    assert_eq!(reader.follow(&mut run).await.unwrap(), 0);
    reader.check_unfenced().await.unwrap();
    writer.append(1, &saved(10)).await.unwrap();
    writer.append(1, &saved(20)).await.unwrap();
    let error = reader.check_unfenced().await.unwrap_err();
    assert!(matches!(error, LogError::Fenced { sequence: 2 }), "{error}");
    assert_eq!(reader.follow(&mut run).await.unwrap(), 2);
    assert_eq!(run, open(&store, "again").await.1);
    // Then it is the reader's turn, and the writer is fenced.
    reader.append(2, &saved(30)).await.unwrap();
    let error = writer.append(1, &saved(30)).await.unwrap_err();
    assert!(matches!(error, LogError::Fenced { sequence: 4 }), "{error}");
}

#[test]
fn a_leader_from_before_addresses_is_nowhere() {
    let old = r#"{"epoch_started": {"epoch": 3}}"#;
    let change: Change = serde_json::from_str(old).unwrap();
    let mut run = Run::default();
    run.evolve(&change);
    assert_eq!((run.epoch, run.leader), (3, None));
}
