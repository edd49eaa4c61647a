//! The KV cache of one attention head.
//!
//! Keys and values are quantized to i32 with one f64 scale per token, which keeps nine digits of
//! the largest element in half the memory of f64: attention to a long context waits for memory.

use super::math_f64::{max, round_to_i32};
use super::simd::LANES;

/// The keys and values of one head of one layer for one sequence, allocated for the whole context.
/// `T` below is `block_size` rounded up to a multiple of eight, `D` is `head_dim`.
#[derive(Clone, Debug)]
pub struct HeadCache {
    pub(super) head_dim: usize,
    /// `1/√D`.
    score_factor: f64,
    /// `[T / 8, D, 8]`: a vector holds one element of eight tokens' keys.
    pub(super) keys: Vec<i32>,
    /// `[T, D]`, each row padded to a multiple of eight.
    pub(super) values: Vec<i32>,
    /// `[T]`, divided by `√D`, as scores are.
    pub(super) key_scales: Vec<f64>,
    /// `[T]`.
    pub(super) value_scales: Vec<f64>,
}

impl HeadCache {
    pub fn new(head_dim: usize, block_size: usize) -> Self {
        let tokens = block_size.next_multiple_of(LANES);
        Self {
            head_dim,
            score_factor: 1.0 / (head_dim as f64).sqrt(),
            // The system maps zeroed memory only once it is written to.
            keys: vec![0; tokens * head_dim],
            values: vec![0; tokens * head_dim.next_multiple_of(LANES)],
            key_scales: vec![0.0; tokens],
            value_scales: vec![0.0; tokens],
        }
    }

    /// The memory of a full cache, in bytes.
    pub fn bytes(head_dim: usize, block_size: usize) -> usize {
        let elements = head_dim + head_dim.next_multiple_of(LANES);
        let token_bytes = elements * size_of::<i32>() + 2 * size_of::<f64>();
        block_size.next_multiple_of(LANES) * token_bytes
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The distance between the values of two tokens.
    pub(super) fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// The offset of a token's key, whose elements lie [`LANES`] apart.
    fn key_offset(&self, token: usize) -> usize {
        token / LANES * LANES * self.head_dim + token % LANES
    }

    /// Quantizes and stores the key and value `[D]` of the token at `position`.
    #[inline(always)]
    pub fn write(&mut self, position: usize, key: &[f64], value: &[f64]) {
        let (offset, stride) = (self.key_offset(position), self.value_stride());
        let keys = self.keys[offset..].iter_mut().step_by(LANES);
        self.key_scales[position] = quantize(key, keys) * self.score_factor;
        let values = self.values[position * stride..].iter_mut();
        self.value_scales[position] = quantize(value, values);
    }

    /// Copies the quantized key and value of a token to `elements` `[2, D]`, and their scales.
    pub fn read_token(&self, position: usize, elements: &mut [i32], scales: &mut [f64; 2]) {
        let (key, value) = elements.split_at_mut(self.head_dim);
        let keys = self.keys[self.key_offset(position)..].iter().step_by(LANES);
        key.iter_mut().zip(keys).for_each(|(out, key)| *out = *key);
        value.copy_from_slice(&self.values[position * self.value_stride()..][..self.head_dim]);
        *scales = [self.key_scales[position], self.value_scales[position]];
    }

    /// Stores what [`HeadCache::read_token`] has read.
    pub fn write_token(&mut self, position: usize, elements: &[i32], scales: &[f64; 2]) {
        let (offset, stride) = (self.key_offset(position), self.value_stride());
        let (key, value) = elements.split_at(self.head_dim);
        let keys = self.keys[offset..].iter_mut().step_by(LANES);
        keys.zip(key).for_each(|(out, key)| *out = *key);
        self.values[position * stride..][..self.head_dim].copy_from_slice(value);
        [self.key_scales[position], self.value_scales[position]] = *scales;
    }

    /// Copies the first `tokens` tokens of another cache of the same shape.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        fn copy<T: Copy>(to: &mut [T], from: &[T], count: usize) {
            to[..count].copy_from_slice(&from[..count]);
        }
        let keys = tokens.next_multiple_of(LANES) * self.head_dim;
        let values = tokens * self.value_stride();
        copy(&mut self.keys, &other.keys, keys);
        copy(&mut self.values, &other.values, values);
        copy(&mut self.key_scales, &other.key_scales, tokens);
        copy(&mut self.value_scales, &other.value_scales, tokens);
    }
}

/// Writes elements as the nearest multiples of a scale, which it returns: 2^31 − 1 times the scale
/// is the largest magnitude.
#[inline(always)]
fn quantize<'a>(elements: &[f64], out: impl Iterator<Item = &'a mut i32>) -> f64 {
    const MAX: f64 = i32::MAX as f64;
    // Not 0, so that its inverse is finite.
    let min_magnitude = f64::MIN_POSITIVE * MAX;
    let magnitude = elements
        .iter()
        .fold(min_magnitude, |largest, x| max(largest, x.abs()));
    let inverse = MAX / magnitude;
    for (out, x) in out.zip(elements) {
        *out = round_to_i32(x * inverse);
    }
    magnitude * (1.0 / MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantization_keeps_nine_digits_at_any_magnitude() {
        for magnitude in [1.0, 1e-3, 1e200, 1e-200] {
            let elements = [0.3, -1.0, 0.0, 0.999_999_999, -1e-5].map(|x| x * magnitude);
            let mut quantized = [0; 5];
            let scale = quantize(&elements, quantized.iter_mut());
            for (x, quantized) in elements.iter().zip(quantized) {
                assert!((f64::from(quantized) * scale - x).abs() < 3e-10 * magnitude);
            }
        }
        let mut quantized = [1; 3];
        assert!(quantize(&[0.0; 3], quantized.iter_mut()).is_finite());
        assert_eq!(quantized, [0; 3]);
    }
}
