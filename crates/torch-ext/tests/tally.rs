//! Counting what libtorch is asked for.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::tally;
use tch::{Device, Kind, Tensor};

#[test]
fn operations_and_memory_are_counted_on_this_thread() {
    let x = Tensor::ones([1000], (Kind::Float, Device::Cpu));
    let (y, counts) = tally(|| &x + &x).unwrap();
    assert_eq!(y.double_value(&[0]), 2.0);
    assert_eq!((counts.operations, counts.allocations), (1, 1));
    assert!((4000..4200).contains(&counts.bytes), "{counts:?}");

    let elsewhere = || std::thread::spawn(|| Tensor::zeros([9], (Kind::Float, Device::Cpu)));
    let (_, counts) = tally(|| elsewhere().join().unwrap()).unwrap();
    assert_eq!((counts.operations, counts.allocations), (0, 0));
}

#[test]
fn what_is_only_moved_is_counted_in_bytes() {
    let x = Tensor::ones([10, 20], (Kind::Float, Device::Cpu));
    let copied = |body: &dyn Fn() -> Tensor| tally(body).unwrap().1.copied;
    assert_eq!(copied(&|| &x + &x), 0);
    assert_eq!(copied(&|| x.transpose(0, 1)), 0);
    assert_eq!(copied(&|| x.transpose(0, 1).contiguous()), 800);
    assert_eq!(copied(&|| x.to_kind(Kind::BFloat16)), 400);
    assert_eq!(copied(&|| Tensor::cat(&[&x, &x], 0)), 1600);
}

#[test]
fn one_count_at_a_time_and_none_after_a_panic() {
    let (inner, _) = tally(|| tally(|| ()).is_err()).unwrap();
    assert!(inner);
    let panicked = std::panic::catch_unwind(|| tally(|| panic!("as planned")));
    assert!(panicked.is_err());
    assert!(tally(|| ()).is_ok());
}
