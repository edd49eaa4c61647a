//! From logits to the next token.

use anyhow::{Result, ensure};

use super::inference_gpt::softmax;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// What logits are divided by; 0 always takes the likeliest token.
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
    /// Checks the ranges. Errors name the option, its range and the value.
    pub fn validate(&self) -> Result<()> {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
        } = *self;
        ensure!(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature must be >= 0, got {temperature}"
        );
        ensure!(top_k != Some(0), "top_k must be >= 1, got 0");
        ensure!(
            top_p.is_none_or(|p| p > 0.0 && p <= 1.0),
            "top_p must be > 0 and <= 1, got {}",
            top_p.unwrap_or(0.0)
        );
        ensure!(
            min_p.is_none_or(|p| (0.0..=1.0).contains(&p)),
            "min_p must be >= 0 and <= 1, got {}",
            min_p.unwrap_or(0.0)
        );
        Ok(())
    }
}

/// Chooses tokens, with random numbers of its own.
pub struct Sampler {
    options: SamplingOptions,
    rng: fastrand::Rng,
    /// The tokens that are still in question, likeliest first where the order matters.
    candidates: Vec<u32>,
    probabilities: Vec<f64>,
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
            candidates: vec![],
            probabilities: vec![],
        }
    }

    /// The next token, among those that `allowed` lets through. Panics where it lets none through.
    pub fn sample(&mut self, logits: &[f64], allowed: impl Fn(u32) -> bool) -> u32 {
        let SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
        } = self.options;
        self.candidates.clear();
        self.candidates
            .extend((0..logits.len() as u32).filter(|&token| allowed(token)));
        if temperature == 0.0 {
            return likeliest(logits, &self.candidates);
        }
        if top_k.is_some() || top_p.is_some() {
            // A stable sort: of equal tokens the one with the lower id is the likelier.
            self.candidates
                .sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        }
        self.candidates.truncate(top_k.unwrap_or(usize::MAX));

        // The largest is taken off before the division, so that no temperature is too small for it.
        let logit = |&token: &u32| logits[token as usize];
        let max = self
            .candidates
            .iter()
            .map(logit)
            .fold(f64::NEG_INFINITY, f64::max);
        self.probabilities.clear();
        self.probabilities.extend(
            self.candidates
                .iter()
                .map(|token| (logit(token) - max) / temperature),
        );
        softmax(&mut self.probabilities);
        if let Some(top_p) = top_p {
            let mut reached = 0.0;
            let enough = self.probabilities.iter().position(|p| {
                reached += p;
                reached >= top_p
            });
            let kept = enough.map_or(self.candidates.len(), |last| last + 1);
            self.candidates.truncate(kept);
            self.probabilities.truncate(kept);
        }
        if let Some(min_p) = min_p {
            let least = min_p * self.probabilities.iter().copied().fold(0.0, f64::max);
            let mut probabilities = self.probabilities.iter().copied();
            self.candidates
                .retain(|_| probabilities.next().is_some_and(|p| p >= least));
            self.probabilities.retain(|&p| p >= least);
        }
        self.draw()
    }

    /// One of the candidates, by their probabilities, which may add up to less than 1.
    fn draw(&mut self) -> u32 {
        let total: f64 = self.probabilities.iter().sum();
        let mut point = self.rng.f64() * total;
        for (&token, p) in self.candidates.iter().zip(&self.probabilities) {
            point -= p;
            if point < 0.0 {
                return token;
            }
        }
        // Rounding can leave a speck of probability behind the last one; it belongs to the
        // likeliest.
        let likeliest = (0..self.candidates.len())
            .max_by(|&a, &b| self.probabilities[a].total_cmp(&self.probabilities[b]))
            .expect("some token is allowed");
        self.candidates[likeliest]
    }
}

/// The candidate with the largest logit; the first of equals.
fn likeliest(logits: &[f64], candidates: &[u32]) -> u32 {
    let better = |best: u32, token: u32| {
        if logits[token as usize] > logits[best as usize] {
            token
        } else {
            best
        }
    };
    candidates
        .iter()
        .copied()
        .reduce(better)
        .expect("some token is allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    /// How often each token comes in many draws.
    fn frequencies(options: SamplingOptions) -> [f64; 5] {
        let mut counts = [0.0; 5];
        let draws = 20_000;
        for index in 0..draws {
            let token = Sampler::new(options, 7, index).sample(&LOGITS, |_| true);
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
        assert_eq!(sampler.sample(&LOGITS, |_| true), 1);
        assert_eq!(sampler.sample(&LOGITS, |token| token != 1), 3);
        assert_eq!(sampler.sample(&LOGITS, |token| token == 4), 4);
    }

    #[test]
    fn the_smallest_temperature_is_as_good_as_greedy() {
        let options = SamplingOptions {
            temperature: f64::MIN_POSITIVE,
            ..Default::default()
        };
        for index in 0..100 {
            assert!([1, 3].contains(&Sampler::new(options, 1, index).sample(&LOGITS, |_| true)));
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
