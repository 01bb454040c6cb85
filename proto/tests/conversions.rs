//! Every domain type survives the wire; what means nothing is refused by name.
#![allow(clippy::unwrap_used)]

use quarry_artifacts::{CheckpointRef, Digest, ObjectRef};
use quarry_proto::{Block, ConversionError, Lease, Role, Task, TaskOutput, Work, v1};

fn object(path: &str) -> ObjectRef {
    ObjectRef::new(path, 3, Digest::of(path.as_bytes())).unwrap()
}

fn block() -> Block {
    Block {
        split: "train".into(),
        first_query: 8,
        queries: 4,
    }
}

fn lease(work: Work) -> Lease {
    Lease {
        id: 7,
        attempt: 2,
        epoch: 3,
        duration_ms: 20_000,
        task: Task {
            generation: 5,
            number: 9,
            checkpoint: CheckpointRef {
                step: 100,
                digest: Digest::of(b"model"),
                manifest: "checkpoints/x/manifest.json".into(),
            },
            work,
        },
    }
}

fn all_work() -> Vec<Work> {
    let objects = || vec![object("a"), object("b")];
    vec![
        Work::EncodeQueries { block: block() },
        Work::EncodeShard { shard: 3 },
        Work::BuildPartition {
            partition: 1,
            embeddings: objects(),
        },
        Work::SearchBlock {
            block: block(),
            partition: 1,
            query_embeddings: objects(),
            embeddings: objects(),
            index: Some(object("c")),
        },
        Work::SearchBlock {
            block: block(),
            partition: 0,
            query_embeddings: objects(),
            embeddings: objects(),
            index: None,
        },
        Work::MergeBlock {
            block: block(),
            candidates: objects(),
            evaluate: true,
        },
        Work::MineSparse {
            block: block(),
            evaluate: false,
        },
    ]
}

#[test]
fn a_lease_bears_the_loss_of_one_heartbeat() {
    let lease = lease(Work::EncodeShard { shard: 3 });
    assert_eq!(lease.pause(false).as_millis(), 10_000);
    assert_eq!(lease.patience().as_millis(), 5_000);
    assert_eq!(lease.pause(true).as_micros(), 1_666_666);
    let second_arrives = lease.pause(false) + lease.patience() + lease.pause(true);
    assert!(second_arrives.as_millis() < 17_000, "{second_arrives:?}");
}

#[test]
fn leases_survive_the_wire_and_json() {
    for work in all_work() {
        let lease = lease(work);
        let wire = v1::Lease::from(lease.clone());
        assert_eq!(Lease::try_from(wire).unwrap(), lease);
        let json = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&json).unwrap(), lease);
    }
}

#[test]
fn outputs_survive_the_wire_and_json() {
    let roles = [
        Role::Embeddings,
        Role::QueryEmbeddings,
        Role::Index,
        Role::Candidates,
        Role::Negatives,
        Role::Run,
        Role::Metrics,
    ];
    let output = TaskOutput {
        outputs: roles
            .iter()
            .map(|r| (*r, object(&format!("{r:?}"))))
            .collect(),
        counts: [("dropped".to_owned(), 3)].into(),
        metrics: [("mrr@10".to_owned(), 0.1 + 0.2)].into(),
    };
    let wire = v1::TaskOutput::from(output.clone());
    assert_eq!(TaskOutput::try_from(wire).unwrap(), output);
    let json = serde_json::to_string(&output).unwrap();
    assert_eq!(serde_json::from_str::<TaskOutput>(&json).unwrap(), output);
    assert_eq!(output.of(Role::Run).count(), 1);
}

fn refused(change: impl FnOnce(&mut v1::Lease)) -> (&'static str, &'static str) {
    let mut wire = v1::Lease::from(lease(all_work().remove(3)));
    change(&mut wire);
    let error = Lease::try_from(wire).unwrap_err();
    assert!(!error.to_string().contains('\n'));
    (error.message, error.field)
}

#[test]
fn what_means_nothing_is_refused_with_message_and_field() {
    fn search(lease: &mut v1::Lease) -> &mut v1::SearchBlock {
        match lease.task.as_mut().unwrap().work.as_mut().unwrap() {
            v1::task::Work::SearchBlock(search) => search,
            _ => unreachable!(),
        }
    }
    assert_eq!(refused(|l| l.task = None), ("Lease", "task"));
    assert_eq!(refused(|l| l.duration_ms = 0), ("Lease", "duration_ms"));
    assert_eq!(
        refused(|l| l.task.as_mut().unwrap().work = None),
        ("Task", "work")
    );
    assert_eq!(
        refused(|l| l.task.as_mut().unwrap().checkpoint = None),
        ("Task", "checkpoint")
    );
    assert_eq!(
        refused(|l| search(l).block = None),
        ("SearchBlock", "block")
    );
    assert_eq!(
        refused(|l| search(l).block.as_mut().unwrap().queries = 0),
        ("Block", "queries")
    );
    assert_eq!(
        refused(|l| search(l).block.as_mut().unwrap().queries = u32::MAX),
        ("Block", "queries")
    );
    assert_eq!(
        refused(|l| search(l).block.as_mut().unwrap().split.clear()),
        ("Block", "split")
    );
    assert_eq!(
        refused(|l| search(l).embeddings[0].path = "../x".into()),
        ("ObjectRef", "path")
    );
    assert_eq!(
        refused(|l| search(l).embeddings[0].sha256.clear()),
        ("ObjectRef", "sha256")
    );
}

#[test]
fn outputs_without_a_role_or_with_a_nan_are_refused() {
    let output = |role, metric| v1::TaskOutput {
        outputs: vec![v1::Output {
            role,
            object: Some(object("a").into()),
        }],
        counts: Default::default(),
        metrics: [("mrr@10".to_owned(), metric)].into(),
    };
    let field = |wire| -> &'static str {
        let error: ConversionError = TaskOutput::try_from(wire).unwrap_err();
        error.field
    };
    assert_eq!(field(output(0, 0.5)), "role");
    assert_eq!(field(output(99, 0.5)), "role");
    assert_eq!(field(output(1, f64::NAN)), "metrics");
    assert!(TaskOutput::try_from(output(1, 0.5)).is_ok());
}
