//! Hugging Face model folders: `config.json`, weights, tokenizer, chat template.

mod config;
mod files;
mod folder;
mod layers;
mod mamba2;
mod rope;
mod settings;
mod special;
mod text;
mod vocabulary;

pub(crate) use config::describe;
pub(crate) use folder::{Open, has_weights, look, open};
pub(crate) use layers::{
    expert_groups, experts, grouped_experts, layer_windows, recurrent_layers, router_softmax,
    shared_expert, sliding_window,
};
pub(crate) use mamba2::{Mamba2Sizes, refuse_step_limit};
pub(crate) use rope::{longrope, rope, rope_settings};
pub(crate) use settings::Settings;
