//! Resolves names to files without a network, both with a fake [`Fetch`] and without any.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nanoinfer_hub::{
    ConvertOptions, Error, Fetch, Fetched, ModelRef, Published, Quant, Status, StatusFn, Store,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The folder of a tiny model.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa")
}

/// Copies a model into the folder reserved for it.
#[derive(Default)]
struct Copying {
    version: Cell<Option<&'static str>>,
    calls: Cell<usize>,
}

impl Fetch for Copying {
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        _: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error> {
        assert!(matches!(model, Published::Hub(id) if id.repo() == "acme/tiny"));
        self.calls.set(self.calls.get() + 1);
        fs::create_dir_all(folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(tiny().join(name), folder.join(name)).unwrap();
        }
        let version = self.version.get().unwrap_or("first");
        self.version.set(Some(version));
        Ok(Fetched { path: folder.into(), version: version.into() })
    }

    fn known_version(&self, _: Published<'_>) -> Result<Option<String>, Error> {
        Ok(self.version.get().map(str::to_owned))
    }
}

fn hub_model() -> ModelRef {
    ModelRef::parse("acme/tiny").unwrap()
}

#[test]
fn a_version_is_fetched_and_converted_once() {
    let root = tempfile::tempdir().unwrap();
    let (store, fetch) = (Store::at(root.path()), Copying::default());
    let resolve = |status: &mut StatusFn<'_>| {
        store.resolve(&hub_model(), Quant::Q8, Some(&fetch), status).unwrap()
    };
    let mut messages = Vec::new();
    let first = resolve(&mut |status| {
        if let Status::Message(message) = status {
            messages.push(message.to_owned());
        }
    });
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("converting acme/tiny to q8"), "{messages:?}");
    assert!(messages[1].contains("cached as"), "{messages:?}");

    let again = resolve(&mut |status| panic!("{status:?}"));
    assert_eq!((&again, fetch.calls.get()), (&first, 1));

    fetch.version.set(Some("second"));
    assert_ne!(resolve(&mut |_| {}), first);
    assert_eq!(fetch.calls.get(), 2);

    let model = |entry: nanoinfer_hub::Entry| (entry.model, entry.kind);
    let listed: Vec<_> = store.list().unwrap().into_iter().map(model).collect();
    let expected = |kind: &str| ("acme--tiny".to_owned(), kind.to_owned());
    assert_eq!(listed.iter().filter(|e| **e == expected("q8")).count(), 2, "{listed:?}");
    assert_eq!(listed.iter().filter(|e| **e == expected("source")).count(), 2, "{listed:?}");
    assert_eq!(store.remove("acme/tiny").unwrap().len(), 4);
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.remove("acme/tiny"), Err(Error::NoEntry { .. })));
}

#[test]
fn a_conversion_has_a_self_check() {
    let root = tempfile::tempdir().unwrap();
    let (store, out) = (Store::at(root.path()), root.path().join("out.nano"));
    let model = ModelRef::parse(tiny().to_str().unwrap()).unwrap();
    let options = ConvertOptions::new(Quant::Q8);
    store.convert(&model, &out, &options, None, &mut |_| {}).unwrap();
    let replay = nanoinfer_engine::SelfCheck::replay(&out, None).unwrap();
    assert!(matches!(replay, nanoinfer_engine::Replay::Same(n) if n > 0));
    let nano = ModelRef::parse(out.to_str().unwrap()).unwrap();
    let error = store.convert(&nano, &out, &options, None, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is already a .nano file"), "{error}");
    assert_eq!(store.resolve(&nano, Quant::Q8, None, &mut |_| {}).unwrap(), out);
}

#[test]
fn without_fetch_a_model_must_be_cached() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    for name in ["acme/no-such-model", "acme/no-such-model:a.gguf", "smollm2"] {
        let model = ModelRef::parse(name).unwrap();
        let error = store.resolve(&model, Quant::Q8, None, &mut |_| {}).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::NotCached { .. }), "{message}");
        assert!(message.contains(name) && message.contains("pass a `Fetch`"), "{message}");
    }
}

/// A test cannot change its own environment, so it runs itself in a child process with a different
/// one.
#[test]
fn without_fetch_the_hugging_face_cache_is_used() {
    const CHILD: &str = "NANOINFER_TEST_ROOT";
    if let Some(root) = std::env::var_os(CHILD) {
        let store = Store::at(root);
        let resolve = || store.resolve(&hub_model(), Quant::Q8, None, &mut |_| {}).unwrap();
        let path = resolve();
        // After the conversion, the ref alone is enough.
        let repo = PathBuf::from(std::env::var_os("HF_HOME").unwrap());
        fs::remove_dir_all(repo.join("hub/models--acme--tiny/snapshots")).unwrap();
        assert_eq!(resolve(), path);
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let repo = home.path().join("hub/models--acme--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny().join(name), snapshot.join(name)).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "without_fetch_the_hugging_face_cache_is_used"]);
    child.env(CHILD, home.path().join("nanoinfer")).env("HF_HOME", home.path());
    let output = child.env_remove("HF_HUB_CACHE").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let made = Store::at(home.path().join("nanoinfer")).list().unwrap();
    assert_eq!(made.len(), 1, "{made:?}");
    let bytes = fs::read(&made[0].path).unwrap();
    let origin = format!("acme/tiny@{COMMIT}");
    assert!(bytes.windows(origin.len()).any(|w| w == origin.as_bytes()), "no provenance");
}
