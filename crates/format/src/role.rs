//! Roles of tensors.

/// Role of a tensor in the model. Names follow GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs)] // standard names in the field
pub enum Role {
    TokenEmbd = 1,
    Output = 2,
    OutputNorm = 3,
    /// RoPE frequencies in turns per position, in units of 2^-64: `rotary_dim / 2` u64 values per row.
    RopeTurns = 4,
    OutputNormBias = 5,
    /// Embeddings of tokens that enter each layer: those of all layers in a row.
    LayerEmbd = 6,
    /// Projections of a token's embedding that enter each layer beside them.
    LayerProj = 7,
    /// Norm of these projections, layer by layer.
    LayerProjNorm = 8,
    OutputBias = 9,
    AttnNorm = 16,
    /// Fused query, key and value projections.
    AttnQkv = 17,
    AttnQkvBias = 18,
    AttnOutput = 19,
    AttnOutputBias = 20,
    AttnNormBias = 21,
    /// Norm of the queries, per head or over all heads.
    AttnQNorm = 22,
    /// Norm of the keys, likewise.
    AttnKNorm = 23,
    /// Norm of the attention output, before it is added to the residual stream.
    AttnPostNorm = 24,
    /// Latent attention: projection of all queries from their vector.
    AttnQB = 26,
    /// Latent attention: projection of each head's queries to the latent space.
    AttnKB = 27,
    /// Latent attention: projection of each head's weighted sum of latent vectors to its output.
    AttnVB = 28,
    /// A score per query head that enters the softmax without a position.
    AttnSinks = 25,
    /// Norm of the experts' input, if it is not that of the network beside them.
    FfnExpertsNorm = 29,
    /// Norm of the output of the network beside experts, before it is added to theirs.
    FfnSharedPostNorm = 30,
    /// Norm of the experts' output, likewise.
    FfnExpertsPostNorm = 31,
    FfnNorm = 32,
    /// Fused gate and up projections in alternating panels; without a gate, only the up projection.
    FfnGateUp = 33,
    FfnGateUpBias = 34,
    FfnDown = 35,
    FfnDownBias = 36,
    FfnNormBias = 37,
    /// Norm of the feed-forward output, before it is added to the residual stream.
    FfnPostNorm = 38,
    /// Factors of the weights of experts.
    FfnExpertsScale = 39,
    /// Router of a mixture of experts, which scores the experts.
    FfnRouter = 40,
    /// Gate and up projections of all experts, in alternating panels.
    FfnGateUpExperts = 41,
    FfnDownExperts = 42,
    /// Score by whose sigmoid the output of the feed-forward network beside experts is multiplied.
    FfnSharedGate = 43,
    /// Added to the scores of experts to choose them.
    FfnRouterBias = 44,
    /// Bias of the router itself.
    FfnRouterInputBias = 45,
    FfnGateUpExpertsBias = 46,
    FfnDownExpertsBias = 47,
    /// Fused projections of a recurrent layer's input.
    SsmIn = 48,
    SsmInBias = 49,
    /// Weights of the short convolution: a row for each position it covers, the oldest first.
    SsmConv = 50,
    SsmConvBias = 51,
    /// The logarithm of each head's decay, per unit of its step; negative.
    SsmA = 52,
    /// Added to the projected step sizes.
    SsmDtBias = 53,
    /// Factor with which values skip the state, per head.
    SsmD = 54,
    /// Norm of a recurrent layer's values.
    SsmNorm = 55,
    SsmOut = 56,
    SsmOutBias = 57,
    /// Gates, computed from the residual stream, of what enters a layer.
    LayerGate = 58,
    /// Projection of the gated values to the residual stream.
    LayerOut = 59,
    LayerPostNorm = 60,
    /// Factor of the residual stream behind the layer.
    LayerScale = 61,
    /// Norm of the router's input.
    FfnRouterNorm = 62,
    // Parts of fused tensors, which never have a row of their own.
    AttnQ = 64,
    AttnK = 65,
    AttnV = 66,
    FfnGate = 67,
    FfnUp = 68,
    FfnGateExperts = 69,
    FfnUpExperts = 70,
    /// Gates of the attention output.
    AttnGate = 71,
    /// What passes through the convolution: queries, keys and values.
    SsmQkv = 72,
    /// Gates of the output of a recurrent layer.
    SsmGate = 73,
    /// How much of each value enters the state, per head.
    SsmBeta = 74,
    /// Step sizes, per head.
    SsmAlpha = 75,
    /// Gates of what enters a convolution.
    SsmInGate = 76,
    /// The vector from which queries are projected.
    AttnQA = 77,
    /// The part of keys that RoPE rotates.
    AttnKRope = 78,
    /// The latent vector of keys and values.
    AttnKvA = 79,
    /// The part of queries that RoPE does not rotate.
    AttnQNope = 80,
    AttnQRope = 81,
}

impl Role {
    const ALL: [(Role, &'static str); 74] = [
        (Role::TokenEmbd, "token_embd"),
        (Role::Output, "output"),
        (Role::OutputNorm, "output_norm"),
        (Role::RopeTurns, "rope_turns"),
        (Role::OutputNormBias, "output_norm.bias"),
        (Role::LayerEmbd, "per_layer_token_embd"),
        (Role::LayerProj, "per_layer_model_proj"),
        (Role::LayerProjNorm, "per_layer_proj_norm"),
        (Role::OutputBias, "output.bias"),
        (Role::AttnNorm, "attn_norm"),
        (Role::AttnNormBias, "attn_norm.bias"),
        (Role::AttnQkv, "attn_qkv"),
        (Role::AttnQkvBias, "attn_qkv.bias"),
        (Role::AttnOutput, "attn_output"),
        (Role::AttnOutputBias, "attn_output.bias"),
        (Role::AttnQNorm, "attn_q_norm"),
        (Role::AttnKNorm, "attn_k_norm"),
        (Role::AttnPostNorm, "attn_post_norm"),
        (Role::AttnQB, "attn_q_b"),
        (Role::AttnKB, "attn_k_b"),
        (Role::AttnVB, "attn_v_b"),
        (Role::AttnSinks, "attn_sinks"),
        (Role::FfnNorm, "ffn_norm"),
        (Role::FfnNormBias, "ffn_norm.bias"),
        (Role::FfnGateUp, "ffn_gate_up"),
        (Role::FfnGateUpBias, "ffn_gate_up.bias"),
        (Role::FfnDown, "ffn_down"),
        (Role::FfnDownBias, "ffn_down.bias"),
        (Role::FfnPostNorm, "ffn_post_norm"),
        (Role::FfnRouterNorm, "ffn_gate_inp_norm"),
        (Role::FfnExpertsNorm, "ffn_norm_exps"),
        (Role::FfnSharedPostNorm, "ffn_post_norm_shexp"),
        (Role::FfnExpertsPostNorm, "ffn_post_norm_exps"),
        (Role::FfnExpertsScale, "ffn_down_exps.scale"),
        (Role::FfnRouter, "ffn_gate_inp"),
        (Role::FfnGateUpExperts, "ffn_gate_up_exps"),
        (Role::FfnDownExperts, "ffn_down_exps"),
        (Role::FfnSharedGate, "ffn_gate_inp_shexp"),
        (Role::FfnRouterBias, "exp_probs_b"),
        (Role::FfnRouterInputBias, "ffn_gate_inp.bias"),
        (Role::FfnGateUpExpertsBias, "ffn_gate_up_exps.bias"),
        (Role::FfnDownExpertsBias, "ffn_down_exps.bias"),
        (Role::SsmIn, "ssm_in"),
        (Role::SsmInBias, "ssm_in.bias"),
        (Role::SsmConv, "ssm_conv1d"),
        (Role::SsmConvBias, "ssm_conv1d.bias"),
        (Role::SsmA, "ssm_a"),
        (Role::SsmDtBias, "ssm_dt.bias"),
        (Role::SsmD, "ssm_d"),
        (Role::SsmNorm, "ssm_norm"),
        (Role::SsmOut, "ssm_out"),
        (Role::SsmOutBias, "ssm_out.bias"),
        (Role::LayerGate, "inp_gate"),
        (Role::LayerOut, "proj"),
        (Role::LayerPostNorm, "post_norm"),
        (Role::LayerScale, "layer_output_scale"),
        (Role::AttnQ, "attn_q"),
        (Role::AttnK, "attn_k"),
        (Role::AttnV, "attn_v"),
        (Role::FfnGate, "ffn_gate"),
        (Role::FfnUp, "ffn_up"),
        (Role::FfnGateExperts, "ffn_gate_exps"),
        (Role::FfnUpExperts, "ffn_up_exps"),
        (Role::AttnGate, "attn_gate"),
        (Role::SsmQkv, "ssm_qkv"),
        (Role::SsmGate, "ssm_gate"),
        (Role::SsmBeta, "ssm_beta"),
        (Role::SsmAlpha, "ssm_alpha"),
        (Role::SsmInGate, "ssm_in_gate"),
        (Role::AttnQA, "attn_q_a"),
        (Role::AttnKRope, "attn_k_rope"),
        (Role::AttnKvA, "attn_kv_a"),
        (Role::AttnQNope, "attn_q_nope"),
        (Role::AttnQRope, "attn_q_rope"),
    ];

    /// The role with the given number in a file.
    pub fn from_u32(v: u32) -> Option<Role> {
        Self::ALL.iter().map(|&(r, _)| r).find(|&r| r as u32 == v)
    }

    /// Whether this is always part of a fused tensor, never a separate tensor.
    pub(crate) fn is_part(self) -> bool {
        self as u32 >= Self::AttnQ as u32
    }

    /// Whether each layer has its own tensor with this role.
    pub(crate) fn is_per_layer(self) -> bool {
        !self.is_part() && self as u32 >= Self::AttnNorm as u32
    }

    /// Whether the input is already rotated regardless of the encoding, because attention preserves the
    /// rotation folded into V.
    pub(crate) fn input_is_rotated(self) -> bool {
        matches!(self, Self::AttnOutput | Self::AttnVB)
    }

    /// Standard name of the role.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|&&(r, _)| r == self).map_or("?", |&(_, n)| n)
    }
}
