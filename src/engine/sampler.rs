//! From logits to the next token.

use crate::kernels::softmax_f64::unnormalized_softmax;
use crate::model::InvalidValue;

/// The settings of sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// The divisor of the logits; 0 always takes the most likely token.
    pub temperature: f64,
    /// Only the `k` likeliest tokens.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Only tokens at least this many times as likely as the likeliest.
    pub min_p: Option<f64>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.5,
            top_k: None,
            top_p: None,
            min_p: None,
        }
    }
}

impl SamplingOptions {
    /// Checks the range of every option.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
        } = *self;
        let is_valid = temperature >= 0.0 && temperature.is_finite();
        InvalidValue::unless(is_valid, "temperature", ">= 0", temperature)?;
        if let Some(top_k) = top_k {
            InvalidValue::unless(top_k >= 1, "top_k", ">= 1", top_k)?;
        }
        if let Some(top_p) = top_p {
            let is_valid = top_p > 0.0 && top_p <= 1.0;
            InvalidValue::unless(is_valid, "top_p", "> 0 and <= 1", top_p)?;
        }
        if let Some(min_p) = min_p {
            let is_valid = (0.0..=1.0).contains(&min_p);
            InvalidValue::unless(is_valid, "min_p", ">= 0 and <= 1", min_p)?;
        }
        Ok(())
    }
}

/// Chooses tokens, with random numbers of its own.
pub struct Sampler {
    options: SamplingOptions,
    rng: fastrand::Rng,
    /// A number a token, its logit and then what is proportional to its probability; and the sum of
    /// the latter: `[V + 1]`.
    weights: Vec<f64>,
    /// The tokens, likeliest first, where the order matters.
    order: Vec<u32>,
}

impl Sampler {
    /// The sampler of the sample with this index: its random numbers depend on the seed and the
    /// index alone.
    pub fn new(options: SamplingOptions, seed: u64, index: u64) -> Self {
        // Neighbouring seeds and indices must not give related streams, so both go through a
        // generator first.
        let seed = fastrand::Rng::with_seed(seed).u64(..);
        let seed =
            fastrand::Rng::with_seed(seed ^ fastrand::Rng::with_seed(!index).u64(..)).u64(..);
        Self {
            options,
            rng: fastrand::Rng::with_seed(seed),
            weights: vec![],
            order: vec![],
        }
    }

    /// The unnormalized probabilities, and their sum: `[V + 1]`.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Takes over the weights of another sampler with the same options.
    pub fn set_weights(&mut self, weights: &[f64]) {
        self.weights.clear();
        self.weights.extend_from_slice(weights);
    }

    /// Turns logits into weights, which are 0 for tokens that may not come. Panics where `allowed` lets
    /// none through.
    pub fn weigh(&mut self, logits: &[f64], allowed: impl Fn(u32) -> bool) {
        let SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
        } = self.options;
        self.weights.clear();
        let masked = |(token, &logit): (usize, &f64)| match allowed(token as u32) {
            true => logit,
            false => f64::NEG_INFINITY,
        };
        self.weights.extend(logits.iter().enumerate().map(masked));
        if temperature == 0.0 {
            let likeliest = likeliest(&self.weights);
            self.weights.fill(0.0);
            self.weights[likeliest as usize] = 1.0;
            self.weights.push(1.0);
            return;
        }
        if top_k.is_some() || top_p.is_some() {
            self.sort();
        }
        if let Some(top_k) = top_k {
            self.leave_out(top_k.min(self.order.len()), f64::NEG_INFINITY);
        }
        let mut total = unnormalized_softmax(&mut self.weights, temperature);
        if let Some(top_p) = top_p {
            let mut reached = 0.0;
            let enough = self.order.iter().position(|&token| {
                reached += self.weights[token as usize];
                reached >= top_p * total
            });
            if let Some(last) = enough {
                self.leave_out(last + 1, 0.0);
            }
        }
        if let Some(min_p) = min_p {
            // The likeliest token's weight is 1.
            let least = min_p;
            for weight in self.weights.iter_mut().filter(|weight| **weight < least) {
                *weight = 0.0;
            }
        }
        if top_p.is_some() || min_p.is_some() {
            total = self.weights.iter().sum();
        }
        self.weights.push(total);
    }

    /// Orders the tokens, the likeliest first; of equal ones that with the lower id.
    fn sort(&mut self) {
        self.order.clear();
        self.order.extend(0..self.weights.len() as u32);
        let weights = &self.weights;
        self.order
            .sort_by(|&a, &b| weights[b as usize].total_cmp(&weights[a as usize]));
    }

    /// Gives the weight `nothing` to all tokens from a place in the order on.
    fn leave_out(&mut self, from: usize, nothing: f64) {
        for &token in &self.order[from..] {
            self.weights[token as usize] = nothing;
        }
    }

    /// One of the tokens, by their weights.
    pub fn draw(&mut self) -> u32 {
        let (total, weights) = self.weights.split_last().expect("there are weights");
        let mut point = self.rng.f64() * total;
        for (token, weight) in weights.iter().enumerate() {
            point -= weight;
            if point < 0.0 {
                return token as u32;
            }
        }
        // Rounding can leave a speck behind the last one; it belongs to the likeliest.
        likeliest(weights)
    }
}

/// The token with the largest weight; the first of equals.
fn likeliest(weights: &[f64]) -> u32 {
    let mut best = 0;
    for (token, &weight) in weights.iter().enumerate() {
        if weight > weights[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn sample(sampler: &mut Sampler, allowed: impl Fn(u32) -> bool) -> u32 {
        sampler.weigh(&LOGITS, allowed);
        sampler.draw()
    }

    /// The relative frequency of each token over many draws.
    fn frequencies(options: SamplingOptions) -> [f64; 5] {
        let mut counts = [0.0; 5];
        let draws = 20_000;
        for index in 0..draws {
            let token = sample(&mut Sampler::new(options, 7, index), |_| true);
            counts[token as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn expect(options: SamplingOptions, weights: [f64; 5]) {
        let total: f64 = weights.iter().sum();
        for (found, weight) in frequencies(options).into_iter().zip(weights) {
            assert!(
                (found - weight / total).abs() < 0.015,
                "{options:?}: {found} {}",
                weight / total
            );
            assert!(weight > 0.0 || found == 0.0);
        }
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let options = SamplingOptions {
            temperature: 1.0,
            ..Default::default()
        };
        expect(options, LOGITS.map(f64::exp));
        expect(
            SamplingOptions {
                temperature: 2.0,
                ..options
            },
            LOGITS.map(|l| (l / 2.0).exp()),
        );
        let e = f64::exp;
        // Probabilities: 1: 0.39, 3: 0.39, 2: 0.14, 0: 0.05, 4: 0.007.
        expect(
            SamplingOptions {
                top_k: Some(3),
                ..options
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                top_k: Some(1),
                ..options
            },
            [0.0, 1.0, 0.0, 0.0, 0.0],
        );
        expect(
            SamplingOptions {
                top_p: Some(0.7),
                ..options
            },
            [0.0, 1.0, 0.0, 1.0, 0.0],
        );
        expect(
            SamplingOptions {
                top_p: Some(0.9),
                ..options
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                min_p: Some(0.3),
                ..options
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                min_p: Some(1.0),
                ..options
            },
            [0.0, 1.0, 0.0, 1.0, 0.0],
        );
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_only_what_is_allowed() {
        let mut sampler = Sampler::new(
            SamplingOptions {
                temperature: 0.0,
                ..Default::default()
            },
            1,
            0,
        );
        assert_eq!(sample(&mut sampler, |_| true), 1);
        assert_eq!(sample(&mut sampler, |token| token != 1), 3);
        assert_eq!(sample(&mut sampler, |token| token == 4), 4);
    }

    #[test]
    fn the_smallest_temperature_is_as_good_as_greedy() {
        let options = SamplingOptions {
            temperature: f64::MIN_POSITIVE,
            ..Default::default()
        };
        for index in 0..100 {
            assert!([1, 3].contains(&sample(&mut Sampler::new(options, 1, index), |_| true)));
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let default = SamplingOptions::default();
        let error = |options: SamplingOptions| options.validate().unwrap_err().to_string();
        assert_eq!(
            error(SamplingOptions {
                temperature: -0.5,
                ..default
            }),
            "temperature must be >= 0, got -0.5"
        );
        assert!(
            error(SamplingOptions {
                temperature: f64::NAN,
                ..default
            })
            .contains("NaN")
        );
        assert!(
            error(SamplingOptions {
                top_k: Some(0),
                ..default
            })
            .contains("top_k")
        );
        assert!(
            error(SamplingOptions {
                top_p: Some(0.0),
                ..default
            })
            .contains("top_p")
        );
        assert!(
            error(SamplingOptions {
                min_p: Some(1.1),
                ..default
            })
            .contains("min_p")
        );
        assert!(default.validate().is_ok());
    }
}
