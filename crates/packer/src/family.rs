//! Model families, one file each: everything that distinguishes an architecture from a Llama, in
//! both its Hugging Face and its GGUF spelling. The engine knows none of these names.
//!
//! A new family is a file in `family/`, declared and listed below.

mod apertus;
mod arcee;
mod cohere;
mod ernie;
mod exaone;
mod falcon_h1;
mod gemma;
mod gemma4;
mod glm;
mod glm4_moe;
mod gpt_oss;
mod granite;
mod granite_moe;
mod hunyuan;
mod latent;
mod lfm;
mod llama;
mod llama4;
mod mistral;
mod nemotron_h;
mod olmo;
mod phi;
mod phi_moe;
mod qwen;
mod qwen_linear;
mod seed_oss;
mod smollm3;
mod spelling;
mod stablelm;
mod starcoder2;

use spelling::Family;
pub(crate) use spelling::{GgufSpelling, HfSpelling};

const FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen::FAMILY,
    &qwen_linear::FAMILY,
    &gemma::FAMILY,
    &gemma4::FAMILY,
    &phi::FAMILY,
    &phi_moe::FAMILY,
    &granite::FAMILY,
    &latent::FAMILY,
    &granite_moe::FAMILY,
    &lfm::FAMILY,
    &falcon_h1::FAMILY,
    &nemotron_h::FAMILY,
    &olmo::FAMILY,
    &smollm3::FAMILY,
    &starcoder2::FAMILY,
    &exaone::FAMILY,
    &ernie::FAMILY,
    &gpt_oss::FAMILY,
    &llama4::FAMILY,
    &glm4_moe::FAMILY,
    &seed_oss::FAMILY,
    &apertus::FAMILY,
    &arcee::FAMILY,
    &cohere::FAMILY,
    &glm::FAMILY,
    &hunyuan::FAMILY,
    &stablelm::FAMILY,
];

fn all_hugging_face() -> impl Iterator<Item = &'static HfSpelling> {
    FAMILIES.iter().flat_map(|family| family.hugging_face)
}

fn all_gguf() -> impl Iterator<Item = &'static GgufSpelling> {
    FAMILIES.iter().flat_map(|family| family.gguf)
}

/// The architecture with this `model_type` in its `config.json`; the error lists all supported
/// names.
pub(crate) fn hugging_face(model_type: &str) -> Result<&'static HfSpelling, String> {
    let names = || all_hugging_face().map(|s| s.model_type).collect::<Vec<_>>().join(", ");
    all_hugging_face().find(|s| s.model_type == model_type).ok_or_else(names)
}

/// The usual `model_type` of the text part of a model with this `model_type`, if that also has other parts.
pub(crate) fn text_part(model_type: &str) -> Option<&'static str> {
    all_hugging_face().find(|s| s.wrapper == Some(model_type)).map(|s| s.model_type)
}

/// The architecture with this `general.architecture` in its GGUF file; the error lists all
/// supported names.
pub(crate) fn gguf(architecture: &str) -> Result<&'static GgufSpelling, String> {
    let names = || all_gguf().map(|s| s.architecture).collect::<Vec<_>>().join(", ");
    all_gguf().find(|s| s.architecture == architecture).ok_or_else(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{all_gguf, all_hugging_face};

    /// The values of `key` in every `file` of the reference models.
    fn stated(file: &str, key: &str) -> BTreeSet<String> {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny");
        let folders = std::fs::read_dir(tiny).unwrap();
        let read = |folder: std::fs::DirEntry| std::fs::read(folder.path().join(file)).ok();
        let value = |json: Vec<u8>| {
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            json[key].as_str().unwrap().to_owned()
        };
        folders.filter_map(|folder| read(folder.unwrap())).map(value).collect()
    }

    #[test]
    fn every_architecture_has_a_reference_model() {
        let tested = stated("config.json", "model_type");
        for model_type in all_hugging_face().map(|s| s.model_type) {
            let what = "no config.json in tests/data/tiny has the model_type";
            assert!(tested.contains(model_type), "{what} {model_type:?}");
        }
        let tested = stated("gguf.json", "architecture");
        for architecture in all_gguf().map(|s| s.architecture) {
            let what = "no gguf.json in tests/data/tiny has the architecture";
            assert!(tested.contains(architecture), "{what} {architecture:?}");
        }
    }
}
