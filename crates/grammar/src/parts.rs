//! The schemas that a schema consists of.

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use crate::Error;

/// A schema within a schema.
#[derive(Clone)]
pub(crate) struct Part<'v> {
    pub place: Pointer<'v>,
    pub schema: &'v Value,
}

/// The place of a part. It becomes a text, a JSON pointer, only for errors: thousands of parts may be under
/// one long name.
#[derive(Clone)]
pub(crate) struct Pointer<'v> {
    /// A pointer from the schema's text.
    base: &'v str,
    steps: Option<Rc<Step<'v>>>,
}

/// A step from a schema to one directly within it.
struct Step<'v> {
    before: Option<Rc<Step<'v>>>,
    keyword: &'v str,
    member: Member<'v>,
    depth: usize,
}

/// A member of what a keyword contains.
enum Member<'v> {
    All,
    Name(&'v str),
    Index(usize),
}

impl<'v> Part<'v> {
    /// A whole schema.
    pub(crate) const fn root(schema: &'v Value) -> Self {
        Self { place: Pointer { base: "", steps: None }, schema }
    }
}

impl<'v> Pointer<'v> {
    /// The number of steps.
    pub(crate) fn depth(&self) -> usize {
        self.steps.as_ref().map_or(0, |step| step.depth)
    }

    fn step(&self, keyword: &'v str, member: Member<'v>) -> Self {
        let (before, depth) = (self.steps.clone(), self.depth() + 1);
        let steps = Some(Rc::new(Step { before, keyword, member, depth }));
        Self { base: self.base, steps }
    }
}

impl fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps: Vec<_> =
            std::iter::successors(self.steps.as_deref(), |step| step.before.as_deref()).collect();
        steps.reverse();
        write!(f, "#{}", self.base)?;
        for step in steps {
            write!(f, "/{}", escaped(step.keyword))?;
            match step.member {
                Member::All => {}
                Member::Name(name) => write!(f, "/{}", escaped(name))?,
                Member::Index(i) => write!(f, "/{i}")?,
            }
        }
        Ok(())
    }
}

/// The schemas directly within a schema, except definitions.
pub(crate) fn children<'v>(part: &Part<'v>) -> Vec<Part<'v>> {
    let mut all = Vec::new();
    let Value::Object(map) = part.schema else { return all };
    for (keyword, value) in map {
        let mut add = |member: Member<'v>, schema: &'v Value| {
            all.push(Part { place: part.place.step(keyword, member), schema });
        };
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(map)) => {
                map.iter().for_each(|(name, v)| add(Member::Name(name), v));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(list)) => {
                list.iter().enumerate().for_each(|(i, v)| add(Member::Index(i), v));
            }
            ("items" | "additionalItems" | "additionalProperties", _) => add(Member::All, value),
            _ => {}
        }
    }
    all
}

/// What `$ref` refers to, if the schema has one.
pub(crate) fn target<'v>(root: &'v Value, part: &Part<'v>) -> Result<Option<Part<'v>>, Error> {
    let Some(reference) = part.schema.get("$ref") else { return Ok(None) };
    let wrong = |what: String| {
        let place = format!("{}/$ref", part.place);
        Error::source(place, what, "refer to a part of this schema, such as #/$defs/NAME")
    };
    let Some(text) = reference.as_str() else { return Err(wrong("it is not a text".to_owned())) };
    let Some(pointer) = text.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'))
    else {
        return Err(wrong(format!("{text:?} is not within this schema")));
    };
    // The names of parts are compared without unescaping, so escapes would not be found.
    if pointer.contains(['~', '%']) {
        return Err(wrong(format!("{text:?} has an escape")));
    }
    let pointer = if pointer == "/" { "" } else { pointer };
    match root.pointer(pointer) {
        Some(schema) => Ok(Some(Part { place: Pointer { base: pointer, steps: None }, schema })),
        None => Err(wrong(format!("{text:?} does not exist"))),
    }
}

/// A name as part of a JSON pointer.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
