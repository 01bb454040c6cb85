//! Copies that nobody waits for arrive with what they took along.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_torch_ext::{Download, upload};
use tch::{Device, Kind, Tensor};

#[test]
fn on_the_cpu_a_download_is_a_copy() {
    support::load_libtorch();
    let mut source = upload(&[1i64, 2, 3], Device::Cpu).unwrap();
    assert_eq!((source.kind(), source.size()), (Kind::Int64, vec![3]));
    let download = Download::begin(&source).unwrap();
    let _ = source.zero_();
    assert_eq!(
        Vec::<i64>::try_from(download.wait().unwrap()).unwrap(),
        [1, 2, 3]
    );
    let leaf = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    assert!(
        !Download::begin(&leaf)
            .unwrap()
            .wait()
            .unwrap()
            .requires_grad()
    );
}

#[test]
fn devices_that_are_neither_are_refused() {
    support::load_libtorch();
    let message = upload(&[1i64], Device::Mps).unwrap_err().to_string();
    assert!(
        message.contains("neither the CPU nor a CUDA device"),
        "{message}"
    );
}

/// Many copies under way at once: had a pinned block been handed out again before its copy
/// was done, or a source been overwritten, some would arrive with another's numbers.
#[test]
fn what_is_sent_to_a_gpu_and_back_is_the_same() {
    let Some(device) = support::gpu() else { return };
    let numbers = |of: i64| -> Vec<i64> { (0..100_000).map(|i| i * 7919 + of).collect() };
    let downloads: Vec<Download> = (0..50)
        .map(|of| {
            let mut sent = upload(&numbers(of), device).unwrap();
            assert_eq!(sent.device(), device);
            let download = Download::begin(&sent).unwrap();
            let _ = sent.zero_();
            download
        })
        .collect();
    // Another thread may wait for them.
    let waiting = std::thread::spawn(move || -> Vec<Tensor> {
        let all = downloads.into_iter();
        all.map(|download| download.wait().unwrap()).collect()
    });
    for (of, found) in waiting.join().unwrap().into_iter().enumerate() {
        assert_eq!(found.device(), Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(found).unwrap(), numbers(of as i64));
    }
    // Given up while under way.
    drop(Download::begin(&upload(&numbers(0), device).unwrap()).unwrap());
    let flags = upload(&[true, false], device).unwrap();
    assert_eq!(flags.kind(), Kind::Bool);
    assert_eq!(Vec::<bool>::try_from(flags).unwrap(), [true, false]);
}
