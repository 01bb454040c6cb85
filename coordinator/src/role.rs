//! What this process is to its callers at the moment, and what they are told.

use crate::handle::Handle;
use tonic::Status;

/// The part a coordinator plays; it changes while the process lives.
#[derive(Clone)]
pub enum Role {
    /// It reads the log, or stops.
    Idle,
    /// Another one leads.
    StandingBy {
        /// Where that one can be reached, if it said so.
        leader: Option<String>,
    },
    /// It leads.
    Leading(Handle),
}

impl Role {
    /// The way to the driver.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there is none here: callers try elsewhere or later.
    pub fn handle(&self) -> Result<Handle, Status> {
        let reason = match self {
            Self::Leading(handle) => return Ok(handle.clone()),
            Self::Idle => "starting or stopping; ask again".to_owned(),
            Self::StandingBy { leader: None } => "standing by; no leader is known".to_owned(),
            Self::StandingBy { leader: Some(url) } => {
                format!("standing by; the leader is at {url}")
            }
        };
        Err(Status::unavailable(reason))
    }
}
