//! Keeps the values of a template small, so that no single step of it can take for ever.
//!
//! The template engine meters steps: an instruction costs fuel, and so does each byte or item it
//! makes. It does not meter what is inside: comparing two lists is one step, however many lists
//! they hold. A list that holds another twice, which holds a third twice, and so on, is small in
//! memory and has 2⁶⁰ items after sixty lines:
//!
//! ```jinja
//! {% set a = ['x'] %}{% set a = [a, a] %}{% set a = [a, a] %} … {% if a == b %}
//! ```
//!
//! Comparing, sorting, joining, hashing and printing all walk through every path. Rather than to
//! find and meter each of them, [`instrument`] has every value weighed when it is made: behind each
//! instruction that can make a container, it inserts a call of a filter that counts the items of
//! the result as if they were written out, and refuses more than a limit. So no step takes longer
//! than the limit allows, and fuel bounds the number of steps.
//!
//! This needs the engine's compiled form, which it exposes without a promise of stability; hence
//! the exact version in `Cargo.toml`.

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions};
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

/// Names that no template can write, as they are not identifiers.
const WEIGH: &str = "#weigh";
const WEIGH_HELD: &str = "#weigh-held";

/// Deepest nesting. Far more than any conversation, and no danger to the stack.
const DEEPEST: usize = 100;

/// Bytes of text that count as one item.
pub(crate) const BYTES_PER_ITEM: usize = 64;

/// Adds the filters that [`instrument`] has called: no container of `limit` items or more.
pub(crate) fn install(env: &mut Environment<'_>, limit: usize) {
    env.add_filter(WEIGH, move |value: Value| weighed(value, limit));
    env.add_filter(WEIGH_HELD, move |value: Value| {
        may_be_held(&value)?;
        weighed(value, limit)
    });
}

/// Has every value of the template weighed that it makes.
pub(crate) fn instrument(template: &mut CompiledTemplate<'_>) {
    let all = template.blocks.values_mut().chain([&mut template.instructions]);
    all.for_each(|instructions| *instructions = instrumented(instructions));
}

fn instrumented<'s>(from: &Instructions<'s>) -> Instructions<'s> {
    let code: Vec<&Instruction<'s>> = (0..).map_while(|i| from.get(i)).collect();
    // Where each instruction goes, and where the end does: jumps may lead there.
    let mut place = Vec::with_capacity(code.len() + 1);
    let mut next = 0;
    for instruction in &code {
        place.push(next);
        next += 1 + before(instruction).len() as u32 + after(instruction).len() as u32;
    }
    place.push(next);
    let mut to = Instructions::new(from.name(), from.source());
    for (i, instruction) in (0..).zip(code) {
        let mut moved = instruction.clone();
        if let Some(target) = target(&mut moved) {
            *target = place[*target as usize];
        }
        let line = from.get_line(i).unwrap_or(0) as u16;
        for one in before(instruction).iter().chain([&moved]).chain(after(instruction)) {
            to.add_with_line(one.clone(), line);
        }
    }
    to
}

/// The place that an instruction names.
fn target<'i>(instruction: &'i mut Instruction<'_>) -> Option<&'i mut u32> {
    use Instruction::{BuildMacro, Iterate, Jump, JumpIfFalse, JumpIfFalseOrPop, JumpIfTrueOrPop};
    match instruction {
        Iterate(to) | Jump(to) | JumpIfFalse(to) | JumpIfFalseOrPop(to) | JumpIfTrueOrPop(to) => {
            Some(to)
        }
        BuildMacro(_, to, _) => Some(to),
        _ => None,
    }
}

/// Weighs the topmost value of the stack; no cached lookup of the filter.
const fn weighing(filter: &'static str) -> Instruction<'static> {
    Instruction::ApplyFilter(filter, Some(1), u8::MAX)
}

/// Before a namespace's attribute is set: the value lies below the namespace.
fn before(instruction: &Instruction<'_>) -> &'static [Instruction<'static>] {
    static HELD: [Instruction<'static>; 3] =
        [Instruction::Swap, weighing(WEIGH_HELD), Instruction::Swap];
    if matches!(instruction, Instruction::SetAttr(_)) { &HELD } else { &[] }
}

/// After everything that can put several values into one.
fn after(instruction: &Instruction<'_>) -> &'static [Instruction<'static>] {
    use Instruction::{
        Add, ApplyFilter, BuildList, BuildMap, BuildTuple, CallFunction, CallMethod, CallObject,
        Mul, Slice,
    };
    static MADE: [Instruction<'static>; 1] = [weighing(WEIGH)];
    match instruction {
        BuildList(_) | BuildMap(_) | BuildTuple(_) | Add | Mul | Slice => &MADE,
        ApplyFilter(..) | CallFunction(..) | CallMethod(..) | CallObject(_) => &MADE,
        _ => &[],
    }
}

/// Namespaces and loop variables change after they were weighed, and could come to hold themselves.
/// What templates do with them is set and read their attributes.
fn may_be_held(value: &Value) -> Result<(), Error> {
    let kind = value.as_object().map_or("", |o| o.type_name());
    match ["Namespace", "Loop"].into_iter().find(|k| kind.rsplit("::").next() == Some(k)) {
        Some(kind) => refuse(&format!("a value cannot hold a {}", kind.to_lowercase())),
        None => Ok(()),
    }
}

/// The value, if it is small enough. Slices and sums of lists are views, which would pile up to
/// views of views of views: they become lists.
fn weighed(value: Value, limit: usize) -> Result<Value, Error> {
    weigh(&value, limit)?;
    match value.kind() {
        ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        _ => Ok(value),
    }
}

fn weigh(value: &Value, limit: usize) -> Result<(), Error> {
    let is_container =
        |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    if !is_container(value) {
        return Ok(());
    }
    let mut weight = 0;
    // Open containers: those that are shared come up once for every path to them.
    let mut open = vec![(value.clone(), 0)];
    while let Some((container, depth)) = open.pop() {
        if depth > DEEPEST {
            return refuse("a value is nested too deeply");
        }
        let is_map = container.kind() == ValueKind::Map;
        for item in container.try_iter()?.checked() {
            let item = item?;
            let of_key = if is_map { Some(container.get_item(&item)?) } else { None };
            for held in of_key.into_iter().chain([item]) {
                may_be_held(&held)?;
                weight += 1 + held.as_str().map_or(0, str::len) / BYTES_PER_ITEM;
                if weight >= limit {
                    return refuse("a value holds too many others");
                }
                if is_container(&held) {
                    open.push((held, depth + 1));
                }
            }
        }
    }
    Ok(())
}

fn refuse(what: &str) -> Result<(), Error> {
    Err(Error::new(ErrorKind::InvalidOperation, what.to_owned()))
}
