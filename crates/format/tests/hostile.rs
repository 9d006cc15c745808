//! Hostile files. Each is rejected with a one-line message that names the file; none causes a panic, an
//! out-of-bounds read, or an allocation of a claimed size. Most are rehashed after the damage, to test
//! the checks that follow those of the hashes.

mod common;

use common::*;
use nanoinfer_format::SectionKind as Kind;

#[test]
fn the_small_file_is_valid_and_rehashing_changes_nothing() {
    let scratch = Scratch::new();
    let small = scratch.small();
    scratch.open(&small.0).expect("opens").verify().expect("valid");
    let mut rehashed = small.clone();
    rehashed.rehash();
    assert!(rehashed.0 == small.0);
}

#[test]
fn truncations() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let tables = small.section(Kind::Data).end;
    let every = (0..300).chain((300..tables).step_by(97)).chain(tables..small.0.len());
    for len in every {
        scratch.rejected(&small.0[..len], &format!("cut to {len}"));
    }
    let mut longer = small.0.clone();
    longer.push(0);
    assert!(scratch.rejected(&longer, "longer").contains("its header specifies"));
}

#[test]
fn truncations_with_valid_hashes() {
    let scratch = Scratch::new();
    let small = scratch.small();
    for cut in (0..small.0.len()).step_by(4096).chain([256, 257, 320]) {
        let mut image = Image(small.0[..cut.max(256)].to_vec());
        image.put(FILE_LEN, &(image.0.len() as u64).to_le_bytes());
        image.rehash_header();
        let message = scratch.rejected(&image.0, "a short file with a matching length");
        assert!(message.contains("section table"), "{message}");
    }
}

#[test]
fn every_header_byte_is_checked() {
    let scratch = Scratch::new();
    let small = scratch.small();
    for at in 0..256 {
        for bit in [1, 0x80] {
            let mut image = small.clone();
            image.0[at] ^= bit;
            scratch.rejected(&image.0, &format!("header byte {at} flipped"));
            image.rehash_header();
            match at {
                32..40 | 224.. => drop(scratch.open(&image.0).expect("optional features or hash")),
                _ => drop(
                    scratch.rejected(&image.0, &format!("header byte {at} flipped and rehashed")),
                ),
            }
        }
    }
}

#[test]
fn headers() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let text = scratch.rejected(&[b'x'; 300], "text");
    assert!(text.contains("not a .nano file"), "{text}");
    let cases: [(&str, &str, usize, &[u8]); 10] = [
        ("magic", "not a .nano file", 0, b"GGUF"),
        ("newer version", "version 3, but this engine reads version 2; a newer nanoinfer", 8, &[3]),
        ("older version", "version 1, but this engine reads version 2; convert", 8, &[1]),
        ("version 0", "version 0 does not exist", 8, &[0]),
        (
            "required feature",
            "requires unknown features 0x8000000000000000",
            24,
            &[0, 0, 0, 0, 0, 0, 0, 0x80],
        ),
        ("longer header", "header length 257", 12, &[1, 1]),
        ("reserved", "reserved", 108, &[1]),
        ("flags", "disagree", 92, &[3]),
        ("section table in the header", "section table", SECTION_TABLE, &[0; 8]),
        ("section table at 2^64", "section table", SECTION_TABLE, &[0xff; 8]),
    ];
    for (what, expected, at, bytes) in cases {
        let mut image = small.clone();
        image.put(at, bytes);
        image.rehash_header();
        let message = scratch.rejected(&image.0, what);
        assert!(message.contains(expected), "{what}: {message}");
    }
    for (before, after) in [(0, 64), (32, 0), (64, 64)] {
        let mut image = small.clone();
        let table = small.u64(SECTION_TABLE) + before as u64;
        image.put(SECTION_TABLE, &table.to_le_bytes());
        let at = small.rows()[0];
        image.0.splice(at..at, vec![0; before]);
        image.0.extend(vec![0; after]);
        image.put(FILE_LEN, &(image.0.len() as u64).to_le_bytes());
        image.rehash();
        let message = scratch.rejected(&image.0, "section table moved");
        assert!(message.contains("to the end of the file"), "{before}, {after}: {message}");
    }
    for count in [0, 1, 9, 65, u32::MAX] {
        let mut image = small.clone();
        image.put(SECTION_COUNT, &count.to_le_bytes());
        image.rehash_header();
        let message = scratch.rejected(&image.0, "section count");
        assert!(message.contains("section"), "{count}: {message}");
    }
}

#[test]
fn header_and_config_must_agree() {
    let scratch = Scratch::new();
    let small = scratch.small();
    for at in (40..96).step_by(4) {
        attack(&scratch, &small, "architecture field", "disagree", |image| image.0[at] ^= 4);
    }
    let mut config = config();
    config.d_ff += 1;
    let json = serde_json::to_vec(&config).expect("JSON");
    attack(&scratch, &small, "another config", "disagree", |image| {
        image.replace(Kind::Config, &json)
    });
}

#[test]
fn section_tables() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let [config, generation] = [Kind::Config, Kind::Generation].map(|kind| small.row(kind));
    let (data, table) = (small.row(Kind::Data), small.u64(SECTION_TABLE));
    let cases: [(&str, &str, usize, u64); 13] = [
        ("overlaps the header", "at 0,", data + S_OFFSET, 0),
        ("overlaps the header's end", "at 192,", data + S_OFFSET, 192),
        ("overlaps another", "not within", generation + S_OFFSET, small.u64(config + S_OFFSET)),
        ("descending", "not within", generation + S_OFFSET, 65536),
        ("overlaps the table", "not within", generation + S_OFFSET, table),
        ("too long by one", "not within", generation + S_LEN, small.0.len() as u64),
        ("outside", "not within", config + S_OFFSET, 1 << 40),
        ("end overflows", "not within", config + S_OFFSET, !63),
        ("length overflows", "not within", config + S_LEN, u64::MAX),
        ("unaligned", "not aligned", config + S_OFFSET, small.u64(config + S_OFFSET) + 1),
        ("reserved", "reserved", config + 24, 1),
        ("reserved, after the kind", "reserved", config, 1 << 32 | 1),
        ("data unaligned", "64 KiB", data + S_OFFSET, 65536 - 64),
    ];
    for (what, expected, at, value) in cases {
        attack(&scratch, &small, what, expected, |image| image.put(at, &value.to_le_bytes()));
    }
    for kind in [Kind::Config, Kind::Generation, Kind::Tensors, Kind::Data] {
        let row = small.row(kind);
        let missing = format!("the {} section is missing", kind.name());
        attack(&scratch, &small, "missing", &missing, |image| image.put(row, &[99]));
        let other = small.row(Kind::Tokenizer);
        let number = kind as u8;
        attack(&scratch, &small, "twice", "twice", |image| image.put(other, &[number]));
        let mut image = small.clone();
        image.put(row + S_HASH, &[0; 32]);
        assert!(scratch.rejected(&image.0, "wrong hash").contains("does not match"));
    }
}

#[test]
fn unknown_sections_are_skipped_by_open_but_verified() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let mut image = small.clone();
    let row = image.row(Kind::ChatTemplate);
    let content = image.section(Kind::ChatTemplate).start;
    image.put(row, &99u32.to_le_bytes());
    image.rehash();
    let file = scratch.open(&image.0).expect("an unknown kind");
    assert!(file.section(Kind::ChatTemplate).is_none());
    assert_eq!(file.sections().len(), image.rows().len() - 1);
    file.verify().expect("valid");
    image.0[content] ^= 1;
    assert!(scratch.unverified(&image.0, "unknown section").contains("section 99"));
}

#[test]
fn tensor_tables() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let rows = small.tensors();
    let [embd, turns, norm, qkv, output, _, last] = rows[..] else { panic!("seven tensors") };
    let offset = |row: usize| small.u64(row + T_OFFSET);
    let end = small.section(Kind::Data).end as u64;
    let wide: [(&str, &str, usize, u64); 10] = [
        ("overlap", "overlaps", norm + T_OFFSET, offset(norm) - 64),
        ("two at the same offset", "overlaps", norm + T_OFFSET, offset(turns)),
        ("before the data", "within the data", embd + T_OFFSET, 65536 - 64),
        ("overlaps the header", "within the data", embd + T_OFFSET, 0),
        ("after the data", "within the data", last + T_OFFSET, end),
        ("beyond the data by a line", "within the data", last + T_OFFSET, offset(last) + 64),
        ("offset overflows", "within the data", last + T_OFFSET, !63),
        ("unaligned", "multiple of 64", norm + T_OFFSET, offset(norm) + 4),
        ("shorter", "do not fit stored shape", norm + T_LEN, 252),
        ("length overflows", "do not fit stored shape", norm + T_LEN, u64::MAX),
    ];
    for (what, expected, at, value) in wide {
        attack(&scratch, &small, what, expected, |image| image.put(at, &value.to_le_bytes()));
    }
    let words: [(&str, &str, usize, u32); 53] = [
        ("unknown role", "role 99", embd, 99),
        ("a part as a role", "does not fit the role", qkv, 65),
        ("layer of a whole-model tensor", "does not fit the role", embd + 4, 0),
        ("no layer", "does not fit the role", norm + 4, u32::MAX),
        ("layer after the last", "2 layers", norm + 4, 2),
        ("unknown encoding", "encoding 77", embd + 8, 77),
        ("unused encoding", "encoding 4", embd + 8, 4),
        ("rotated floats", "rotation in blocks of 64", embd + 8, 2),
        ("wrong encoding", "do not fit stored shape", turns + 8, 0),
        ("rotation 0", "rotation", embd + 12, 0),
        ("rotation 3", "rotation", embd + 12, 3),
        ("rotation beyond the row", "rotation", embd + 12, 128),
        ("rotation 1024", "rotation", embd + 12, 1024),
        ("rotation of floats", "rotation", norm + 12, 64),
        ("activation group", "activation", embd + 16, 32),
        ("activation group of floats", "activation", norm + 16, 64),
        ("trellis of 8 bits", "a trellis of 16 states, expected 0", embd + 20, 16),
        ("another file", "reserved", embd + 24, 1),
        ("reserved word", "reserved", embd + 68, 1),
        ("reserved end", "reserved", embd + 188, 1),
        ("unused part", "reserved", qkv + 168, 1),
        ("five parts", "at most 4", qkv + 28, 5),
        ("2^32 - 1 parts", "at most 4", qkv + 28, u32::MAX),
        ("fewer parts", "reserved", qkv + 28, 2),
        ("a part without a role", "part role 0", embd + 28, 1),
        ("no rows", "does not fit stored", embd + 36, 0),
        ("more rows than stored", "does not fit stored", embd + 36, 33),
        ("more inputs than stored", "does not fit stored", embd + 40, 65),
        ("experts differ", "does not fit stored", embd + 44, 2),
        ("half a panel", "whole panels", embd + 48, 24),
        ("a third of a group", "whole panels", embd + 52, 40),
        ("2^32 - 16 rows", "do not fit stored shape", embd + 48, u32::MAX - 15),
        ("2^32 - 1 floats", "do not fit stored shape", norm + 52, u32::MAX),
        ("repeats without parts", "parts", embd + 56, 2),
        ("no repeats", "parts", qkv + 56, 0),
        ("2^32 - 1 repeats", "parts", qkv + 56, u32::MAX),
        ("blocks of size 0", "inputs in blocks", output + 60, 0),
        ("blocks that shrink", "inputs in blocks", output + 64, 4),
        ("blocks that do not fit", "inputs in blocks", output + 64, 40),
        ("blocks of 5", "inputs in blocks", output + 60, 5),
        ("a part too small", "parts", qkv + 124, 15),
        ("a whole tensor as a part", "parts", qkv + 120, 17),
        ("a part too large", "parts", qkv + 124, 17),
        ("2^32 - 1 blocks of 2^32 - 1 rows", "parts", qkv + 128, u32::MAX),
        // Part encodings have two bytes each; 0 = that of the tensor.
        ("a part with the tensor's encoding", "attn_q has encoding 3", qkv + T_PART_ENCODINGS, 3),
        (
            "a different encoding of the first part",
            "its first part is f32 panel",
            qkv + T_PART_ENCODINGS,
            2,
        ),
        (
            "an unknown encoding of a part",
            "attn_k has encoding 77",
            qkv + T_PART_ENCODINGS,
            77 << 16,
        ),
        ("an unused encoding of a part", "attn_k has encoding 4", qkv + T_PART_ENCODINGS, 4 << 16),
        ("a part without panels", "attn_k is u64", qkv + T_PART_ENCODINGS, 1 << 16),
        ("a longer part", "do not fit stored shape", qkv + T_PART_ENCODINGS + 4, 2),
        ("an encoding without a part", "reserved", qkv + T_PART_ENCODINGS + 4, 2 << 16),
        ("codes without states", "a trellis of 0 states, expected 16", embd + 8, 6),
        ("a coded part without states", "a trellis of 0 states", qkv + T_PART_ENCODINGS + 4, 8),
    ];
    for (what, expected, at, value) in words {
        attack(&scratch, &small, what, expected, |image| image.put(at, &value.to_le_bytes()));
    }
    attack(&scratch, &small, "a panel of 2^88 bytes", "do not fit stored shape", |image| {
        (32..56).step_by(4).for_each(|at| image.put(embd + at, &[0xc0, 0xff, 0xff, 0xff]));
    });
    attack(&scratch, &small, "all sizes of a part at once", "parts", |image| {
        image.put(qkv + 56, &[0xff; 4]);
        image.put(qkv + 124, &[0xff; 12]);
    });
    attack(&scratch, &small, "rows moved from part to part", "parts", |image| {
        image.put(qkv + 124, &[17]);
        image.put(qkv + 140, &[7]);
    });
    attack(&scratch, &small, "a duplicate row", "output_norm appears twice", |image| {
        let row = image.0[last..last + 72].to_vec();
        image.put(norm, &row);
    });
    let table = small.0[small.section(Kind::Tensors)].to_vec();
    attack(&scratch, &small, "half a row", "tensor table has an invalid length", |image| {
        image.replace(Kind::Tensors, &table[..table.len() - 96]);
    });
    attack(&scratch, &small, "a thousand tables", "overlaps", |image| {
        image.replace(Kind::Tensors, &table.repeat(1000));
    });
    let mut image = small.clone();
    let data_hash = small.row(Kind::Data) + S_HASH;
    image.put(norm + T_HASH, &[0; 32]);
    image.rehash();
    image.put(data_hash, &small.0[data_hash..data_hash + 32]);
    image.rehash_tables();
    let message = scratch.rejected(&image.0, "a data hash of different tensors");
    assert!(message.contains("data section's hash"), "{message}");
}

#[test]
fn damage_found_only_by_verify() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let names = [
        "token_embd",
        "rope_turns",
        "attn_norm of layer 0",
        "attn_qkv of layer 0",
        "attn_output of layer 0",
        "ffn_down of layer 1",
        "output_norm",
    ];
    for (row, name) in small.tensors().into_iter().zip(names) {
        let (start, len) = (small.u64(row + T_OFFSET), small.u64(row + T_LEN));
        for at in [start, start + len / 2, start + len - 1] {
            let mut image = small.clone();
            image.0[at as usize] ^= 0x10;
            let message = scratch.unverified(&image.0, name);
            assert!(message.contains(&format!("tensor {name} does not")), "{message}");
        }
    }
    let nan = f32::NAN.to_le_bytes();
    for (i, row) in small.tensors().into_iter().enumerate().filter(|&(i, _)| i != 1) {
        let (start, len) = (small.u64(row + T_OFFSET) as usize, small.u64(row + T_LEN) as usize);
        let q8 = small.u32(row + 8) == 3;
        let mut image = small.clone();
        image.put(if q8 { start + 60 } else { start + len - 4 }, &nan);
        let sum = blake3::hash(&image.0[start..start + len]);
        image.put(row + T_HASH, sum.as_bytes());
        image.rehash();
        let message = scratch.unverified(&image.0, names[i]);
        assert!(message.contains(names[i]) && message.contains("not finite"), "{message}");
    }
    for kind in [Kind::Tokenizer, Kind::ChatTemplate] {
        let mut image = small.clone();
        let at = image.section(kind).start;
        image.0[at] ^= 1;
        let message = scratch.unverified(&image.0, kind.name());
        assert!(message.contains(&format!("{} section does not", kind.name())), "{message}");
    }
    let gap = small.section(Kind::Config).end;
    for at in [256, 1000, 65535, gap, small.u64(SECTION_TABLE) as usize - 1] {
        let mut image = small.clone();
        assert_eq!(image.0[at], 0, "byte {at} is padding");
        image.0[at] = 1;
        let message = scratch.unverified(&image.0, "padding");
        assert!(message.contains(&format!("byte {at} ")), "{message}");
    }
}

#[test]
fn inputs_that_are_not_files() {
    let scratch = Scratch::new();
    let open = |name: &str| {
        let Err(e) = nanoinfer_format::NanoFile::open(scratch.path(name)) else {
            panic!("{name}: opened")
        };
        let message = e.to_string();
        assert!(!message.contains('\n') && message.contains(name), "{message}");
        message
    };
    assert!(open("absent.nano").contains("cannot open"));
    std::fs::create_dir(scratch.path("folder.nano")).expect("a folder");
    assert!(open("folder.nano").contains("not a regular file"));
    std::fs::write(scratch.path("empty.nano"), "").expect("a file");
    assert!(open("empty.nano").contains("only 0 bytes"));
}

#[cfg(unix)]
#[test]
fn a_pipe_does_not_hang() {
    let scratch = Scratch::new();
    let path = scratch.path("pipe.nano");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    let Err(e) = nanoinfer_format::NanoFile::open(&path) else { panic!("opened a pipe") };
    assert!(e.to_string().contains("not a regular file"), "{e}");
}
