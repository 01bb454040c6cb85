//! From a store address to a backend. Owns the address forms and the cloud
//! configuration from the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::error::{ArtifactError, Result};

/// An opened backend.
pub(crate) struct Backend {
    pub(crate) url: String,
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Root folder, when the store is a local one.
    pub(crate) folder: Option<PathBuf>,
}

/// Opens `address`; `create` makes a missing local folder.
pub(crate) fn open(address: &str, create: bool) -> Result<Backend> {
    let refuse = |reason: String| ArtifactError::Address {
        url: address.to_string(),
        reason,
    };
    if address.is_empty() {
        return Err(refuse("the address is empty".into()));
    }
    if !address.contains(':') {
        return open_folder(Path::new(address), create).map_err(refuse);
    }
    let url = Url::parse(address).map_err(|e| refuse(e.to_string()))?;
    match url.scheme() {
        "memory" => Ok(Backend {
            url: "memory:".into(),
            objects: Arc::new(InMemory::new()),
            folder: None,
        }),
        "file" => {
            let folder = url
                .to_file_path()
                .map_err(|()| refuse("a file address needs an absolute path".into()))?;
            open_folder(&folder, create).map_err(refuse)
        }
        _ => open_cloud(&url).map_err(refuse),
    }
}

fn open_folder(folder: &Path, create: bool) -> std::result::Result<Backend, String> {
    if create {
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
    let folder = std::fs::canonicalize(folder).map_err(|e| e.to_string())?;
    let objects = LocalFileSystem::new_with_prefix(&folder).map_err(|e| e.to_string())?;
    let url = Url::from_file_path(&folder).map_err(|()| "the path is not absolute".to_string())?;
    Ok(Backend {
        url: url.to_string(),
        // Acknowledged means on disk: the coordinator's log rests on it.
        objects: Arc::new(objects.with_fsync(true)),
        folder: Some(folder),
    })
}

fn open_cloud(url: &Url) -> std::result::Result<Backend, String> {
    let text = url.to_string();
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|e| e.to_string())?;
    let objects: object_store::Result<Box<dyn ObjectStore>> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let builder = AmazonS3Builder::from_env().with_url(&text);
            builder.with_retry(client_retry()).build().map(boxed)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(&text);
            builder.with_retry(client_retry()).build().map(boxed)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(&text);
            builder.with_retry(client_retry()).build().map(boxed)
        }
        _ => {
            let scheme = url.scheme();
            return Err(format!("addresses beginning with {scheme:?} are not known"));
        }
    };
    let objects = objects.map_err(|e| e.to_string())?;
    Ok(Backend {
        url: text.trim_end_matches('/').to_string(),
        objects: Arc::new(PrefixStore::new(objects, prefix)),
        folder: None,
    })
}

fn boxed(store: impl ObjectStore) -> Box<dyn ObjectStore> {
    Box::new(store)
}

/// The client's own retries, kept short: [`crate::Retry`] repeats the whole
/// request, and the default of three minutes each would add up to a quarter hour.
fn client_retry() -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}
