//! `--model org/name` with a mock hub.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::server::{Request, Response, Server};
use common::{assert_fails, files, json, nanoinfer, stderr, stdout, temp, tiny};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A file's Git blob hash.
fn git(bytes: &[u8]) -> String {
    let hash = sha1::Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat());
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|e| name.ends_with(e))
}

/// The hub's file list for a folder.
fn listing(folder: &Path) -> serde_json::Value {
    let sibling = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        let mut entry = serde_json::json!({ "rfilename": name, "size": bytes.len() });
        if is_large(&name) {
            entry["lfs"] = serde_json::json!({ "sha256": sha256(&bytes), "size": bytes.len() });
        } else {
            entry["blobId"] = git(&bytes).into();
        }
        entry
    };
    let siblings: Vec<_> = files(folder).into_iter().map(sibling).collect();
    serde_json::json!({ "sha": COMMIT, "siblings": siblings })
}

/// Serves a folder as `acme/tiny`, redirecting weights to `cdn` like the hub.
fn hub(folder: &Path, cdn: &str) -> Server {
    let (folder, cdn) = (folder.to_path_buf(), cdn.to_owned());
    Server::start(move |request| answer(&folder, &cdn, "main", &request.path))
}

fn answer(folder: &Path, cdn: &str, revision: &str, path: &str) -> Response {
    if path == format!("/api/models/acme/tiny/revision/{revision}?blobs=true") {
        return Response::ok(listing(folder).to_string());
    }
    let Some(name) = path.strip_prefix(&format!("/acme/tiny/resolve/{COMMIT}/")) else {
        return Response::status(404);
    };
    let bytes = fs::read(folder.join(name)).unwrap();
    if is_large(name) {
        Response::status(302)
            .header("Location", format!("{cdn}/blob/{name}"))
            .header("X-Linked-Etag", format!("\"{}\"", sha256(&bytes)))
            .header("X-Linked-Size", bytes.len().to_string())
    } else {
        Response::ok(bytes.clone()).header("ETag", format!("W/\"{}\"", git(&bytes)))
    }
}

/// A server for large files.
fn cdn(folder: &Path, answer: impl Fn(Vec<u8>, &Request) -> Response + Send + 'static) -> Server {
    let folder = folder.to_path_buf();
    Server::start(move |request| {
        let name = request.path.strip_prefix("/blob/").unwrap();
        answer(fs::read(folder.join(name)).unwrap(), request)
    })
}

/// Responds with the whole file.
fn whole(bytes: Vec<u8>, _: &Request) -> Response {
    Response::ok(bytes)
}

/// The binary with all its files below `home`.
fn client(home: &Path, endpoint: &str) -> Command {
    let mut command = nanoinfer(&home.join("nanoinfer"));
    command.env("HF_HOME", home.join("hf")).env("HF_ENDPOINT", endpoint);
    command
}

fn convert(home: &Path, endpoint: &str) -> std::process::Output {
    let out = home.join("out.nano");
    let mut command = client(home, endpoint);
    command.args(["convert", "--model", "acme/tiny", "--out"]).arg(out).output().unwrap()
}

#[test]
fn a_sharded_model_is_downloaded_converted_and_cached() {
    let (home, folder) = (temp(), tiny("llama-sharded-f16"));
    let cdn = cdn(&folder, whole);
    let hub = hub(&folder, &cdn.url);
    let mut logits = client(home.path(), &hub.url);
    logits.env("HF_TOKEN", "hf_secret").args(["logits", "--model", "acme/tiny", "--tokens", "1,2"]);
    logits.arg("--out").arg(home.path().join("a.safetensors"));
    let output = logits.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("downloading acme/tiny"), "{}", stderr(&output));

    // The token is sent to the hub with every request, but to no other host.
    assert!(hub.requests().iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(cdn.requests().len(), 4);
    assert!(cdn.requests().iter().all(|r| r.authorization.is_none()));

    // A converted model needs no further requests.
    let requests = hub.requests().len();
    let again = logits.output().unwrap();
    assert!(again.status.success() && stderr(&again).is_empty(), "{}", stderr(&again));
    assert_eq!(hub.requests().len(), requests);

    // The result is the same as converting the folder directly.
    let local = home.path().join("local.nano");
    let mut command = nanoinfer(home.path());
    command.arg("convert").arg("--model").arg(&folder).arg("--out").arg(&local);
    command.assert().success();
    let inspect = |path: &Path| {
        json(&nanoinfer(home.path()).arg("inspect").arg(path).arg("--json").output().unwrap())
    };
    let cached = files(&home.path().join("nanoinfer/models"));
    assert_eq!(cached.len(), 1, "{cached:?}");
    assert_eq!(inspect(&cached[0])["content_id"], inspect(&local)["content_id"]);
    let source = inspect(&cached[0])["provenance"].to_string();
    assert!(source.contains(&format!("acme/tiny@{COMMIT}")), "{source}");
}

#[test]
fn the_cache_has_hugging_faces_layout_and_works_offline() {
    let (home, folder) = (temp(), tiny("llama-gqa"));
    let cdn = cdn(&folder, whole);
    let hub = hub(&folder, &cdn.url);
    assert!(convert(home.path(), &hub.url).status.success());
    let repo = home.path().join("hf/hub/models--acme--tiny");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let link = repo.join("snapshots").join(COMMIT).join("model.safetensors");
    let blob = Path::new("../../blobs").join(sha256(&weights));
    assert_eq!(fs::read_link(link).unwrap(), blob);

    for (name, value) in [("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", "1")] {
        let out = home.path().join("again.nano");
        let mut command = client(home.path(), &hub.url);
        command.env(name, value).args(["convert", "--model", "acme/tiny", "--out"]).arg(&out);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("using the cached copy"), "{}", stderr(&output));
    }
}

#[test]
fn http_errors_are_explained() {
    for (status, token, parts) in [
        (401, "", &["HTTP 401", "HF_TOKEN"][..]),
        (401, "hf_x", &["HTTP 401", "not accepted"]),
        (403, "hf_x", &["HTTP 403", "/acme/tiny", "terms"]),
        (404, "", &["HTTP 404", "spelling"]),
        (429, "", &["HTTP 429", "wait"]),
        (500, "", &["HTTP 500"]),
        (302, "", &["redirect"]),
    ] {
        let home = temp();
        let server = Server::start(move |_| Response::status(status));
        let mut command = client(home.path(), &server.url);
        let out = home.path().join("out.nano");
        command.args(["convert", "--model", "acme/tiny", "--out"]).arg(out).env("HF_TOKEN", token);
        assert_fails(&command.output().unwrap(), 1, parts);
        assert!(files(home.path()).is_empty(), "{status}: {:?}", files(home.path()));
    }
}

#[test]
fn a_gated_model_links_to_its_terms() {
    for token in ["", "hf_x"] {
        let home = temp();
        let server = Server::start(|_| Response::status(401).header("X-Error-Code", "GatedRepo"));
        let mut command = client(home.path(), &server.url);
        command.args(["convert", "--model", "acme/tiny", "--out", "x"]).env("HF_TOKEN", token);
        let page = format!("accept the model's terms at {}/acme/tiny", server.url);
        assert_fails(&command.output().unwrap(), 1, &["HTTP 401", &page, "HF_TOKEN"]);
    }
}

#[test]
fn an_unreachable_hub_is_explained() {
    let home = temp();
    let output = convert(home.path(), "http://127.0.0.1:9"); // the discard port is closed
    assert_fails(&output, 1, &["acme/tiny", "cannot reach http://127.0.0.1:9", "--model"]);
    assert!(files(home.path()).is_empty());
    assert_fails(&convert(home.path(), "ftp://x"), 1, &["HF_ENDPOINT", "http"]);
}

#[test]
fn files_with_wrong_hashes_are_discarded() {
    let folder = tiny("llama-gqa");
    let flipped = |mut bytes: Vec<u8>, _: &Request| {
        bytes[1000] ^= 1;
        Response::ok(bytes)
    };
    let longer = |mut bytes: Vec<u8>, _: &Request| {
        bytes.push(0);
        Response::ok(bytes)
    };
    let cases: [(Server, &str); 2] =
        [(cdn(&folder, flipped), "SHA-256"), (cdn(&folder, longer), "more than the expected")];
    for (cdn, parts) in cases {
        let home = temp();
        let hub = hub(&folder, &cdn.url);
        assert_fails(&convert(home.path(), &hub.url), 1, &["model.safetensors", parts]);
        let left = files(home.path());
        assert!(left.iter().all(|f| fs::metadata(f).unwrap().len() < 2000), "{left:?}");
        assert_eq!(cdn.requests().len(), 1, "an incorrect file was requested again");
    }
    // A small file has a Git hash instead of a SHA-256.
    let (home, source) = (temp(), folder);
    let server = Server::start(move |request| {
        let mut response = answer(&source, "", "main", &request.path);
        if request.path.ends_with("config.json") {
            response.body[0] ^= 1;
        }
        response
    });
    assert_fails(&convert(home.path(), &server.url), 1, &["config.json", "Git hash"]);
}

#[test]
fn an_interrupted_download_resumes() {
    let folder = tiny("llama-gqa");
    let len = fs::metadata(folder.join("model.safetensors")).unwrap().len() as usize;
    // Each connection delivers a third of the file.
    let third = len / 3;
    let cdn = cdn(&folder, move |bytes, request| {
        let response = Response::range(&bytes, request);
        Response { cut: Some(response.body.len().min(third)), ..response }
    });
    let (home, hub) = (temp(), hub(&folder, &cdn.url));
    let output = convert(home.path(), &hub.url);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("was interrupted"), "{}", stderr(&output));
    let offsets: Vec<_> = cdn.requests().iter().map(|r| r.from).collect();
    assert_eq!(offsets[..3], [None, Some(third), Some(2 * third)]);
    let parts = files(&home.path().join("hf"));
    assert!(!parts.iter().any(|p| p.to_string_lossy().contains(".part-")), "{parts:?}");
}

#[test]
fn partial_downloads_are_kept_for_the_next_run() {
    let folder = tiny("llama-gqa");
    let len = fs::metadata(folder.join("model.safetensors")).unwrap().len() as usize;
    // Half of the file and then nothing, with and without support for ranges.
    for supports_ranges in [true, false] {
        let half = move |bytes: Vec<u8>, request: &Request| match request.from {
            Some(_) if supports_ranges => {
                Response { cut: Some(0), ..Response::range(&bytes, request) }
            }
            _ => Response { cut: Some(bytes.len() / 2), ..Response::ok(bytes) },
        };
        let home = temp();
        let broken = cdn(&folder, half);
        let server = hub(&folder, &broken.url);
        let output = convert(home.path(), &server.url);
        assert_fails(&output, 1, &["model.safetensors", "was interrupted", "was kept; retry"]);
        assert!(broken.requests().len() <= 6, "{:?}", broken.requests());

        let working = cdn(&folder, |bytes, request| Response::range(&bytes, request));
        let server = hub(&folder, &working.url);
        let output = convert(home.path(), &server.url);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(working.requests()[0].from, Some(len / 2));
        assert_eq!(working.requests().len(), 1);
    }
}

#[test]
fn slow_servers_are_tolerated_and_dead_servers_time_out() {
    let folder = tiny("llama-gqa");
    let run = |home: &Path, endpoint: &str, seconds: &str| {
        let mut command = client(home, endpoint);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", seconds).args(["convert", "--model", "acme/tiny"]);
        command.arg("--out").arg(home.join("out.nano")).output().unwrap()
    };
    // A quarter of a second between pieces, six seconds in all. Only a client stalled for twenty such
    // intervals would time out, and it would then resume.
    let slow =
        cdn(&folder, |bytes, request| Response { pieces: 25, ..Response::range(&bytes, request) });
    let (home, server) = (temp(), hub(&folder, &slow.url));
    let output = run(home.path(), &server.url, "5");
    assert!(output.status.success(), "{}", stderr(&output));
    // The server sends ten bytes and then keeps the connection open. A stalled client may miss even
    // those bytes in all its attempts, so the second run has a longer timeout.
    let dead =
        cdn(&folder, |bytes, _| Response { cut: Some(10), silent: true, ..Response::ok(bytes) });
    let server = hub(&folder, &dead.url);
    let mut outputs = ["2", "20"].iter().map(|seconds| run(temp().path(), &server.url, seconds));
    let partial = outputs.find(|output| stderr(output).contains("was interrupted after 10 bytes"));
    let parts = ["model.safetensors", "timeout", "was kept; retry"];
    assert_fails(&partial.expect("an attempt that receives ten bytes"), 1, &parts);
}

#[test]
fn only_necessary_files_are_downloaded() {
    let (home, folder) = (temp(), temp());
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny("llama-gqa").join(name), folder.path().join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("onnx")).unwrap();
    for name in ["README.md", "pytorch_model.bin", "model.Q8_0.gguf", "onnx/model.gguf"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let cdn = cdn(folder.path(), whole);
    let hub = hub(folder.path(), &cdn.url);
    assert!(convert(home.path(), &hub.url).status.success());
    let paths: Vec<_> = hub.requests().into_iter().skip(1).map(|r| r.path).collect();
    let wanted = ["config.json", "model.safetensors"];
    assert_eq!(paths, wanted.map(|n| format!("/acme/tiny/resolve/{COMMIT}/{n}")));

    // After a failed conversion, nothing is downloaded again.
    let out = home.path().join("none/out.nano");
    let mut command = client(home.path(), &hub.url);
    command.args(["convert", "--model", "acme/tiny", "--out"]).arg(out);
    assert_fails(&command.output().unwrap(), 1, &["out.nano"]);
    assert!(convert(home.path(), &hub.url).status.success());
    assert_eq!(cdn.requests().len(), 1);
}

/// `tokenizer.model` is needed only without a `tokenizer.json`.
#[test]
fn an_older_tokenizer_is_downloaded_if_there_is_no_other() {
    let sentence_piece = Path::new("fuzz/corpus/sentencepiece/seed-spm");
    let json = fs::read("fuzz/corpus/tokenizer/seed-bytelevel").unwrap();
    let json = json.split(|&b| b == 0).next().unwrap();
    for (newer, text, ids) in [(false, "a!", "2,6"), (true, "a", "0")] {
        let (home, folder) = (temp(), temp());
        for name in ["config.json", "model.safetensors"] {
            fs::copy(tiny("llama-gqa").join(name), folder.path().join(name)).unwrap();
        }
        fs::copy(sentence_piece, folder.path().join("tokenizer.model")).unwrap();
        if newer {
            fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        }
        let cdn = cdn(folder.path(), whole);
        let hub = hub(folder.path(), &cdn.url);
        let mut command = client(home.path(), &hub.url);
        let output = command.args(["tokenize", "--model", "acme/tiny", "--text", text]).output();
        let output = output.unwrap();
        assert!(stdout(&output).trim().ends_with(ids), "{output:?}");
        let fetched = hub.requests().iter().any(|r| r.path.ends_with("/tokenizer.model"));
        assert_eq!(fetched, !newer);
    }
}

#[test]
fn revisions_are_requested_by_name() {
    let folder = tiny("llama-gqa");
    for (args, revision) in [
        (&["--model", "acme/tiny@v1.0"][..], "v1.0"),
        (&["--model", "acme/tiny", "--revision", "refs/pr/3"], "refs%2Fpr%2F3"),
        (&["--model", "acme/tiny", "--revision", COMMIT], COMMIT),
    ] {
        let cdn = cdn(&folder, whole);
        let (source, url) = (folder.clone(), cdn.url.clone());
        let server = Server::start(move |request| answer(&source, &url, revision, &request.path));
        let home = temp();
        let mut command = client(home.path(), &server.url);
        command.arg("convert").args(args).arg("--out").arg(home.path().join("out.nano"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
    let home = temp();
    let server =
        Server::start(|_| Response::status(404).header("X-Error-Code", "RevisionNotFound"));
    let mut command = client(home.path(), &server.url);
    command.args(["convert", "--model", "acme/tiny", "--revision", "v9", "--out", "x.nano"]);
    assert_fails(&command.output().unwrap(), 1, &["HTTP 404", "no revision \"v9\""]);
    let mut command = client(home.path(), &server.url);
    command.args(["convert", "--model", "smollm2", "--revision", "v9", "--out", "x.nano"]);
    assert_fails(&command.output().unwrap(), 1, &["not a hub model"]);
}

#[test]
fn a_colon_selects_a_gguf_file() {
    let (home, folder) = (temp(), temp());
    fs::create_dir(folder.path().join("q8")).unwrap();
    let names = ["a.gguf", "q8/b-00001-of-00002.gguf", "q8/b-00002-of-00002.gguf"];
    for name in names {
        fs::write(folder.path().join(name), b"GGUF and nothing else").unwrap();
    }
    let cdn = cdn(folder.path(), whole);
    let hub = hub(folder.path(), &cdn.url);
    let run = |model: &str| {
        let mut command = client(home.path(), &hub.url);
        command.args(["convert", "--model", model, "--out", "x.nano"]).output().unwrap()
    };
    let blobs = |cdn: &Server| cdn.requests().into_iter().map(|r| r.path).collect::<Vec<_>>();
    assert_fails(&run("acme/tiny:a.gguf"), 1, &["a.gguf", "GGUF"]);
    assert_eq!(blobs(&cdn), ["/blob/a.gguf"]);
    assert_fails(&run("acme/tiny:q8/b-00002-of-00002.gguf"), 1, &["b-00001-of-00002.gguf", "GGUF"]);
    // Both parts have the content of the first file, so the links point to its blob.
    assert_eq!(blobs(&cdn).len(), 3, "{:?}", blobs(&cdn));
    assert_fails(&run("acme/tiny:c.gguf"), 1, &["no file \"c.gguf\"", "a.gguf"]);
    assert_fails(&run("acme/tiny"), 1, &["GGUF weights (3 files)", "acme/tiny:a.gguf"]);
}

#[test]
fn pytorch_weights_are_the_fallback() {
    let (home, folder) = (temp(), temp());
    fs::copy(tiny("llama-gqa").join("config.json"), folder.path().join("config.json")).unwrap();
    let index = r#"{"weight_map":{"a":"x-1.bin","b":"x-2.bin"}}"#;
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    for name in ["x-1.bin", "x-2.bin", "x-3.bin"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let cdn = cdn(folder.path(), whole);
    let hub = hub(folder.path(), &cdn.url);
    assert_fails(&convert(home.path(), &hub.url), 1, &["x-1.bin", "damaged PyTorch file"]);
    let paths: Vec<_> = cdn.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/blob/x-1.bin", "/blob/x-2.bin"]);
}

#[test]
fn disk_space_is_checked_before_the_download() {
    let (home, folder) = (temp(), tiny("llama-gqa"));
    let source = folder.clone();
    let server = Server::start(move |request| {
        let mut response = answer(&source, "", "main", &request.path);
        if request.path.starts_with("/api") {
            let text = String::from_utf8(response.body).unwrap();
            let mut listing: serde_json::Value = serde_json::from_str(&text).unwrap();
            for entry in listing["siblings"].as_array_mut().unwrap() {
                if entry["rfilename"] == "model.safetensors" {
                    entry["lfs"]["size"] = 400_000_000_000_000_u64.into();
                }
            }
            response.body = listing.to_string().into_bytes();
        }
        response
    });
    let output = convert(home.path(), &server.url);
    assert_fails(&output, 1, &["400000000000000 bytes are needed", "available", "hf/hub"]);
}

#[test]
fn a_proxy_is_used() {
    let folder = tiny("llama-gqa");
    let cdn = cdn(&folder, whole);
    let hub = hub(&folder, &cdn.url);
    let (url, log) = common::server::proxy(&hub);
    let home = temp();
    let run = |endpoint: &str| {
        let mut command = client(home.path(), endpoint);
        command.env("HTTPS_PROXY", &url).env("NO_PROXY", "127.0.0.1").env("HF_TOKEN", "hf_secret");
        command.args(["convert", "--model", "acme/tiny", "--out"]);
        command.arg(home.path().join("out.nano")).output().unwrap()
    };
    // Only the proxy can reach the hub; the server of large files is reached directly.
    let output = run("http://hub.invalid");
    assert!(output.status.success(), "{}", stderr(&output));
    let tunnelled = log.lock().unwrap().clone();
    assert!(
        !tunnelled.is_empty() && tunnelled.iter().all(|r| r.starts_with("CONNECT hub.invalid:80 ")),
        "{tunnelled:?}"
    );
    assert!(!tunnelled.concat().contains("hf_secret"), "{tunnelled:?}");
    // With HTTPS, the proxy sees only the host name; this proxy tunnels to a server without TLS.
    let output = run("https://hub.invalid");
    assert!(
        output.status.success() && stderr(&output).contains("cannot reach the hub"),
        "{}",
        stderr(&output)
    );
    let last = log.lock().unwrap().last().cloned().unwrap();
    assert!(last.starts_with("CONNECT hub.invalid:443 "), "{last:?}");
}

#[test]
fn hostile_file_lists_do_not_leave_the_cache() {
    let make = |index: &str| {
        let folder = temp();
        fs::copy(tiny("llama-gqa").join("config.json"), folder.path().join("config.json")).unwrap();
        fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        folder
    };
    for (index, parts) in [
        (r#"{"weight_map":{"a":"../../../evil.safetensors"}}"#, "bare"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "bare"),
        (r#"{"weight_map":{"a":"x.bin"}}"#, "bare"),
        (r#"{"weight_map":{}}"#, "0 shards"),
        ("[", "index.json"),
    ] {
        let (home, folder) = (temp(), make(index));
        let hub = hub(folder.path(), "http://127.0.0.1:9");
        assert_fails(&convert(home.path(), &hub.url), 1, &["acme/tiny", parts]);
    }
    let home = temp();
    let listing = r#"{"sha":"../../../evil","siblings":[]}"#;
    let server = Server::start(move |_| Response::ok(listing));
    assert_fails(&convert(home.path(), &server.url), 1, &["invalid commit hash"]);
    let server = Server::start(|_| Response::ok("<html>log in</html>"));
    assert_fails(&convert(home.path(), &server.url), 1, &["file list"]);
    assert!(files(home.path()).is_empty());
}

#[test]
fn missing_weights_are_explained() {
    for (files, parts) in [
        (&["config.json", "model.Q8_0.gguf"][..], "acme/tiny:model.Q8_0.gguf"),
        (&["config.json", "model.onnx"], "neither safetensors nor PyTorch"),
        (&["README.md"], "no config.json"),
        (&["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter, not a model"),
        (&["model_index.json", "unet/config.json"], "is a diffusion pipeline"),
        (&["params.json", "consolidated.safetensors"], "its author's own format"),
    ] {
        let (home, folder) = (temp(), temp());
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        let hub = hub(folder.path(), "http://127.0.0.1:9");
        assert_fails(&convert(home.path(), &hub.url), 1, &[parts]);
    }
}
