//! All layers in one operation against libtorch's operations in double precision.
#![allow(clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard};

use quarry_torch_ext::{Activation, Error, LayerForm, LayerWeights, PackedLayers, set_num_threads};
use tch::{Device, Kind, Tensor};

const EPSILON: f64 = 1e-12;

fn random(shape: &[i64], scale: f64) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale
}

/// A layer's weights, rounded to the kind of the products.
struct Layer {
    linear: [(Tensor, Tensor); 4],
    norms: [(Tensor, Tensor); 2],
}

impl Layer {
    fn new(h: i64, inner: i64, kind: Kind) -> Self {
        let linear = |out: i64, from: i64, scale: f64, bias: f64| {
            let weight = random(&[out, from], scale / (from as f64).sqrt());
            (weight.to_kind(kind), random(&[out], bias))
        };
        let norm = || (random(&[h], 0.2) + 1.0, random(&[h], 0.5));
        Self {
            // Scores far apart, and GELU's inputs far out on both sides, where it is flat.
            linear: [
                linear(3 * h, h, 2.0, 0.3),
                linear(h, h, 1.0, 0.5),
                linear(inner, h, 1.5, 2.0),
                linear(h, inner, 1.0, 0.5),
            ],
            norms: [norm(), norm()],
        }
    }

    fn weights(&self) -> LayerWeights<'_> {
        let [projections, output, inner, outer] =
            self.linear.each_ref().map(|(weight, bias)| (weight, bias));
        let [attention_norm, norm] = self.norms.each_ref().map(|(weight, bias)| (weight, bias));
        LayerWeights {
            projections,
            output,
            attention_norm,
            inner,
            outer,
            norm,
        }
    }

    /// The exact result of one sequence `[L, h]`.
    fn exact(&self, x: &Tensor, heads: i64, form: &str) -> Tensor {
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let linear = |x: &Tensor, i: usize| {
            let (weight, bias) = &self.linear[i];
            x.linear(&double(weight), Some(&double(bias)))
        };
        let norm = |x: &Tensor, i: usize| {
            let (weight, bias) = &self.norms[i];
            let size = [x.size()[1]];
            x.layer_norm(
                size,
                Some(&double(weight)),
                Some(&double(bias)),
                EPSILON,
                false,
            )
        };
        let (length, h) = (x.size()[0], x.size()[1]);
        let d = h / heads;
        let parts = linear(x, 0)
            .view([length, 3, heads, d])
            .permute([1, 2, 0, 3]);
        let [q, k, v] = [0, 1, 2].map(|i| parts.get(i));
        let weights = (q.matmul(&k.transpose(1, 2)) / (d as f64).sqrt()).softmax(-1, Kind::Double);
        let context = weights.matmul(&v).permute([1, 0, 2]).reshape([length, h]);
        let x = norm(&(x + linear(&context, 1)), 0);
        norm(&(&x + linear(&linear(&x, 2).gelu(form), 3)), 1)
    }
}

/// libtorch's number of threads, which is the whole process's: one test at a time.
struct Threads(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Threads {
    fn lock() -> Threads {
        static LOCK: Mutex<()> = Mutex::new(());
        Threads(LOCK.lock().unwrap())
    }

    fn set(&self, count: usize) {
        set_num_threads(count).unwrap();
    }
}

fn form(heads: i64, activation: Activation) -> LayerForm {
    LayerForm {
        heads,
        activation,
        epsilon: EPSILON,
    }
}

fn packed(layers: &[Layer], h: i64, kind: Kind, form: LayerForm) -> Result<PackedLayers, Error> {
    let mut packed = PackedLayers::new(h, kind, form)?;
    for layer in layers {
        packed.push(&layer.weights())?;
    }
    Ok(packed)
}

/// Of every sequence, one after the other.
fn exact(layers: &[Layer], x: &Tensor, lengths: &[i64], heads: i64, gelu: &str) -> Tensor {
    let sequences = x.to_kind(Kind::Double).split_with_sizes(lengths, 0);
    let through = |x: &Tensor| {
        let start = x.shallow_clone();
        layers
            .iter()
            .fold(start, |x, layer| layer.exact(&x, heads, gelu))
    };
    Tensor::cat(&sequences.iter().map(through).collect::<Vec<_>>(), 0)
}

/// The rows of every sequence's first token.
fn firsts(x: &Tensor, lengths: &[i64]) -> Tensor {
    let starts = lengths.iter().scan(0, |next, length| {
        *next += length;
        Some(*next - length)
    });
    x.index_select(0, &Tensor::from_slice(&starts.collect::<Vec<_>>()))
}

#[test]
fn layers_end_as_their_operations_do() {
    tch::manual_seed(7);
    // Groups of one sequence and of many, a sequence longer than a group of several threads, rows that are no
    // multiple of anything, heads narrower than a vector, widths above and below the kernels' blocks of 32 or 64 and of 192.
    // More sequences than a tile has rows, and states so wide that a tile in f32 has fewer.
    let many = [3; 530];
    let shapes: [(i64, i64, i64, &[i64]); 9] = [
        (16, 16, 1, &[1]),
        (32, 48, 4, &[5, 19]),
        (32, 48, 2, &[7, 3, 1]),
        (96, 400, 6, &[300, 131, 130, 66, 5, 5, 5, 2]),
        (128, 1040, 2, &[70, 61]),
        (208, 224, 2, &[40, 23]),
        (48, 48, 8, &[9, 8]),
        (32, 48, 2, &many),
        (656, 64, 2, &[310]),
    ];
    let threads = Threads::lock();
    for (kind, most) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
        for (h, inner, heads, lengths) in shapes {
            for (activation, gelu) in [(Activation::Gelu, "none"), (Activation::GeluTanh, "tanh")] {
                let layers = [Layer::new(h, inner, kind), Layer::new(h, inner, kind)];
                let Ok(packed) = packed(&layers, h, kind, form(heads, activation)) else {
                    eprintln!("SKIPPED: this processor has no {kind:?} products");
                    continue;
                };
                let x = random(&[lengths.iter().sum(), h], 1.0).to_kind(kind);
                threads.set(1);
                let found = packed.forward(&x, lengths).unwrap();
                threads.set(2);
                assert!(packed.forward(&x, lengths).unwrap() == found);
                assert_eq!((found.kind(), found.size()), (kind, x.size()));
                assert!(packed.forward_first(&x, lengths).unwrap() == firsts(&found, lengths));
                let exact = exact(&layers, &x, lengths, heads, gelu);
                let error = (found.to_kind(Kind::Double) - &exact).abs() / (exact.abs() + 1.0);
                let worst = error.max().double_value(&[]);
                assert!(
                    worst < most,
                    "{kind:?} {h} {inner} {lengths:?} {gelu}: {worst}"
                );
            }
        }
    }
}

#[test]
fn a_sequence_is_the_same_in_any_company_and_on_any_number_of_threads() {
    let threads = Threads::lock();
    for kind in [Kind::Float, Kind::BFloat16] {
        let layers = [Layer::new(64, 128, kind), Layer::new(64, 128, kind)];
        let Ok(packed) = packed(&layers, 64, kind, form(4, Activation::Gelu)) else {
            eprintln!("SKIPPED: this processor has no {kind:?} products");
            continue;
        };
        // More than a group of one thread takes, and one across a tile's end.
        let lengths = [201, 190, 180, 37, 37, 18, 3, 250, 240];
        let x = random(&[lengths.iter().sum(), 64], 1.0).to_kind(kind);
        threads.set(1);
        let found = packed.forward(&x, &lengths).unwrap();
        threads.set(2);
        assert!(
            packed.forward(&x, &lengths).unwrap() == found,
            "{kind:?}: threads"
        );
        let first = packed.forward_first(&x, &lengths).unwrap();
        assert!(first == firsts(&found, &lengths), "{kind:?}: first tokens");
        threads.set(1);
        assert!(packed.shallow_clone().forward(&x, &lengths).unwrap() == found);
        let mut first = 0;
        for length in lengths {
            let alone = packed.forward(&x.narrow(0, first, length), &[length]);
            let expected = found.narrow(0, first, length);
            assert!(
                alone.unwrap() == expected,
                "{kind:?}: {length} tokens alone"
            );
            first += length;
        }
    }
}

#[test]
fn what_a_kernel_could_not_take_is_refused() {
    let kind = Kind::Float;
    let new = |h: i64, kind: Kind, form: LayerForm| {
        PackedLayers::new(h, kind, form).unwrap_err().to_string()
    };
    let gelu = |heads: i64| form(heads, Activation::Gelu);
    assert!(new(40, kind, gelu(2)).contains("multiple of 16"));
    assert!(new(48, kind, gelu(16)).contains("even width"));
    assert!(new(48, kind, gelu(0)).contains("0 heads"));
    assert!(new(48, Kind::Half, gelu(3)).contains("not f32 or bf16"));
    assert!(new(48, kind, form(3, Activation::Relu)).contains("no form of GELU"));

    let mut layers = PackedLayers::new(48, kind, gelu(3)).unwrap();
    let mut reason = |layer: &Layer| layers.push(&layer.weights()).unwrap_err().to_string();
    assert!(reason(&Layer::new(48, 40, kind)).contains("multiples of 16"));
    assert!(reason(&Layer::new(32, 64, kind)).contains("not [144, 48]"));
    assert!(reason(&Layer::new(48, 64, Kind::BFloat16)).contains("not Float"));
    let mut bent = Layer::new(48, 64, kind);
    bent.norms[1].1 = random(&[47], 1.0);
    assert!(reason(&bent).contains("[47] is not [48]"));

    let none = PackedLayers::new(48, kind, gelu(3)).unwrap();
    let first = none.forward_first(&random(&[2, 48], 1.0), &[2]);
    assert!(first.unwrap_err().to_string().contains("no layer"));

    let layers = packed(&[Layer::new(48, 64, kind)], 48, kind, gelu(3)).unwrap();
    let refused = |x: &Tensor, lengths: &[i64]| {
        let outcome = layers.forward(x, lengths);
        outcome.unwrap_err().to_string()
    };
    let x = random(&[5, 48], 1.0);
    assert!(refused(&random(&[5, 64], 1.0), &[5]).contains("[T, 48]"));
    assert!(refused(&x.to_kind(Kind::BFloat16), &[5]).contains("Float"));
    assert!(refused(&random(&[48, 5], 1.0).transpose(0, 1), &[5]).contains("contiguous"));
    assert!(refused(&x.set_requires_grad(true), &[5]).contains("autograd"));
    for lengths in [&[4][..], &[6, -1], &[5, 0], &[]] {
        assert!(
            refused(&x.detach(), lengths).contains("add up"),
            "{lengths:?}"
        );
    }
    assert!(refused(&x.detach().narrow(0, 0, 0), &[]).contains("add up"));

    // A layer that was refused leaves nothing behind.
    let mut layers = layers;
    let found = layers.forward(&x.detach(), &[2, 3]).unwrap();
    assert!(layers.push(&bent.weights()).is_err());
    assert!(layers.forward(&x.detach(), &[2, 3]).unwrap() == found);
}

/// What is no number stays none, in its own sequence.
#[test]
fn a_number_that_is_none_stays_so_and_stays_at_home() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let layers = [Layer::new(32, 64, kind)];
        let Ok(packed) = packed(&layers, 32, kind, form(2, Activation::Gelu)) else {
            continue;
        };
        let x = random(&[9, 32], 1.0).to_kind(kind);
        let _ = x.narrow(0, 2, 1).fill_(f64::NAN);
        let found = packed.forward(&x, &[4, 5]).unwrap();
        let none = |first: i64, count: i64| {
            let rows = found.narrow(0, first, count).isnan();
            (rows.any().int64_value(&[]), rows.all().int64_value(&[]))
        };
        assert_eq!((none(0, 4), none(4, 5)), ((1, 1), (0, 0)), "{kind:?}");
    }
}
