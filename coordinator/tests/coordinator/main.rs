//! Tests of the coordinator, from the pure state to the wire.
#![allow(clippy::unwrap_used)]

mod fixture;
mod laws;
mod leases;
mod plans;
mod policies;
mod retention;
mod scripts;
mod site;
mod standby;
mod wire;
mod writers;
