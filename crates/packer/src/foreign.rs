//! Recognizes files and folders that are not models this crate reads: what each is, and what to use
//! instead.

use std::path::Path;

use crate::Error;

/// Number of bytes at the start of a file that identify it.
pub(crate) const HEAD: usize = 512;

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
const ANOTHER_FORMAT: &str = "use the model's Hugging Face folder or a GGUF version of it";
const EXTRACT: &str = "extract it and pass the model in it";

/// Formats by the bytes at an offset.
const MAGICS: [(usize, &[u8], &str, &str); 15] = [
    (0, &nanoinfer_format::MAGIC, "a .nano file, which is already converted", "use it as it is"),
    (0, b"\x89HDF\r\n\x1a\n", "a TensorFlow or Keras file", ANOTHER_FORMAT),
    (4, b"TFL3", "a TensorFlow Lite model", ANOTHER_FORMAT),
    (0, b"\x93NUMPY", "a NumPy array", ANOTHER_FORMAT),
    (0, b"lmgg", "a GGML file, the format before GGUF", ANOTHER_FORMAT),
    (0, b"fmgg", "a GGML file, the format before GGUF", ANOTHER_FORMAT),
    (0, b"tjgg", "a GGML file, the format before GGUF", ANOTHER_FORMAT),
    (0, b"\x1f\x8b", "a gzip archive", EXTRACT),
    (0, b"BZh", "a bzip2 archive", EXTRACT),
    (0, b"\xfd7zXZ", "an xz archive", EXTRACT),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", EXTRACT),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", EXTRACT),
    (257, b"ustar", "a tar archive", EXTRACT),
    (0, b"MZqFpD", "a llamafile", "pass the GGUF file in it"),
    (0, b"\x7fELF", "a program", "pass a model"),
];

/// Formats by the extension of a file or folder.
const EXTENSIONS: [(&str, &str); 16] = [
    ("onnx", "an ONNX model"),
    ("h5", "a TensorFlow or Keras model"),
    ("keras", "a Keras model"),
    ("pb", "a TensorFlow model"),
    ("tflite", "a TensorFlow Lite model"),
    ("litertlm", "a LiteRT model"),
    ("task", "a MediaPipe model"),
    ("msgpack", "a Flax model"),
    ("mlmodel", "a Core ML model"),
    ("mlpackage", "a Core ML model"),
    ("npz", "an MLX model in NumPy's format"),
    ("npy", "a NumPy array"),
    ("ot", "a rust-bert model"),
    ("engine", "a TensorRT engine"),
    ("pdparams", "a Paddle model"),
    ("nemo", "a NeMo model"),
];

/// Rejects a file that stands for another one, whatever it is used for: an empty file, a Git LFS
/// pointer, or a web page saved instead of the file. `head` is the file's first [`HEAD`] bytes.
pub(crate) fn refuse_placeholder(path: &Path, head: &[u8], len: u64) -> Result<(), Error> {
    let what = if len == 0 {
        "is empty; download it again".to_owned()
    } else if head.starts_with(POINTER) {
        let text = String::from_utf8_lossy(head);
        let size = text.lines().find_map(|line| line.strip_prefix("size ")?.parse::<u64>().ok());
        let size = size.map_or(String::new(), |n| format!(" of {n} bytes"));
        format!(
            "is a Git LFS pointer to a file{size}, not the file itself; run `git lfs pull` in its \
             folder or download the file"
        )
    } else if is_html(head) {
        "is a web page (HTML), not the file itself; download the file again, from an address with \
         /resolve/ instead of /blob/ on Hugging Face"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(Error::source(path, what))
}

fn is_html(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let starts = |tag: &[u8]| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag));
    starts(b"<!doctype html") || starts(b"<html")
}

/// What a single file is, and what to do instead; `None` if it is of no known kind.
pub(crate) fn file(path: &Path, head: &[u8]) -> Option<String> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if let Some((_, _, what, next)) = MAGICS.iter().find(|m| at(m.0, m.1)) {
        return Some(format!("is {what}; {next}"));
    }
    if let Some(what) = of_extension(path) {
        return Some(format!("is {what}; {ANOTHER_FORMAT}"));
    }
    let json = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let what = if head.get(8) == Some(&b'{') && !head.starts_with(b"{") {
        "is only the weights of a model (safetensors)"
    } else if is_torch(path, head) {
        "is only the weights of a model (PyTorch)"
    } else if head.starts_with(b"PK\x03\x04") {
        return Some(format!("is a zip archive; {EXTRACT}"));
    } else if json.starts_with(b"{") {
        "is only one file of a model (JSON)"
    } else {
        return None;
    };
    let folder = path.parent().filter(|p| p.join("config.json").exists());
    Some(match folder {
        Some(folder) if folder.as_os_str().is_empty() => format!("{what}; pass its folder, \".\""),
        Some(folder) => format!("{what}; pass its folder, {:?}", folder.display().to_string()),
        None => format!("{what}; pass the model's folder, with config.json and the tokenizer"),
    })
}

/// PyTorch's zip archives begin with the pickle; before 1.6, the file was a pickle.
fn is_torch(path: &Path, head: &[u8]) -> bool {
    let named = ["bin", "pt", "pth", "ckpt"].iter().any(|e| has_extension(path, e));
    let begins = |magic: &[u8]| head.starts_with(magic);
    let entry = head.get(30..).unwrap_or_default();
    let state_dict = entry.windows(9).take(100).any(|w| w == b"/data.pkl");
    begins(b"PK\x03\x04") && (named || state_dict) || begins(&[0x80, 2]) && named
}

/// What a folder without a model that this crate reads is, and what to do instead. `names` are the
/// names of its entries.
pub(crate) fn folder(path: &Path, names: &[String]) -> Option<String> {
    let any = |matches: &dyn Fn(&str) -> bool| names.iter().any(|name| matches(name));
    let has = |name: &str| any(&|n| n == name);
    let part = |start: &str, end: &str| {
        any(&|n| n.starts_with(start) && n.contains("-of-") && n.ends_with(end))
    };
    if has("model_index.json") {
        let what = "is a diffusion pipeline, which generates images, not text";
        return Some(format!("{what}; pass a language model"));
    }
    if has("params.json") || any(&|n| n.starts_with("consolidated.")) {
        let what = "holds a model in its author's own format (params.json, consolidated.*)";
        return Some(format!("{what}; {ANOTHER_FORMAT}"));
    }
    if has("quantize_config.json") || has("quant_config.json") {
        let what = "holds a model quantized with GPTQ or AWQ, but no model.safetensors";
        return Some(format!("{what}; rename its file of weights if it has another name"));
    }
    for (start, end) in [("model-", ".safetensors"), ("pytorch_model-", ".bin")] {
        if part(start, end) {
            let index = format!("{}{end}.index.json", start.trim_end_matches('-'));
            return Some(format!("holds a model in parts without {index}; download that file too"));
        }
    }
    if has("saved_model.pb") || has("tf_model.h5") {
        return Some(format!("holds a TensorFlow model; {ANOTHER_FORMAT}"));
    }
    if has("openvino_model.xml") {
        return Some(format!("holds an OpenVINO model; {ANOTHER_FORMAT}"));
    }
    if has("onnx") {
        return Some(format!("holds an ONNX model; {ANOTHER_FORMAT}"));
    }
    if let Some(what) = names.iter().find_map(|name| of_extension(Path::new(name))) {
        return Some(format!("holds {what}; {ANOTHER_FORMAT}"));
    }
    let inner = names.iter().filter(|name| path.join(name).join("config.json").exists());
    let inner: Vec<&String> = inner.collect();
    (!inner.is_empty() && !has("config.json")).then(|| {
        format!("holds no model itself, but its folders do; pass one of them: {}", list(&inner))
    })
}

/// The first names of a list.
pub(crate) fn list(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

fn of_extension(path: &Path) -> Option<&'static str> {
    EXTENSIONS.iter().find(|(extension, _)| has_extension(path, extension)).map(|(_, what)| *what)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
