//! Kernels: vectorized arithmetic for each kind of CPU.

pub mod attention_f32;
pub mod attention_f64;
pub mod cpu;
pub mod head_cache;
pub mod math_f32;
pub mod math_f64;
pub mod matmul_f32;
pub mod matmul_f64;
pub mod microkernel;
pub mod simd;
pub mod softmax_f64;

/// Added to the mean square in RMS normalization.
pub const RMS_NORM_EPS: f64 = 1e-5;
