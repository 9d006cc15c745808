//! Whatever happens, the result is a correct new file, the old file, or no file.

mod common;

use common::*;
use nanoinfer_format::SectionKind as Kind;
use nanoinfer_format::*;

#[test]
fn round_trip() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let file = scratch.open(&small.0).expect("opens");
    file.verify().expect("valid");
    assert_eq!(file.config(), &config());
    assert_eq!(file.generation(), &generation());
    assert_eq!(file.header().file_len, small.0.len() as u64);
    assert_eq!(file.section(Kind::ChatTemplate).expect("present").1, b"{{ messages }}");
    assert_eq!(file.section(Kind::Tokenizer).expect("present").1, b"{}");
    assert!(file.section(Kind::Vocabulary).is_none());
    assert_eq!(file.tensors().len(), specs().len());
    for (spec, tensor) in specs().iter().zip(file.tensors()) {
        let bytes = content(spec);
        assert_eq!(&tensor.spec, spec);
        assert!(file.bytes(tensor) == bytes, "{spec:?}");
        assert!(tensor.offset.is_multiple_of(64));
        assert_eq!(tensor.hash, *blake3::hash(&bytes).as_bytes());
        assert_eq!(file.tensor(spec.role, spec.layer), Some(tensor));
        let (floats, words) = (file.f32s(tensor), file.u64s(tensor));
        match spec.encoding {
            Encoding::F32 | Encoding::F32Panel => {
                assert!(floats.iter().flat_map(|x| x.to_le_bytes()).eq(bytes));
                assert!(words.is_empty());
            }
            Encoding::U64 => {
                assert!(words.iter().flat_map(|x| x.to_le_bytes()).eq(bytes));
                assert!(floats.is_empty());
            }
            _ => assert!(floats.is_empty() && words.is_empty()),
        }
    }
    assert_eq!(file.tensor(Role::AttnNorm, Some(1)), None);
    assert_eq!(file.tensor(Role::Output, None), None);
}

/// V in f32 next to Q and K in 8 bits, and an f32 `attn_output` with rotated inputs.
#[test]
fn parts_in_two_encodings() {
    let scratch = Scratch::new();
    let mut qkv = specs().remove(3);
    qkv.repeat = 2;
    (qkv.logical[1], qkv.stored[1]) = (64, 128);
    for part in &mut qkv.parts {
        part.n *= 2;
    }
    qkv.parts[2].encoding = Encoding::F32Panel;
    let mut output = specs().remove(4);
    (output.encoding, output.act_group) = (Encoding::F32Panel, 0);
    let write = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut w = Writer::create(scratch.path("mixed.nano")).expect("created");
        for spec in [&qkv, &output] {
            let mut bytes = content(spec);
            if spec == &qkv {
                change(&mut bytes);
            }
            w.begin(spec.clone()).and_then(|()| w.write(&bytes)).and_then(|()| w.end()).unwrap();
        }
        w.finish(&config(), &generation()).and_then(Staged::commit).unwrap();
        NanoFile::open(scratch.path("mixed.nano")).expect("opens")
    };
    let file = write(&|_| {});
    file.verify().expect("valid");
    let tensor = file.tensor(Role::AttnQkv, Some(0)).expect("present");
    assert_eq!((&tensor.spec, &file.tensors()[1].spec), (&qkv, &output));
    assert!(file.f32s(tensor).is_empty());
    let table = file.section(Kind::Tensors).expect("present").1;
    assert_eq!(table[T_PART_ENCODINGS..T_ROW], [0, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(table[T_ROW + T_PART_ENCODINGS..], [0; 8]);

    let (q8, float) = (16 * (64 + 4), 16 * 64 * 4);
    let layout = tensor.spec.panels().expect("panels");
    assert_eq!((layout.panels(), layout.bytes() as u64), (8, tensor.len));
    let runs: Vec<_> = layout.runs(2..8).map(|r| (r.encoding, r.panels, r.bytes)).collect();
    let unit = 3 * q8 + float;
    assert_eq!(
        runs,
        [
            (Encoding::Q8Panel, 2..3, 2 * q8..3 * q8),
            (Encoding::F32Panel, 3..4, 3 * q8..unit),
            (Encoding::Q8Panel, 4..7, unit..unit + 3 * q8),
            (Encoding::F32Panel, 7..8, unit + 3 * q8..2 * unit),
        ]
    );
    // Scales and floats are checked at their offsets; 8-bit weights may be any bytes.
    let nan = |at: usize| write(&|bytes| bytes[at..at + 4].copy_from_slice(&[0xff; 4])).verify();
    for at in [0, 2 * q8 + 60, 3 * q8, unit - 4, unit, 2 * unit - 4] {
        assert!(nan(at).unwrap_err().to_string().contains("not finite"), "{at}");
    }
    for at in [64, 3 * q8 - 4, unit + 64] {
        nan(at).unwrap_or_else(|e| panic!("{at}: {e}"));
    }
}

/// A matrix in each trellis-coded encoding, and a tensor whose parts are coded differently.
#[test]
fn trellis_codes() {
    let scratch = Scratch::new();
    let encodings = [Encoding::Q5Panel, Encoding::Q4Panel, Encoding::Q3Panel, Encoding::Q2Panel];
    let mut qkv = specs().remove(3);
    for (part, encoding) in qkv.parts.iter_mut().zip(encodings) {
        part.encoding = encoding;
    }
    qkv.encoding = encodings[0];
    let matrix =
        |(encoding, layer)| TensorSpec::matrix(Role::FfnDown, Some(layer), encoding, 32, 48);
    let mut specs: Vec<TensorSpec> = encodings[2..].iter().copied().zip(0..).map(matrix).collect();
    specs.push(qkv);
    let write = |nan: Option<usize>| {
        let mut w = Writer::create(scratch.path("coded.nano")).expect("created");
        for spec in &specs {
            let mut bytes = content(spec);
            if let Some(at) = nan.filter(|_| spec.role == Role::FfnDown) {
                bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
            }
            w.begin(spec.clone()).and_then(|()| w.write(&bytes)).and_then(|()| w.end()).unwrap();
        }
        w.finish(&config(), &generation()).and_then(Staged::commit).unwrap();
        NanoFile::open(scratch.path("coded.nano")).expect("opens")
    };
    let file = write(None);
    file.verify().expect("valid");
    let lens: Vec<u64> = file.tensors().iter().map(|t| t.len).collect();
    // Panels of 16 rows of 64 inputs; the last tensor has four: two of Q, one of K, one of V.
    let panel = |bits: u64| 64 + 16 * 64 * bits / 8;
    assert_eq!(lens, [2 * panel(3), 2 * panel(2), 2 * panel(5) + panel(4) + panel(3)]);
    let table = file.section(Kind::Tensors).expect("present").1;
    for row in table.chunks(T_ROW) {
        assert_eq!(row[8 + 12..8 + 16], [16, 0, 0, 0], "states");
    }
    assert_eq!(table[2 * T_ROW + T_PART_ENCODINGS..3 * T_ROW], [0, 0, 6, 0, 7, 0, 0, 0]);
    for (spec, tensor) in specs.iter().zip(file.tensors()) {
        assert_eq!(&tensor.spec, spec);
        let layout = spec.panels().expect("panels");
        for run in layout.runs(0..layout.panels()) {
            let Panels::Trellis(bits, bytes) = file.panels(tensor, &run) else {
                panic!("{run:?} is not coded");
            };
            assert_eq!(Encoding::trellis(bits), Some(run.encoding));
            assert_eq!(bytes.len(), run.bytes.len());
        }
    }
    assert!(write(Some(60)).verify().unwrap_err().to_string().contains("not finite"));
    write(Some(64)).verify().expect("codes may be any bytes");
}

/// These bytes are stable: they change only with the format version.
#[test]
fn bytes_of_version_2_are_stable() {
    let small = Scratch::new().small();
    let config = r#"{"architecture":"llama","quant":"q8","n_layers":2,"d_model":32,"d_ff":48,"#
        .to_string()
        + r#""n_heads":2,"n_kv_heads":1,"head_dim":8,"vocab_size":20,"context_length":64,"#
        + r#""norm":"rms","norm_place":"pre","norm_eps":0.00001,"qk_norm":"none","#
        + r#""attention_scale":0.5,"attention_softcap":0.0,"activation":"silu","gated":true,"#
        + r#""embedding_scale":1.0,"logit_scale":1.0,"logit_softcap":0.0,"rope_theta":10000.0,"#
        + r#""rotary_dim":8,"ropes":[{"magnitude":1.0,"limits":[]}],"layer_ropes":[1,1],"#
        + r#""tied_embeddings":true,"value_rotation":8,"windows":[0,16]}"#;
    let generation = r#"{"bos":1,"add_bos":true,"eos":[2,3],"temperature":0.5,"top_k":40,"#
        .to_string()
        + r#""top_p":0.9,"min_p":0.05,"repetition_penalty":1.1}"#;
    let text = |kind| String::from_utf8_lossy(&small.0[small.section(kind)]).into_owned();
    assert_eq!(text(Kind::Config), config);
    assert_eq!(text(Kind::Generation), generation);
    let hash = blake3::hash(&small.0).to_hex();
    assert_eq!(hash.as_str(), "2c37aaa18c4a25e6325c8494c81de35243a58bf92f2037631f94409b29461c72");
}

/// The number format in `docs/FORMAT.md`, which affects the content id.
#[test]
fn numbers_have_a_canonical_format() {
    let cases = [
        (1e-5, "0.00001"),
        (9.99e-6, "9.99e-6"),
        (1e-6, "1e-6"),
        (0.1, "0.1"),
        (10000.0, "10000.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (f64::from(1e-5f32), "9.999999747378752e-6"),
    ];
    for (value, spelled) in cases {
        let json = serde_json::to_string(&Config { norm_eps: value, ..config() }).expect("JSON");
        assert!(json.contains(&format!("\"norm_eps\":{spelled},")), "{json}");
    }
}

#[test]
fn sections_may_be_added_in_any_order() {
    let scratch = Scratch::new();
    let file = |name: &str, kinds: &[Kind]| {
        let mut w = Writer::create(scratch.path(name)).expect("created");
        kinds.iter().for_each(|&kind| w.section(kind, kind.name()).expect("not added before"));
        w.finish(&config(), &generation()).expect("complete").commit().expect("committed");
        std::fs::read(scratch.path(name)).expect("readable")
    };
    let kinds = [Kind::Tokenizer, Kind::Vocabulary, Kind::ChatTemplate, Kind::Provenance];
    let mut backwards = kinds;
    backwards.reverse();
    assert!(file("a.nano", &kinds) == file("b.nano", &backwards));
}

#[test]
fn uncommitted_files_are_removed() {
    let scratch = Scratch::new();
    let path = scratch.path("model.nano");
    let mut w = Writer::create(&path).expect("created");
    w.begin(specs().remove(0)).expect("valid");
    w.write(&vec![1; 3 << 20]).expect("written"); // more than the buffer holds
    assert_eq!(scratch.names().len(), 1, "a temporary file");
    drop(w);
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
    let staged = write(&path);
    NanoFile::open(staged.path()).expect("complete").verify().expect("valid");
    assert!(!path.exists());
    drop(staged);
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}

#[test]
fn commit_replaces_the_file_and_keeps_open_files_intact() {
    let scratch = Scratch::new();
    let path = scratch.path("model.nano");
    std::fs::write(&path, "something else").expect("written");
    write(&path).commit().expect("committed");
    assert_eq!(scratch.names(), ["model.nano"]);
    let old = NanoFile::open(&path).expect("opens");
    let mut w = Writer::create(&path).expect("created");
    w.section(Kind::ChatTemplate, "another").expect("not added before");
    let staged = w.finish(&config(), &generation()).expect("complete");
    let id = staged.content_id();
    staged.commit().expect("committed");
    let new = NanoFile::open(&path).expect("opens");
    assert_eq!((new.header().content_id, new.tensors().len()), (id, 0));
    assert_ne!(old.header().content_id, id);
    old.verify().expect("the old file is still mapped");
    new.verify().expect("valid");
}

#[test]
fn a_reader_sees_the_old_file_or_the_new_one() {
    let scratch = Scratch::new();
    let path = scratch.path("model.nano");
    write(&path).commit().expect("committed");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while seen == 0 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                NanoFile::open(&path).expect("always complete").verify().expect("always valid");
                seen += 1;
            }
        });
        (0..10).for_each(|_| write(&path).commit().expect("committed"));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().expect("the reader never fails");
    });
}

#[test]
fn unwritable_targets() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("folder.nano")).expect("a folder");
    std::fs::write(scratch.path("file"), "").expect("a file");
    let mut targets = vec![
        (scratch.path("missing").join("model.nano"), "cannot create a file in its folder"),
        (scratch.path("file").join("model.nano"), "cannot create a file in its folder"),
        (scratch.path("folder.nano"), "is a folder"),
        ("/".into(), "needs a file name"),
        ("..".into(), "needs a file name"),
    ];
    if cfg!(target_os = "linux") {
        targets.push(("/proc/model.nano".into(), "cannot create a file in its folder"));
        targets.push(("/dev/null".into(), "is not a regular file"));
    }
    for (path, expected) in targets {
        let Err(e) = Writer::create(&path) else { panic!("{} was created", path.display()) };
        let message = e.to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        assert!(message.starts_with(&path.display().to_string()), "{message}");
    }
    assert_eq!(scratch.names(), ["file", "folder.nano"]);
}

#[test]
fn a_folder_at_the_target_path_blocks_the_commit() {
    let scratch = Scratch::new();
    let path = scratch.path("model.nano");
    let staged = write(&path);
    std::fs::create_dir(&path).expect("a folder");
    let message = staged.commit().expect_err("a folder is in the way").to_string();
    assert!(message.contains("cannot rename"), "{message}");
    assert_eq!(scratch.names(), ["model.nano"], "no temporary file is left");
}

#[test]
fn misuse_is_an_error() {
    let scratch = Scratch::new();
    let vector = |role, layer| TensorSpec::vector(role, layer, 4, 64);
    let norm = || vector(Role::OutputNorm, None);
    let rejected = |what: &str,
                    expected: &str,
                    use_writer: &dyn Fn(&mut Writer) -> Result<(), Error>| {
        let mut w = Writer::create(scratch.path("model.nano")).expect("created");
        let result = use_writer(&mut w);
        let message = match result.and_then(|()| w.finish(&config(), &generation()).map(drop)) {
            Ok(()) => panic!("{what}: succeeded"),
            Err(e) => e.to_string(),
        };
        assert!(message.contains(expected) && message.contains("model.nano"), "{what}: {message}");
    };
    rejected("no tensor", "no tensor is open", &|w| w.write(b"x"));
    rejected("no tensor", "no tensor is open", &Writer::end);
    rejected("open at the end", "still open", &|w| w.begin(norm()));
    rejected("two open", "still open", &|w| w.begin(norm()).and_then(|()| w.begin(norm())));
    rejected("too short", "output_norm got 0 bytes", &|w| w.begin(norm()).and_then(|()| w.end()));
    rejected("too long", "got 260 bytes", &|w| w.vector(norm(), &[1.0; 65]));
    rejected("twice", "output_norm appears twice", &|w| {
        w.vector(norm(), &[1.0; 4]).and_then(|()| w.vector(norm(), &[1.0; 4]))
    });
    rejected("a layer too many", "attn_norm of layer 2", &|w| {
        w.vector(vector(Role::AttnNorm, Some(2)), &[1.0; 4])
    });
    rejected("no layer", "does not fit the role", &|w| w.begin(vector(Role::AttnNorm, None)));
    rejected("half a panel", "whole panels", &|w| {
        let mut spec = specs().remove(0);
        spec.stored[1] += 8;
        w.begin(spec)
    });
    rejected("rotation", "blocks of 1024", &|w| {
        let mut spec = TensorSpec::matrix(Role::Output, None, Encoding::Q8Panel, 16, 1024);
        spec.rotation = 1024;
        w.begin(spec)
    });
    rejected("twice", "the tokenizer section was already added", &|w| {
        w.section(Kind::Tokenizer, "{}").and_then(|()| w.section(Kind::Tokenizer, "{}"))
    });
    for kind in [Kind::Config, Kind::Generation, Kind::Tensors, Kind::Data] {
        rejected("own section", "cannot be added", &|w| w.section(kind, "{}"));
    }
    assert!(scratch.names().is_empty());
}

#[test]
fn invalid_configs_are_not_written() {
    let scratch = Scratch::new();
    let finish = |c: &Config, g: &Generation| {
        let w = Writer::create(scratch.path("model.nano")).expect("created");
        w.finish(c, g).map(drop).expect_err("rejected").to_string()
    };
    let no_layers = Config { n_layers: 0, ..config() };
    assert!(finish(&no_layers, &generation()).contains("n_layers is 0"));
    let not_finite = Config { norm_eps: f64::NAN, ..config() };
    assert!(finish(&not_finite, &generation()).contains("norm_eps is NaN"));
    let no_token = Generation { bos: Some(20), ..generation() };
    assert!(finish(&config(), &no_token).contains("bos is 20"));
    let hot = Generation { temperature: Some(f64::INFINITY), ..generation() };
    assert!(finish(&config(), &hot).contains("temperature is inf"));
    assert!(scratch.names().is_empty());
}

/// A killed process's temporary file is removed by the next writer of the same target; files in use and
/// those of other targets are kept.
#[test]
fn temporary_files_of_killed_processes_are_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join(".m.nano.tmp-dead");
    let other = dir.path().join(".n.nano.tmp-dead");
    std::fs::write(&dead, "half a model").unwrap();
    std::fs::write(&other, "half of another").unwrap();
    let active = Writer::create(dir.path().join("m.nano")).unwrap();
    assert!(!dead.exists() && other.exists());
    let second = Writer::create(dir.path().join("m.nano")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    drop((active, second));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_section_can_be_added_to_the_finished_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.nano");
    for native in [false, true] {
        let mut w = Writer::create(&path).unwrap();
        w.section(SectionKind::Tokenizer, b"{}".as_slice()).unwrap();
        if native {
            w.section(SectionKind::NativeTokenizer, vec![7; 1000]).unwrap();
        }
        let mut staged = w.finish(&common::config(), &Generation::default()).unwrap();
        let before = NanoFile::open(staged.path()).unwrap().header().content_id;
        staged.add_section(SectionKind::SelfCheck, &[5; 100]).unwrap();
        for (kind, expected) in [
            (SectionKind::SelfCheck, "already has a self-check section"),
            (SectionKind::ChatTemplate, "chat template section cannot be added to a finished file"),
        ] {
            let error = staged.add_section(kind, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        staged.commit().unwrap();
        let file = NanoFile::open(&path).unwrap();
        file.verify().unwrap();
        assert_eq!(file.header().content_id, before);
        assert_eq!(file.section(SectionKind::SelfCheck).unwrap().1, [5; 100]);
        let moved = file.section(SectionKind::NativeTokenizer).map(|(_, b)| b.to_vec());
        assert_eq!(moved, native.then(|| vec![7; 1000]));
    }
}

/// So that the system keeps the file in large pages, whatever the sizes of the pieces.
#[test]
fn files_are_written_in_aligned_blocks() {
    const BLOCK: u64 = 4 << 20;
    let scratch = Scratch::new();
    let mut spec = specs().into_iter().find(|spec| spec.encoding == Encoding::F32).unwrap();
    (spec.logical, spec.stored) = ([1, 1, 3 << 20], [1, 1, 3 << 20]);
    let mut w = Writer::create(scratch.path("large.nano")).unwrap();
    w.begin(spec.clone()).unwrap();
    let written = || {
        let files: Vec<_> =
            std::fs::read_dir(scratch.path("")).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 1);
        files[0].metadata().unwrap().len()
    };
    let bytes: Vec<u8> = (0..12u32 << 18).flat_map(|i| i.to_le_bytes()).collect();
    let mut seen = Vec::new();
    for piece in bytes.chunks(100_001) {
        w.write(piece).unwrap();
        seen.push(written());
    }
    seen.dedup();
    assert_eq!(seen, [0, BLOCK, 2 * BLOCK, 3 * BLOCK]);
    w.end().unwrap();
    w.begin(spec).unwrap();
    w.write(&bytes).unwrap(); // in one piece
    assert_eq!(written(), 6 * BLOCK);
}
