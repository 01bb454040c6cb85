//! How much happened in a simulation.

/// How often things happened: whether a simulation reached what it is meant to.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub epochs: u64,
    pub completions: u64,
    pub published: u64,
    pub aborted: u64,
    pub reopened: u64,
    pub rollbacks: u64,
    pub swaps: u64,
    pub collected: u64,
    pub snapshots: u64,
    pub fenced: u64,
}

impl Counts {
    /// Adds those of another simulation.
    pub fn add(&mut self, other: &Self) {
        self.epochs += other.epochs;
        self.completions += other.completions;
        self.published += other.published;
        self.aborted += other.aborted;
        self.reopened += other.reopened;
        self.rollbacks += other.rollbacks;
        self.swaps += other.swaps;
        self.collected += other.collected;
        self.snapshots += other.snapshots;
        self.fenced += other.fenced;
    }

    /// Whether everything happened that the simulation is meant to reach.
    pub fn require_all(&self) {
        let all = [
            self.epochs,
            self.completions,
            self.published,
            self.aborted,
            self.reopened,
            self.rollbacks,
            self.swaps,
            self.collected,
            self.snapshots,
            self.fenced,
        ];
        assert!(
            all.iter().all(|n| *n > 0),
            "something never happened: {self:?}"
        );
    }
}
