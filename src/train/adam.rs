//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>), with moments that can be saved and
//! restored.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use super::Hyperparameters;
use super::workers::Workers;
use crate::data::partition;
use crate::kernels::cpu::vectorized;
use crate::model::{TensorGpt, stack, to_named_tensor, unstack};
use crate::ops::{with_all_values, with_values_mut};
use crate::store::Tensors;

const EPSILON: f64 = 1e-8;

/// Fewer weights than this are updated faster by one thread than by several.
const WEIGHTS_TO_SHARE: usize = 16_384;

/// The optimizer of one model's weights.
pub struct Adam {
    parameters: Arc<[Mutex<Parameter>]>,
    /// Which parameters each thread updates.
    hands: Vec<Vec<usize>>,
    hyperparameters: Hyperparameters,
    /// How many updates were made; the bias correction depends on it.
    pub step: u64,
}

struct Parameter {
    name: String,
    weight: Var,
    m: Var,
    v: Var,
}

/// The factors of one update.
#[derive(Clone, Copy)]
struct Factors {
    /// What the gradient is multiplied by, so that it is not too long.
    scale: f64,
    beta1: f64,
    beta2: f64,
    rate: f64,
    /// What the moments are multiplied by against their bias towards zero.
    unbias1: f64,
    unbias2: f64,
    /// What is left of a weight (Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>).
    decay: f64,
}

impl Adam {
    /// The optimizer of a model that was updated `step` times, with the moments that this left;
    /// they must have the weights' names and shapes. `threads` share the work.
    pub fn new(
        model: &TensorGpt,
        m: &Tensors,
        v: &Tensors,
        step: u64,
        hyperparameters: Hyperparameters,
        threads: usize,
    ) -> Result<Self> {
        let parameter = |(name, weight): (String, Var)| {
            let moment = |moments: &Tensors| {
                let moment = stack(moments, &name)?;
                Var::from_slice(&moment.values, moment.shape.as_slice(), weight.device())
            };
            Ok(Parameter {
                m: moment(m)?,
                v: moment(v)?,
                weight,
                name,
            })
        };
        let parameters: Vec<Parameter> = model
            .vars()
            .into_iter()
            .map(parameter)
            .collect::<Result<_>>()?;
        let sizes: Vec<usize> = parameters.iter().map(|p| p.weight.elem_count()).collect();
        let few = sizes.iter().sum::<usize>() < WEIGHTS_TO_SHARE;
        Ok(Self {
            parameters: parameters.into_iter().map(Mutex::new).collect(),
            hands: partition(&sizes, if few { 1 } else { threads }),
            hyperparameters,
            step,
        })
    }

    /// The first and the second moments, under the weights' names.
    pub fn moments(&self) -> Result<(Tensors, Tensors)> {
        let collect = |moment: fn(&Parameter) -> &Var| -> Result<Tensors> {
            let mut moments = Tensors::new();
            for parameter in &*self.parameters {
                let parameter = lock(parameter);
                let values = to_named_tensor(moment(&parameter))?;
                unstack(&parameter.name, values, &mut moments);
            }
            Ok(moments)
        };
        Ok((collect(|p| &p.m)?, collect(|p| &p.v)?))
    }

    /// Changes the weights by the sum of the given gradients, those of the parts of a batch.
    pub fn update(
        &mut self,
        gradients: Vec<GradStore>,
        rate: f64,
        workers: &Workers,
    ) -> anyhow::Result<()> {
        self.step = self.step.saturating_add(1);
        let mut scale = 1.0;
        let gradients = Arc::new(gradients);
        if let Some(longest) = self.hyperparameters.grad_clip {
            let gradients = Arc::clone(&gradients);
            let square = move |p: &mut Parameter| p.square(&p.parts(&gradients));
            let squares = self.for_each(workers, square)?;
            scale = (longest / squares.iter().sum::<f64>().sqrt()).min(1.0);
        }
        let factors = self.factors(rate, scale);
        let update = move |p: &mut Parameter| p.update(&p.parts(&gradients), factors);
        self.for_each(workers, update)?;
        Ok(())
    }

    /// Does something with each parameter; the results are in the order of the parameters.
    fn for_each<R: Send + 'static>(
        &self,
        workers: &Workers,
        work: impl Fn(&mut Parameter) -> Result<R> + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<R>> {
        let parameters = Arc::clone(&self.parameters);
        let hand = move |hand: Vec<usize>| -> Result<Vec<(usize, R)>> {
            let work = |i| Ok((i, work(&mut lock(&parameters[i]))?));
            hand.into_iter().map(work).collect()
        };
        let results = workers.map(self.hands.clone(), hand)?;
        let results: Vec<Vec<(usize, R)>> = results.into_iter().collect::<Result<_>>()?;
        let mut results: Vec<(usize, R)> = results.into_iter().flatten().collect();
        results.sort_by_key(|(i, _)| *i);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn factors(&self, rate: f64, scale: f64) -> Factors {
        let Hyperparameters { beta1, beta2, .. } = self.hyperparameters;
        let unbias = |beta: f64| 1.0 / (1.0 - beta.powf(self.step as f64));
        Factors {
            scale,
            beta1,
            beta2,
            rate,
            unbias1: unbias(beta1),
            unbias2: unbias(beta2),
            decay: 1.0 - rate * self.hyperparameters.weight_decay,
        }
    }
}

/// The parameter, which nobody else is using: each is dealt to one thread.
fn lock(parameter: &Mutex<Parameter>) -> MutexGuard<'_, Parameter> {
    parameter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many weights are updated at once: few enough for their gradient to stay near the processor.
const CHUNK: usize = 256;

impl Parameter {
    /// Its gradients in the parts of a batch.
    fn parts<'a>(&self, gradients: &'a [GradStore]) -> Vec<&'a Tensor> {
        let parts = gradients.iter().filter_map(|grads| grads.get(&self.weight));
        parts.collect()
    }

    /// The square of the gradient's length.
    fn square(&self, parts: &[&Tensor]) -> Result<f64> {
        if !self.weight.device().is_cpu() {
            let gradient = add_up(parts, &self.weight)?;
            return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
        }
        let mut square = 0.0;
        with_all_values(parts, |parts| {
            for_each_chunk(parts, self.weight.elem_count(), |_, gradient| {
                let squares = gradient.iter().map(|&g| f64::from(g) * f64::from(g));
                square += squares.sum::<f64>();
            });
        })?;
        Ok(square)
    }

    fn update(&self, parts: &[&Tensor], factors: Factors) -> Result<()> {
        if !self.weight.device().is_cpu() {
            return self.update_plain(&add_up(parts, &self.weight)?, factors);
        }
        with_all_values(parts, |parts| self.update_in_place(parts, factors))?
    }

    /// One sweep over weights, moments and the parts of the gradient in main memory.
    fn update_in_place(&self, parts: &[&[f32]], factors: Factors) -> Result<()> {
        let single = |factor: f64| factor as f32;
        let (beta1, beta2) = (single(factors.beta1), single(factors.beta2));
        let (rate, decay, scale) = (
            single(factors.rate),
            single(factors.decay),
            single(factors.scale),
        );
        let (unbias1, unbias2) = (single(factors.unbias1), single(factors.unbias2));
        let epsilon = single(EPSILON);
        let weights = self.weight.elem_count();
        with_values_mut(&self.weight, |weight| {
            with_values_mut(&self.m, |m| {
                with_values_mut(&self.v, |v| {
                    for_each_chunk(parts, weights, |chunk, gradient| {
                        let moments = m[chunk.clone()].iter_mut().zip(&mut v[chunk.clone()]);
                        let weights = weight[chunk].iter_mut().zip(gradient);
                        vectorized(
                            #[inline(always)]
                            || {
                                for ((w, g), (m, v)) in weights.zip(moments) {
                                    let g = scale * g;
                                    *m = beta1 * *m + (1.0 - beta1) * g;
                                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                                    let step = rate * (*m * unbias1);
                                    *w = decay * *w - step / ((*v * unbias2).sqrt() + epsilon);
                                }
                            },
                        );
                    });
                    Ok(())
                })
            })
        })
    }

    /// The same, composed of candle's operations, on any device.
    fn update_plain(&self, gradient: &Tensor, factors: Factors) -> Result<()> {
        let Factors { beta1, beta2, .. } = factors;
        let g = (gradient * factors.scale)?;
        let m = ((self.m.as_tensor() * beta1)? + (&g * (1.0 - beta1))?)?;
        let v = ((self.v.as_tensor() * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((&v * factors.unbias2)?.sqrt()? + EPSILON)?;
        let change = ((&m * (factors.unbias1 * factors.rate))? / denominator)?;
        self.m.set(&m)?;
        self.v.set(&v)?;
        self.weight
            .set(&((self.weight.as_tensor() * factors.decay)? - change)?)
    }
}

/// Visits the sum of the parts of a gradient of `length` numbers, a chunk after the other: which it is,
/// and its values.
fn for_each_chunk(parts: &[&[f32]], length: usize, mut visit: impl FnMut(Range<usize>, &[f32])) {
    let mut sums = [0f32; CHUNK];
    for start in (0..length).step_by(CHUNK) {
        let chunk = start..length.min(start + CHUNK);
        let sums = &mut sums[..chunk.len()];
        // No part has a gradient where the loss does not depend on the parameter.
        sums.fill(0.0);
        for part in parts {
            let sums = sums.iter_mut().zip(&part[chunk.clone()]);
            sums.for_each(|(sum, g)| *sum += g);
        }
        visit(chunk, sums);
    }
}

/// The sum of the parts of a gradient, on any device.
fn add_up(parts: &[&Tensor], weight: &Var) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        return weight.zeros_like();
    };
    rest.iter()
        .try_fold((*first).clone(), |sum, part| sum + *part)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn parameter(values: &[f32]) -> Parameter {
        let var = |values: &[f32]| Var::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let zeros = vec![0.0; values.len()];
        Parameter {
            name: "w".into(),
            weight: var(values),
            m: var(&zeros),
            v: var(&zeros),
        }
    }

    #[test]
    fn both_updates_follow_the_formula() {
        let start = [0.5f32, -0.25, 3.0];
        let mut adam = Adam {
            parameters: Arc::new([]),
            hands: Vec::new(),
            hyperparameters: Hyperparameters {
                weight_decay: 0.1,
                ..Default::default()
            },
            step: 0,
        };
        let (sweep, plain) = (parameter(&start), parameter(&start));
        let (mut w, mut m, mut v) = (start.map(f64::from), [0f64; 3], [0f64; 3]);
        for step in 1..=5 {
            let (a, b) = ([0.1f32 * step as f32, -0.2, 0.0], [0.3f32, 0.1, 0.0]);
            let parts = [a, b].map(|g| Tensor::new(&g, &Device::Cpu).unwrap());
            let parts: Vec<&Tensor> = parts.iter().collect();
            let g: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a + b)).collect();
            let square: f64 = g.iter().map(|g| g * g).sum();

            adam.step += 1;
            let factors = adam.factors(0.01, 0.5);
            assert!((sweep.square(&parts).unwrap() - square).abs() < 1e-6);
            sweep.update(&parts, factors).unwrap();
            let gradient = add_up(&parts, &plain.weight).unwrap();
            plain.update_plain(&gradient, factors).unwrap();
            for i in 0..3 {
                let g = 0.5 * g[i];
                m[i] = 0.85 * m[i] + 0.15 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let unbias = |beta: f64| 1.0 / (1.0 - beta.powi(step));
                w[i] -= 0.01 * 0.1 * w[i];
                w[i] -= 0.01 * (m[i] * unbias(0.85)) / ((v[i] * unbias(0.99)).sqrt() + 1e-8);
            }
        }
        for found in [sweep, plain] {
            let found: Vec<f32> = found.weight.to_vec1().unwrap();
            for (found, expected) in found.iter().zip(w) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6,
                    "{found} {expected}"
                );
            }
        }
    }

    #[test]
    fn the_weights_are_dealt_evenly() {
        let sizes = [30_000, 10_000, 40_000, 40_000, 20_000, 1_000];
        for threads in [1, 2, 3] {
            let partition = partition(&sizes, threads);
            let mut all: Vec<usize> = partition.concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5]);
            let weights = partition
                .iter()
                .map(|hand| hand.iter().map(|&i| sizes[i]).sum::<usize>());
            // What dealing the largest first is known to reach.
            assert!(weights.max().unwrap() * 3 <= 141_000 / threads * 4);
        }
    }
}
