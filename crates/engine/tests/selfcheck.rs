//! A file's self-check: recording during packing, replay, and failures.

mod common;

use std::path::{Path, PathBuf};

use common::data;
use nanoinfer_engine::{Isa, NUMERICS, Replay, SelfCheck};
use nanoinfer_format::{NanoFile, Quant, SectionKind};
use nanoinfer_packer::{Input, Options, convert_staged};

/// Converts a tiny model; `change` edits the JSON of its self-check before it is added.
fn packed(dir: &Path, name: &str, quant: Quant, change: impl Fn(String) -> String) -> PathBuf {
    let (out, input) = (dir.join("m.nano"), Input::Folder(data("tiny").join(name)));
    let (mut staged, _) = convert_staged(&input, &out, Options::new(quant)).unwrap();
    let check = SelfCheck::compute(staged.path()).unwrap();
    assert_eq!(check.numerics, NUMERICS);
    let json = String::from_utf8(check.to_bytes()).unwrap();
    staged.add_section(SectionKind::SelfCheck, change(json).as_bytes()).unwrap();
    staged.commit().unwrap();
    out
}

#[test]
fn an_intact_file_replays_identically() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama-gqa", "mistral-swa"] {
        for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
            let file = packed(dir.path(), name, quant, |json| json);
            NanoFile::open(&file).unwrap().verify().unwrap();
            for isa in [None, Some(Isa::Scalar)] {
                assert_eq!(SelfCheck::replay(&file, isa).unwrap(), Replay::Same(1));
            }
        }
    }
}

#[test]
fn an_error_names_the_differing_part() {
    let dir = tempfile::tempdir().unwrap();
    let replay = |change: &dyn Fn(String) -> String| {
        let file = packed(dir.path(), "llama-gqa", Quant::Q8, change);
        SelfCheck::replay(&file, None).map_err(|e| e.to_string())
    };
    // Flips one bit of one logit: each pair is an id and the bits of its logit.
    let flipped = |json: String| {
        let at = json.find("\"top\":[[").unwrap();
        let comma = at + json[at..].find(',').unwrap();
        let end = comma + json[comma..].find(']').unwrap();
        let bits: u32 = json[comma + 1..end].parse().unwrap();
        format!("{}{}{}", &json[..=comma], bits ^ 1, &json[end..])
    };
    let differs = |part| format!("case \"ids\" differs from the recorded one in its {part}");
    assert!(replay(&flipped).unwrap_err().contains(&differs("logits")));
    let ids = |json: String| json.replace("\"tokens\":[", "\"tokens\":[1,");
    assert!(replay(&ids).unwrap_err().contains(&differs("token ids")));
    let none = |json: String| json[..json.find("[{").unwrap()].to_owned() + "[]}";
    assert!(replay(&none).unwrap_err().contains("1 cases, expected 0"));
    assert!(replay(&|_| "{}".into()).unwrap_err().contains("missing field"));
    let huge = |json: String| json.replace("\"ctx\":1024", "\"ctx\":99999999");
    assert!(replay(&huge).unwrap_err().contains("context of 99999999 positions"));
    let other = |json: String| json.replace("\"numerics\":", "\"numerics\":9");
    assert!(matches!(replay(&other), Ok(Replay::OtherNumerics(n)) if n > NUMERICS));
}

#[test]
fn a_missing_self_check_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (out, input) = (dir.path().join("m.nano"), Input::Folder(data("tiny/llama-gqa")));
    nanoinfer_packer::convert(&input, &out, Options::new(Quant::Q8)).unwrap();
    assert_eq!(SelfCheck::replay(&out, None).unwrap(), Replay::Absent);
}

/// Hashes the bits of the largest logits of five tiny models. If this fails, results are no longer
/// comparable with those of older versions: increment `NUMERICS`, then update the hash.
#[test]
fn a_changed_bit_requires_new_numerics() {
    let dir = tempfile::tempdir().unwrap();
    let hasher = std::cell::RefCell::new(blake3::Hasher::new());
    for name in ["llama-gqa", "llama-tied-bf16", "llama3-rope", "llama-sharded-f16", "mistral-swa"]
    {
        for quant in [Quant::F32, Quant::Q8] {
            packed(dir.path(), name, quant, |json| {
                hasher.borrow_mut().update(&json.as_bytes()[json.find("cases").unwrap()..]);
                json
            });
        }
    }
    assert_eq!((NUMERICS, &hasher.into_inner().finalize().to_hex()[..16]), (1, "9bf6ed671984528a"));
}
