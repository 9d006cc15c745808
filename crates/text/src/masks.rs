//! Masks for characters of control tokens; see [`encode_chat`](crate::encode_chat()).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::{Range, RangeInclusive};

use crate::{ChatInput, Error};

/// The characters that masks are chosen from: a plane for private use.
pub(crate) const MASKS: RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

/// Maps every character of a control token to a private-use placeholder.
pub(crate) struct Masks {
    masks: HashMap<char, char>,
    originals: HashMap<char, char>,
    firsts: HashSet<char>, // first characters of control tokens
}

impl Masks {
    pub(crate) fn new(specials: &[&str], input: &ChatInput) -> Result<Self, Error> {
        // Whitespace is not masked, so that templates can trim it; control tokens contain other
        // characters too.
        let chars = specials.iter().flat_map(|s| s.chars()).filter(|c| !c.is_whitespace());
        let chars: BTreeSet<char> = chars.collect();
        let is_private = |c: &char| matches!(c, '\u{f0000}'..='\u{10ffff}');
        let mut used: BTreeSet<char> = chars.iter().copied().filter(is_private).collect();
        input.visit_strings(&mut |text| used.extend(text.chars().filter(is_private)));
        let mut free = MASKS.filter(|c| !used.contains(c));
        let masks: HashMap<char, char> = chars.iter().copied().zip(&mut free).collect();
        if masks.len() < chars.len() {
            let what = "too many private-use characters in the conversation";
            return Err(Error::Message { index: 0, what });
        }
        let originals = masks.iter().map(|(c, mask)| (*mask, *c)).collect();
        let firsts = specials.iter().filter_map(|s| s.chars().next()).collect();
        Ok(Self { masks, originals, firsts })
    }

    fn mask(&self, c: char) -> char {
        self.masks.get(&c).copied().unwrap_or(c)
    }

    pub(crate) fn mask_all(&self, content: &str) -> String {
        content.chars().map(|c| self.mask(c)).collect()
    }

    pub(crate) fn mask_first(&self, content: &str, specials: &[&str]) -> String {
        let mut out = String::with_capacity(content.len() + 8);
        for (at, c) in content.char_indices() {
            let here = &content[at..];
            let is_special =
                self.firsts.contains(&c) && specials.iter().any(|s| here.starts_with(s));
            out.push(if is_special { self.mask(c) } else { c });
        }
        out
    }

    /// Removes the masks; also returns their byte ranges, ascending.
    pub(crate) fn unmask(&self, text: &str) -> (String, Vec<Range<usize>>) {
        let mut out = String::with_capacity(text.len());
        let mut masked: Vec<Range<usize>> = Vec::new();
        for c in text.chars() {
            let start = out.len();
            let original = self.originals.get(&c);
            out.push(*original.unwrap_or(&c));
            if original.is_some() {
                match masked.last_mut() {
                    Some(last) if last.end == start => last.end = out.len(),
                    _ => masked.push(start..out.len()),
                }
            }
        }
        (out, masked)
    }
}
