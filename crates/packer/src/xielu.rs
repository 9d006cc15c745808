//! The parameters of xIELU, which are learned.

use std::collections::BTreeMap;

use nanoinfer_format::{Config, Xielu};

use crate::Error;
use crate::source::{FileTensor, TensorSource};

/// Names of the parameters; the first two are stored as inverses of softplus.
pub(crate) const PARAMETERS: [&str; 4] = ["alpha_p", "alpha_n", "beta", "eps"];

/// What a model has if its weights lack `beta` and `eps`, which are constants.
pub(crate) const INITIAL: Xielu = Xielu { positive: 0.8, negative: 0.8, beta: 0.5, eps: -1e-6 };

/// The activation with stored parameters, in the order of [`PARAMETERS`].
pub(crate) fn of([positive, negative, beta, eps]: [f64; 4]) -> Xielu {
    let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
    Xielu { positive: softplus(positive), negative: beta + softplus(negative), beta, eps }
}

/// The parameters in the tensors of a model, by layer.
#[derive(Default)]
pub(crate) struct Parameters(BTreeMap<u32, [Option<f64>; 4]>);

impl Parameters {
    /// Reads a tensor if it is a parameter. Returns whether it is.
    pub(crate) fn take(&mut self, tensor: &FileTensor, c: &Config) -> Result<bool, Error> {
        let (path, name) = tensor.name();
        let parameter = || {
            let (layer, name) = name.strip_prefix("model.layers.")?.split_once(".mlp.act_fn.")?;
            Some((layer.parse().ok()?, PARAMETERS.iter().position(|known| *known == name)?))
        };
        let Some((layer, which)) = parameter().filter(|_| !c.xielu.is_empty()) else {
            return Ok(false);
        };
        if tensor.shape() != [1, 1] {
            let [n, k] = tensor.shape();
            let what = format!("has shape [{n}, {k}], expected a single number");
            return Err(Error::Tensor { path: path.into(), tensor: name.into(), what });
        }
        let mut value = [0.0];
        tensor.read_rows(0..1, &mut value)?;
        self.0.entry(layer).or_default()[which] = Some(value[0].into());
        Ok(true)
    }

    /// Stores the parameters in the config, once all tensors have been read.
    pub(crate) fn store(self, path: &std::path::Path, c: &mut Config) -> Result<(), Error> {
        for (layer, x) in (0..).zip(&mut c.xielu) {
            let stored = self.0.get(&layer).copied().unwrap_or_default();
            let [Some(positive), Some(negative), beta, eps] = stored else {
                let tensor = format!("model.layers.{layer}.mlp.act_fn.alpha_p");
                let what = "or alpha_n is missing; is the download complete?".into();
                return Err(Error::Tensor { path: path.into(), tensor, what });
            };
            *x = of([positive, negative, beta.unwrap_or(INITIAL.beta), eps.unwrap_or(INITIAL.eps)]);
        }
        c.validate().map_err(|e| Error::source(path, e.to_string()))
    }
}
