//! A run as its log tells it, read along: what a coordinator knows before it leads.
//!
//! Owns: the log read to its end and the attempt to write the next record, which is
//! what taking over means (law 6). Refuses: deciding when that is due.

use crate::driver::{DriverError, split};
use crate::log::{Log, LogError};
use crate::state::{Change, Effect, Event, Run, Settings, State, Timestamp};
use quarry_artifacts::{CheckpointRef, RunDocument, Store};

/// Attempts to take over while others write too.
const ATTEMPTS: u32 = 16;

/// Follows the log of a run.
pub struct Follower {
    settings: Settings,
    initial: CheckpointRef,
    log: Log,
    run: Run,
}

/// A run that was just taken over. What its first event led to is still to be done.
pub struct Taken {
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) changes: Vec<Change>,
    pub(crate) effects: Vec<Effect>,
}

impl Follower {
    /// Reads the log of `store` to its end; `writer` is unique to this process.
    ///
    /// # Errors
    /// [`DriverError`] if the run or its log cannot be used.
    pub async fn open(store: Store, run: &RunDocument, writer: &str) -> Result<Self, DriverError> {
        let settings = Settings::from_run(run)?;
        let (log, history) = Log::open(store, writer.to_owned()).await?;
        Ok(Self {
            settings,
            initial: run.initial_checkpoint.clone(),
            log,
            run: history,
        })
    }

    /// Reads what was written since; returns whether there was anything.
    ///
    /// # Errors
    /// If a record is damaged or the store fails.
    pub async fn follow(&mut self) -> Result<bool, LogError> {
        Ok(self.log.follow(&mut self.run).await? > 0)
    }

    /// Fencing number of the latest coordinator; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.run.epoch
    }

    /// Where the latest coordinator can be reached, if it said so.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.run.leader.as_deref()
    }

    /// Tries to become the writer by creating the next record, which makes known that
    /// this coordinator is at `address`. `None` if that record is there already:
    /// someone else writes.
    ///
    /// # Errors
    /// [`DriverError`]. After a store's failure the same call may be made again: it is
    /// the same record.
    pub async fn try_take_over(
        &self,
        address: Option<String>,
    ) -> Result<Option<Taken>, DriverError> {
        let now = Timestamp::default();
        let epoch = self.run.epoch + 1;
        let mut state = State::resume(self.settings.clone(), self.run.clone(), now)
            .map_err(DriverError::Broken)?;
        let event = Event::TakenOver {
            epoch,
            address,
            initial: self.initial.clone(),
        };
        let effects = state.apply(now, event);
        let (changes, effects) = split(effects.map_err(|e| DriverError::Broken(e.to_string()))?);
        let mut log = self.log.clone();
        match log.append(epoch, &changes).await {
            Ok(records) => tracing::info!(epoch, records, "took over the run"),
            Err(LogError::Fenced { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(Some(Taken {
            state,
            log,
            changes,
            effects,
        }))
    }

    /// Becomes the writer, whoever is: whom an operator starts, leads.
    ///
    /// # Errors
    /// [`DriverError`]; [`LogError::Fenced`] if others keep being quicker.
    pub async fn take_over(&mut self, address: Option<String>) -> Result<Taken, DriverError> {
        for _ in 0..ATTEMPTS {
            if let Some(taken) = self.try_take_over(address.clone()).await? {
                return Ok(taken);
            }
            self.follow().await?;
        }
        let sequence = self.log.last();
        Err(LogError::Fenced { sequence }.into())
    }
}
