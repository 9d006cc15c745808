//! The output layer of models whose config ties it to the embedding.

mod common;

use std::path::Path;

use common::gguf::GgufFile;
use common::torch::{Stored, pickle, write};
use common::{ODD, Shape, Weights, check, packed, refused};
use nanoinfer_packer::{Input, Options, Quant, convert};

const TIED: Shape = Shape { tied: true, ..ODD };
const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";

/// Converts the weights with a config that ties the output layer. Returns whether the result is tied,
/// its identity, and the notes.
fn converted(weights: &Weights) -> (bool, [u8; 32], Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    TIED.write(dir.path(), weights);
    let (nano, converted) = packed(dir.path(), &dir.path().join("m.nano"), Quant::F32, 2);
    let tied = nano.config().tied_embeddings;
    if weights.contains_key(EMBEDDING) {
        check(&nano, weights);
    }
    (tied, converted.content_id, converted.notes)
}

#[test]
fn a_different_output_layer_is_used_although_the_config_ties_it() {
    let mut weights = TIED.weights();
    let copy = weights[EMBEDDING].clone();
    let (tied, plain, notes) = converted(&weights);
    assert!(tied && notes.is_empty(), "{notes:?}");

    weights.insert(OUTPUT.into(), copy.clone());
    let (tied, same, notes) = converted(&weights);
    assert!(tied && notes.is_empty(), "{notes:?}");

    weights.remove(EMBEDDING);
    let (tied, only_output, notes) = converted(&weights);
    assert!(tied && notes.is_empty(), "{notes:?}");

    // A difference in the first or in the last value.
    weights.insert(EMBEDDING.into(), copy.clone());
    for at in [0, copy.1.len() - 1] {
        let mut other = copy.clone();
        other.1[at] += 0.25;
        weights.insert(OUTPUT.into(), other);
        let (tied, _, notes) = converted(&weights);
        assert!(!tied);
        assert!(notes.len() == 1 && notes[0].contains("\"lm_head.weight\""), "{notes:?}");
    }
    // The identity covers the tensors, not the names of the files that they came from.
    assert_eq!(plain, same);
    assert_eq!(plain, only_output);
}

#[test]
fn an_output_layer_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut weights = TIED.weights();
    weights.insert(OUTPUT.into(), (vec![3, 100], vec![0.5; 300]));
    TIED.write(dir.path(), &weights);
    let expected = "has shape [3, 100], but the model's config requires [331, 100]";
    refused(&Input::Folder(dir.path().into()), expected);
}

/// torch.save writes tied tensors as two views of one storage.
fn write_torch(path: &Path, weights: &Weights, storage_of_output: usize) {
    let mut stored: Vec<Stored> = Vec::new();
    for (i, (name, (shape, _))) in weights.iter().enumerate() {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        stored.push(Stored::plain(name, "FloatStorage", &shape, i));
    }
    let shape = stored.iter().find(|s| s.name == EMBEDDING).unwrap().shape.clone();
    stored.push(Stored::plain(OUTPUT, "FloatStorage", &shape, storage_of_output));
    let values: Vec<&Vec<f32>> = weights.values().map(|(_, v)| v).collect();
    write(path, &pickle(&stored), weights.len() + 1, |i| match values.get(i) {
        Some(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        None => vec![0; 331 * 100 * 4],
    });
}

#[test]
fn pytorch_files_may_share_one_storage() {
    let weights = TIED.weights();
    let embedding = weights.keys().position(|name| name == EMBEDDING).unwrap();
    for (storage, tied) in [(embedding, true), (weights.len(), false)] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), TIED.config().to_string()).unwrap();
        write_torch(&dir.path().join("pytorch_model.bin"), &weights, storage);
        let (nano, _) = packed(dir.path(), &dir.path().join("m.nano"), Quant::F32, 1);
        assert_eq!(nano.config().tied_embeddings, tied);
    }
}

#[test]
fn in_a_gguf_file_the_tensors_decide() {
    for shape in [ODD, TIED] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, GgufFile::of(&shape, &shape.weights()).bytes()).unwrap();
        let out = dir.path().join("m.nano");
        let converted = convert(&Input::Gguf(path), &out, Options::new(Quant::F32)).unwrap();
        assert_eq!(converted.config.tied_embeddings, shape.tied);
    }
}
