//! One file a command: its arguments, what it does, what it prints.

pub mod compare;
mod connect;
pub mod encode;
pub mod eval;
pub mod export;
pub mod generations;
pub mod prepare;
pub mod rollback;
pub mod score;
pub mod search;
pub mod status;

pub use connect::connect;
