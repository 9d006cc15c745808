//! The library as its users see it: everything here comes from the crate `nanoinfer`.

use std::path::Path;

use nanoinfer::errors::{EngineError, FormatError, HubError};
use nanoinfer::{
    ConvertOptions, Error, Fetch, Fetched, GenerateOptions, Loader, ModelRef, Published, Quant,
    StatusFn, Store,
};

/// "Downloads" a reference model.
struct Local;

impl Fetch for Local {
    fn fetch(
        &self,
        model: Published<'_>,
        _: &Path,
        _: &mut StatusFn<'_>,
    ) -> Result<Fetched, HubError> {
        let name = match model {
            Published::Hub(id) => id.repo(),
            Published::Pinned(pinned) => {
                return Err(HubError::NotCached { model: pinned.alias.into() });
            }
        };
        let path = tiny(name.rsplit('/').next().unwrap());
        Ok(Fetched { path: path.into(), version: "1".into() })
    }

    fn known_version(&self, _: Published<'_>) -> Result<Option<String>, HubError> {
        Ok(None)
    }
}

fn tiny(name: &str) -> String {
    format!("{}/tests/data/tiny/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_fetch_can_be_implemented() {
    let home = tempfile::tempdir().unwrap();
    let load = |name: &str| Loader::new(name).store(Store::at(home.path()));
    let mut session = load("acme/llama-gqa").fetch(&Local).session().unwrap();
    session.prompt_tokens(&[1, 2, 3]).unwrap();
    session.start(GenerateOptions { max_tokens: Some(4), ..GenerateOptions::default() }).unwrap();
    while session.next().unwrap().is_some() {}
    assert_eq!(session.generated().len(), 4);

    let entry = Store::at(home.path()).list().unwrap().remove(0);
    assert_eq!(load(&entry.name).path().unwrap(), entry.path);
    // A model's name alone is ambiguous, and a converted file has no revisions.
    for error in [load(&entry.model).path(), load(&entry.name).revision("main").path()] {
        assert!(matches!(error, Err(Error::Hub(HubError::Unknown { .. }))), "{error:?}");
    }
}

#[test]
fn a_model_can_be_converted_and_its_damage_matched() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("tiny.nano");
    let model = ModelRef::parse(&tiny("llama-gqa")).unwrap();
    let store = Store::at(home.path());
    store.convert(&model, &out, &ConvertOptions::new(Quant::F32), None, &mut |_| {}).unwrap();
    let open = || nanoinfer::open(out.to_str().unwrap());
    assert_eq!(open().unwrap().config().architecture, "llama");
    std::fs::write(&out, b"short").unwrap();
    let error = open().unwrap_err();
    let names_file = |e: &FormatError| e.to_string().contains("tiny.nano");
    assert!(matches!(&error, Error::Engine(EngineError::Format(e)) if names_file(e)), "{error:?}");
}
