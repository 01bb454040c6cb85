//! From token states to one vector a sequence, in f32.

use crate::packed::Run;
use quarry_torch_ext::SequenceBounds;
use tch::{Kind, TchError, Tensor};

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// State of the first token; BERT's pooler head is not applied.
    Cls,
    /// Mean over all tokens, specials included.
    Mean,
}

impl Pooling {
    /// `[n]` places of the states in `[T, h]` that pooling reads, in packed order; `None` if
    /// it reads all. On a CPU the first one is repeated until `n` is a multiple of `rows`.
    /// With `bounds`, as on a GPU, nothing is copied there.
    pub(super) fn reads(
        self,
        runs: &[Run],
        bounds: Option<&SequenceBounds>,
        rows: usize,
    ) -> Result<Option<Tensor>, TchError> {
        Ok(match (self, bounds) {
            (Self::Mean, _) => None,
            (Self::Cls, Some(bounds)) => {
                let ends = bounds.cumulative();
                Some(ends.f_narrow(0, 0, ends.size1()? - 1)?)
            }
            (Self::Cls, None) => {
                let mut first = first_tokens(runs);
                first.resize(first.len().next_multiple_of(rows), 0);
                Some(Tensor::f_from_slice(&first)?)
            }
        })
    }

    /// `[n, h]` f32 from the packed states that [`Pooling::reads`] names: each of them, or
    /// each sequence's mean. With `bounds`, as on a GPU, by one operation whatever the lengths,
    /// and nothing is copied there.
    pub(super) fn pool(
        self,
        states: &Tensor,
        runs: &[Run],
        bounds: Option<&SequenceBounds>,
    ) -> Result<Tensor, TchError> {
        match (self, bounds) {
            (Self::Cls, _) => states.f_to_kind(Kind::Float),
            (Self::Mean, Some(bounds)) => {
                let states = states.f_to_kind(Kind::Float)?;
                let ends = Some(bounds.cumulative());
                // `unsafe`: the bounds are not looked at, which would wait for the GPU.
                Tensor::f_segment_reduce(&states, "mean", None, None, ends, 0, true, 0.0)
            }
            (Self::Mean, None) => mean(states, runs),
        }
    }
}

fn first_tokens(runs: &[Run]) -> Vec<i64> {
    let mut offset = 0;
    let mut first = Vec::new();
    for run in runs {
        for _ in 0..run.count {
            first.push(offset);
            offset += run.length;
        }
    }
    first
}

fn mean(states: &Tensor, runs: &[Run]) -> Result<Tensor, TchError> {
    let width = states.size().last().copied().unwrap_or_default();
    let tokens: Vec<i64> = runs.iter().map(|r| r.count * r.length).collect();
    let mut means = Vec::with_capacity(runs.len());
    for (part, run) in states.f_split_with_sizes(&tokens, 0)?.iter().zip(runs) {
        let sequences = part.f_view([run.count, run.length, width])?;
        means.push(sequences.f_mean_dim([1i64].as_slice(), false, Kind::Float)?);
    }
    Tensor::f_cat(&means, 0)
}

/// `x / max(‖x‖₂, 1e-12)` by row.
pub(super) fn normalize(vectors: &Tensor) -> Result<Tensor, TchError> {
    let norms = vectors.f_norm_scalaropt_dim(2.0, [1i64].as_slice(), true)?;
    vectors.f_div(&norms.f_clamp_min(1e-12)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn mean_and_cls_of_two_lengths() {
        let states =
            Tensor::from_slice(&[1f32, 2., 3., 4., 10., 20., 30., 40., 7., 9.]).view([5, 2]);
        let runs = [
            Run {
                count: 2,
                length: 2,
            },
            Run {
                count: 1,
                length: 1,
            },
        ];
        let flat = |t: Tensor| Vec::<f32>::try_from(t.view(-1)).unwrap();
        let bounds = SequenceBounds::new(&[2, 2, 1], Device::Cpu).unwrap();
        for bounds in [None, Some(&bounds)] {
            assert!(Pooling::Mean.reads(&runs, bounds, 4).unwrap().is_none());
            let mean = Pooling::Mean.pool(&states, &runs, bounds).unwrap();
            assert_eq!(flat(mean), [2., 3., 20., 30., 7., 9.]);
            let first = Pooling::Cls.reads(&runs, bounds, 4).unwrap().unwrap();
            let read = states.index_select(0, &first);
            let cls = Pooling::Cls.pool(&read, &runs, bounds).unwrap();
            assert_eq!(flat(cls.narrow(0, 0, 3)), [1., 2., 10., 20., 7., 9.]);
        }
        let filled = Pooling::Cls.reads(&runs, None, 4).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(filled).unwrap(), [0, 2, 4, 0]);
    }

    #[test]
    fn both_ways_of_pooling_have_one_gradient() {
        let run = |count, length| Run { count, length };
        let runs = [run(1, 7), run(3, 4), run(1, 1)];
        let lengths: Vec<i64> = runs.iter().flat_map(Run::lengths).collect();
        let bounds = SequenceBounds::new(&lengths, Device::Cpu).unwrap();
        tch::manual_seed(3);
        let states = Tensor::randn([20, 5], (Kind::Float, Device::Cpu));
        let weights = Tensor::randn([5, 5], (Kind::Float, Device::Cpu));
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let gradient = |bounds: Option<&SequenceBounds>| {
                let leaf = states.copy().set_requires_grad(true);
                let read = match pooling.reads(&runs, bounds, 1).unwrap() {
                    Some(places) => leaf.index_select(0, &places),
                    None => leaf.shallow_clone(),
                };
                let vectors = pooling.pool(&read, &runs, bounds).unwrap();
                (vectors * &weights).sum(Kind::Float).backward();
                leaf.grad()
            };
            let difference = gradient(None) - gradient(Some(&bounds));
            assert!(
                difference.abs().max().double_value(&[]) < 1e-7,
                "{pooling:?}"
            );
        }
    }

    #[test]
    fn normalize_gives_unit_rows_and_keeps_zero() {
        let x = Tensor::from_slice(&[3f32, 4., 0., 0.]).view([2, 2]);
        let y = Vec::<f32>::try_from(normalize(&x).unwrap().view(-1)).unwrap();
        assert_eq!(y, [0.6, 0.8, 0., 0.]);
    }
}
