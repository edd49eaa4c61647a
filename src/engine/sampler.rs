//! From logits to the next token.

use crate::kernels::softmax_f64::unnormalized_softmax;
use crate::model::InvalidValue;

/// The settings of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// The divisor of the logits; 0 always takes the most likely token.
    pub temperature: f64,
    /// Keep only the `k` most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the most likely tokens whose probabilities add up to this.
    pub top_p: Option<f64>,
    /// Drop tokens whose probability is below this × the top token's probability.
    pub min_p: Option<f64>,
    /// Divides the positive logits of tokens in the context, and multiplies their negative ones; 1 is off.
    /// From Keskar et al., "CTRL" (2019).
    pub repetition_penalty: f64,
    /// Subtracted from the logit of a token for each time that it was generated, as OpenAI defines it.
    pub frequency_penalty: f64,
    /// Subtracted from the logit of a token that was generated, as OpenAI defines it.
    pub presence_penalty: f64,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f64)>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.5,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
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
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            ref logit_bias,
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
        let is_valid = repetition_penalty > 0.0 && repetition_penalty.is_finite();
        let penalty = repetition_penalty;
        InvalidValue::unless(is_valid, "repetition_penalty", "> 0", penalty)?;
        for (name, penalty) in [
            ("frequency_penalty", frequency_penalty),
            ("presence_penalty", presence_penalty),
        ] {
            let is_valid = (-2.0..=2.0).contains(&penalty);
            InvalidValue::unless(is_valid, name, ">= -2 and <= 2", penalty)?;
        }
        for &(_, bias) in logit_bias {
            let is_valid = (-100.0..=100.0).contains(&bias);
            InvalidValue::unless(is_valid, "logit_bias", ">= -100 and <= 100", bias)?;
        }
        Ok(())
    }
}

/// A distribution over the next token, in a row `[V + 1]`: the unnormalized probabilities, 0 for a
/// token that cannot come, and their sum.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'a>(&'a [f64]);

impl<'a> Distribution<'a> {
    /// The distribution of a [`Self::row`].
    pub fn from_row(row: &'a [f64]) -> Self {
        Self(row)
    }

    pub fn row(self) -> &'a [f64] {
        self.0
    }
}

/// The tokens before the next one, on which penalties depend.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The tokens in the context.
    pub context: &'a [u32],
    /// The generated ones.
    pub generated: &'a [u32],
}

/// Samples tokens with random numbers of its own.
pub struct Sampler {
    options: SamplingOptions,
    rng: fastrand::Rng,
    /// The tokens by falling logit, if a filter needs that.
    order: Vec<u32>,
    /// Occurrences per token, if a penalty needs them.
    counts: Vec<u32>,
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
            order: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Computes the distribution from logits `[V]` in the buffer `row`: penalties and bias, the mask of
    /// `allowed`, top-k, temperature and softmax, top-p, min-p. At least one token must be allowed.
    pub fn distribution<'a>(
        &mut self,
        logits: &[f64],
        history: History,
        allowed: impl Fn(u32) -> bool,
        row: &'a mut Vec<f64>,
    ) -> Distribution<'a> {
        let SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        row.clear();
        row.extend_from_slice(logits);
        let weights = &mut row[..];
        self.penalize(weights, history);
        for (token, weight) in weights.iter_mut().enumerate() {
            if !allowed(token as u32) {
                *weight = f64::NEG_INFINITY;
            }
        }
        if temperature == 0.0 {
            let top = argmax(weights);
            weights.fill(0.0);
            weights[top] = 1.0;
            row.push(1.0);
            return Distribution(row);
        }
        if top_k.is_some() || top_p.is_some() {
            sort_by_logit(weights, &mut self.order);
        }
        if let Some(top_k) = top_k {
            keep_top_k(weights, &self.order, top_k);
        }
        let mut total = unnormalized_softmax(weights, temperature);
        if let Some(top_p) = top_p {
            keep_top_p(weights, &self.order, top_p * total);
        }
        if let Some(min_p) = min_p {
            drop_below(weights, min_p);
        }
        if top_p.is_some() || min_p.is_some() {
            total = weights.iter().sum();
        }
        row.push(total);
        Distribution(row)
    }

    fn penalize(&mut self, logits: &mut [f64], history: History) {
        let options = &self.options;
        if options.repetition_penalty != 1.0 {
            count(history.context, logits.len(), &mut self.counts);
            repetition_penalty(logits, &self.counts, options.repetition_penalty);
        }
        if options.frequency_penalty != 0.0 || options.presence_penalty != 0.0 {
            count(history.generated, logits.len(), &mut self.counts);
            for (logit, &count) in logits.iter_mut().zip(&self.counts) {
                *logit -= f64::from(count) * options.frequency_penalty
                    + f64::from(count.min(1)) * options.presence_penalty;
            }
        }
        for &(token, bias) in &options.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// Samples a token.
    pub fn sample(&mut self, distribution: Distribution) -> u32 {
        let (total, weights) = distribution.0.split_last().expect("a row is never empty");
        let mut point = self.rng.f64() * total;
        for (token, weight) in weights.iter().enumerate() {
            point -= weight;
            if point < 0.0 {
                return token as u32;
            }
        }
        // Rounding can leave the point behind the last token.
        argmax(weights) as u32
    }
}

/// Counts the occurrences of each of `vocab_size` tokens.
fn count(tokens: &[u32], vocab_size: usize, counts: &mut Vec<u32>) {
    counts.clear();
    counts.resize(vocab_size, 0);
    for &token in tokens {
        counts[token as usize] += 1;
    }
}

/// Makes the tokens that occur less likely by `penalty` > 1.
fn repetition_penalty(logits: &mut [f64], counts: &[u32], penalty: f64) {
    for (logit, _) in logits.iter_mut().zip(counts).filter(|(_, n)| **n > 0) {
        *logit = match *logit > 0.0 {
            true => *logit / penalty,
            false => *logit * penalty,
        };
    }
}

/// Writes the tokens to `order` by falling logit; of equal logits, the lower token first.
fn sort_by_logit(logits: &[f64], order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..logits.len() as u32);
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
}

/// Masks the logits of all but the first `k` tokens of `order`.
fn keep_top_k(logits: &mut [f64], order: &[u32], k: usize) {
    for &token in order.iter().skip(k) {
        logits[token as usize] = f64::NEG_INFINITY;
    }
}

/// Zeroes the weights of all tokens after the first in `order` with which the sum reaches `min_sum`.
fn keep_top_p(weights: &mut [f64], order: &[u32], min_sum: f64) {
    let mut sum = 0.0;
    let reaches = |&token: &u32| {
        sum += weights[token as usize];
        sum >= min_sum
    };
    if let Some(last) = order.iter().position(reaches) {
        for &token in &order[last + 1..] {
            weights[token as usize] = 0.0;
        }
    }
}

/// Zeroes weights below a share of the largest, which is 1 after softmax.
fn drop_below(weights: &mut [f64], min: f64) {
    for weight in weights.iter_mut().filter(|weight| **weight < min) {
        *weight = 0.0;
    }
}

/// The index of the largest element; the first of equals.
fn argmax(elements: &[f64]) -> usize {
    let mut best = 0;
    for (index, &element) in elements.iter().enumerate() {
        if element > elements[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn sample(sampler: &mut Sampler, allowed: impl Fn(u32) -> bool) -> u32 {
        let mut row = Vec::new();
        let history = History {
            context: &[],
            generated: &[],
        };
        let distribution = sampler.distribution(&LOGITS, history, allowed, &mut row);
        sampler.sample(distribution)
    }

    /// The relative frequency of each token over many draws.
    fn frequencies(options: SamplingOptions) -> [f64; 5] {
        let mut counts = [0.0; 5];
        let draws = 20_000;
        for index in 0..draws {
            let token = sample(&mut Sampler::new(options.clone(), 7, index), |_| true);
            counts[token as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn expect(options: SamplingOptions, weights: [f64; 5]) {
        let total: f64 = weights.iter().sum();
        for (found, weight) in frequencies(options.clone()).into_iter().zip(weights) {
            assert!(
                (found - weight / total).abs() < 0.015,
                "{options:?}: {found} {}",
                weight / total
            );
            assert!(weight > 0.0 || found == 0.0);
        }
    }

    #[test]
    fn frequencies_of_tokens_match_their_probabilities() {
        let options = SamplingOptions {
            temperature: 1.0,
            ..Default::default()
        };
        expect(options.clone(), LOGITS.map(f64::exp));
        expect(
            SamplingOptions {
                temperature: 2.0,
                ..options.clone()
            },
            LOGITS.map(|l| (l / 2.0).exp()),
        );
        let e = f64::exp;
        // Probabilities: 1: 0.39, 3: 0.39, 2: 0.14, 0: 0.05, 4: 0.007.
        expect(
            SamplingOptions {
                top_k: Some(3),
                ..options.clone()
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                top_k: Some(1),
                ..options.clone()
            },
            [0.0, 1.0, 0.0, 0.0, 0.0],
        );
        expect(
            SamplingOptions {
                top_p: Some(0.7),
                ..options.clone()
            },
            [0.0, 1.0, 0.0, 1.0, 0.0],
        );
        expect(
            SamplingOptions {
                top_p: Some(0.9),
                ..options.clone()
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                min_p: Some(0.3),
                ..options.clone()
            },
            [0.0, e(3.0), e(2.0), e(3.0), 0.0],
        );
        expect(
            SamplingOptions {
                min_p: Some(1.0),
                ..options.clone()
            },
            [0.0, 1.0, 0.0, 1.0, 0.0],
        );
    }

    #[test]
    fn filters_keep_the_most_likely_tokens() {
        let mut order = Vec::new();
        sort_by_logit(&LOGITS, &mut order);
        assert_eq!(order, [1, 3, 2, 0, 4]);
        let masked = f64::NEG_INFINITY;
        let top_k = |k| {
            let mut logits = LOGITS;
            keep_top_k(&mut logits, &order, k);
            logits
        };
        assert_eq!(top_k(2), [masked, 3.0, masked, 3.0, masked]);
        assert_eq!(top_k(9), LOGITS);
        let weights = [0.25, 1.0, 0.5, 1.0, 0.125];
        let top_p = |min_sum| {
            let mut weights = weights;
            keep_top_p(&mut weights, &order, min_sum);
            weights
        };
        assert_eq!(top_p(1.0), [0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(top_p(2.25), [0.0, 1.0, 0.5, 1.0, 0.0]);
        assert_eq!(top_p(3.0), weights);
        let mut kept = weights;
        drop_below(&mut kept, 0.5);
        assert_eq!(kept, [0.0, 1.0, 0.5, 1.0, 0.0]);
    }

    #[test]
    fn penalties_and_bias_change_the_logits() {
        let penalized = |options: SamplingOptions| {
            let mut logits = LOGITS;
            let history = History {
                context: &[0, 4, 1, 1],
                generated: &[1, 1],
            };
            Sampler::new(options, 1, 0).penalize(&mut logits, history);
            logits
        };
        let options = SamplingOptions::default;
        let found = penalized(SamplingOptions {
            repetition_penalty: 2.0,
            ..options()
        });
        assert_eq!(found, [0.5, 1.5, 2.0, 3.0, -2.0]);
        let found = penalized(SamplingOptions {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..options()
        });
        assert_eq!(found, [1.0, 1.75, 2.0, 3.0, -1.0]);
        let found = penalized(SamplingOptions {
            logit_bias: vec![(2, 4.0), (0, -100.0)],
            ..options()
        });
        assert_eq!(found, [-99.0, 3.0, 6.0, 3.0, -1.0]);
    }

    #[test]
    fn greedy_takes_the_first_of_equal_tokens_that_are_allowed() {
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
    fn smallest_temperature_does_not_overflow() {
        let options = SamplingOptions {
            temperature: f64::MIN_POSITIVE,
            ..Default::default()
        };
        for index in 0..100 {
            assert!([1, 3].contains(&sample(
                &mut Sampler::new(options.clone(), 1, index),
                |_| true
            )));
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let default = SamplingOptions::default();
        let error = |options: SamplingOptions| options.validate().unwrap_err().to_string();
        assert_eq!(
            error(SamplingOptions {
                temperature: -0.5,
                ..default.clone()
            }),
            "temperature must be >= 0, got -0.5"
        );
        assert!(
            error(SamplingOptions {
                temperature: f64::NAN,
                ..default.clone()
            })
            .contains("NaN")
        );
        assert!(
            error(SamplingOptions {
                top_k: Some(0),
                ..default.clone()
            })
            .contains("top_k")
        );
        assert!(
            error(SamplingOptions {
                top_p: Some(0.0),
                ..default.clone()
            })
            .contains("top_p")
        );
        assert!(
            error(SamplingOptions {
                min_p: Some(1.1),
                ..default.clone()
            })
            .contains("min_p")
        );
        assert!(default.validate().is_ok());
    }
}
