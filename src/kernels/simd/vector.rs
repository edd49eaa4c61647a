//! Vectors of eight f64 and of sixteen f32, and the operations on them.

use half::f16;

/// Elements of an f64 vector, on every CPU.
pub const LANES: usize = 8;

/// Elements of an f32 vector, on every CPU.
pub const F32_LANES: usize = 16;

/// Sixteen f32 in one cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct F32x16(pub [f32; F32_LANES]);

impl F32x16 {
    pub const ZERO: Self = Self([0.0; F32_LANES]);
}

/// Returns the sum of a vector's lanes, adding its upper half to its lower half until one is left.
#[inline(always)]
pub fn reduce_sum(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    let quad = [a + e, b + f, c + g, d + h];
    let pair = [quad[0] + quad[2], quad[1] + quad[3]];
    pair[0] + pair[1]
}

/// The vector instructions of one kind of CPU. Every f64 operation gives the same bits on all.
pub trait Simd: Copy {
    /// Eight f64.
    type Vector: Copy;
    /// Sixteen f32, with the layout of [`F32x16`].
    type F32Vector: bytemuck::Pod;

    /// f64 vectors that can accumulate in registers, with registers left for their operands.
    const ACCUMULATORS: usize;
    /// The same for f32 vectors.
    const F32_ACCUMULATORS: usize;

    fn load(self, elements: &[f64; LANES]) -> Self::Vector;
    fn store(self, v: Self::Vector) -> [f64; LANES];
    fn splat(self, element: f64) -> Self::Vector;
    fn convert_f32(self, elements: &[f32; LANES]) -> Self::Vector;
    fn convert_i32(self, elements: &[i32; LANES]) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger elements. None may be NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// [`reduce_sum`] of four vectors.
    fn reduce_sums(self, vectors: [Self::Vector; 4]) -> [f64; 4];

    /// Converts finite f16 exactly.
    // `half`'s `convert_to_f32_slice`, 16 rows of 128 weights at a time, made the product with a lone
    // column 8% to 17% slower on AVX2 (231 to 252 instead of 215 µs for [6144, 128]).
    #[inline(always)]
    fn f16_to_f32(self, elements: &[f16; LANES]) -> [f32; LANES] {
        elements.map(f16_to_f32)
    }

    /// Adds `weights[r]·x[c]` to `sums[c][r]`.
    // The indexed loops unroll completely, which keeps the sums in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn mul_add_tile<const R: usize, const C: usize>(
        self,
        weights: [&[f32; LANES]; R],
        x: [&[f64; LANES]; C],
        mut sums: [[Self::Vector; R]; C],
    ) -> [[Self::Vector; R]; C] {
        let mut wide = [self.splat(0.0); R];
        for r in 0..R {
            wide[r] = self.convert_f32(weights[r]);
        }
        for c in 0..C {
            let x = self.load(x[c]);
            for r in 0..R {
                sums[c][r] = self.mul_add(wide[r], x, sums[c][r]);
            }
        }
        sums
    }

    #[inline(always)]
    fn load_f32(self, row: &F32x16) -> Self::F32Vector {
        pulp::cast(*row)
    }
    #[inline(always)]
    fn store_f32(self, v: Self::F32Vector) -> F32x16 {
        pulp::cast(v)
    }
    fn add_f32(self, a: Self::F32Vector, b: Self::F32Vector) -> Self::F32Vector;
    /// `a·b + c` for a scalar `a`, rounded once where the CPU has the instruction.
    fn mul_add_f32(self, a: f32, b: Self::F32Vector, c: Self::F32Vector) -> Self::F32Vector;
}

/// Converts a finite f16 exactly.
#[inline(always)]
pub(super) fn f16_to_f32(x: f16) -> f32 {
    // The exponent's bias is 15 in f16 and 127 in f32; the product is exact, also for subnormals.
    let bits = u32::from(x.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * 2f32.powi(112);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}
