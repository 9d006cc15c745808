//! `--model org/name` against a stand-in for the hub.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use common::server::{Response, Server};
use common::{assert_fails, files, json, nanoinfer, stderr, temp, tiny};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Serves a folder as `acme/tiny`, weights by way of `cdn`, as the hub does.
fn hub(folder: &Path, cdn: &str) -> Server {
    let (folder, cdn) = (folder.to_path_buf(), cdn.to_owned());
    Server::start(move |request| {
        if request.path == "/api/models/acme/tiny/revision/main" {
            let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name());
            let siblings: Vec<_> =
                names.map(|n| serde_json::json!({ "rfilename": n.to_str() })).collect();
            let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
            return Response::ok(listing.to_string());
        }
        let Some(name) = request.path.strip_prefix(&format!("/acme/tiny/resolve/{COMMIT}/")) else {
            return Response::status(404);
        };
        let bytes = fs::read(folder.join(name)).unwrap();
        if name.ends_with(".safetensors") {
            Response::status(302)
                .header("Location", format!("{cdn}/blob/{name}"))
                .header("X-Linked-Etag", format!("\"{}\"", sha256(&bytes)))
                .header("X-Linked-Size", bytes.len().to_string())
        } else {
            Response::ok(bytes).header("ETag", format!("W/\"etag-of-{name}\""))
        }
    })
}

/// Where the hub sends clients for large files.
fn cdn(folder: &Path, answer: impl Fn(Vec<u8>) -> Response + Send + 'static) -> Server {
    let folder = folder.to_path_buf();
    Server::start(move |request| {
        answer(fs::read(folder.join(request.path.strip_prefix("/blob/").unwrap())).unwrap())
    })
}

/// The binary with everything it may write below `home`.
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
fn a_sharded_model_is_fetched_converted_and_found_again() {
    let (home, folder) = (temp(), tiny("llama-sharded-f16"));
    let cdn = cdn(&folder, Response::ok);
    let hub = hub(&folder, &cdn.url);
    let mut logits = client(home.path(), &hub.url);
    logits.env("HF_TOKEN", "hf_secret").args(["logits", "--model", "acme/tiny", "--tokens", "1,2"]);
    logits.arg("--out").arg(home.path().join("a.safetensors"));
    let output = logits.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("downloading acme/tiny"), "{}", stderr(&output));

    // The token went to the hub with every request, and to no other host.
    assert!(hub.requests().iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(cdn.requests().len(), 4);
    assert!(cdn.requests().iter().all(|r| r.authorization.is_none()));

    // Once converted, nobody is asked again.
    let asked = hub.requests().len();
    let again = logits.output().unwrap();
    assert!(again.status.success() && stderr(&again).is_empty(), "{}", stderr(&again));
    assert_eq!(hub.requests().len(), asked);

    // It is the model that the folder holds.
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
fn the_cache_is_in_the_layout_of_hugging_face_and_works_offline() {
    let (home, folder) = (temp(), tiny("llama-gqa"));
    let cdn = cdn(&folder, Response::ok);
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
        assert!(stderr(&output).contains("using what is here"), "{}", stderr(&output));
    }
}

#[test]
fn refusals_are_explained() {
    for (status, token, says) in [
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
        assert_fails(&command.output().unwrap(), 1, says);
        assert!(files(home.path()).is_empty(), "{status}: {:?}", files(home.path()));
    }
}

#[test]
fn an_unreachable_hub_is_explained() {
    let home = temp();
    let output = convert(home.path(), "http://127.0.0.1:9"); // nobody listens on "discard"
    assert_fails(&output, 1, &["acme/tiny", "cannot reach http://127.0.0.1:9", "--model"]);
    assert!(files(home.path()).is_empty());
    assert_fails(&convert(home.path(), "ftp://x"), 1, &["HF_ENDPOINT", "http"]);
}

#[test]
fn damaged_downloads_leave_nothing() {
    let folder = tiny("llama-gqa");
    let wrong = |mut bytes: Vec<u8>| {
        bytes[1000] ^= 1;
        Response::ok(bytes)
    };
    let cut = |bytes: Vec<u8>| Response { cut: Some(bytes.len() / 2), ..Response::ok(bytes) };
    let short = |bytes: Vec<u8>| Response::ok(&bytes[..bytes.len() / 2]);
    let cases: [(Server, &str); 3] = [
        (cdn(&folder, wrong), "SHA-256"),
        (cdn(&folder, cut), "broke off"),
        (cdn(&folder, short), "bytes arrived"),
    ];
    for (cdn, says) in cases {
        let home = temp();
        let hub = hub(&folder, &cdn.url);
        assert_fails(&convert(home.path(), &hub.url), 1, &["model.safetensors", says]);
        let weights = fs::metadata(folder.join("model.safetensors")).unwrap().len();
        let left = files(home.path());
        assert!(left.iter().all(|f| fs::metadata(f).unwrap().len() < weights / 4), "{left:?}");
    }
}

#[test]
fn hostile_file_lists_do_not_leave_the_cache() {
    let make = |index: &str| {
        let folder = temp();
        fs::copy(tiny("llama-gqa").join("config.json"), folder.path().join("config.json")).unwrap();
        fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        folder
    };
    for (index, says) in [
        (r#"{"weight_map":{"a":"../../../evil.safetensors"}}"#, "bare"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "bare"),
        (r#"{"weight_map":{"a":"x.bin"}}"#, "bare"),
        (r#"{"weight_map":{}}"#, "0 shards"),
        ("[", "index.json"),
    ] {
        let (home, folder) = (temp(), make(index));
        let hub = hub(folder.path(), "http://127.0.0.1:9");
        assert_fails(&convert(home.path(), &hub.url), 1, &["acme/tiny", says]);
    }
    let home = temp();
    let listing = r#"{"sha":"../../../evil","siblings":[]}"#;
    let server = Server::start(move |_| Response::ok(listing));
    assert_fails(&convert(home.path(), &server.url), 1, &["impossible commit"]);
    let server = Server::start(|_| Response::ok("<html>log in</html>"));
    assert_fails(&convert(home.path(), &server.url), 1, &["file list"]);
    assert!(files(home.path()).is_empty());
}

#[test]
fn a_model_without_safetensors_says_what_it_has() {
    for (files, says) in [
        (&["config.json", "model.Q8_0.gguf"][..], "model.Q8_0.gguf"),
        (&["config.json", "pytorch_model.bin"], "no safetensors"),
        (&["README.md"], "no config.json"),
    ] {
        let (home, folder) = (temp(), temp());
        for name in files {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        let hub = hub(folder.path(), "http://127.0.0.1:9");
        assert_fails(&convert(home.path(), &hub.url), 1, &[says]);
    }
}
