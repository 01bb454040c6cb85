//! A real server that ignores create-if-absent is refused at the start: npm's
//! `s3rver`, found on the path.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_artifacts::Store;
use support::s3_server::S3Server;

/// Address of a store that is to be refused.
const UNFIT: &str = "QUARRY_TEST_UNFIT_S3";

#[test]
fn s3rver_is_refused() {
    if let Ok(url) = std::env::var(UNFIT) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            let store = Store::open(&url).await.unwrap();
            let error = store.probe_create_if_absent().await.unwrap_err();
            println!("{error}");
            assert!(error.to_string().contains("create"), "{error}");
        });
    }
    match S3Server::s3rver() {
        Some(s3rver) => s3rver.test("s3rver_is_refused", UNFIT),
        None => eprintln!("SKIPPED s3rver_is_refused: no working s3rver on the path"),
    }
}
