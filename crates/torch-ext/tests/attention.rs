//! The packed attention against the textbook's, forward and backward.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_torch_ext::PackedAttention;
use support::textbook;
use tch::{Device, Kind, Tensor};

/// Of a context's mean size: bf16 rounds weights and contexts by 2⁻⁹ at worst.
const MEAN_ERROR: f64 = 2e-3;
const LENGTHS: [i64; 9] = [158, 1, 16, 33, 200, 256, 90, 7, 520];

fn worst(found: &Tensor, expected: &Tensor) -> f64 {
    let difference = found.to_kind(Kind::Double) - expected.to_kind(Kind::Double);
    difference.abs().max().double_value(&[])
}

/// Output and gradient of the projections, for one gradient of the output.
fn both(
    projections: &Tensor,
    gradient: &Tensor,
    forward: impl Fn(&Tensor) -> Tensor,
) -> (Tensor, Tensor) {
    let leaf = projections.detach().copy().set_requires_grad(true);
    let context = forward(&leaf);
    (&context * gradient).sum(None).backward();
    (context.detach(), leaf.grad())
}

fn random(columns: i64, kind: Kind) -> (Tensor, Tensor) {
    tch::manual_seed(5);
    let tokens = LENGTHS.iter().sum();
    let projections = Tensor::randn([tokens, 3 * columns], (Kind::Float, Device::Cpu)) * 1.5;
    let gradient = Tensor::randn([tokens, columns], (Kind::Float, Device::Cpu));
    (projections.to_kind(kind), gradient.to_kind(kind))
}

#[test]
fn context_and_gradients_agree_with_the_textbook() {
    // Heads of 32 as MiniLM's, of 64 as BERT's, and an odd one out.
    for (heads, width) in [(12, 32), (2, 64), (3, 10)] {
        for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 6e-2)] {
            let attention = match PackedAttention::new(heads, width, kind) {
                Ok(attention) => attention,
                // Every x86-64 takes f32; bf16 needs AVX-512 with bf16, or AMX.
                Err(error) if kind == Kind::BFloat16 => {
                    eprintln!("SKIPPED for {kind:?}: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let (projections, gradient) = random(heads * width, kind);
            let exact = both(
                &projections.to_kind(Kind::Double),
                &gradient.to_kind(Kind::Double),
                |x| textbook(x, &LENGTHS, heads),
            );
            let found = both(&projections, &gradient, |x| {
                attention.forward(x, &LENGTHS).unwrap()
            });
            for (what, found, exact) in [
                ("context", &found.0, &exact.0),
                ("gradient", &found.1, &exact.1),
            ] {
                let error = worst(found, exact);
                assert!(
                    error < tolerance,
                    "{heads} heads of {width}, {kind:?}: the {what} differs by {error}"
                );
            }
        }
    }
}

#[test]
fn a_sequence_gives_the_same_bits_in_any_company_and_on_any_number_of_threads() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let attention = match PackedAttention::new(12, 32, kind) {
            Ok(attention) => attention,
            Err(error) if kind == Kind::BFloat16 => {
                eprintln!("SKIPPED for {kind:?}: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let (projections, gradient) = random(384, kind);
        let run = || {
            both(&projections, &gradient, |x| {
                attention.forward(x, &LENGTHS).unwrap()
            })
        };
        tch::set_num_threads(1);
        let (one, one_slope) = run();
        tch::set_num_threads(2);
        let (two, two_slope) = run();
        assert!(one.equal(&two) && one_slope.equal(&two_slope), "{kind:?}");
        let alone = attention
            .forward(&projections.narrow(0, 159, 16), &[16])
            .unwrap();
        assert!(alone.equal(&one.narrow(0, 159, 16)), "{kind:?}");
    }
}

/// On processors with a matrix unit (AMX) the linear releases what the kernel has set up.
#[test]
fn a_linear_between_two_calls_changes_nothing() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let Ok(attention) = PackedAttention::new(12, 32, kind) else {
            eprintln!("SKIPPED for {kind:?}");
            continue;
        };
        let (projections, _) = random(384, kind);
        // Lengths at which the first product and the last have the same shape.
        let rows = projections.narrow(0, 0, 24 * 31);
        let weight = Tensor::randn([1152, 384], (Kind::Float, Device::Cpu)).to_kind(kind);
        let first = attention.forward(&rows, &[31; 24]).unwrap();
        let _ = first.linear::<Tensor>(&weight, None);
        assert!(
            attention.forward(&rows, &[31; 24]).unwrap().equal(&first),
            "{kind:?}"
        );
    }
}

#[test]
fn scores_of_any_size_are_taken() {
    let attention = PackedAttention::new(1, 2, Kind::Float).unwrap();
    for size in [1e4, -1e4, 1e8] {
        let projections = Tensor::randn([5, 6], (Kind::Float, Device::Cpu)) * size;
        let _ = projections.narrow(1, 4, 2).fill_(1.0);
        let (context, slope) = both(
            &projections,
            &Tensor::ones([5, 2], (Kind::Float, Device::Cpu)),
            |x| attention.forward(x, &[5]).unwrap(),
        );
        assert!(
            worst(&context, &Tensor::ones_like(&context)) < 1e-6,
            "{size}"
        );
        assert_eq!(slope.isnan().any().int64_value(&[]), 0, "{size}");
        // No value weighs more than once with each of the five queries.
        let most = slope.narrow(1, 4, 2).max().double_value(&[]);
        assert!(most <= 5.0, "{size}: {most}");
    }
}

/// bf16's exponential is a short polynomial; what it leaves must drown in the rounding of the
/// weights to 8 bits.
#[test]
fn contexts_in_bf16_are_off_by_their_rounding_alone() {
    let Ok(attention) = PackedAttention::new(12, 32, Kind::BFloat16) else {
        eprintln!("SKIPPED: no bf16 kernel here");
        return;
    };
    let (projections, _) = random(384, Kind::BFloat16);
    let exact = textbook(&projections.to_kind(Kind::Double), &LENGTHS, 12);
    let found = attention.forward(&projections, &LENGTHS).unwrap();
    let error = (found.to_kind(Kind::Double) - &exact).abs().mean(None) / exact.abs().mean(None);
    let error = error.double_value(&[]);
    assert!(error < MEAN_ERROR, "{error}");
}

#[test]
fn what_is_no_number_stays_none() {
    // One of libtorch's own, and one that names its cause.
    for none in [f32::NAN, f32::from_bits(0x7fc0_0001)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let Ok(attention) = PackedAttention::new(1, 2, kind) else {
                eprintln!("SKIPPED for {kind:?}");
                continue;
            };
            // In the first vector of scores and in the last one, which is not full.
            for (row, column) in [0, 37]
                .into_iter()
                .flat_map(|row| [0, 2, 4].map(|c| (row, c)))
            {
                let mut numbers = [1.0f32; 40 * 6];
                numbers[row * 6 + column] = none;
                let projections = Tensor::from_slice(&numbers).view([40, 6]).to_kind(kind);
                let context = attention.forward(&projections, &[40]).unwrap();
                let lost = context.isnan().any().int64_value(&[]);
                assert_eq!(lost, 1, "{kind:?}, row {row}, column {column}");
            }
        }
    }
}

#[test]
fn what_the_kernel_cannot_take_is_refused() {
    let attention = PackedAttention::new(2, 4, Kind::Float).unwrap();
    let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
    let good = zeros(&[5, 24], Kind::Float);
    for lengths in [
        &[5, 0][..],
        &[6],
        &[2, 2],
        &[],
        &[i64::MAX, i64::MAX],
        &[7, -2],
    ] {
        assert!(attention.forward(&good, lengths).is_err(), "{lengths:?}");
    }
    for bad in [
        zeros(&[5, 24], Kind::Double),
        zeros(&[5, 22], Kind::Float),
        zeros(&[5, 0], Kind::Float),
        zeros(&[5], Kind::Float),
    ] {
        assert!(attention.forward(&bad, &[5]).is_err(), "{bad:?}");
    }
    assert!(PackedAttention::new(1, 3, Kind::Float).is_err());
    assert!(PackedAttention::new(0, 4, Kind::Float).is_err());
    assert!(PackedAttention::new(1, 4, Kind::Half).is_err());
    // Rows that do not lie side by side are taken as they read.
    let wide = Tensor::randn([5, 48], (Kind::Float, Device::Cpu));
    let half = wide.narrow(1, 0, 24);
    let straight = attention.forward(&half.contiguous(), &[5]).unwrap();
    assert!(attention.forward(&half, &[5]).unwrap().equal(&straight));
}
