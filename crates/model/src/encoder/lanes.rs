//! A training batch shared out among threads, forth and back.
//!
//! Owns: which sequences go through the layers on which thread, and how the threads'
//! gradients come together, in an order that no clock decides. Refuses: embeddings, which
//! stay on the calling thread: their tables are too large for a gradient of each thread.
//!
//! Threads that share every operation wait for each other at every operation. Here each
//! takes whole sequences through all layers and waits once each way; the price is a
//! gradient of the layers' weights for each thread but the first.

use super::Dropout;
use super::apart::Apart;
use super::pass::{Entered, Pass, Plan};
use super::prepared::Prepared;
use crate::error::ModelError;
use crate::packed::PackedBatch;
use quarry_torch_ext::share_the_first_arena;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::LazyLock;
use tch::{Kind, Tensor};

/// Most threads that share a training batch out: each but the first needs a gradient of
/// every weight of the layers.
pub const MOST_LANES: usize = 4;

/// Fewest tokens that are worth a lane.
const FEWEST_TOKENS: usize = 256;

/// Tokens that a lane takes through the layers at once.
const CHUNK_TOKENS: usize = 1024;

/// How many threads take a part of the sequences, and how many threads of libtorch each
/// of them has for its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    count: usize,
    threads: usize,
}

/// A lane's part of a batch, with weights that collect its gradients.
struct Share {
    prepared: Prepared,
    entered: Vec<Entered>,
}

/// A chunk between its two passes.
struct Chunk {
    /// Embedded tokens, the end of the calling thread's graph, and the same as a leaf, where
    /// the lane's graph begins.
    embedded: Tensor,
    states: Tensor,
    /// `[B, D]`, the end of the lane's graph, and the same as a leaf, where the loss's begins.
    vectors: Tensor,
    end: Tensor,
}

/// A batch whose loss is not yet known: what its gradient will go back through.
pub(super) struct Pending {
    lanes: Lanes,
    shares: Vec<Vec<Chunk>>,
    apart: Vec<Apart>,
}

impl Lanes {
    /// Of a batch of `tokens` in `sequences` on `threads` threads; a single one shares
    /// nothing out.
    pub fn of(tokens: usize, sequences: usize, threads: usize) -> Self {
        let most = MOST_LANES.min(tokens / FEWEST_TOKENS).min(sequences);
        let most = most.min(threads).max(1);
        // More than one if there may be; then as few idle threads, then as many lanes as can be.
        let count = (most.min(2)..=most)
            .max_by_key(|count| (threads / count * count, *count))
            .unwrap_or(1);
        Self {
            count,
            threads: threads / count,
        }
    }

    /// Nothing is shared out.
    pub const SINGLE: Self = Self {
        count: 1,
        threads: 1,
    };

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether nothing is shared out.
    pub fn is_single(self) -> bool {
        self.count < 2
    }

    /// Takes a batch through the layers: the leaves `[b, D]` that end each chunk, and the
    /// caller's places of their rows. `None`, with nothing drawn, if the weights cannot
    /// collect gradients apart.
    pub fn forth(
        self,
        pass: &Pass,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Option<(Pending, Vec<i64>)>, ModelError> {
        let (mut apart, mut order) = (Vec::new(), Vec::new());
        let mut weights = vec![pass.prepared.shallow_clone()];
        while weights.len() < self.count {
            match pass.prepared.apart(&mut apart)? {
                Some(own) => weights.push(own),
                None => return Ok(None),
            }
        }
        let mut shares = Vec::with_capacity(self.count);
        for (share, prepared) in batch.shares(self.count).iter().zip(weights) {
            let mut entered = Vec::new();
            for chunk in share.chunks(CHUNK_TOKENS) {
                entered.push(pass.enter(&chunk, dropout)?);
                order.extend_from_slice(chunk.order());
            }
            shares.push(Share { prepared, entered });
        }
        let plan = pass.plan;
        let shares = self.on_threads(shares, |share| share.forth(plan))?;
        let pending = Pending {
            lanes: self,
            shares,
            apart,
        };
        Ok(Some((pending, order)))
    }

    /// `work` for each of `parts`, at most as many as lanes, on a thread each. The first
    /// failure is returned.
    pub fn on_threads<P: Send, R: Send>(
        self,
        parts: Vec<P>,
        work: impl Fn(P) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, ModelError> {
        if parts.len() < 2 {
            return parts.into_iter().map(work).collect();
        }
        let _restored = Threads(tch::get_num_threads());
        let threads = i32::try_from(self.threads).unwrap_or(1);
        let work = |part| {
            // Holds for this thread, and for those that first call libtorch later.
            tch::set_num_threads(threads);
            work(part)
        };
        let mut outcomes: Vec<_> = parts.iter().map(|_| None).collect();
        pool()?.in_place_scope(|scope| {
            let mut places = outcomes.iter_mut().zip(parts);
            // The calling thread is a lane too.
            let first = places.next();
            for (place, part) in places {
                scope.spawn(|_| *place = Some(work(part)));
            }
            if let Some((place, part)) = first {
                *place = Some(work(part));
            }
        });
        outcomes.into_iter().flatten().collect()
    }
}

/// The number of libtorch's threads, put back when dropped, even by a panic.
struct Threads(i32);

impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(self.0);
    }
}

/// Threads that stay from step to step.
fn pool() -> Result<&'static ThreadPool, ModelError> {
    static POOL: LazyLock<Result<ThreadPool, String>> = LazyLock::new(|| {
        let builder = ThreadPoolBuilder::new().num_threads(MOST_LANES - 1);
        let named = builder.thread_name(|number| format!("lane-{}", number + 1));
        let named = named.start_handler(|_| share_the_first_arena());
        named.build().map_err(|error| error.to_string())
    });
    POOL.as_ref().map_err(|reason| {
        ModelError::Batch(format!("no threads can be started to train with: {reason}"))
    })
}

impl Share {
    fn forth(self, plan: Plan) -> Result<Vec<Chunk>, ModelError> {
        let pass = Pass {
            plan,
            prepared: &self.prepared,
        };
        let leaf = |end: &Tensor| end.f_detach()?.f_set_requires_grad(true);
        let mut chunks = Vec::new();
        for mut entered in self.entered {
            let states = leaf(&entered.states)?;
            let embedded = std::mem::replace(&mut entered.states, states.shallow_clone());
            let vectors = pass.through(&entered)?;
            chunks.push(Chunk {
                embedded,
                states,
                end: leaf(&vectors)?,
                vectors,
            });
        }
        Ok(chunks)
    }
}

impl Pending {
    /// The leaves `[b, D]` that the loss is to be computed from.
    pub fn ends(&self) -> Vec<Tensor> {
        let chunks = self.shares.iter().flatten();
        chunks.map(|chunk| chunk.end.shallow_clone()).collect()
    }

    /// Takes the gradients that the ends have collected back to the masters.
    pub fn back(self) -> Result<(), ModelError> {
        let shares = self.lanes.on_threads(self.shares, |share| {
            share.into_iter().rev().map(Chunk::back).collect()
        })?;
        for share in shares {
            let share: Vec<Option<(Tensor, Tensor)>> = share;
            // The last chunk went back first.
            for (embedded, slope) in share.into_iter().rev().flatten() {
                // Frozen tables have no graph.
                if embedded.requires_grad() {
                    differentiate(&embedded, &slope)?;
                }
            }
        }
        self.apart.into_iter().try_for_each(Apart::join)
    }
}

impl Chunk {
    /// Through the layers: the embedded tokens and their gradient, if there is one.
    fn back(self) -> Result<Option<(Tensor, Tensor)>, ModelError> {
        let slope = self.end.f_grad()?;
        if !slope.defined() {
            return Ok(None);
        }
        differentiate(&self.vectors, &slope)?;
        Ok(Some((self.embedded, self.states.f_grad()?)))
    }
}

/// The backward pass from `end`, whose gradient is `slope`.
fn differentiate(end: &Tensor, slope: &Tensor) -> Result<(), ModelError> {
    // Of this sum `slope` is the gradient, to the bit.
    Ok(end.f_mul(slope)?.f_sum(Kind::Float)?.f_backward()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(tokens: usize, threads: usize) -> (usize, usize) {
        let lanes = Lanes::of(tokens, 100, threads);
        (lanes.count, lanes.threads)
    }

    #[test]
    fn few_tokens_or_threads_share_little_out() {
        assert_eq!(lanes(100_000, 1), (1, 1));
        assert_eq!(lanes(100, 8), (1, 8));
        assert_eq!(lanes(512, 8), (2, 4));
        assert!(Lanes::of(511, 100, 2).is_single());
        assert_eq!(Lanes::of(2000, 2, 4).count(), 2);
        assert!(Lanes::of(2000, 1, 4).is_single());
    }

    #[test]
    fn no_more_threads_are_idle_than_must_be() {
        let found = [2, 3, 4, 5, 6, 7, 8, 64].map(|threads| lanes(100_000, threads));
        let expected = [
            (2, 1),
            (3, 1),
            (4, 1),
            (4, 1),
            (3, 2),
            (3, 2),
            (4, 2),
            (4, 16),
        ];
        assert_eq!(found, expected);
    }
}
