//! What holds for any bytes found where a record or a snapshot of the log should
//! be; shared with the fuzz target.

use bytes::Bytes;
use quarry_artifacts::{Store, layout};
use quarry_coordinator::log::{Log, LogError, Record};
use quarry_coordinator::state::Run;

/// Reads `bytes` as the only record of a log, and as its only snapshot.
pub fn log_record(bytes: &[u8]) {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime for one thread")
        .block_on(async {
            as_record(bytes).await;
            as_snapshot(bytes).await;
        });
}

/// The record is refused in one line, or survives being written, and the run it
/// tells of survives a snapshot.
async fn as_record(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(bytes) {
        let json = serde_json::to_vec(&record).expect("a record has string keys");
        let again: Record = serde_json::from_slice(&json).expect("a written record reads back");
        assert_eq!(again, record);
    }
    let store = holding(&layout::log_record(1), bytes).await;
    match open(&store).await {
        Ok((log, run)) => {
            assert_eq!(log.last(), 1);
            log.snapshot(run.clone())
                .await
                .expect("the snapshot is written");
            let (log, again) = open(&store).await.expect("the log is as it was");
            assert_eq!((log.last(), again), (1, run));
            let mut follower = log;
            let mut run = Run::default();
            assert_eq!(follower.follow(&mut run).await.expect("nothing follows"), 0);
        }
        Err(error) => told_well(&error),
    }
}

/// A snapshot is never needed: one that cannot be read is passed over.
async fn as_snapshot(bytes: &[u8]) {
    let store = holding(&layout::log_snapshot(1), bytes).await;
    let (log, run) = open(&store).await.expect("a snapshot is never needed");
    match log.last() {
        0 => assert_eq!(run, Run::default()),
        last => assert_eq!(last, 1),
    }
}

async fn holding(path: &str, bytes: &[u8]) -> Store {
    let store = Store::open("memory:").await.expect("memory is there");
    let content = Bytes::copy_from_slice(bytes);
    store
        .create(path, content)
        .await
        .expect("the input is written");
    store
}

async fn open(store: &Store) -> Result<(Log, Run), LogError> {
    Log::open(store.clone(), "reader".to_owned()).await
}

fn told_well(error: &LogError) {
    let message = error.to_string();
    assert!(message.contains(&layout::log_record(1)), "{message:?}");
    assert!(!message.contains(char::is_control), "{message:?}");
}
