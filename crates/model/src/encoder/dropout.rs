//! Dropout from 16 random bits an element, or from a seed.
//!
//! libtorch's own draws one Bernoulli number after the other, which on a CPU
//! takes as long as a matrix product; this takes a fifth of it. Masks come from
//! libtorch's generator all the same, so a seed replays them.

use tch::{Device, Kind, TchError, Tensor};

/// Values of 16 bits.
const STEPS: f64 = 65_536.0;

/// Zeroes each element with probability `p`, rounded to a multiple of 2⁻¹⁶, and
/// scales the others so that the mean stays.
pub(super) fn drop(x: Tensor, p: f64) -> Result<Tensor, TchError> {
    let dropped = (p * STEPS).round();
    if dropped <= 0.0 {
        return Ok(x);
    }
    let kept = bits(&x)?.f_ge(dropped as i64 - 32_768)?;
    let scale = STEPS / (STEPS - dropped);
    x.f_mul(&kept)?.f_mul_scalar_(scale)
}

/// `count` seeds from libtorch's generator, for kernels that make their masks of them.
pub(super) fn seeds(count: usize) -> Result<Vec<i64>, TchError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut words = Tensor::f_empty([count as i64], (Kind::Int64, Device::Cpu))?;
    Vec::try_from(words.f_random_from_(i64::MIN, None)?)
}

/// Uniform 16-bit integers in the shape of `x`.
fn bits(x: &Tensor) -> Result<Tensor, TchError> {
    let count = x.numel() as i64;
    let mut words = Tensor::f_empty([(count + 3) / 4], (Kind::Int64, x.device()))?;
    // From the lowest number on, so that all 64 bits are random.
    words
        .f_random_from_(i64::MIN, None)?
        .f_view_dtype(Kind::Int16)?
        .f_narrow(0, 0, count)?
        .f_view(x.size().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ones(shape: [i64; 2], kind: Kind) -> Tensor {
        Tensor::ones(shape, (kind, Device::Cpu))
    }

    #[test]
    fn keeps_the_rate_and_the_mean_at_every_place() {
        tch::manual_seed(3);
        for (p, kind) in [
            (0.1, Kind::Float),
            (0.5, Kind::Float),
            (0.1, Kind::BFloat16),
        ] {
            let y = drop(ones([4001, 127], kind), p)
                .unwrap()
                .to_kind(Kind::Float);
            let zeros = f64::try_from(y.eq(0.0).to_kind(Kind::Float).mean(Kind::Float)).unwrap();
            // Five standard deviations of a proportion over half a million draws.
            assert!((zeros - p).abs() < 0.004, "{zeros}");
            assert!((f64::try_from(y.mean(Kind::Float)).unwrap() - 1.0).abs() < 0.008);
            // The four elements cut from one word drop alike often.
            for lane in 0..4 {
                let lane = y
                    .view(-1)
                    .slice(0, lane, None, 4)
                    .eq(0.0)
                    .to_kind(Kind::Float);
                assert!((f64::try_from(lane.mean(Kind::Float)).unwrap() - p).abs() < 0.008);
            }
        }
    }

    #[test]
    fn the_gradient_has_the_mask_of_the_output() {
        tch::manual_seed(4);
        let x = ones([10, 10], Kind::Float).set_requires_grad(true);
        let y = drop(&x * 1.0, 0.3).unwrap();
        y.sum(Kind::Float).backward();
        assert_eq!(
            Vec::<f32>::try_from(x.grad().view(-1)).unwrap(),
            Vec::<f32>::try_from(y.detach().view(-1)).unwrap()
        );
    }

    #[test]
    fn zero_changes_nothing() {
        let y = drop(ones([2, 2], Kind::Float), 0.0).unwrap();
        assert_eq!(Vec::<f32>::try_from(y.view(-1)).unwrap(), [1f32; 4]);
    }
}
