//! What goes wrong in a simulation, and how often: drawn once from its seed.
//!
//! Each kind of fault is absent from some seeds, so that no fault hides another.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Probabilities of faults, per request, message or task.
#[derive(Debug, Clone)]
pub struct Weather {
    /// The store drops a request unseen (reset, 503).
    pub store_before: f64,
    /// The store does it, but the answer is lost.
    pub store_after: f64,
    /// A create is answered with 409 although nothing is there.
    pub store_conflict: f64,
    /// The request times out and takes effect many seconds later.
    pub store_late: f64,
    /// A large object arrives short, with or without an error.
    pub store_torn: f64,
    /// The answer takes seconds.
    pub store_slow: f64,
    /// The process freezes with the answer in its hands.
    pub store_freezes: f64,
    /// A message does not arrive.
    pub net_lost: f64,
    /// The answer to a message does not arrive.
    pub net_answer_lost: f64,
    /// A message arrives twice, the second time maybe much later.
    pub net_doubled: f64,
    /// A message takes seconds.
    pub net_slow: f64,
    /// A task fails in a worker's hands.
    pub task_fails: f64,
    /// A task takes many times as long as it should.
    pub task_slow: f64,
    /// Two attempts at a task give different bits.
    pub task_noise: f64,
    /// Mean pause between two strokes of [`crate::chaos`], in milliseconds.
    pub stroke_ms: u64,
    /// How long the faults last, in milliseconds.
    pub storm_ms: u64,
    /// Whether the run is many times as long as most.
    pub is_long: bool,
    /// Rates of clocks, fastest and slowest.
    pub skew: (f64, f64),
}

impl Weather {
    /// Draws the weather of a seed.
    pub fn draw(random: &mut ChaCha8Rng) -> Self {
        let strength = [0.3, 1.0, 1.0, 3.0][random.random_range(0..4)];
        let mut some = |p: f64| {
            let present = random.random_bool(0.6);
            if present { p * strength } else { 0.0 }
        };
        // Objects come short from a folder that lost power; requests come late
        // to a service behind a network. No store does both.
        let (late, torn) = (some(0.01), some(0.04));
        let is_service = some(1.0) > 0.0;
        let mut weather = Self {
            store_before: some(0.03),
            store_after: some(0.03),
            store_conflict: some(0.02),
            store_late: if is_service { late } else { 0.0 },
            store_torn: if is_service { 0.0 } else { torn },
            store_slow: some(0.02),
            store_freezes: some(0.003),
            net_lost: some(0.02),
            net_answer_lost: some(0.03),
            net_doubled: some(0.04),
            net_slow: some(0.03),
            task_fails: some(0.05),
            task_slow: some(0.03),
            task_noise: some(0.3),
            stroke_ms: 0,
            storm_ms: 0,
            is_long: false,
            skew: (1.0, 1.0),
        };
        weather.stroke_ms = [800, 2_500, 2_500, 9_000][random.random_range(0..4)];
        weather.storm_ms = random.random_range(20_000..90_000);
        if random.random_bool(0.04) {
            weather.is_long = true;
            weather.storm_ms *= 8;
        }
        if random.random_bool(0.5) {
            weather.skew = (0.5, 4.0);
        }
        weather
    }
}
