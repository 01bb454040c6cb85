//! The async runtime's size. Kept small on purpose: these threads wait for the
//! network, and every one beyond that competes with the mathematics for cores.

use tokio::runtime::{Builder, Runtime};

/// A Tokio runtime of `workers` threads (at least 1) named after the process.
///
/// # Errors
/// If the operating system refuses the threads.
pub fn runtime(name: &str, workers: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(workers.max(1))
        .thread_name(format!("{name}-io"))
        .enable_all()
        .build()
}

/// Cores this process may use, as limited by affinity and control groups.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_names_its_threads_and_runs() {
        let runtime = runtime("quarry-test", 0).unwrap();
        let task = runtime.spawn(async { std::thread::current().name().map(str::to_string) });
        let name = runtime.block_on(task).unwrap().unwrap();
        assert_eq!(name, "quarry-test-io");
        assert!(available() >= 1);
    }
}
