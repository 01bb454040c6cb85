//! Deleting a folder: all of it, and nothing beside it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quarry_artifacts::{Store, delete_folder};

async fn paths(store: &Store) -> BTreeSet<String> {
    let listed = store.list("", None).await.unwrap();
    listed.into_iter().map(|(path, _)| path).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(13),
        ..ProptestConfig::default()
    })]

    // Folders whose names begin alike: `1` is not in the way of `10` or `1-a`.
    #[test]
    fn a_deleted_folder_is_gone_and_its_neighbours_are_not(
        held in prop::collection::btree_set("g/(1|10|1-a|2)/(manifest\\.json|[ab](/[ab]){0,2}-[0-9])", 0..12),
        folder in "g/(1|10|1-a|2)",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open("memory:").await.unwrap();
            for path in &held {
                store.create(path, Bytes::from_static(b"x")).await.unwrap();
            }
            let inside = format!("{folder}/");
            let kept: BTreeSet<String> = held.iter().filter(|path| !path.starts_with(&inside)).cloned().collect();
            // Again, as a process does that was killed on the way.
            for _ in 0..2 {
                delete_folder(&store, &folder).await.unwrap();
                prop_assert_eq!(paths(&store).await, kept.clone());
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_folder_outside_the_store_is_refused(folder in "(/|\\.\\./|g/\\.\\./|g//)[a-z]{0,3}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(async {
            let store = Store::open("memory:").await.unwrap();
            delete_folder(&store, &folder).await.is_err()
        });
        prop_assert!(refused);
    }
}
