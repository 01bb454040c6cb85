//! Readings: processor time and memory of a process, the size of a log, percentiles.

use anyhow::{Context, Result};
use quarry_artifacts::{Store, layout};
use serde_json::{Value, json};

/// Linux counts the processor time it shows in hundredths of a second.
const TICKS: f64 = 100.0;

/// Processor time of a process, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub user: f64,
    pub system: f64,
}

impl Usage {
    /// Of the process, as `/proc` has it.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let line = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}; is the coordinator alive?"))?;
        // The name, in brackets, may hold spaces; user and system time are fields 14, 15.
        let fields: Vec<&str> = line
            .rsplit(')')
            .next()
            .map(|rest| rest.split_whitespace().collect())
            .unwrap_or_default();
        let field = |at: usize| -> Result<f64> {
            let text = fields.get(at).with_context(|| format!("{path} is short"))?;
            Ok(text.parse::<f64>()? / TICKS)
        };
        Ok(Self {
            user: field(11)?,
            system: field(12)?,
        })
    }

    pub fn seconds(&self) -> f64 {
        self.user + self.system
    }
}

/// Most memory the process ever held, in MiB.
///
/// # Errors
/// If the process is gone.
pub fn peak_memory_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib = kib.with_context(|| format!("{path} has no VmHWM"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Objects and bytes of a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log {
    records: (u64, u64),
    snapshots: (u64, u64),
}

impl Log {
    /// The log in `store` as it is now.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn of(store: &Store) -> Result<Self> {
        let mut log = Self::default();
        for (path, size) in store.list(layout::log_folder(), None).await? {
            let kind = match layout::log_sequence(&path) {
                Some(_) => &mut log.records,
                None => &mut log.snapshots,
            };
            *kind = (kind.0 + 1, kind.1 + size);
        }
        Ok(log)
    }

    /// What was added since.
    pub fn since(&self, earlier: &Self) -> Self {
        let added = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        Self {
            records: added(self.records, earlier.records),
            snapshots: added(self.snapshots, earlier.snapshots),
        }
    }

    pub fn json(&self) -> Value {
        let ((records, bytes), (snapshots, snapshot_bytes)) = (self.records, self.snapshots);
        json!({
            "records": records, "bytes": bytes,
            "snapshots": snapshots, "snapshot_bytes": snapshot_bytes,
        })
    }
}

/// The value below which `share` of `values` lie; `None` of none.
pub fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}
