//! The coordinators: one at least is kept running, and now and then there are more
//! of them than there should be.

use crate::audit::Audit;
use crate::client::Client;
use crate::process::{Process, Roster};
use crate::site::Site;
use crate::world::{World, lock};
use quarry_artifacts::RunDocument;
use quarry_coordinator::driver::{Driver, DriverError};
use quarry_coordinator::follower::{Follower, Taken};
use quarry_coordinator::grpc::Service;
use quarry_coordinator::handle::Handle;
use quarry_coordinator::log::LogError;
use quarry_coordinator::role::Role;
use quarry_coordinator::state::State;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A coordinator that leads, or believes so, as others reach it.
pub struct Member {
    pub process: Arc<Process>,
    pub service: Service,
    handle: Handle,
}

/// All coordinators of a run, and the store they share.
pub struct Cluster {
    pub world: Arc<World>,
    pub roster: Arc<Roster>,
    pub site: Arc<Site>,
    pub audit: Arc<Audit>,
    pub run: RunDocument,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    started: Mutex<u64>,
}

impl Cluster {
    pub fn new(
        world: &Arc<World>,
        roster: &Arc<Roster>,
        site: &Arc<Site>,
        run: RunDocument,
    ) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            roster: Arc::clone(roster),
            site: Arc::clone(site),
            audit: Arc::clone(&site.audit),
            run,
            members: Mutex::default(),
            started: Mutex::default(),
        })
    }

    /// Those that can be called, frozen or not.
    pub fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).values().cloned().collect()
    }

    /// The one of this name, if it can be called.
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        lock(&self.members).get(name).cloned()
    }

    /// Starts a coordinator whenever there is none, and sometimes when there is none
    /// that is not frozen: from outside that looks alike. Never ends.
    pub async fn keep_one(self: Arc<Self>) {
        loop {
            let all = self.roster.of("coordinator");
            let gone = all.len() < 3 && all.iter().all(|process| process.is_frozen());
            if all.is_empty() || gone && self.world.chance(0.3) {
                self.start(None);
            }
            self.world.pass(300..3_000).await;
        }
    }

    /// Starts a coordinator that takes over at once, or stands by until the log has
    /// not grown for `patience` looks.
    pub fn start(self: &Arc<Self>, patience: Option<u64>) {
        let number = {
            let mut started = lock(&self.started);
            *started += 1;
            *started
        };
        let process = Process::new(&self.world, format!("coordinator-{number}"));
        self.roster.enlist(&process);
        self.world.note(format_args!("{} starts", process.name));
        let main = Arc::clone(self).serve(Arc::clone(&process), patience);
        let running = process.start(main);
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = running.await;
            lock(&cluster.members).remove(&process.name);
            cluster.roster.dismiss(&process);
            cluster.ended(&process, outcome.map_err(|error| error.is_panic()));
        });
    }

    fn ended(&self, process: &Process, outcome: Result<Result<(), DriverError>, bool>) {
        let name = &process.name;
        match outcome {
            Ok(Ok(())) => self.world.note(format_args!("{name} ends")),
            Ok(Err(DriverError::Log(LogError::Fenced { sequence }))) => {
                self.world
                    .note(format_args!("{name} is fenced at {sequence}"));
            }
            Ok(Err(DriverError::Log(LogError::Store(_)))) => {
                self.world
                    .note(format_args!("{name} cannot reach the store"));
            }
            Ok(Err(broken)) => self
                .world
                .violate(format!("{name} refuses the log: {broken}")),
            Err(true) => self.world.violate(format!("{name} panicked")),
            Err(false) => self.world.note(format_args!("{name} is killed")),
        }
    }

    async fn serve(
        self: Arc<Self>,
        process: Arc<Process>,
        patience: Option<u64>,
    ) -> Result<(), DriverError> {
        let store = Client::open(&self.world, &process, &self.site);
        let mut follower = Follower::open(store.clone(), &self.run, &process.name).await?;
        let taken = match patience {
            None => follower.take_over(None).await?,
            Some(looks) => self.stand_by(&mut follower, looks).await?,
        };
        let (driver, handle) = Driver::new(store.clone(), taken);
        let (_role, leading) = watch::channel(Role::Leading(handle.clone()));
        let member = Member {
            process: Arc::clone(&process),
            service: Service::new(leading, store),
            handle,
        };
        self.world.note(format_args!("{} leads", process.name));
        lock(&self.members).insert(process.name.clone(), Arc::new(member));
        driver.run().await
    }

    /// Reads along until the log stands still.
    async fn stand_by(&self, follower: &mut Follower, looks: u64) -> Result<Taken, DriverError> {
        let mut in_vain = 0;
        loop {
            self.world.pass(500..1_500).await;
            match follower.follow().await {
                Ok(true) => in_vain = 0,
                Ok(false) => in_vain += 1,
                Err(LogError::Store(_)) => continue,
                Err(broken) => return Err(broken.into()),
            }
            if in_vain < looks {
                continue;
            }
            match follower.try_take_over(None).await {
                Ok(Some(taken)) => return Ok(taken),
                Ok(None) => in_vain = 0,
                Err(DriverError::Log(LogError::Store(_))) => {}
                Err(broken) => return Err(broken),
            }
        }
    }
}

impl Member {
    /// Holds the coordinator's whole state against the laws, in the background.
    pub fn look(self: &Arc<Self>, audit: &Arc<Audit>) {
        let (member, audit) = (Arc::clone(self), Arc::clone(audit));
        tokio::spawn(async move {
            let name = member.process.name.clone();
            let look = move |state: &State, _| audit.looked_into(&name, state);
            let _ = member.handle.inspect(look).await; // it may have ended
        });
    }
}
