//! Stored prompts lead to the same answers; damaged entries and those of other models are never used.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{data, model};
use nanoinfer_engine::{
    Engine, EngineOptions, Event, GenerateOptions, KvType, Model, PrefixStore, Session,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ConvertOptions, ModelRef, Pip, Store};

fn session(kv: KvType, folder: &Path, limit: u64) -> Session {
    let options = EngineOptions {
        ctx: Some(400),
        kv: Some(kv),
        threads: Some(1),
        ..EngineOptions::default()
    };
    let engine = Engine::new(model(&data("tiny/llama-gqa"), Quant::Q8), &options).unwrap();
    let mut session = Session::new(engine).unwrap();
    session.set_store(Some(PrefixStore::open(folder, limit).unwrap()));
    session
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i + 5) % 320).collect()
}

/// The answer, and the number of reused prompt tokens.
fn generate(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, usize) {
    session.prompt_tokens(prompt).unwrap();
    session.start(GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() }).unwrap();
    while session.next().unwrap().is_some() {}
    session.remember();
    (session.generated().to_vec(), session.stats().reused_tokens)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

const LIMIT: u64 = 1 << 30;

#[test]
fn a_later_session_reuses_what_an_earlier_one_computed() {
    for kv in KvType::ALL {
        let folder = tempfile::tempdir().unwrap();
        let first = generate(&mut session(kv, folder.path(), LIMIT), &prompt(200));
        assert_eq!(first.1, 0);
        let mut second = session(kv, folder.path(), LIMIT);
        assert_eq!(generate(&mut second, &prompt(200)), (first.0.clone(), 199), "{kv:?}");
        // Reuse is exact to the token, even in the middle of a block.
        let other = [&prompt(150)[..], &[9, 9, 9]].concat();
        let elsewhere = tempfile::tempdir().unwrap();
        let want = generate(&mut session(kv, elsewhere.path(), LIMIT), &other).0;
        assert_eq!(generate(&mut session(kv, folder.path(), LIMIT), &other), (want, 150));
        assert!(second.take_notes().is_empty());
        // A continued conversation replaces its earlier entry.
        let before = files(folder.path()).len();
        let longer = [&prompt(200)[..], &first.0, &prompt(40)].concat();
        assert_eq!(generate(&mut session(kv, folder.path(), LIMIT), &longer).1, 211);
        assert_eq!(files(folder.path()).len(), before);
    }
}

#[test]
fn a_damaged_entry_is_reported_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let (want, _) = generate(&mut session(KvType::Q8, folder.path(), LIMIT), &prompt(200));
    let file = files(folder.path()).remove(0);
    let good = fs::read(&file).unwrap();
    let offsets = [0, 9, 12, 20, 48, 60, 70, 72, 76, 85, 100, 96 + 4 * 211 + 5];
    for at in offsets.into_iter().chain((1000..good.len()).step_by(good.len() / 9)) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        let mut session = session(KvType::Q8, folder.path(), LIMIT);
        session.prompt_tokens(&prompt(200)).unwrap();
        let (notes, held) = (session.take_notes(), session.cached());
        // A changed token only shortens the match.
        let tokens = (96..96 + 4 * 211).contains(&at);
        assert!(held == 0 && (tokens || notes.len() == 1), "byte {at}: {held}, {notes:?}");
        assert!(notes.iter().all(|note| note.contains("ignored")), "{notes:?}");
        assert_eq!(generate(&mut session, &prompt(200)).0, want);
    }
    for len in [0, 50, 500, good.len() / 2, good.len() - 1] {
        fs::write(&file, &good[..len]).unwrap();
        let mut session = session(KvType::Q8, folder.path(), LIMIT);
        session.prompt_tokens(&prompt(200)).unwrap();
        assert!(session.cached() == 0 && session.take_notes().len() == 1, "{len} bytes");
    }
}

#[test]
fn an_entry_of_another_model_or_cache_type_is_not_used() {
    for other in [KvType::F16, KvType::Q4] {
        let folder = tempfile::tempdir().unwrap();
        generate(&mut session(KvType::Q8, folder.path(), LIMIT), &prompt(200));
        assert_eq!(generate(&mut session(other, folder.path(), LIMIT), &prompt(200)).1, 0);
        // With a matching file name, an entry is found but rejected.
        let names = files(folder.path());
        assert_eq!(names.len(), 2);
        for (from, to) in [(0, 1), (1, 0)] {
            let kept = fs::read(&names[to]).unwrap();
            fs::copy(&names[from], &names[to]).unwrap();
            let notes: Vec<String> = [KvType::Q8, other]
                .into_iter()
                .flat_map(|kv| {
                    let mut session = session(kv, folder.path(), LIMIT);
                    session.prompt_tokens(&prompt(200)).unwrap();
                    session.take_notes()
                })
                .collect();
            assert!(notes.len() == 1 && notes[0].contains("a different cache type"), "{notes:?}");
            fs::write(&names[to], kept).unwrap();
        }
    }
}

#[test]
fn the_folder_stays_small_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = |folder: &Path| -> u64 {
        files(folder).iter().map(|f| fs::metadata(f).unwrap().len()).sum()
    };
    generate(&mut session(KvType::Q8, folder.path(), LIMIT), &prompt(200));
    let one = sizes(folder.path());
    let limit = 2 * one + one / 2;
    for first in 1..5 {
        let prompt = [&[first][..], &prompt(200)].concat();
        generate(&mut session(KvType::Q8, folder.path(), limit), &prompt);
        assert!(sizes(folder.path()) <= limit);
        // The most recently used entry is kept.
        assert_eq!(generate(&mut session(KvType::Q8, folder.path(), limit), &prompt).1, 200);
    }
    assert_eq!(files(folder.path()).len(), 2);
    let mut small = session(KvType::Q8, folder.path(), 1000);
    generate(&mut small, &[&[77][..], &prompt(200)].concat());
    assert!(small.take_notes().iter().any(|n| n.contains("limited to")));
    #[cfg(unix)]
    for file in files(folder.path()) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_baked_prompt_is_reused() {
    let target = ModelRef::parse("smollm2").unwrap();
    let plain =
        Store::open().unwrap().resolve(&target, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("baked.nano");
    let text = "You are a terse assistant. ".repeat(12);
    let mut options = ConvertOptions::new(Quant::Q8);
    options.prompt = Some(text.trim().to_owned());
    let store = Store::open().unwrap();
    store.convert(&target, &out, &options, Some(&Pip), &mut |_| {}).unwrap();

    let answer = |path: &Path, text: &str| {
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        let engine = Engine::new(Model::open(path).unwrap(), &options).unwrap();
        let mut session = Session::new(engine).unwrap();
        let messages = [("system", text), ("user", "Hi")]
            .map(|(role, text)| nanoinfer_engine::Message::new(role, text));
        session.prompt_chat(&messages).unwrap();
        session
            .start(GenerateOptions { max_tokens: Some(6), ..GenerateOptions::default() })
            .unwrap();
        let mut ids = Vec::new();
        while let Some(event) = session.next().unwrap() {
            if let Event::Token { id, .. } = event {
                ids.push(id);
            }
        }
        assert!(session.take_notes().is_empty());
        (ids, session.stats().reused_tokens, session.stats().prompt_tokens)
    };
    let baked = Model::open(&out).unwrap();
    assert_eq!(baked.baked_prompt().as_deref(), Some(text.trim()));
    assert_eq!(
        baked.file().header().content_id,
        Model::open(&plain).unwrap().file().header().content_id
    );
    let (want, reused, _) = answer(&plain, text.trim());
    assert_eq!(reused, 0);
    let (ids, reused, all) = answer(&out, text.trim());
    assert_eq!(ids, want);
    assert!(reused > 60 && all - reused < 12, "{reused} of {all}");
    assert!(answer(&out, "Another.").1 < 8);
}
