//! From rules to Lark.

use std::collections::HashMap;
use std::fmt::Write;

use super::rule::{Expr, Rule};
use crate::Error;

struct Emitter<'r> {
    rules: &'r [Rule],
    index: HashMap<&'r str, usize>,
    /// Whether each rule is a regular expression: it does not recur, nor does any that it uses.
    regular: Vec<bool>,
    /// The terminals that parts of other rules became, with their numbers.
    terminals: HashMap<String, usize>,
}

/// Translates the rules; the text begins at `root`.
pub(super) fn lark(rules: &[Rule]) -> Result<String, Error> {
    let index: HashMap<&str, usize> =
        rules.iter().enumerate().map(|(i, rule)| (rule.name.as_str(), i)).collect();
    let Some(&root) = index.get("root") else {
        let what = "there is no rule named root";
        return Err(Error::source("the grammar", what, "name the rule of the whole text root"));
    };
    let mut emitter =
        Emitter { rules, index, regular: vec![false; rules.len()], terminals: HashMap::new() };
    emitter.find_regular()?;
    let mut body = String::new();
    for (i, rule) in rules.iter().enumerate() {
        let text = if emitter.regular[i] {
            format!("{}: {}\n", emitter.name(i), emitter.regex(&rule.expr))
        } else {
            let expr = emitter.recursive(&rule.expr);
            format!("{}: {expr}\n", emitter.name(i))
        };
        body.push_str(&text);
    }
    let mut text = format!("start: {}\n{body}", emitter.name(root));
    let mut terminals: Vec<_> = emitter.terminals.into_iter().collect();
    terminals.sort_unstable_by_key(|(_, i)| *i);
    for (terminal, i) in terminals {
        let _ = writeln!(text, "P{i}: {terminal}");
    }
    Ok(text)
}

impl Emitter<'_> {
    /// A rule's name in Lark: in capitals if it is a terminal.
    fn name(&self, i: usize) -> String {
        format!("{}{i}", if self.regular[i] { "T" } else { "r" })
    }

    /// Finds the regular rules: those that use only regular ones, beginning with those that use none.
    fn find_regular(&mut self) -> Result<(), Error> {
        let mut uses: Vec<Vec<usize>> = Vec::new();
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); self.rules.len()];
        for (i, rule) in self.rules.iter().enumerate() {
            let mut names = Vec::new();
            collect(&rule.expr, &mut names);
            let mut used = Vec::new();
            for (name, line) in names {
                let Some(&j) = self.index.get(name) else {
                    let what = format!("{name}, used by {}, is not defined", rule.name);
                    return Err(Error::source(format!("line {line}"), what, "define it"));
                };
                used.push(j);
                users[j].push(i);
            }
            uses.push(used);
        }
        let mut left: Vec<usize> = uses.iter().map(Vec::len).collect();
        let mut ready: Vec<usize> = (0..left.len()).filter(|&i| left[i] == 0).collect();
        while let Some(i) = ready.pop() {
            self.regular[i] = true;
            for &user in &users[i] {
                left[user] -= 1;
                if left[user] == 0 {
                    ready.push(user);
                }
            }
        }
        Ok(())
    }

    fn is_regular(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Regex(_) => true,
            Expr::Name(name, _) => self.regular[self.index[name.as_str()]],
            Expr::Sequence(items) | Expr::Choice(items) => items.iter().all(|i| self.is_regular(i)),
            Expr::Repeat(item, ..) => self.is_regular(item),
        }
    }

    /// A regular expression as the definition of a terminal.
    fn regex(&self, expr: &Expr) -> String {
        match expr {
            Expr::Regex(regex) if regex.is_empty() => "\"\"".to_owned(),
            Expr::Regex(regex) => format!("/{regex}/"),
            Expr::Name(name, _) => self.name(self.index[name.as_str()]),
            Expr::Sequence(items) if items.is_empty() => "\"\"".to_owned(),
            Expr::Sequence(items) => join(items.iter().map(|item| self.regex(item)), " "),
            Expr::Choice(items) => join(items.iter().map(|item| self.regex(item)), " | "),
            Expr::Repeat(item, least, most) => repeat(&self.regex(item), *least, *most),
        }
    }

    /// A part of a rule that is not regular.
    fn recursive(&mut self, expr: &Expr) -> String {
        if self.is_regular(expr) {
            return self.terminal(expr.clone());
        }
        match expr {
            Expr::Regex(_) => self.terminal(expr.clone()),
            Expr::Name(name, _) => self.name(self.index[name.as_str()]),
            Expr::Choice(items) => {
                let items: Vec<String> = items.iter().map(|item| self.recursive(item)).collect();
                join(items.into_iter(), " | ")
            }
            Expr::Repeat(item, least, most) => repeat(&self.recursive(item), *least, *most),
            Expr::Sequence(items) => {
                let mut parts = Vec::new();
                let regular = |item: &Expr| self.is_regular(item);
                let runs = items.chunk_by(|a, b| regular(a) && regular(b)).collect::<Vec<_>>();
                for run in runs {
                    let part = match run {
                        [one] => self.recursive(one),
                        run => self.terminal(Expr::Sequence(run.to_vec())),
                    };
                    parts.push(part);
                }
                join(parts.into_iter(), " ")
            }
        }
    }

    /// The name of a terminal for a regular expression.
    fn terminal(&mut self, expr: Expr) -> String {
        let definition = self.regex(&expr);
        let next = self.terminals.len();
        let i = *self.terminals.entry(definition).or_insert(next);
        format!("P{i}")
    }
}

/// The names that an expression mentions, with their lines.
fn collect<'e>(expr: &'e Expr, names: &mut Vec<(&'e str, usize)>) {
    match expr {
        Expr::Regex(_) => {}
        Expr::Name(name, line) => names.push((name, *line)),
        Expr::Sequence(items) | Expr::Choice(items) => {
            items.iter().for_each(|item| collect(item, names));
        }
        Expr::Repeat(item, ..) => collect(item, names),
    }
}

fn join(items: impl Iterator<Item = String>, separator: &str) -> String {
    format!("({})", items.collect::<Vec<_>>().join(separator))
}

fn repeat(item: &str, least: usize, most: Option<usize>) -> String {
    match (least, most) {
        (_, Some(0)) => "\"\"".to_owned(),
        (0, None) => format!("({item})*"),
        (1, None) => format!("({item})+"),
        (0, Some(1)) => format!("({item})?"),
        (least, None) => format!("({item}){{{least},}}"),
        (least, Some(most)) => format!("({item}){{{least},{most}}}"),
    }
}
