//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>), with moments that can be saved and
//! restored.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::model::{TensorGpt, to_named_tensor};
use crate::ops::{with_values, with_values_mut};
use crate::store::Tensors;

const BETA1: f64 = 0.85;
const BETA2: f64 = 0.99;
const EPSILON: f64 = 1e-8;

/// The optimizer of one model's weights.
pub struct Adam {
    parameters: Vec<Parameter>,
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
    rate: f64,
    /// What the moments are multiplied by against their bias towards zero.
    unbias1: f64,
    unbias2: f64,
}

impl Adam {
    /// The optimizer of a model that was updated `step` times, with the moments that this left;
    /// they must have the weights' names and shapes.
    pub fn new(model: &TensorGpt, m: &Tensors, v: &Tensors, step: u64) -> Result<Self> {
        let parameter = |(name, weight): (String, Var)| {
            let moment = |moments: &Tensors| {
                let Some(moment) = moments.get(&name) else {
                    candle_core::bail!("the moment of {name} is missing")
                };
                Var::from_slice(&moment.values, moment.shape.as_slice(), weight.device())
            };
            Ok(Parameter {
                m: moment(m)?,
                v: moment(v)?,
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
            step,
        })
    }

    /// The first and the second moments, under the weights' names.
    pub fn moments(&self) -> Result<(Tensors, Tensors)> {
        let collect = |moment: fn(&Parameter) -> &Var| -> Result<Tensors> {
            self.parameters
                .iter()
                .map(|p| Ok((p.name.clone(), to_named_tensor(moment(p))?)))
                .collect()
        };
        Ok((collect(|p| &p.m)?, collect(|p| &p.v)?))
    }

    /// Changes the weights by the sum of the given gradients, those of the parts of a batch.
    pub fn update(&mut self, gradients: &[GradStore], rate: f64) -> Result<()> {
        self.step += 1;
        let unbias = |beta: f64| 1.0 / (1.0 - beta.powf(self.step as f64));
        let factors = Factors {
            rate,
            unbias1: unbias(BETA1),
            unbias2: unbias(BETA2),
        };
        for parameter in &self.parameters {
            let parts: Vec<&Tensor> = gradients
                .iter()
                .filter_map(|grads| grads.get(&parameter.weight))
                .collect();
            if parameter.weight.device().is_cpu() {
                parameter.update_in_place(&parts, factors)?;
            } else {
                parameter.update_plain(&parts, factors)?;
            }
        }
        Ok(())
    }
}

impl Parameter {
    /// One sweep over weights, moments and gradients in main memory.
    fn update_in_place(&self, parts: &[&Tensor], factors: Factors) -> Result<()> {
        let (beta1, beta2, epsilon) = (BETA1 as f32, BETA2 as f32, EPSILON as f32);
        let (rate, unbias1, unbias2) = (
            factors.rate as f32,
            factors.unbias1 as f32,
            factors.unbias2 as f32,
        );
        let mut gradient = vec![0f32; self.weight.elem_count()];
        for part in parts {
            with_values(part, |part| {
                gradient.iter_mut().zip(part).for_each(|(sum, g)| *sum += g)
            })?;
        }
        with_values_mut(&self.weight, |weight| {
            with_values_mut(&self.m, |m| {
                with_values_mut(&self.v, |v| {
                    for (((w, m), v), &g) in
                        weight.iter_mut().zip(m.iter_mut()).zip(v).zip(&gradient)
                    {
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *w -= rate * (*m * unbias1) / ((*v * unbias2).sqrt() + epsilon);
                    }
                    Ok(())
                })
            })
        })
    }

    /// The same, composed of candle's operations, on any device.
    fn update_plain(&self, parts: &[&Tensor], factors: Factors) -> Result<()> {
        let Some((first, rest)) = parts.split_first() else {
            return Ok(());
        };
        let g = rest
            .iter()
            .try_fold((*first).clone(), |sum, part| sum + *part)?;
        let m = ((self.m.as_tensor() * BETA1)? + (&g * (1.0 - BETA1))?)?;
        let v = ((self.v.as_tensor() * BETA2)? + (g.sqr()? * (1.0 - BETA2))?)?;
        let denominator = ((&v * factors.unbias2)?.sqrt()? + EPSILON)?;
        let change = ((&m * (factors.unbias1 * factors.rate))? / denominator)?;
        self.m.set(&m)?;
        self.v.set(&v)?;
        self.weight.set(&(self.weight.as_tensor() - change)?)
    }
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
        let (sweep, plain) = (parameter(&start), parameter(&start));
        let (mut w, mut m, mut v) = (start.map(f64::from), [0f64; 3], [0f64; 3]);
        for step in 1..=5 {
            let (a, b) = ([0.1f32 * step as f32, -0.2, 0.0], [0.3f32, 0.1, 0.0]);
            let parts = [a, b].map(|g| Tensor::new(&g, &Device::Cpu).unwrap());
            let unbias = |beta: f64| 1.0 / (1.0 - beta.powi(step));
            let factors = Factors {
                rate: 0.01,
                unbias1: unbias(BETA1),
                unbias2: unbias(BETA2),
            };
            sweep
                .update_in_place(&[&parts[0], &parts[1]], factors)
                .unwrap();
            plain
                .update_plain(&[&parts[0], &parts[1]], factors)
                .unwrap();
            for i in 0..3 {
                let g = f64::from(a[i]) + f64::from(b[i]);
                m[i] = 0.85 * m[i] + 0.15 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                w[i] -= 0.01 * (m[i] * factors.unbias1) / ((v[i] * factors.unbias2).sqrt() + 1e-8);
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
}
