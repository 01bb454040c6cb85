//! Generation manifests: complete or refused, exact in the round trip.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quarry_artifacts::{
    ArtifactError, BlockRef, CheckpointRef, Digest, GenerationKind, GenerationManifest, ObjectRef,
    Store, layout,
};

fn checkpoint(step: u64) -> CheckpointRef {
    let digest = Digest::of(&step.to_le_bytes());
    CheckpointRef {
        step,
        manifest: layout::checkpoint_manifest(step, &digest),
        digest,
    }
}

fn generation(number: u64, blocks: Vec<BlockRef>) -> GenerationManifest {
    GenerationManifest {
        generation: number,
        kind: GenerationKind::Dense,
        checkpoint: checkpoint(number * 10),
        corpus: Digest::of(b"corpus"),
        embeddings: Vec::new(),
        query_embeddings: BTreeMap::new(),
        index: Vec::new(),
        negatives: blocks,
        runs: BTreeMap::new(),
        metrics: BTreeMap::new(),
        counts: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_short_or_mixed_generation_cannot_be_published() {
    let store = Store::open("memory:").await.unwrap();
    let object = store
        .put_content("generations/000001/negatives", "b", "arrow", "abc".into())
        .await
        .unwrap();
    let block = |first_query, queries| BlockRef {
        first_query,
        queries,
        object: object.clone(),
    };
    let whole = generation(1, vec![block(0, 5), block(5, 2)]);
    let mut bad = vec![
        generation(1, vec![block(0, 5), block(6, 2)]),
        generation(1, vec![block(0, 5), block(4, 2)]),
        generation(1, vec![block(1, 5)]),
        generation(1, vec![block(0, 0)]),
    ];
    let mut edited = whole.clone();
    edited.metrics.insert("dev/mrr@10".into(), f64::NAN);
    bad.push(edited);
    let mut edited = whole.clone();
    edited.runs.insert(
        "dev".into(),
        ObjectRef {
            sha256: Digest::of(b"other"),
            ..object.clone()
        },
    );
    bad.push(edited);
    for manifest in bad {
        let error = manifest.write(&store).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Invalid { .. }), "{error}");
    }
    assert_eq!(
        store
            .head("generations/000001/manifest.json")
            .await
            .unwrap(),
        None
    );

    let published = whole.clone().write(&store).await.unwrap();
    assert_eq!(published.path, "generations/000001/manifest.json");
    assert_eq!(whole.clone().write(&store).await.unwrap(), published);
    assert_eq!(
        GenerationManifest::read(&store, &published).await.unwrap(),
        whole
    );
    // A coordinator that died before its log record left the first manifest.
    let mut other = whole.clone();
    other.counts.insert("dropped".into(), 1);
    let beside = other.clone().write(&store).await.unwrap();
    assert_ne!(beside.path, published.path);
    assert_eq!(
        GenerationManifest::read(&store, &beside).await.unwrap(),
        other
    );
    assert_eq!(
        GenerationManifest::read(&store, &published).await.unwrap(),
        whole
    );
}

prop_compose! {
    fn any_manifest()(
        number in 0..1_000_000_u64,
        sizes in prop::collection::vec(1..1000_u32, 0..6),
        metrics in prop::collection::btree_map("[a-z]{1,6}/[a-z@0-9]{1,8}", -1e9..1e9_f64, 0..5),
        counts in prop::collection::btree_map("[a-z_]{1,12}", any::<u64>(), 0..5),
        contents in prop::collection::vec(any::<Vec<u8>>(), 1..4),
    ) -> GenerationManifest {
        let object = |i: usize, content: &[u8]| {
            let folder = layout::generation_embeddings(number);
            ObjectRef::new(format!("{folder}/o-{i}"), content.len() as u64, Digest::of(content)).unwrap()
        };
        let mut first_query = 0;
        let blocks = sizes.iter().enumerate().map(|(i, &queries)| {
            let block = BlockRef { first_query, queries, object: object(100 + i, b"block") };
            first_query += queries;
            block
        });
        let mut manifest = generation(number, blocks.collect());
        manifest.embeddings = contents.iter().enumerate().map(|(i, c)| object(i, c)).collect();
        manifest.query_embeddings.insert("train".into(), manifest.embeddings.clone());
        manifest.metrics = metrics;
        manifest.counts = counts;
        manifest
    }
}

/// One way to make a manifest short or mixed; `None` where it lacks the parts for it.
fn spoiled(mut manifest: GenerationManifest, at: usize, how: usize) -> Option<GenerationManifest> {
    let blocks = manifest.negatives.len();
    match how {
        // Short: a block is missing, and not the last, whose absence only the planner can see.
        0 if blocks >= 2 => drop(manifest.negatives.remove(at % (blocks - 1))),
        // A gap, an overlap, an empty block.
        1 if blocks >= 2 => manifest.negatives[1 + at % (blocks - 1)].first_query += 1,
        2 if blocks >= 2 => manifest.negatives[at % (blocks - 1)].queries += 1,
        3 if blocks >= 1 => manifest.negatives[at % blocks].queries = 0,
        // Out of order.
        4 if blocks >= 2 => manifest.negatives.swap(at % (blocks - 1), blocks - 1),
        // Mixed: one name, two contents.
        5 => {
            manifest
                .query_embeddings
                .get_mut("train")?
                .first_mut()?
                .sha256 = Digest::of(b"mixed")
        }
        6 => drop(manifest.metrics.insert("dev/loss".into(), f64::NAN)),
        _ => return None,
    }
    Some(manifest)
}

#[test]
fn only_a_large_manifest_is_written_down_beside_what_shares_the_thread() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let store = Store::open("memory:").await.unwrap();
        let of = |number, objects| {
            let mut manifest = generation(number, Vec::new());
            let object = |i| ObjectRef::new(format!("o-{i}"), 1, Digest::of(b"o")).unwrap();
            manifest.embeddings = (0..objects).map(object).collect();
            manifest
        };
        // The only other thread is taken until `release` goes.
        let (release, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        of(1, 1_000).write(&store).await.unwrap();
        let mut large = std::pin::pin!(of(2, 1_001).write(&store));
        assert!(futures::poll!(&mut large).is_pending());
        drop(release);
        large.await.unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(13),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_whole_generation_is_published_and_no_other(
        whole in any_manifest(), at in 0..1000_usize, how in 0..7_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = layout::generation_manifest(whole.generation);
            if let Some(spoiled) = spoiled(whole.clone(), at, how) {
                let store = Store::open("memory:").await.unwrap();
                let refused = spoiled.clone().write(&store).await;
                prop_assert!(matches!(refused, Err(ArtifactError::Invalid { .. })), "{spoiled:?}");
                prop_assert_eq!(store.head(&path).await.unwrap(), None);
            }
            let store = Store::open("memory:").await.unwrap();
            let published = whole.clone().write(&store).await.unwrap();
            prop_assert_eq!(GenerationManifest::read(&store, &published).await.unwrap(), whole);
            Ok(())
        })?;
    }

    #[test]
    fn manifests_round_trip_exactly(manifest in any_manifest()) {
        prop_assert!(manifest.check().is_ok());
        let json = serde_json::to_vec(&manifest).unwrap();
        let back: GenerationManifest = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(serde_json::to_vec(&back).unwrap(), json);
        prop_assert_eq!(back, manifest);
    }

    #[test]
    fn a_manifest_with_any_byte_changed_is_noticed(manifest in any_manifest(), at: prop::sample::Index, flip in 1..=255_u8) {
        let mut bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = Digest::of(&bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let store = Store::open("memory:").await.unwrap();
            let object = ObjectRef::new("generations/m", bytes.len() as u64, digest).unwrap();
            store.create("generations/m", Bytes::from(bytes)).await.unwrap();
            GenerationManifest::read(&store, &object).await
        });
        let is_mismatch = matches!(outcome, Err(ArtifactError::Mismatch { what: "sha256", .. }));
        prop_assert!(is_mismatch);
    }
}
