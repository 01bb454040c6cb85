//! Messages between processes: late, lost, doubled, or answered to nobody.
//!
//! A message reaches the coordinator's real service; only the wire is missing.

use crate::cluster::{Cluster, Member};
use crate::process::{Process, Reach};
use crate::world::{World, lock};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};

/// One process's way to whoever coordinates.
pub struct Link {
    pub cluster: Arc<Cluster>,
    pub process: Arc<Process>,
    /// The coordinator that answered last.
    route: Mutex<Option<String>>,
}

/// Whether the same call may succeed later.
pub fn is_absence(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown
    )
}

/// Ends a call at the server when the caller is gone, unless it lingers.
struct Served<T> {
    task: JoinHandle<T>,
    lingers: bool,
}

impl<T> Drop for Served<T> {
    fn drop(&mut self) {
        if !self.lingers {
            self.task.abort();
        }
    }
}

impl Link {
    pub fn new(cluster: &Arc<Cluster>, process: &Arc<Process>) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            process: Arc::clone(process),
            route: Mutex::default(),
        }
    }

    pub fn world(&self) -> &Arc<World> {
        &self.cluster.world
    }

    /// A coordinator to call, the last one if it is still there.
    pub fn connect(&self) -> Option<Arc<Member>> {
        let mut route = lock(&self.route);
        if let Some(member) = route.as_deref().and_then(|name| self.cluster.member(name)) {
            return Some(member);
        }
        let members = self.cluster.members();
        let member = (!members.is_empty()).then(|| Arc::clone(self.world().one_of(&members)));
        *route = member.as_ref().map(|m| m.process.name.clone());
        member
    }

    /// The next call may go to another coordinator.
    pub fn hang_up(&self) {
        *lock(&self.route) = None;
    }

    /// Whether nothing passes between this process and `member`.
    pub fn is_cut_off(&self, member: &Member) -> bool {
        self.process.is_cut_off(Reach::Network) || member.process.is_cut_off(Reach::Network)
    }

    /// Calls a coordinator once, waiting at most `limit_ms` of this process's clock.
    ///
    /// # Errors
    /// The coordinator's refusal, or that no answer came.
    pub async fn call<Q, A, S, F>(&self, limit_ms: u64, request: Q, serve: S) -> Result<A, Status>
    where
        Q: Clone + Send + 'static,
        A: Send + 'static,
        S: Fn(Arc<Member>, Q) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let Some(member) = self.connect() else {
            return Err(Status::unavailable("nobody listens"));
        };
        let world = self.world();
        let weather = &world.weather;
        if self.is_cut_off(&member) || world.fault(weather.net_lost) {
            self.process.sleep(limit_ms.min(10_000)).await;
            self.hang_up();
            return Err(Status::deadline_exceeded("the message was lost"));
        }
        if world.fault(weather.net_doubled) {
            let slow = world.between(0..30_000);
            let again = self.deliver(&member, request.clone(), serve.clone(), slow);
            drop(tokio::spawn(again));
        }
        let delay = if world.fault(weather.net_slow) {
            5_000
        } else {
            8
        };
        let delay = world.between(0..delay);
        let served = tokio::spawn(self.deliver(&member, request, serve, delay));
        let mut served = Served {
            task: served,
            lingers: world.chance(0.5),
        };
        let answer_lost = world.fault(weather.net_answer_lost);
        let limit = Duration::from_millis(limit_ms);
        let answer = timeout(limit, &mut served.task).await;
        if answer_lost || self.is_cut_off(&member) {
            self.process.sleep(limit_ms.min(10_000)).await;
            self.hang_up();
            return Err(Status::deadline_exceeded("the answer was lost"));
        }
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(died)) => Err(Status::unknown(died.to_string())),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        };
        if answer.as_ref().is_err_and(is_absence) {
            self.hang_up();
        }
        answer
    }

    /// One arrival of a message at a coordinator, and its answer's way back.
    fn deliver<Q, A, S, F>(
        &self,
        member: &Arc<Member>,
        request: Q,
        serve: S,
        delay: u64,
    ) -> impl Future<Output = Result<A, Status>> + Send + 'static
    where
        Q: Send + 'static,
        A: Send + 'static,
        S: Fn(Arc<Member>, Q) -> F + Send + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let (audit, member) = (Arc::clone(&self.cluster.audit), Arc::clone(member));
        async move {
            sleep(Duration::from_millis(1 + delay)).await;
            member.process.awake().await;
            let answer = serve(Arc::clone(&member), request).await;
            member.look(&audit);
            member.process.awake().await;
            sleep(Duration::from_millis(1 + delay / 2)).await;
            answer.map(Response::into_inner)
        }
    }
}
