//! Encoding many sequences without gradients.
//!
//! Sequences are sorted by length and cut by a token budget, so a batch depends
//! on the sequences alone: the same input gives the same bytes.

use super::Encoder;
use super::lanes::Lanes;
use super::pass::{Pass, check};
use super::prepared::Prepared;
use crate::error::ModelError;
use crate::packed::{PackedBatch, Specials};
use half::f16;
use quarry_torch_ext::Download;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use tch::kind::Element;
use tch::{Device, Tensor};

/// Tokens a batch may hold on a CPU: its states then stay in the caches.
pub const CPU_TOKEN_BUDGET: usize = 1024;

/// The same on a GPU: enough to fill it.
pub const GPU_TOKEN_BUDGET: usize = 65_536;

/// Batches shrink once fewer than this many times a batch's tokens are left.
const TAIL: usize = 6;

/// Takes the places of a batch's sequences and their vectors `[B · D]`, and says whether to
/// go on.
type Receive<'a, T> = dyn FnMut(&[usize], &[T]) -> Result<ControlFlow<()>, ModelError> + 'a;

/// The same in fp16, for [`Encoder::encode_half`].
pub type TakeHalves<'a> = dyn FnMut(&[usize], &[f16]) -> ControlFlow<()> + 'a;

impl Encoder {
    /// Tokens of a batch that suit the encoder's device.
    pub fn token_budget(&self) -> usize {
        match self.setting.device {
            Device::Cpu => CPU_TOKEN_BUDGET,
            _ => GPU_TOKEN_BUDGET,
        }
    }

    /// `[N · D]` f32 row after row in input order. `sequences` are content ids;
    /// `max_length` counts the specials; `progress` hears how many sequences are done.
    ///
    /// On a CPU each of libtorch's threads takes whole batches: none waits for another
    /// inside a pass, and the bits do not depend on their number. A single batch is
    /// shared out by libtorch's operations instead.
    ///
    /// # Errors
    /// As `embed`; and an embedding that is not finite.
    pub fn encode(
        &self,
        sequences: &[&[u32]],
        specials: Specials,
        max_length: usize,
        token_budget: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, ModelError> {
        let width = self.dim().unsigned_abs() as usize;
        let mut rows = vec![0f32; sequences.len() * width];
        let mut done = 0;
        let mut receive = |places: &[usize], block: &[f32]| {
            // `places` is sorted as the batch sorts, so rows are in its packed order.
            for (&place, row) in places.iter().zip(block.chunks_exact(width)) {
                if row.iter().any(|x| !x.is_finite()) {
                    return Err(ModelError::NotFinite(place));
                }
                rows[place * width..][..width].copy_from_slice(row);
            }
            done += places.len();
            progress(done);
            Ok(ControlFlow::Continue(()))
        };
        self.blocks(sequences, specials, max_length, token_budget, &mut receive)?;
        Ok(rows)
    }

    /// As [`Encoder::encode`], for vectors that are wanted in fp16: they become so on the
    /// device, before the copy. `take` gets the places of a batch's sequences and their
    /// vectors, `[B · D]`, finite or not; with `Break` it ends the work.
    ///
    /// A GPU has one batch under way while `take` has the one before: its queue does not run
    /// dry however many sequences there are.
    ///
    /// # Errors
    /// As `embed`.
    pub fn encode_half(
        &self,
        sequences: &[&[u32]],
        specials: Specials,
        max_length: usize,
        token_budget: usize,
        take: &mut TakeHalves,
    ) -> Result<(), ModelError> {
        let mut receive = |places: &[usize], block: &[f16]| Ok(take(places, block));
        self.blocks(sequences, specials, max_length, token_budget, &mut receive)
    }

    /// Cuts batches and hands each one's vectors to `receive`, in any order.
    fn blocks<T: Element + Send>(
        &self,
        sequences: &[&[u32]],
        specials: Specials,
        max_length: usize,
        token_budget: usize,
        receive: &mut Receive<T>,
    ) -> Result<(), ModelError> {
        let on_cpu = self.setting.device == Device::Cpu;
        let work = batches(sequences, max_length, token_budget, on_cpu);
        let batch = |places: &[usize]| {
            PackedBatch::new(places.iter().map(|&i| sequences[i]), specials, max_length)
        };
        self.with_prepared(|prepared| {
            let pass = self.pass(prepared);
            match on_cpu {
                true => shared_out(&pass, &work, &batch, receive),
                false => overlapped(&pass, &work, &batch, receive),
            }
        })
    }

    /// Calls `body` with compute copies: of trainable weights they are made now.
    fn with_prepared(
        &self,
        body: impl FnOnce(&Prepared) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if let Some(prepared) = &self.frozen {
            return body(prepared);
        }
        let built = {
            let _no_grad = tch::no_grad_guard();
            self.prepare(Lanes::SINGLE)?
        };
        body(&built)
    }
}

/// Batch after batch on each of libtorch's threads.
fn shared_out<T: Element + Send, B: Fn(&[usize]) -> PackedBatch + Sync>(
    pass: &Pass,
    work: &[Vec<usize>],
    batch: &B,
    receive: &mut Receive<T>,
) -> Result<(), ModelError> {
    let threads = tch::get_num_threads();
    let lanes = usize::try_from(threads).unwrap_or(1).min(work.len());
    if lanes < 2 {
        for places in work {
            if receive(places, &block(pass, &batch(places))?)?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let plan = pass.plan;
    let outcome = std::thread::scope(|scope| {
        for _ in 0..lanes {
            // A tensor may be used by one thread: each has its own handles.
            let prepared = pass.prepared.shallow_clone();
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                let pass = Pass {
                    plan,
                    prepared: &prepared,
                };
                // Holds for this thread, and for those that first call libtorch later:
                // the number is put back below.
                tch::set_num_threads(1);
                while let Some(places) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = block(&pass, &batch(places));
                    // Nobody listens once a batch has failed, or enough are there.
                    if sender.send((places, found)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (places, found) in receiver {
            if receive(places, &found?)?.is_break() {
                break;
            }
        }
        Ok(())
    });
    tch::set_num_threads(threads);
    outcome
}

/// One batch after the other on a GPU, which never waits for the host: while it computes
/// a batch, the host takes the vectors of the one before and packs the next.
fn overlapped<T: Element, B: Fn(&[usize]) -> PackedBatch>(
    pass: &Pass,
    work: &[Vec<usize>],
    batch: &B,
    receive: &mut Receive<T>,
) -> Result<(), ModelError> {
    let mut hand_over =
        |(places, download): (&Vec<usize>, Download)| receive(places, &values(&download.wait()?)?);
    let mut before = None;
    for places in work {
        let found = vectors(pass, &batch(places))?.f_to_kind(T::KIND)?;
        let download = Download::begin(&found)?;
        if let Some(earlier) = before.replace((places, download))
            && hand_over(earlier)?.is_break()
        {
            return Ok(());
        }
    }
    before.map_or(Ok(()), |last| hand_over(last).map(|_| ()))
}

/// `[B · D]` in packed order.
fn block<T: Element>(pass: &Pass, batch: &PackedBatch) -> Result<Vec<T>, ModelError> {
    let vectors = vectors(pass, batch)?.f_to_kind(T::KIND)?;
    values(&vectors.f_contiguous()?)
}

/// `[B, D]` f32 in packed order, outside autograd.
fn vectors(pass: &Pass, batch: &PackedBatch) -> Result<Tensor, ModelError> {
    let _no_grad = tch::no_grad_guard();
    check(batch, pass.plan.config)?;
    pass.vectors(batch, None)
}

fn values<T: Element>(vectors: &Tensor) -> Result<Vec<T>, ModelError> {
    let mut values = vec![T::ZERO; vectors.numel()];
    vectors.f_copy_data(&mut values, vectors.numel())?;
    Ok(values)
}

/// Places of the sequences, longest first, in batches of at most `budget` tokens (or one
/// sequence). Where threads share them, the last ones are smaller, down to a quarter: so no
/// thread waits long for the last. How many threads there are does not matter, for the
/// bits must not depend on it.
fn batches(
    sequences: &[&[u32]],
    max_length: usize,
    budget: usize,
    shared: bool,
) -> Vec<Vec<usize>> {
    let tokens = |i: usize| (sequences[i].len() + 2).min(max_length.max(2));
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tokens(i)));
    let mut left: usize = order.iter().map(|&i| tokens(i)).sum();
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut used, mut room) = (0, 0);
    for i in order {
        if batches.is_empty() || used + tokens(i) > room {
            room = match shared {
                true => (left / TAIL).clamp(budget / 4, budget),
                false => budget,
            };
            used = 0;
            batches.push(Vec::new());
        }
        used += tokens(i);
        left -= tokens(i);
        if let Some(batch) = batches.last_mut() {
            batch.push(i);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{Pooling, Precision, Setting};
    use crate::folder::ModelFolder;
    use std::path::Path;

    const SPECIALS: Specials = Specials { first: 2, last: 3 };

    fn encoder() -> Encoder {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert");
        let setting = Setting {
            device: Device::Cpu,
            precision: Precision::F32,
            pooling: Pooling::Mean,
            normalize: true,
            trainable: false,
        };
        Encoder::load(ModelFolder::open(&dir).unwrap(), setting).unwrap()
    }

    fn contents() -> Vec<Vec<u32>> {
        (0..9u32).map(|i| (5..8 + i).collect()).collect()
    }

    /// What a GPU does, here on the processor: one batch under way, the one before taken.
    #[test]
    fn overlapped_batches_arrive_in_order_and_a_refusal_or_a_break_ends_them() {
        let encoder = encoder();
        let pass = encoder.pass(encoder.frozen.as_ref().unwrap());
        let data = contents();
        let batch = |places: &[usize]| {
            PackedBatch::new(places.iter().map(|&i| data[i].as_slice()), SPECIALS, 38)
        };
        let work = [vec![8], vec![7, 6], vec![5, 4, 3], vec![2, 1, 0]];
        let mut found = Vec::new();
        overlapped(&pass, &work, &batch, &mut |places, rows: &[f32]| {
            found.push((places.to_vec(), rows.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        let alone = |places: &Vec<usize>| (places.clone(), block(&pass, &batch(places)).unwrap());
        assert_eq!(found, work.each_ref().map(alone));

        for ends_well in [false, true] {
            let mut taken = 0;
            let outcome = overlapped(&pass, &work, &batch, &mut |_, _: &[f32]| {
                taken += 1;
                match ends_well {
                    true => Ok(ControlFlow::Break(())),
                    false => Err(ModelError::NotFinite(0)),
                }
            });
            assert_eq!((outcome.is_ok(), taken), (ends_well, 1));
        }
        let none = overlapped(&pass, &[], &batch, &mut |_, _: &[f32]| {
            Ok(ControlFlow::Continue(()))
        });
        assert!(none.is_ok());
    }

    #[test]
    fn half_vectors_are_the_others_rounded() {
        let encoder = encoder();
        let data = contents();
        let sequences: Vec<&[u32]> = data.iter().map(Vec::as_slice).collect();
        let expected = encoder.encode(&sequences, SPECIALS, 38, 20, &mut |_| {});
        let expected = expected.unwrap();
        let width = encoder.dim() as usize;
        let mut found = vec![f32::NAN; expected.len()];
        encoder
            .encode_half(&sequences, SPECIALS, 38, 20, &mut |places, vectors| {
                for (&place, row) in places.iter().zip(vectors.chunks_exact(width)) {
                    let row: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
                    found[place * width..][..width].copy_from_slice(&row);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        // Half of f16's last bit.
        for (found, expected) in found.iter().zip(&expected) {
            let most = expected.abs() / 2048.0 + 1e-7;
            assert!((found - expected).abs() <= most, "{found} for {expected}");
        }
    }

    #[test]
    fn threads_end_when_enough_batches_are_there() {
        let encoder = encoder();
        let data = contents();
        let sequences: Vec<&[u32]> = data.iter().map(Vec::as_slice).collect();
        let before = tch::get_num_threads();
        for threads in [1, 2] {
            tch::set_num_threads(threads);
            let mut taken = 0;
            let mut take = |_: &[usize], _: &[f16]| {
                taken += 1;
                ControlFlow::Break(())
            };
            let outcome = encoder.encode_half(&sequences, SPECIALS, 38, 20, &mut take);
            outcome.unwrap();
            assert_eq!((taken, tch::get_num_threads()), (1, threads));
        }
        tch::set_num_threads(before);
    }

    #[test]
    fn batches_hold_the_budget_and_every_sequence_once() {
        let lengths = [5usize, 0, 30, 7, 7, 1, 100, 2];
        let data: Vec<Vec<u32>> = lengths.iter().map(|&l| vec![3; l]).collect();
        let sequences: Vec<&[u32]> = data.iter().map(Vec::as_slice).collect();
        let cut = batches(&sequences, 40, 20, false);
        assert_eq!(cut, [vec![6], vec![2], vec![3, 4], vec![0, 7, 5, 1]]);
        assert!(batches(&[], 40, 20, true).is_empty());
    }

    #[test]
    fn the_last_batches_that_threads_share_are_small() {
        let data = vec![vec![3; 8]; 100];
        let sequences: Vec<&[u32]> = data.iter().map(Vec::as_slice).collect();
        let cut = batches(&sequences, 40, 100, true);
        let sizes: Vec<usize> = cut.iter().map(Vec::len).collect();
        assert_eq!(
            sizes,
            [
                10, 10, 10, 10, 10, 8, 7, 5, 5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2, 1
            ]
        );
        assert_eq!(cut.concat(), (0..100).collect::<Vec<_>>());
    }
}
