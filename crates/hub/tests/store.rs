//! Resolves names to files without a network, both with a fake [`Fetch`] and without any.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nanoinfer_hub::{
    ConvertOptions, Error, Fetch, Fetched, ModelRef, Precision, Published, Quant, Status, StatusFn,
    Store,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The folder of a tiny model.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa")
}

/// Finds every model at this path.
struct At(PathBuf);

impl Fetch for At {
    fn fetch(&self, _: Published<'_>, _: &Path, _: &mut StatusFn<'_>) -> Result<Fetched, Error> {
        Ok(Fetched { path: self.0.clone(), version: "1".into() })
    }
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

    // A new version replaces the earlier one, once it is converted.
    fetch.version.set(Some("second"));
    let second = resolve(&mut |status| {
        assert!(first.exists() || !matches!(status, Status::Bytes { .. }));
    });
    assert_ne!(second, first);
    assert_eq!((fetch.calls.get(), first.exists()), (2, false));

    let model = |entry: nanoinfer_hub::Entry| (entry.model, entry.kind);
    let listed: Vec<_> = store.list().unwrap().into_iter().map(model).collect();
    let expected = |kind: &str| ("acme--tiny".to_owned(), kind.to_owned());
    assert_eq!(listed.iter().filter(|e| **e == expected("q8")).count(), 1, "{listed:?}");
    assert_eq!(listed.iter().filter(|e| **e == expected("source")).count(), 2, "{listed:?}");
    assert_eq!(store.remove("acme/tiny").unwrap().len(), 3);
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

/// A copy of the tiny model in a folder with this name.
fn model_in(folder: &Path, name: &str) -> PathBuf {
    let model = folder.join(name);
    fs::create_dir_all(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny().join(name), model.join(name)).unwrap();
    }
    model
}

fn resolved(store: &Store, model: &Path, quant: Quant) -> PathBuf {
    store.resolve(&ModelRef::parse(model).unwrap(), quant, None, &mut |_| {}).unwrap()
}

fn days_ago(days: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60)
}

#[test]
fn a_changed_folder_replaces_only_its_own_conversion() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path().join("cache"));
    let (one, two) = (model_in(root.path(), "a/tiny"), model_in(root.path(), "b/tiny"));
    let first = resolved(&store, &one, Quant::Q8);
    let others = [resolved(&store, &one, Quant::F32), resolved(&store, &two, Quant::Q8)];
    fs::write(one.join("generation_config.json"), r#"{"eos_token_id": 1}"#).unwrap();
    let second = resolved(&store, &one, Quant::Q8);
    assert!(first != second && !first.exists());
    assert!(others.iter().all(|path| path.exists()));
    assert_eq!(fs::read_dir(root.path().join("cache/uses")).unwrap().count(), 3);
    let sources = |path: &PathBuf| {
        let entry = store.list().unwrap().into_iter().find(|e| e.path == *path).unwrap();
        entry.source
    };
    let full = |path: &Path| path.canonicalize().unwrap().to_str().unwrap().to_owned();
    assert_eq!(sources(&second), full(&one));
    assert_eq!(sources(&others[1]), full(&two));
}

#[test]
fn entries_are_removed_by_what_is_listed_by_path_or_by_last_use() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path().join("cache"));
    let (one, two) = (model_in(root.path(), "a/one"), model_in(root.path(), "b/two"));
    let convert = || [resolved(&store, &one, Quant::Q8), resolved(&store, &two, Quant::Q8)];
    let entry = |path: &Path| store.list().unwrap().into_iter().find(|e| e.path == path).unwrap();
    let removed = |name: &str| {
        let [first, second] = convert();
        let removed = store.remove(name).unwrap();
        assert_eq!(removed.len(), 1, "{name}");
        assert!(removed[0].path == first && !first.exists() && second.exists(), "{name}");
    };
    let [first, _] = convert();
    let listed = entry(&first);
    for name in [
        &listed.name,
        &listed.model,
        &listed.source,
        first.to_str().unwrap(),
        one.to_str().unwrap(),
        &format!("{}/../one", one.display()),
    ] {
        removed(name);
    }
    // A use that cannot be recorded does not matter.
    let [first, _] = convert();
    fs::remove_dir_all(root.path().join("cache/uses")).unwrap();
    fs::write(root.path().join("cache/uses"), "").unwrap();
    assert_eq!(resolved(&store, &one, Quant::Q8), first);
    fs::remove_file(root.path().join("cache/uses")).unwrap();
    // A source that no longer exists is still known by its path.
    convert();
    fs::rename(&one, root.path().join("gone")).unwrap();
    assert_eq!(store.remove(&one).unwrap().len(), 1);
    assert!(matches!(store.remove(&one), Err(Error::NoEntry { .. })));
    fs::rename(root.path().join("gone"), &one).unwrap();

    // Using a model is recorded, whatever the age of the file.
    let [first, second] = convert();
    let touch = |path: &Path, time| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    let use_of = |nano: &Path| {
        let name = nano.with_extension("json").file_name().unwrap().to_owned();
        root.path().join("cache/uses").join(name)
    };
    for path in [&first, &second] {
        touch(path, days_ago(100));
        touch(&use_of(path), days_ago(50));
    }
    let age = |seconds: u64| {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        SystemTime::now().duration_since(then).unwrap().as_secs() / (24 * 60 * 60)
    };
    assert_eq!((age(entry(&first).made), age(entry(&first).used)), (100, 50));
    assert_eq!(resolved(&store, &second, Quant::Q8), second);
    assert_eq!(resolved(&store, &two, Quant::Q8), second);
    assert_eq!((age(entry(&second).made), age(entry(&second).used)), (100, 0));
    let days = |n: u64| Duration::from_secs(n * 24 * 60 * 60);
    assert!(store.remove_unused(days(60)).unwrap().is_empty());
    let removed = store.remove_unused(days(40)).unwrap();
    assert!(removed.len() == 1 && removed[0].path == first && second.exists());
    assert!(!use_of(&first).exists());
}

/// Entries of versions that recorded no use are known by their provenance.
#[test]
fn entries_without_a_record_have_a_source_and_a_last_use() {
    let root = tempfile::tempdir().unwrap();
    let (store, fetch) = (Store::at(root.path()), Copying::default());
    let resolve = || store.resolve(&hub_model(), Quant::Q8, Some(&fetch), &mut |_| {}).unwrap();
    let path = resolve();
    fs::remove_dir_all(root.path().join("uses")).unwrap();
    let entry = store.list().unwrap().into_iter().find(|e| e.path == path).unwrap();
    assert_eq!((entry.source.as_str(), entry.used), ("acme/tiny", entry.made));
    // The next version replaces such an entry too.
    fetch.version.set(Some("second"));
    assert!(resolve() != path && !path.exists());
}

/// `acme/tiny` may be a folder's path or a hub id; as for opening a model, the path comes first.
#[test]
fn removing_a_path_keeps_the_hub_model_of_that_name() {
    const CHILD: &str = "NANOINFER_TEST_REMOVE";
    if let Some(root) = std::env::var_os(CHILD) {
        std::env::set_current_dir(&root).unwrap();
        let (store, fetch) = (Store::at("cache"), Copying::default());
        let hub = store.resolve(&hub_model(), Quant::Q8, Some(&fetch), &mut |_| {}).unwrap();
        let folder = model_in(Path::new(""), "acme/tiny");
        let local = resolved(&store, &folder, Quant::Q8);
        let removed = store.remove("acme/tiny").unwrap();
        assert!(removed.len() == 1 && removed[0].path == local && hub.exists());
        fs::remove_dir_all(folder).unwrap();
        assert!(store.remove("acme/tiny").unwrap().iter().any(|e| e.path == hub));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "removing_a_path_keeps_the_hub_model_of_that_name"]);
    let output = child.env(CHILD, root.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path().join("cache"));
    let name = |bytes: &[u8]| root.path().join(std::ffi::OsStr::from_bytes(bytes));
    let models = [name(b"m-\xff"), name(b"m-\xfe")];
    for model in &models {
        fs::rename(model_in(root.path(), "m"), model).unwrap();
    }
    let made = models.each_ref().map(|model| resolved(&store, model, Quant::Q8));
    assert_ne!(made[0], made[1]);
    assert_eq!(store.remove(&models[0]).unwrap()[0].path, made[0]);
    assert!(made[1].exists());
}

/// The cache's folder is a file, so nothing can be created in it, even by root.
#[test]
fn a_cache_that_cannot_be_written_names_the_way_out() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cache"), "").unwrap();
    let store = Store::at(root.path().join("cache"));
    let model = ModelRef::parse(&tiny()).unwrap();
    let error = store.resolve(&model, Quant::Q8, None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Cache { .. }), "{error}");
    assert!(error.to_string().contains("set NANOINFER_HOME to a writable folder"), "{error}");
    // A conversion to a file of one's own needs no cache.
    let options = ConvertOptions::new(Quant::Q8);
    let out = root.path().join("out.nano");
    store.convert(&model, &out, &options, None, &mut |_| {}).unwrap();
    let fetched = root.path().join("fetched.nano");
    store.convert(&hub_model(), &fetched, &options, Some(&At(tiny())), &mut |_| {}).unwrap();
}

#[test]
fn errors_name_the_model_and_not_its_cached_files() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    let folder = model_in(root.path(), "snapshot");
    fs::write(folder.join("config.json"), "{").unwrap();
    fs::write(folder.join("m.gguf"), "GGUF").unwrap();
    for (name, path, expected) in [
        ("acme/tiny", folder.clone(), "acme/tiny/config.json: is not a JSON object"),
        ("acme/tiny:m.gguf", folder.join("m.gguf"), "acme/tiny/m.gguf: not a GGUF file"),
    ] {
        let model = ModelRef::parse(name).unwrap();
        let fetch = At(path);
        let error = store.resolve(&model, Quant::Q8, Some(&fetch), &mut |_| {}).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

/// The models of a folder of the hub's cache are found by path, and named after the model.
#[test]
fn a_folder_of_the_hub_cache_is_a_model() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path().join("cache"));
    let repo = root.path().join("models--acme--tiny");
    model_in(&repo, &format!("snapshots/{COMMIT}"));
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let first = resolved(&store, &repo, Quant::Q8);
    assert!(
        first.file_name().unwrap().to_str().unwrap().starts_with("acme--tiny-q8-"),
        "{first:?}"
    );
    assert_eq!(resolved(&store, &repo.join("snapshots"), Quant::Q8), first);
    // Another commit replaces it.
    let next = COMMIT.replace('0', "f");
    model_in(&repo, &format!("snapshots/{next}"));
    fs::write(repo.join("refs/main"), next).unwrap();
    assert!(resolved(&store, &repo, Quant::Q8) != first && !first.exists());
}

#[test]
fn auto_is_the_most_precise_of_what_is_cached() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    let model = ModelRef::parse(tiny().to_str().unwrap()).unwrap();
    let resolve = |precision: &str| {
        let precision: Precision = precision.parse().unwrap();
        store.resolve(&model, precision, None, &mut |_| {}).unwrap()
    };
    // f32 is for comparisons only, so that auto converts to q8; the others come in ascending order.
    let mut auto = resolve("f32");
    for precision in ["q3", "4.50", "q5", "q8"] {
        let made = resolve(precision);
        assert!(made.to_str().unwrap().contains(&format!("-{precision}-")), "{made:?}");
        assert!(made != auto && resolve("auto") == made, "{precision}");
        auto = made;
    }
    fs::remove_file(resolve("q8")).unwrap();
    assert!(resolve("auto") == resolve("q5") && resolve("auto").exists());
}

#[test]
fn a_file_has_one_precision() {
    let root = tempfile::tempdir().unwrap();
    let (store, out) = (Store::at(root.path()), root.path().join("out.nano"));
    let model = ModelRef::parse(tiny().to_str().unwrap()).unwrap();
    let asked: Precision = "4.5".parse().unwrap();
    store.convert(&model, &out, &ConvertOptions::new(asked), None, &mut |_| {}).unwrap();
    let file = ModelRef::parse(out.to_str().unwrap()).unwrap();
    let resolve = |precision: Precision| store.resolve(&file, precision, None, &mut |_| {});
    assert_eq!(resolve(asked).unwrap(), out);
    assert_eq!(resolve(Precision::Auto).unwrap(), out);
    let error = resolve(Quant::Q4.into()).unwrap_err().to_string();
    assert!(error.contains("out.nano: has the precision 4.50, not q4; "), "{error}");
}
