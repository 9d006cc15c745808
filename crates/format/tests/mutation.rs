//! Random damage: nothing panics, and no file that differs in even one bit passes `verify`.

mod common;

use std::sync::LazyLock;

use common::*;
use nanoinfer_format::{NanoFile, SectionKind};
use proptest::prelude::*;
use proptest::sample::Index;

static SMALL: LazyLock<Image> = LazyLock::new(|| Scratch::new().small());
thread_local! {
    static SCRATCH: Scratch = Scratch::new();
}

/// A random change. Most target bytes other than weights and padding.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    HeaderByte(usize, u8),
    TableByte(Index, u8),
    /// Overwrites an aligned number in the tables, such as a size or offset.
    TableWord(Index, u64),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Cut(Index),
}

/// A change that keeps the length.
fn in_place() -> impl Strategy<Value = Change> {
    let word =
        prop_oneof![any::<u64>(), 0..256u64, any::<u64>().prop_map(|x| x << 32), Just(u64::MAX)];
    prop_oneof![
        1 => (any::<Index>(), 1..=255u8).prop_map(|(at, x)| Change::Byte(at, x)),
        1 => (0..256usize, 1..=255u8).prop_map(|(at, x)| Change::HeaderByte(at, x)),
        2 => (any::<Index>(), 1..=255u8).prop_map(|(at, x)| Change::TableByte(at, x)),
        2 => (any::<Index>(), word).prop_map(|(at, x)| Change::TableWord(at, x)),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => in_place(),
        1 => (any::<Index>(), 1..300usize).prop_map(|(at, n)| Change::Remove(at, n)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..300))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => any::<Index>().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let tables = SMALL.section(SectionKind::Data).end;
    let len = bytes.len().max(1);
    let in_tables = |at: &Index| tables + at.index(SMALL.0.len() - tables);
    match change {
        Change::Byte(at, x) => flip(bytes, at.index(len), *x),
        Change::HeaderByte(at, x) => flip(bytes, *at, *x),
        Change::TableByte(at, x) => flip(bytes, in_tables(at), *x),
        Change::TableWord(at, x) => {
            let at = in_tables(at) & !3;
            if let Some(word) = bytes.get_mut(at..at + 8) {
                word.copy_from_slice(&x.to_le_bytes());
            }
        }
        Change::Remove(at, n) => {
            let start = at.index(len).min(bytes.len());
            bytes.drain(start..(start + n).min(bytes.len()));
        }
        Change::Insert(at, new) => {
            let at = at.index(len).min(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Cut(at) => bytes.truncate(at.index(len)),
    }
}

fn flip(bytes: &mut [u8], at: usize, x: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= x;
    }
}

/// Exercises every view of an open file; none may panic.
fn exercise_views(file: &NanoFile) {
    for t in file.tensors() {
        assert_eq!(file.bytes(t).len() as u64, t.len);
        assert!(file.f32s(t).len() + file.u64s(t).len() <= file.bytes(t).len());
        assert_eq!(file.tensor(t.spec.role, t.spec.layer), Some(t));
    }
    for s in file.sections() {
        assert_eq!(file.section(s.kind).expect("listed").1.len() as u64, s.len);
    }
}

fn open(bytes: &[u8]) -> Option<NanoFile> {
    match SCRATCH.with(|scratch| scratch.open(bytes)) {
        Ok(file) => Some(file),
        Err(e) => {
            assert!(!e.to_string().contains(char::is_control), "{e:?}");
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damage_is_detected(changes in prop::collection::vec(any_change(), 1..4)) {
        let mut bytes = SMALL.0.clone();
        changes.iter().for_each(|c| apply(&mut bytes, c));
        if let Some(file) = open(&bytes) {
            exercise_views(&file);
            prop_assert_eq!(file.verify().is_ok(), bytes == SMALL.0);
        }
    }

    #[test]
    fn rehashed_damage_does_not_panic(changes in prop::collection::vec(in_place(), 1..4)) {
        let mut image = SMALL.clone();
        changes.iter().for_each(|c| apply(&mut image.0, c));
        // Rehashing needs the original location of the section table.
        let table = SECTION_TABLE..SECTION_COUNT + 4;
        image.put(SECTION_TABLE, &SMALL.0[table]);
        image.rehash();
        if let Some(file) = open(&image.0) {
            exercise_views(&file);
            drop(file.verify());
        }
    }

    #[test]
    fn json_does_not_panic(at in any::<Index>(), new in "[ -~]{0,12}", config in any::<bool>()) {
        let kind = if config { SectionKind::Config } else { SectionKind::Generation };
        let mut json = SMALL.0[SMALL.section(kind)].to_vec();
        let at = at.index(json.len());
        let end = (at + new.len()).min(json.len());
        json.splice(at..end, new.bytes());
        let mut image = SMALL.clone();
        image.replace(kind, &json);
        if let Some(file) = open(&image.0) {
            exercise_views(&file);
            file.verify().expect("it was rehashed");
        }
    }
}
