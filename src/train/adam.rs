//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>), with moments that can be saved and
//! restored.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use super::Recipe;
use crate::model::{TensorGpt, stack, to_named_tensor, unstack};
use crate::ops::{vectorized, with_values, with_values_mut};
use crate::store::Tensors;

const EPSILON: f64 = 1e-8;

/// The optimizer of one model's weights.
pub struct Adam {
    parameters: Vec<Parameter>,
    recipe: Recipe,
    /// How many updates were made; the bias correction depends on it.
    pub step: u64,
}

struct Parameter {
    name: String,
    weight: Var,
    m: Var,
    v: Var,
    /// The gradient of the whole batch, on a CPU.
    gradient: Vec<f32>,
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
    /// they must have the weights' names and shapes.
    pub fn new(
        model: &TensorGpt,
        m: &Tensors,
        v: &Tensors,
        step: u64,
        recipe: Recipe,
    ) -> Result<Self> {
        let parameter = |(name, weight): (String, Var)| {
            let moment = |moments: &Tensors| {
                let moment = stack(moments, &name)?;
                Var::from_slice(&moment.values, moment.shape.as_slice(), weight.device())
            };
            Ok(Parameter {
                m: moment(m)?,
                v: moment(v)?,
                gradient: Vec::new(),
                weight,
                name,
            })
        };
        Ok(Self {
            parameters: model
                .vars()
                .into_iter()
                .map(parameter)
                .collect::<Result<_>>()?,
            recipe,
            step,
        })
    }

    /// The first and the second moments, under the weights' names.
    pub fn moments(&self) -> Result<(Tensors, Tensors)> {
        let collect = |moment: fn(&Parameter) -> &Var| -> Result<Tensors> {
            let mut moments = Tensors::new();
            for parameter in &self.parameters {
                let values = to_named_tensor(moment(parameter))?;
                unstack(&parameter.name, values, &mut moments);
            }
            Ok(moments)
        };
        Ok((collect(|p| &p.m)?, collect(|p| &p.v)?))
    }

    /// Changes the weights by the sum of the given gradients, those of the parts of a batch.
    pub fn update(&mut self, gradients: &[GradStore], rate: f64) -> Result<()> {
        self.step += 1;
        let on_cpu = self.parameters.iter().all(|p| p.weight.device().is_cpu());
        let mut sums = Vec::new();
        for parameter in &mut self.parameters {
            let parts: Vec<&Tensor> = gradients
                .iter()
                .filter_map(|grads| grads.get(&parameter.weight))
                .collect();
            if on_cpu {
                parameter.add_up(&parts)?;
            } else {
                sums.push(add_up_plain(&parts, &parameter.weight)?);
            }
        }
        let factors = self.factors(rate, self.scale(&sums)?);
        for (i, parameter) in self.parameters.iter().enumerate() {
            if on_cpu {
                parameter.update_in_place(factors)?;
            } else {
                parameter.update_plain(&sums[i], factors)?;
            }
        }
        Ok(())
    }

    /// What the gradient is to be multiplied by: 1, or less if it is too long.
    fn scale(&self, sums: &[Tensor]) -> Result<f64> {
        let Some(longest) = self.recipe.grad_clip else {
            return Ok(1.0);
        };
        let mut square = 0.0;
        for parameter in &self.parameters {
            let squares = parameter
                .gradient
                .iter()
                .map(|&g| f64::from(g) * f64::from(g));
            square += squares.sum::<f64>();
        }
        for sum in sums {
            square += f64::from(sum.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok((longest / square.sqrt()).min(1.0))
    }

    fn factors(&self, rate: f64, scale: f64) -> Factors {
        let Recipe { beta1, beta2, .. } = self.recipe;
        let unbias = |beta: f64| 1.0 / (1.0 - beta.powf(self.step as f64));
        Factors {
            scale,
            beta1,
            beta2,
            rate,
            unbias1: unbias(beta1),
            unbias2: unbias(beta2),
            decay: 1.0 - rate * self.recipe.weight_decay,
        }
    }
}

/// The sum of the parts of a gradient, on any device.
fn add_up_plain(parts: &[&Tensor], weight: &Var) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        return weight.zeros_like();
    };
    rest.iter()
        .try_fold((*first).clone(), |sum, part| sum + *part)
}

impl Parameter {
    /// Adds up the parts of a gradient in main memory.
    fn add_up(&mut self, parts: &[&Tensor]) -> Result<()> {
        self.gradient.clear();
        for part in parts {
            with_values([part], |[part]| {
                if self.gradient.is_empty() {
                    self.gradient.extend_from_slice(part);
                } else {
                    let sums = self.gradient.iter_mut().zip(part);
                    sums.for_each(|(sum, g)| *sum += g);
                }
            })?;
        }
        self.gradient.resize(self.weight.elem_count(), 0.0);
        Ok(())
    }

    /// One sweep over weights, moments and gradients in main memory.
    fn update_in_place(&self, factors: Factors) -> Result<()> {
        let single = |factor: f64| factor as f32;
        let (beta1, beta2) = (single(factors.beta1), single(factors.beta2));
        let (rate, decay, scale) = (
            single(factors.rate),
            single(factors.decay),
            single(factors.scale),
        );
        let (unbias1, unbias2) = (single(factors.unbias1), single(factors.unbias2));
        let epsilon = single(EPSILON);
        with_values_mut(&self.weight, |weight| {
            with_values_mut(&self.m, |m| {
                with_values_mut(&self.v, |v| {
                    let moments = m.iter_mut().zip(v);
                    let weights = weight.iter_mut().zip(&self.gradient);
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn adam(recipe: Recipe, values: &[f32]) -> Adam {
        let var = |values: &[f32]| Var::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let zeros = vec![0.0; values.len()];
        let parameter = Parameter {
            name: "w".into(),
            weight: var(values),
            m: var(&zeros),
            v: var(&zeros),
            gradient: Vec::new(),
        };
        Adam {
            parameters: vec![parameter],
            recipe,
            step: 0,
        }
    }

    #[test]
    fn both_updates_follow_the_formula() {
        let start = [0.5f32, -0.25, 3.0];
        let recipe = Recipe {
            weight_decay: 0.1,
            grad_clip: Some(0.5),
            ..Default::default()
        };
        let (mut sweep, mut plain) = (adam(recipe, &start), adam(recipe, &start));
        let (mut w, mut m, mut v) = (start.map(f64::from), [0f64; 3], [0f64; 3]);
        for step in 1..=5 {
            let (a, b) = ([0.1f32 * step as f32, -0.2, 0.0], [0.3f32, 0.1, 0.0]);
            let parts = [a, b].map(|g| Tensor::new(&g, &Device::Cpu).unwrap());
            let parts: Vec<&Tensor> = parts.iter().collect();
            for adam in [&mut sweep, &mut plain] {
                adam.step += 1;
            }
            sweep.parameters[0].add_up(&parts).unwrap();
            let factors = sweep.factors(0.01, sweep.scale(&[]).unwrap());
            sweep.parameters[0].update_in_place(factors).unwrap();
            let sum = add_up_plain(&parts, &plain.parameters[0].weight).unwrap();
            let scale = plain.scale(std::slice::from_ref(&sum)).unwrap();
            let factors = plain.factors(0.01, scale);
            plain.parameters[0].update_plain(&sum, factors).unwrap();

            let g: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a + b)).collect();
            let length = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            for i in 0..3 {
                let g = g[i] * (0.5 / length).min(1.0);
                m[i] = 0.85 * m[i] + 0.15 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let unbias = |beta: f64| 1.0 / (1.0 - beta.powi(step));
                w[i] -= 0.01 * 0.1 * w[i];
                w[i] -= 0.01 * (m[i] * unbias(0.85)) / ((v[i] * unbias(0.99)).sqrt() + 1e-8);
            }
        }
        for found in [sweep, plain] {
            let found: Vec<f32> = found.parameters[0].weight.to_vec1().unwrap();
            for (found, expected) in found.iter().zip(w) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6,
                    "{found} {expected}"
                );
            }
        }
    }
}
