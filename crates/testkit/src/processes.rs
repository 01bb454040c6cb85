//! Processes as `/proc` shows them, and the signals sent to them.

use std::path::Path;
use std::process::{Command, Stdio};

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// File name of its program.
    pub program: String,
}

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `kill -9`: dies at once.
    Kill,
    /// Ctrl-C.
    Interrupt,
    /// Stops running until [`Signal::Continue`]; its connections stay open.
    Stop,
    /// Runs again.
    Continue,
}

/// Every living process whose command line names `folder`: the programs of one
/// run, because each is given the path of its store.
#[must_use]
pub fn processes_naming(folder: &Path) -> Vec<Process> {
    let wanted = folder.to_str().unwrap();
    let mut found: Vec<Process> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|item| {
            let pid = item.file_name().to_str()?.parse().ok()?;
            // Empty for a process that is dead and not yet waited for.
            let line = std::fs::read(item.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line);
            let program = Path::new(line.split('\0').next()?)
                .file_name()?
                .to_str()?
                .to_owned();
            line.contains(wanted).then_some(Process { pid, program })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Sends `signal` to `pid`. True if there was such a process.
#[must_use]
pub fn signal(pid: u32, signal: Signal) -> bool {
    let name = match signal {
        Signal::Kill => "-KILL",
        Signal::Interrupt => "-INT",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    let pid = pid.to_string();
    Command::new("kill")
        .args([name, &pid])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
