//! Process-wide settings take effect, and wrong ones are refused.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_torch_ext::{
    f32_partial_sums, header_version, libtorch_version, load_cuda, set_deterministic,
    set_f32_partial_sums, set_flush_denormal, set_num_interop_threads, set_num_threads,
};
use tch::{Kind, Tensor};

#[test]
fn the_loaded_libtorch_is_the_one_compiled_against() {
    support::load_libtorch();
    assert_eq!(libtorch_version().unwrap(), header_version());
    assert_eq!(header_version(), "2.11.0");
}

#[test]
fn thread_counts_are_set_and_zero_is_refused() {
    support::load_libtorch();
    set_num_threads(1).unwrap();
    assert_eq!(tch::get_num_threads(), 1);
    assert!(
        set_num_threads(0)
            .unwrap_err()
            .to_string()
            .contains("0 threads")
    );
    assert!(set_num_interop_threads(0).is_err());
    set_num_interop_threads(1).unwrap();
    assert_eq!(tch::get_num_interop_threads(), 1);
    // libtorch takes this number once: its refusal must arrive as an error.
    assert!(set_num_interop_threads(2).is_err());
}

#[test]
fn denormals_are_flushed_when_asked() {
    support::load_libtorch();
    let denormal = Tensor::from_slice(&[1e-40_f32]);
    if set_flush_denormal(true).unwrap() {
        assert_eq!(
            (&denormal * 1.0).to_kind(Kind::Double).double_value(&[0]),
            0.0
        );
    } else {
        eprintln!("SKIPPED: this cpu cannot flush denormals");
    }
    set_flush_denormal(false).unwrap();
    assert!((&denormal * 1.0).to_kind(Kind::Double).double_value(&[0]) > 0.0);
}

/// `put_` without accumulation has no deterministic kernel: it works, then it is refused.
#[test]
fn deterministic_mode_refuses_what_has_no_deterministic_kernel() {
    support::load_libtorch();
    let put = || {
        let mut target = Tensor::zeros([3], (Kind::Float, tch::Device::Cpu));
        target
            .f_put_(
                &Tensor::from_slice(&[1_i64]),
                &Tensor::from_slice(&[5.0_f32]),
                false,
            )
            .map(drop)
    };
    put().unwrap();
    set_deterministic(true).unwrap();
    let refused = put().unwrap_err().to_string();
    set_deterministic(false).unwrap();
    assert!(
        refused.contains("does not have a deterministic implementation"),
        "{refused}"
    );
    put().unwrap();
}

#[test]
fn partial_sums_are_f32_once_they_were_asked_to_be() {
    support::load_libtorch();
    assert!(!f32_partial_sums().unwrap(), "libtorch has another default");
    for on in [true, false, true] {
        set_f32_partial_sums(on).unwrap();
        assert_eq!(f32_partial_sums().unwrap(), on);
    }
}

#[test]
fn loading_cuda_answers_the_same_twice() {
    let first = load_cuda().unwrap();
    assert_eq!(load_cuda().unwrap(), first);
    assert!(first || !tch::Cuda::is_available());
    if support::gpu().is_some() {
        assert!(tch::Cuda::device_count() > 0);
    }
}
