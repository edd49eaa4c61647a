//! AdamW on the parameters of one model: Adam (Kingma and Ba 2015,
//! <https://arxiv.org/abs/1412.6980>) with decoupled weight decay (Loshchilov and Hutter 2019,
//! <https://arxiv.org/abs/1711.05101>) and clipping of the global gradient norm.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};

use super::hyperparameters::Hyperparameters;
use super::ranks::Ranks;
use super::workers::Workers;
use crate::data::partition;
use crate::kernels::simd::dispatch;
use crate::model::{TensorGpt, stack, to_named_tensor, unstack};
use crate::ops::choice::has_custom_ops;
use crate::ops::{with_all_slices, with_slice_mut};
use crate::store::Tensors;

const EPSILON: f64 = 1e-8;

/// The minimum number of weights for an update on several threads. Below it, one thread is faster.
const MIN_PARALLEL_WEIGHTS: usize = 16_384;

/// Weights updated at a time: few enough for their gradient to stay in the L1 cache.
const CHUNK: usize = 256;

/// The optimizer of one model.
pub struct Adam {
    parameters: Arc<[Mutex<Parameter>]>,
    /// The indices of the parameters that each thread updates.
    shards: Vec<Vec<usize>>,
    hyperparameters: Hyperparameters,
    /// The number of updates so far, which the bias correction depends on.
    pub step: u64,
}

/// A weight tensor and its moments, all of one shape.
struct Parameter {
    name: String,
    weight: Var,
    m: Var,
    v: Var,
}

/// The scalars of one update.
#[derive(Clone, Copy)]
struct Factors {
    /// Scales the gradient down to the clipping norm.
    gradient_scale: f64,
    beta1: f64,
    beta2: f64,
    lr: f64,
    /// `1 / (1 - beta1^step)` and `1 / (1 - beta2^step)`.
    m_correction: f64,
    v_correction: f64,
    /// Scales the weight: `1 - lr * weight_decay`.
    decay: f64,
}

impl Adam {
    /// Creates the optimizer of a model after `step` updates, which left the moments `m` and `v`,
    /// with the weights' names and shapes. Up to `threads` threads share an update.
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
        let is_parallel = sizes.iter().sum::<usize>() >= MIN_PARALLEL_WEIGHTS;
        Ok(Self {
            parameters: parameters.into_iter().map(Mutex::new).collect(),
            shards: partition(&sizes, if is_parallel { threads } else { 1 }),
            hyperparameters,
            step,
        })
    }

    /// Returns the first and the second moments, under the weights' names.
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

    /// Returns the sum of the gradients of all shards of a batch on all ranks, from those of this
    /// rank's shards.
    pub fn all_reduce(
        &self,
        shards: Vec<GradStore>,
        ranks: &Ranks,
        workers: &Workers,
    ) -> anyhow::Result<GradStore> {
        let sum = move |p: &Parameter| p.sum(&p.gradients(&shards))?.flatten_all()?.to_vec1();
        let mut values: Vec<f32> = ranks.agree(self.map_parameters(workers, sum))?.concat();
        ranks.sum(&mut values);
        // A store has no other constructor.
        let mut sums = Tensor::new(0f32, &Device::Cpu)?.backward()?;
        let mut values = &values[..];
        for parameter in &*self.parameters {
            let weight = &lock(parameter).weight;
            let (own, rest) = values.split_at(weight.elem_count());
            sums.insert(
                weight,
                Tensor::from_slice(own, weight.shape(), weight.device())?,
            );
            values = rest;
        }
        Ok(sums)
    }

    /// Updates the weights by the sum of the gradients of a batch's shards.
    pub fn update(
        &mut self,
        gradients: Vec<GradStore>,
        lr: f64,
        workers: &Workers,
    ) -> anyhow::Result<()> {
        self.step = self.step.saturating_add(1);
        let mut gradient_scale = 1.0;
        let gradients = Arc::new(gradients);
        if let Some(max_norm) = self.hyperparameters.grad_clip {
            let gradients = Arc::clone(&gradients);
            let squared_norm = move |p: &Parameter| p.squared_norm(&p.gradients(&gradients));
            let squared_norms = self.map_parameters(workers, squared_norm)?;
            gradient_scale = (max_norm / squared_norms.iter().sum::<f64>().sqrt()).min(1.0);
        }
        let factors = self.factors(lr, gradient_scale);
        let update = move |p: &Parameter| p.update(&p.gradients(&gradients), factors);
        self.map_parameters(workers, update)?;
        Ok(())
    }

    /// Applies `function` to every parameter on the workers. Returns the results in the order of the
    /// parameters.
    fn map_parameters<R: Send + 'static>(
        &self,
        workers: &Workers,
        function: impl Fn(&Parameter) -> Result<R> + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<R>> {
        let parameters = Arc::clone(&self.parameters);
        let map_shard = move |shard: Vec<usize>| -> Result<Vec<(usize, R)>> {
            let map = |i| Ok((i, function(&lock(&parameters[i]))?));
            shard.into_iter().map(map).collect()
        };
        let results = workers.map(self.shards.clone(), map_shard)?;
        let results: Vec<Vec<(usize, R)>> = results.into_iter().collect::<Result<_>>()?;
        let mut results: Vec<(usize, R)> = results.into_iter().flatten().collect();
        results.sort_by_key(|(i, _)| *i);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn factors(&self, lr: f64, gradient_scale: f64) -> Factors {
        let Hyperparameters { beta1, beta2, .. } = self.hyperparameters;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(self.step as f64));
        Factors {
            gradient_scale,
            beta1,
            beta2,
            lr,
            m_correction: correction(beta1),
            v_correction: correction(beta2),
            decay: 1.0 - lr * self.hyperparameters.weight_decay,
        }
    }
}

/// Locks a parameter. Its shard belongs to one thread, so this never waits.
fn lock(parameter: &Mutex<Parameter>) -> MutexGuard<'_, Parameter> {
    parameter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Parameter {
    /// Returns the parameter's gradients in a batch's shards. A shard whose loss does not depend on
    /// the parameter has none.
    fn gradients<'a>(&self, shards: &'a [GradStore]) -> Vec<&'a Tensor> {
        let gradients = shards.iter().filter_map(|shard| shard.get(&self.weight));
        gradients.collect()
    }

    /// Returns the sum of the gradients; zeros without any.
    fn sum(&self, gradients: &[&Tensor]) -> Result<Tensor> {
        let Some((first, rest)) = gradients.split_first() else {
            return self.weight.zeros_like();
        };
        rest.iter()
            .try_fold((*first).clone(), |sum, gradient| sum + *gradient)
    }

    /// Returns the squared norm of the sum of the gradients.
    fn squared_norm(&self, gradients: &[&Tensor]) -> Result<f64> {
        if !has_custom_ops(self.weight.device()) {
            let gradient = self.sum(gradients)?;
            return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
        }
        let mut squared_norm = 0.0;
        with_all_slices(gradients, |gradients| {
            for_each_sum_chunk(gradients, self.weight.elem_count(), |_, gradient| {
                let squares = gradient.iter().map(|&g| f64::from(g) * f64::from(g));
                squared_norm += squares.sum::<f64>();
            });
        })?;
        Ok(squared_norm)
    }

    fn update(&self, gradients: &[&Tensor], factors: Factors) -> Result<()> {
        if !has_custom_ops(self.weight.device()) {
            return self.update_reference(&self.sum(gradients)?, factors);
        }
        with_all_slices(gradients, |gradients| self.update_cpu(gradients, factors))?
    }

    /// Updates weights and moments in place, in one pass over them and the gradients.
    fn update_cpu(&self, gradients: &[&[f32]], factors: Factors) -> Result<()> {
        let (beta1, beta2) = (factors.beta1 as f32, factors.beta2 as f32);
        let (m_correction, v_correction) =
            (factors.m_correction as f32, factors.v_correction as f32);
        let (lr, decay) = (factors.lr as f32, factors.decay as f32);
        let (gradient_scale, epsilon) = (factors.gradient_scale as f32, EPSILON as f32);
        let len = self.weight.elem_count();
        with_slice_mut(&self.weight, |weight| {
            with_slice_mut(&self.m, |m| {
                with_slice_mut(&self.v, |v| {
                    for_each_sum_chunk(gradients, len, |chunk, gradient| {
                        let moments = m[chunk.clone()].iter_mut().zip(&mut v[chunk.clone()]);
                        let weights = weight[chunk].iter_mut().zip(gradient);
                        dispatch(
                            #[inline(always)]
                            || {
                                for ((w, g), (m, v)) in weights.zip(moments) {
                                    let g = gradient_scale * g;
                                    *m = beta1 * *m + (1.0 - beta1) * g;
                                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                                    let step = lr * (*m * m_correction);
                                    let denominator = (*v * v_correction).sqrt() + epsilon;
                                    *w = decay * *w - step / denominator;
                                }
                            },
                        );
                    });
                    Ok(())
                })
            })
        })
    }

    /// The same update composed of candle's operations, for every device.
    fn update_reference(&self, gradient: &Tensor, factors: Factors) -> Result<()> {
        let Factors { beta1, beta2, .. } = factors;
        let g = (gradient * factors.gradient_scale)?;
        let m = ((self.m.as_tensor() * beta1)? + (&g * (1.0 - beta1))?)?;
        let v = ((self.v.as_tensor() * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((&v * factors.v_correction)?.sqrt()? + EPSILON)?;
        let step = ((&m * (factors.m_correction * factors.lr))? / denominator)?;
        self.m.set(&m)?;
        self.v.set(&v)?;
        self.weight
            .set(&((self.weight.as_tensor() * factors.decay)? - step)?)
    }
}

/// Visits the sum of gradients of `len` values chunk by chunk: the chunk's range and its values.
fn for_each_sum_chunk(
    gradients: &[&[f32]],
    len: usize,
    mut visit: impl FnMut(Range<usize>, &[f32]),
) {
    let mut sums = [0f32; CHUNK];
    for start in (0..len).step_by(CHUNK) {
        let chunk = start..len.min(start + CHUNK);
        let sums = &mut sums[..chunk.len()];
        sums.fill(0.0);
        for gradient in gradients {
            let sums = sums.iter_mut().zip(&gradient[chunk.clone()]);
            sums.for_each(|(sum, g)| *sum += g);
        }
        visit(chunk, sums);
    }
}

#[cfg(test)]
mod tests {
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
    fn cpu_and_reference_update_match_the_formula() {
        let start = [0.5f32, -0.25, 3.0];
        let mut adam = Adam {
            parameters: Arc::new([]),
            shards: Vec::new(),
            hyperparameters: Hyperparameters {
                weight_decay: 0.1,
                ..Default::default()
            },
            step: 0,
        };
        let (cpu, reference) = (parameter(&start), parameter(&start));
        let (mut w, mut m, mut v) = (start.map(f64::from), [0f64; 3], [0f64; 3]);
        for step in 1..=5 {
            let (a, b) = ([0.1f32 * step as f32, -0.2, 0.0], [0.3f32, 0.1, 0.0]);
            let gradients = [a, b].map(|g| Tensor::new(&g, &Device::Cpu).unwrap());
            let gradients: Vec<&Tensor> = gradients.iter().collect();
            let g: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a + b)).collect();
            let squared_norm: f64 = g.iter().map(|g| g * g).sum();

            adam.step += 1;
            let factors = adam.factors(0.01, 0.5);
            assert!((cpu.squared_norm(&gradients).unwrap() - squared_norm).abs() < 1e-6);
            cpu.update(&gradients, factors).unwrap();
            let gradient = reference.sum(&gradients).unwrap();
            reference.update_reference(&gradient, factors).unwrap();
            for i in 0..3 {
                let g = 0.5 * g[i];
                m[i] = 0.85 * m[i] + 0.15 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let correction = |beta: f64| 1.0 / (1.0 - beta.powi(step));
                w[i] -= 0.01 * 0.1 * w[i];
                w[i] -=
                    0.01 * (m[i] * correction(0.85)) / ((v[i] * correction(0.99)).sqrt() + 1e-8);
            }
        }
        for found in [cpu, reference] {
            let found: Vec<f32> = found.weight.to_vec1().unwrap();
            for (found, expected) in found.iter().zip(w) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6,
                    "{found} {expected}"
                );
            }
        }
    }
}
