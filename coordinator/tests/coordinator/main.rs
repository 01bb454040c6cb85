//! Tests of the coordinator, from the pure state to the wire.
#![allow(clippy::unwrap_used)]

mod fixture;
mod fleet;
mod laws;
mod leases;
mod lookout;
mod moves;
mod numbered;
mod plans;
mod poison;
mod policies;
mod properties;
mod retention;
mod scripts;
mod site;
mod standby;
mod wire;
mod writers;
