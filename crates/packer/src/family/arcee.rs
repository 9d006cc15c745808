//! Arcee: a Llama with a feed-forward part without a gate, and squared ReLU.

use nanoinfer_format::Activation;

use super::spelling::{Family, GgufSpelling, HfSpelling};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "arcee",
        norm_eps: 1e-5,
        activation: Activation::Relu2,
        adapt: |_, d| {
            d.config.gated = false;
            Ok(())
        },
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "arcee",
        adapt: |_, d| {
            d.config.activation = Activation::Relu2;
            d.config.gated = false;
            Ok(())
        },
        ..GgufSpelling::NORM
    }],
};
