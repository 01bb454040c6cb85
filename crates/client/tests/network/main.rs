//! The real coordinator and the real code of its callers on a simulated network,
//! which is cut and healed in the middle of every call and every stream.
#![allow(clippy::unwrap_used)]

mod beats;
mod calls;
mod coordinator;
mod fault;
mod reach;
mod run;
mod seeds;
mod streams;
mod takeover;
mod wire;
mod work;
mod world;
