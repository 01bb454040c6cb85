//! Telling a parent process which address was bound: a file that appears whole,
//! with the address in it. How programs started on port 0 find one another.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Result, ServiceError};

/// Writes `addr` to the file `path`, which appears complete or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, addr: SocketAddr) -> Result<()> {
    let fail = |e: std::io::Error| ServiceError::File {
        path: path.into(),
        reason: e.to_string(),
    };
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    writeln!(file, "{addr}").map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Waits until the file `path` appears, and reads the address in it.
///
/// # Errors
/// [`ServiceError::NoPortFile`] after `patience`, or if it holds no address.
pub async fn wait(path: &Path, patience: Duration) -> Result<SocketAddr> {
    let deadline = Instant::now() + patience;
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                return text.trim().parse().map_err(|_| ServiceError::File {
                    path: path.into(),
                    reason: format!("{:?} is not an address", text.trim()),
                });
            }
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(ServiceError::File {
                    path: path.into(),
                    reason: e.to_string(),
                });
            }
            Err(_) if Instant::now() >= deadline => {
                return Err(ServiceError::NoPortFile {
                    path: path.into(),
                    waited: patience,
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_written_is_the_address_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let addr: SocketAddr = "127.0.0.1:4321".parse().unwrap();
        let (from, to) = (path.clone(), addr);
        let writer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            write(&from, to)
        });
        assert_eq!(wait(&path, Duration::from_secs(10)).await.unwrap(), addr);
        writer.await.unwrap().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_or_garbled_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let error = wait(&path, Duration::from_millis(30)).await.unwrap_err();
        assert!(matches!(error, ServiceError::NoPortFile { .. }), "{error}");
        std::fs::write(&path, "nonsense").unwrap();
        let error = wait(&path, Duration::from_millis(30))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("nonsense") && error.contains("port"),
            "{error}"
        );
        assert!(
            write(
                &folder.path().join("none/port"),
                "127.0.0.1:1".parse().unwrap()
            )
            .is_err()
        );
    }
}
