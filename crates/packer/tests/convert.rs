//! Whole conversions, compared element by element with the source.

mod common;

use common::{ODD, Shape, check, golden, packed, read_folder};
use nanoinfer_format::{NanoFile, Role, SectionKind};
use nanoinfer_packer::{Input, Options, Quant, convert, convert_staged};

const QUANTS: [Quant; 2] = [Quant::F32, Quant::Q8];

#[test]
fn the_llama_reference_models() {
    for name in ["llama-gqa", "llama-tied-bf16", "llama3-rope", "llama-sharded-f16", "mistral-swa"]
    {
        let (folder, out) = (golden(name), tempfile::tempdir().unwrap());
        for quant in QUANTS {
            let (nano, converted) = packed(&folder, &out.path().join("m.nano"), quant, 2);
            check(&nano, &read_folder(&folder));
            let c = nano.config();
            assert_eq!(c.architecture, name.split('-').next().unwrap().replace("llama3", "llama"));
            assert_eq!(c.tied_embeddings, name == "llama-tied-bf16");
            assert_eq!(c.windows, if name == "mistral-swa" { [16, 16] } else { [0, 0] });
            assert_eq!(c.value_rotation, if quant == Quant::Q8 { 32 } else { 1 });
            assert_eq!(c.norm_eps, 1e-6);
            assert_eq!(converted.content_id, nano.header().content_id);
            assert_eq!(converted.bytes, nano.header().file_len);
            assert_eq!(converted.tensors, nano.tensors().len());
            assert_eq!(nano.generation().eos, [2]);
            assert!(!converted.has_tokenizer && nano.section(SectionKind::Tokenizer).is_none());
        }
    }
}

#[test]
fn tensors_are_in_execution_order() {
    let out = tempfile::tempdir().unwrap();
    let (nano, _) = packed(&golden("llama-gqa"), &out.path().join("m.nano"), Quant::Q8, 1);
    let order: Vec<_> = nano.tensors().iter().map(|t| (t.spec.role, t.spec.layer)).collect();
    let layer = |i| {
        [
            Role::AttnNorm,
            Role::AttnQkv,
            Role::AttnOutput,
            Role::FfnNorm,
            Role::FfnGateUp,
            Role::FfnDown,
        ]
        .map(|role| (role, Some(i)))
    };
    let head = [(Role::TokenEmbd, None), (Role::RopeTurns, None)];
    let tail = [(Role::OutputNorm, None), (Role::Output, None)];
    assert_eq!(order, [&head[..], &layer(0), &layer(1), &tail].concat());
}

#[test]
fn awkward_shapes() {
    let shapes = [
        ODD,
        Shape { head_dim: 80, heads: 3, kv: 3, d: 61, ff: 17, tied: true, ..ODD },
        Shape { head_dim: 2, heads: 6, kv: 2, vocab: 5, layers: 1, ..ODD },
    ];
    for shape in shapes {
        let folder = tempfile::tempdir().unwrap();
        let mut weights = shape.weights();
        let v_bias = common::random(&mut 3, shape.kv * shape.head_dim);
        weights.insert("model.layers.0.self_attn.v_proj.bias".into(), (vec![v_bias.len()], v_bias));
        let o_bias = common::random(&mut 4, shape.d);
        weights.insert("model.layers.0.self_attn.o_proj.bias".into(), (vec![shape.d], o_bias));
        let up_bias = common::random(&mut 5, shape.ff);
        weights.insert("model.layers.0.mlp.up_proj.bias".into(), (vec![shape.ff], up_bias));
        shape.write(folder.path(), &weights);
        for quant in QUANTS {
            let (nano, _) = packed(folder.path(), &folder.path().join("m.nano"), quant, 2);
            check(&nano, &weights);
            assert_eq!(nano.config().windows, vec![0; shape.layers]);
        }
    }
}

/// Large enough for several jobs per matrix, so that threads interleave.
#[test]
fn the_file_does_not_depend_on_the_number_of_threads() {
    let shape = Shape { d: 1000, ff: 2600, vocab: 4001, layers: 1, ..ODD };
    let folder = tempfile::tempdir().unwrap();
    shape.write(folder.path(), &shape.weights());
    for quant in QUANTS {
        let files = [1, 2, 3].map(|threads| {
            let out = folder.path().join(format!("{threads}.nano"));
            packed(folder.path(), &out, quant, threads);
            std::fs::read(out).unwrap()
        });
        assert!(files[0] == files[1] && files[0] == files[2]);
    }
}

#[test]
fn progress_rises_to_the_total() {
    let out = tempfile::tempdir().unwrap();
    let mut reported = Vec::new();
    let mut progress = |p: nanoinfer_packer::Progress| reported.push((p.done, p.total));
    let options = Options { progress: Some(&mut progress), ..Options::new(Quant::Q8) };
    convert(&Input::Folder(golden("llama-gqa")), &out.path().join("m.nano"), options).unwrap();
    assert!(reported.is_sorted() && reported.iter().all(|p| p.1 == reported[0].1));
    assert_eq!(reported.last().unwrap().0, reported[0].1);
}

#[test]
fn a_staged_file_is_deleted_unless_committed() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("m.nano");
    let input = Input::detect(&golden("llama-gqa")).unwrap();
    let (staged, _) = convert_staged(&input, &target, Options::new(Quant::Q8)).unwrap();
    NanoFile::open(staged.path()).unwrap().verify().unwrap();
    drop(staged);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn provenance_names_files_without_their_paths() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("m.nano");
    let options = Options { source_id: Some("a/b".into()), ..Options::new(Quant::Q8) };
    convert(&Input::Folder(golden("llama-sharded-f16")), &path, options).unwrap();
    let nano = NanoFile::open(&path).unwrap();
    let (_, json) = nano.section(SectionKind::Provenance).unwrap();
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!((json["source"].as_str(), json["kind"].as_str()), (Some("a/b"), Some("hf-folder")));
    let files = json["files"].as_array().unwrap();
    assert_eq!(files.len(), 6, "config, index and four shards");
    for file in files {
        let name = file["name"].as_str().unwrap();
        let bytes = std::fs::read(golden("llama-sharded-f16").join(name)).unwrap();
        assert_eq!(file["bytes"], bytes.len());
        assert_eq!(file["blake3"], blake3::hash(&bytes).to_hex().as_str());
    }
}
