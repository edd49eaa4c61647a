//! Kernels: the vectorized arithmetic of inference in f64 and of training in f32.
//!
//! # Shapes
//!
//! `T` is the tokens that a query sees, `D` is `head_dim`, `N` is the tokens of a batch.
//!
//! ```text
//! inference, f64
//!   weights × columns of a step  [rows, cols] f32, f16 × [columns, cols]  matmul_f64
//!   attention of a head          [queries, D] × [T, D] i32, twice         attention_f64, head_cache
//! training, f32
//!   weights, both passes         [N, in] × [in, out]                      matmul_f32 (gemm)
//!   short documents, T, D ≤ 16   [T, D] × [D, T], [T, T] × [T, D]         attention_f32/short
//!   long documents               [T, D] × [D, 16], [16, T] × [T, D]       attention_f32/long
//!                                                                         by microkernel
//! ```
//!
//! # Registers
//!
//! The f64 product keeps a tile of `R` rows × `C` columns of sums in registers, each a vector of
//! eight partial sums along `cols`. Loading `R` vectors of weights, converted to f64, and `C`
//! vectors of `x` feeds `R·C` fused multiply-adds. At the end of a row, the eight lanes are added.
//!
//! ```text
//!                x[0]  x[1]  …  x[C-1]        ◄── 8 consecutive elements of each column
//!   weights[0]    Σ     Σ          Σ
//!   weights[1]    Σ     Σ          Σ          Σ: 8 lanes, element i in lane i mod 8
//!   …                                         4×4 tiles on AVX-512 (32 registers of 8 f64),
//!   weights[R-1]  Σ     Σ          Σ          2×3 elsewhere (16 registers of 4 f64)
//!     ▲
//!     └── 8 consecutive elements of each row
//! ```
//!
//! The f32 microkernel computes `out[rows, 16] = a[rows, K]·b[K, 16]`. A row of `out` is one vector
//! of sixteen sums; each step `k` broadcasts a column of `a` against row `k` of `b`. No sum runs
//! over lanes.
//!
//! ```text
//!                         b[k]: 16 columns
//!                    ┌────────────────────────┐
//!   a[0, k]    ──►   │ out[0]   16 sums       │   up to 12 rows on AVX-512 (1 register each),
//!   a[1, k]    ──►   │ out[1]   16 sums       │   6 on AVX2 (2 registers each)
//!   …                │ …                      │
//!   a[R-1, k]  ──►   │ out[R-1] 16 sums       │
//!                    └────────────────────────┘
//! ```
//!
//! Attention in f64 computes the scores of eight keys per vector, for four queries at a time, from
//! keys stored as `[T / 8, D, 8]`; then it adds the values, weighted, in four accumulators per
//! vector of columns. Short attention in f32 has all queries of a document in one vector.
//!
//! # CPUs
//!
//! [`simd::Simd`] is implemented for AVX-512, AVX2 and a scalar baseline, which the compiler
//! vectorizes (Neon on aarch64). A [`simd::Kernel`] is generic over it and compiled once per kind;
//! [`simd::run`] detects the CPU at run time. Loops that need no explicit vectors run in
//! [`simd::dispatch`].
//!
//! Inference has the same bits on every CPU: a sum has eight lanes whatever the width of the
//! registers, its lanes are added in one order, each product is fused with its addition, tiles of
//! any size add in the same order, and `exp` is our own. Training fixes the lanes of its sums, too,
//! but `gemm` and the microkernel fuse multiply and add only where the CPU can.
//!
//! # Files
//!
//! - [`cpu`]: detection; [`simd`]: vectors per CPU, dispatch, stored weights
//! - [`math_f64`], [`math_f32`]: sums, maxima, `exp`; [`softmax_f64`]: softmax and `-log2 p`
//! - [`matmul_f64`], [`head_cache`], [`attention_f64`], [`layers_f64`]: inference
//! - [`matmul_f32`], [`microkernel`], [`attention_f32`]: training
//!
//! The tests of each kernel compare it with a scalar reference for odd shapes, on each kind of CPU
//! that the machine can run.

pub mod attention_f32;
pub mod attention_f64;
pub mod cpu;
pub mod head_cache;
pub mod layers_f64;
pub mod math_f32;
pub mod math_f64;
pub mod matmul_f32;
pub mod matmul_f64;
pub mod microkernel;
pub mod simd;
pub mod softmax_f64;
