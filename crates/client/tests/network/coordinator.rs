//! A coordinator on a simulated host: the real service, driver, log and standby, on
//! the simulated network and store.

use crate::fault::Tap;
use crate::wire;
use crate::world::World;
use quarry_coordinator::driver::{Driver, DriverError};
use quarry_coordinator::follower::{Follower, Taken};
use quarry_coordinator::grpc::Service;
use quarry_coordinator::log::LogError;
use quarry_coordinator::role::Role;
use quarry_coordinator::standby::until_silent;
use quarry_proto::v1::coordinator_server::CoordinatorServer;
use quarry_service::listen;
use std::time::Duration;
use tokio::sync::watch;

/// How long a leader may be silent, as by default.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Where the coordinator on `host` can be called.
pub fn url(host: &str) -> String {
    format!("http://{host}:{}", wire::PORT)
}

/// A coordinator on `host` that leads at once, or else stands by first; when fenced
/// it stands by.
pub async fn serve(host: &'static str, world: World, leads: bool) -> turmoil::Result {
    let born = turmoil::sim_elapsed().unwrap_or_default().as_millis();
    let writer = format!("{host}-{born}");
    let role = watch::Sender::new(Role::Idle);
    let service = Service::new(role.subscribe(), world.store(host));
    let service = Tap {
        inner: CoordinatorServer::new(service),
        host: host.to_owned(),
        world: world.clone(),
    };
    let server = listen::server()
        .add_service(service)
        .serve_with_incoming(wire::incoming().await?);
    let member = Member {
        host,
        world,
        writer,
        role,
    };
    tokio::select! {
        biased;
        outcome = member.take_turns(leads) => outcome?,
        outcome = server => outcome?,
    }
    Ok(())
}

struct Member {
    host: &'static str,
    world: World,
    writer: String,
    role: watch::Sender<Role>,
}

impl Member {
    async fn take_turns(&self, mut at_once: bool) -> Result<(), DriverError> {
        loop {
            let store = self.world.store(self.host);
            let mut follower = match Follower::open(store, &self.world.run, &self.writer).await {
                Err(error) if is_away(&error) => continue,
                opened => opened?,
            };
            let taken = match std::mem::take(&mut at_once) {
                true => follower.take_over(Some(url(self.host))).await?,
                false => self.stand_by(&mut follower).await?,
            };
            match self.lead(taken).await {
                Err(DriverError::Log(LogError::Fenced { sequence })) => {
                    let host = self.host;
                    self.world
                        .note(format_args!("{host} is fenced at {sequence}"));
                }
                outcome => return outcome,
            }
        }
    }

    async fn stand_by(&self, follower: &mut Follower) -> Result<Taken, DriverError> {
        loop {
            until_silent(follower, PATIENCE, None, &self.role).await?;
            loop {
                match follower.try_take_over(Some(url(self.host))).await {
                    Ok(Some(taken)) => return Ok(taken),
                    Ok(None) => break,
                    Err(error) if is_away(&error) => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn lead(&self, taken: Taken) -> Result<(), DriverError> {
        let (driver, handle) = Driver::new(self.world.store(self.host), taken);
        self.world.note(format_args!("{} leads", self.host));
        self.role.send_replace(Role::Leading(handle));
        let outcome = driver.run().await;
        self.role.send_replace(Role::Idle);
        outcome
    }
}

fn is_away(error: &DriverError) -> bool {
    matches!(error, DriverError::Log(LogError::Store(_)))
}
