//! The activation of the MLP.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{plain, values, with_values};

/// `max(x, 0)`, element by element. The gradient at 0 is 0.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[-1f32, 0.0, 2.0], &Device::Cpu)?;
/// assert_eq!(microgpt::ops::relu(&x)?.to_vec1::<f32>()?, [0.0, 0.0, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.apply_op1(Relu)
    } else {
        plain::relu(x)
    }
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        // Not f32::max, which turns NaN into 0: a NaN has to reach the loss to be noticed.
        let y = values(x, layout)?
            .iter()
            .map(|&x| if x < 0.0 { 0.0 } else { x })
            .collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx: Vec<f32> = with_values(y, |y| {
            with_values(dy, |dy| {
                y.iter()
                    .zip(dy)
                    .map(|(&y, &dy)| if y > 0.0 { dy } else { 0.0 })
                    .collect()
            })
        })??;
        Ok(Some(Tensor::from_vec(dx, y.shape(), y.device())?))
    }
}
