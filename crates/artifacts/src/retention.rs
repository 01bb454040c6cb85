//! Deleting what a policy has retired. Owns the order: a folder's manifest goes
//! first, so that no reader finds a manifest whose objects are gone.

use crate::error::Result;
use crate::layout::MANIFEST;
use crate::object_ref::check_path;
use crate::store::Store;

/// Deletes every object in `folder`, the manifest first; nothing there is no error.
///
/// # Errors
/// If the store fails; calling again continues.
pub async fn delete_folder(store: &Store, folder: &str) -> Result<()> {
    check_path(folder)?;
    store.delete(&format!("{folder}/{MANIFEST}")).await?;
    for (path, _) in store.list(folder, None).await? {
        store.delete(&path).await?;
    }
    Ok(())
}
