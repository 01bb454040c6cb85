//! The one thread that computes, apart from the network: heartbeats never wait
//! for a matrix product, and libtorch's per-thread settings have one home.
//!
//! Owns: the hand-over of a task and its result, the capture of panics (libtorch
//! reports through them), the log line of each task, and the end of all tasks once the
//! GPU has failed. Refuses: leases.

use crate::error::{Result, TaskError};
use crate::progress::Progress;
use quarry_proto::{Task, TaskOutput};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Something that can do tasks, one at a time: [`crate::Workshop`], or a
/// script in a test.
pub trait Perform: Send + 'static {
    /// Does `task`, reporting to `progress` and stopping soon after it is cancelled.
    ///
    /// # Errors
    /// Why there is no output, in one sentence.
    fn perform(&mut self, task: &Task, progress: &Progress) -> Result<TaskOutput>;

    /// Drops what a panic may have left half-changed.
    fn recover(&mut self) {}
}

struct Job {
    task: Task,
    progress: Progress,
    answer: oneshot::Sender<Result<TaskOutput>>,
}

/// A handle on the computing thread, which ends with its last handle.
#[derive(Clone)]
pub struct Engine {
    jobs: mpsc::Sender<Job>,
}

impl Engine {
    /// Starts the thread with `threads` of libtorch, for good: a shard's
    /// embeddings depend on their number.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(threads: usize, performer: impl Perform) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("compute".to_owned())
            .spawn(move || {
                tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
                work_off(&queue, performer);
            })?;
        Ok(Self { jobs })
    }

    /// Does `task` and waits for the result without blocking a thread.
    ///
    /// # Errors
    /// The task's own error, [`TaskError::Panicked`], or [`TaskError::DeviceLost`], after
    /// which there is no other task.
    pub async fn perform(&self, task: Task, progress: Progress) -> Result<TaskOutput> {
        let gone = || TaskError::Panicked("the computing thread is gone".to_owned());
        let (answer, result) = oneshot::channel();
        let job = Job {
            task,
            progress,
            answer,
        };
        self.jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn work_off(queue: &mpsc::Receiver<Job>, mut performer: impl Perform) {
    for job in queue {
        let started = Instant::now();
        let attempt = || performer.perform(&job.task, &job.progress);
        let panicked = |panic: Box<dyn Any + Send>| Err(TaskError::Panicked(words(panic.as_ref())));
        let result = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(panicked);
        let result = result.map_err(TaskError::judged);
        log(&job, &result, started.elapsed().as_secs_f64());
        let lost = matches!(result, Err(TaskError::DeviceLost(_)));
        if matches!(result, Err(TaskError::Panicked(_))) {
            performer.recover();
        }
        // Nobody waits any more when the process is stopping.
        let _ = job.answer.send(result);
        if lost {
            // What lies on the GPU goes with the process: to give it back there could abort
            // the process before it has said why.
            std::mem::forget(performer);
            return;
        }
    }
}

fn log(job: &Job, result: &Result<TaskOutput>, seconds: f64) {
    let (work, generation) = (job.task.work.to_string(), job.task.generation);
    let items = job.progress.items();
    let rate = (items as f64 / seconds.max(1e-9) * 10.0).round() / 10.0;
    let seconds = (seconds * 1e3).round() / 1e3;
    match result {
        Ok(_) => tracing::info!(generation, %work, items, seconds, rate, "task done"),
        Err(TaskError::Cancelled) => {
            tracing::info!(generation, %work, seconds, "task cancelled");
        }
        Err(error) => tracing::warn!(generation, %work, seconds, %error, "task failed"),
    }
}

/// First line of a panic's message; libtorch appends a backtrace to its own.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    text.lines().next().unwrap_or_default().to_owned()
}
