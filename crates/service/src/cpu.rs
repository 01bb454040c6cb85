//! What this machine's processor can do, as far as programs choose by it. Refuses
//! to know of GPUs: that takes a native library.

/// Whether this processor multiplies bf16 natively, so that bf16 is the faster
/// arithmetic rather than an emulation.
#[must_use]
pub fn has_native_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}
