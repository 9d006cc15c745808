//! A small writer for `pytorch_model.bin` files in the format of `torch.save`.

use std::io::Write;
use std::path::Path;

use zip::write::SimpleFileOptions;

/// A tensor as PyTorch stores it.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) class: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) offset: u64,
    /// Index of its storage.
    pub(crate) key: usize,
    pub(crate) numel: u64,
}

impl Stored {
    /// A contiguous tensor that fills its own storage.
    pub(crate) fn plain(name: &str, class: &'static str, shape: &[u64], key: usize) -> Self {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let numel = shape.iter().product();
        Self { name: name.into(), class, shape: shape.into(), strides, offset: 0, key, numel }
    }
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.push(b'X');
    out.extend((s.len() as u32).to_le_bytes());
    out.extend(s.as_bytes());
}

fn int(out: &mut Vec<u8>, v: u64) {
    match v {
        0..=0xff => out.extend([b'K', v as u8]),
        0x100..=0xffff => out.extend([b'M', v as u8, (v >> 8) as u8]),
        _ if v < 1 << 31 => out.extend([&b"J"[..], &(v as u32).to_le_bytes()[..]].concat()),
        _ => out.extend([&[0x8a, 8][..], &v.to_le_bytes()[..]].concat()),
    }
}

fn tuple(out: &mut Vec<u8>, values: &[u64]) {
    out.push(b'(');
    values.iter().for_each(|&v| int(out, v));
    out.push(b't');
}

/// The state dict as pickled by `torch.save`: an `OrderedDict` with version metadata.
pub(crate) fn pickle(tensors: &[Stored]) -> Vec<u8> {
    let mut p = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for t in tensors {
        text(&mut p, &t.name);
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut p, "storage");
        p.extend(format!("ctorch\n{}\n", t.class).as_bytes());
        text(&mut p, &t.key.to_string());
        text(&mut p, "cpu");
        int(&mut p, t.numel);
        p.extend(b"tQ");
        int(&mut p, t.offset);
        tuple(&mut p, &t.shape);
        tuple(&mut p, &t.strides);
        p.extend(b"\x89h\x00)Rt");
        p.push(b'R');
    }
    p.extend(b"u}q\x02");
    text(&mut p, "_metadata");
    p.extend(b"h\x00)Rsb.");
    p
}

/// Writes an archive of a pickle and its storages; `storage` produces one at a time.
pub(crate) fn write(
    path: &Path,
    pickle: &[u8],
    storages: usize,
    storage: impl Fn(usize) -> Vec<u8>,
) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    let mut put = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("pytorch_model/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put("data.pkl", pickle);
    put("byteorder", b"little");
    for i in 0..storages {
        put(&format!("data/{i}"), &storage(i));
    }
    put("version", b"3\n");
    zip.finish().unwrap();
}
