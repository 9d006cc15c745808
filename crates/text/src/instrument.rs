//! Rewrites a chat template so that every container it builds passes through a filter of
//! [`meter`](crate::meter), and that operators mean what they mean in Python.
//!
//! The filters are inserted into the source, tag by tag, without a full parse: brackets and operators
//! show where operands, products and sums end. A filter binds more tightly than any binary operator, so
//! most insertions need no parentheses:
//!
//! ```jinja
//! {% set a = [b, c[1:]] + d * 2 %}
//! {% set a = ([b, c[1:]|weigh]|weigh + (d * 2)|weigh)|weigh %}
//! ```
//!
//! The filters weigh operands that contain a bracket (literals, tuples, slices, calls), products with
//! `*`, sums with `+`, the result of each filter, and values assigned to a namespace. Within a tag,
//! values can still add up but not multiply, and the number of tokens in a tag is limited. A redundant
//! filter costs time but is harmless.
//!
//! Filters also give `%` and `for` Python's meaning: `a % b` becomes `(a)|rem__(0 or b)`, which formats
//! strings, and the loop in `for x in a` iterates over `(a)|iterate__`, which refuses none. Tests with random expressions check that rewriting does not change
//! the output of a template.

mod edit;
mod level;

use crate::Error;
use crate::jinja::{ITERATE, REM};
use crate::meter::{WEIGH, WEIGH_HELD};
use crate::tags::{Kind, Tag, Token, tags};
use edit::{Edit, apply};
use level::{Expect, Level};

/// Maximum number of tokens in a tag. This also bounds recursion in minijinja's parser and compiler, which
/// have no limit for chains such as `not not not x` or `a.b.c.d`. Published templates have up to 45.
const TOKENS: usize = 1_000;

/// Maximum number of `elif` branches in a template, which minijinja parses recursively. Published
/// templates have up to 19.
const BRANCHES: usize = 500;

/// Inserts the weighing filters. Also replaces `{% generation %}`, which marks training targets for
/// Hugging Face, with a scope of its own, preserving whitespace control.
///
/// # Errors
/// [`Error::Template`] for a syntax error in a tag's tokens, and for a template that exceeds the limits.
pub(crate) fn instrument(source: &str) -> Result<String, Error> {
    let mut edits = Vec::new();
    let mut branches = 0;
    for tag in tags(source)? {
        if tag.tokens.len() > TOKENS {
            return Err(Error::Template(format!("a tag has more than {TOKENS} tokens")));
        }
        match &tag.tokens[..] {
            [name] if tag.is_block && name.is("generation") => {
                edits.push(Edit::replace(name, "with"))
            }
            [name] if tag.is_block && name.is("endgeneration") => {
                edits.push(Edit::replace(name, "endwith"))
            }
            tokens => {
                branches += usize::from(tokens.first().is_some_and(|name| name.is("elif")));
                Weigher::new(&tag).run(&mut edits);
            }
        }
    }
    if branches > BRANCHES {
        return Err(Error::Template(format!("more than {BRANCHES} elif branches")));
    }
    Ok(apply(source, edits))
}

/// Finds where a tag needs filters.
struct Weigher<'t, 's> {
    tag: &'t Tag<'s>,
    /// The keyword of a block tag, or empty.
    statement: &'s str,
    level: Level,
    outer: Vec<Level>,
    /// Whether the next token is on the left-hand side of a `for`, `set` or `with`.
    in_target: bool,
    /// Whether a target is an attribute, so that the value is stored in a namespace.
    sets_attribute: bool,
    /// Start of the right-hand side of a `set`, or of what a `for` iterates over.
    value: Option<usize>,
    /// Whether the right-hand side has a comma outside brackets.
    is_tuple: bool,
    /// End of the previous token.
    end: usize,
}

impl<'t, 's> Weigher<'t, 's> {
    fn new(tag: &'t Tag<'s>) -> Self {
        let keyword = tag.tokens.first().filter(|token| tag.is_block && token.kind == Kind::Name);
        let statement = keyword.map_or("", |token| token.text);
        let assigns = matches!(statement, "for" | "set" | "with");
        let expect = if statement == "filter" { Expect::FilterName } else { Expect::Operand };
        Self {
            tag,
            statement,
            level: Level::new(expect),
            outer: Vec::new(),
            in_target: assigns,
            sets_attribute: false,
            value: None,
            is_tuple: false,
            end: keyword.map_or(0, Token::end),
        }
    }

    fn run(mut self, edits: &mut Vec<Edit>) {
        let keyword = usize::from(!self.statement.is_empty());
        for token in &self.tag.tokens[keyword..] {
            if !self.is_target(token) {
                self.token(token, edits);
            }
            self.end = token.end();
        }
        if matches!(self.level.expect, Expect::FilterArguments | Expect::FilterEnd) {
            self.weigh(self.end, edits);
        }
        self.end_sum(edits);
        self.end_iterable(edits);
        if let Some(value) = self.value
            && self.statement == "set"
            && value < self.end
            && (self.is_tuple || self.sets_attribute)
        {
            self.weigh_from(value, edits);
        }
    }

    /// Tracks the left-hand side of an assignment; returns whether `token` ends it.
    fn is_target(&mut self, token: &Token<'_>) -> bool {
        if !self.in_target {
            return false;
        }
        self.sets_attribute |= token.text == ".";
        if !self.outer.is_empty() {
            return false;
        }
        match (self.statement, token.text) {
            ("with", "=") => self.level = Level::new(Expect::Operand),
            ("set", "=") | ("for", "in") => {
                self.level = Level::new(Expect::Operand);
                self.value = Some(token.end());
            }
            ("set", "|") => self.level = Level::new(Expect::FilterName),
            _ => return false,
        }
        self.in_target = false;
        true
    }

    fn token(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        if self.suffix(token, edits) {
            return;
        }
        if self.statement == "for"
            && self.outer.is_empty()
            && self.level.expect == Expect::Operator
            && (token.is("if") || token.is("recursive"))
        {
            self.end_sum(edits);
            self.end_iterable(edits);
        }
        match (token.kind, self.level.expect) {
            (Kind::Close, _) => self.close(edits),
            (Kind::Open, expect) => {
                if expect == Expect::Operand {
                    self.start(token);
                }
                self.level.has_bracket = true;
                self.level.expect = Expect::Operator;
                self.open();
            }
            (Kind::Name | Kind::Literal, Expect::Operand) => {
                if !(token.is("not") && self.level.sum.is_none()) {
                    self.start(token);
                    self.level.expect = Expect::Operator;
                }
            }
            (Kind::Operator, Expect::Operand) => match token.text {
                "-" | "+" => self.start(token),
                "*" | "**" => {} // unpacks arguments
                _ => self.end_sum(edits),
            },
            (Kind::Literal, _) => {} // adjacent string literals are concatenated
            (Kind::Name, _) if token.text == "is" => {
                self.end_operand(edits);
                self.level.expect = Expect::Test;
            }
            _ => self.operator(token, edits),
        }
    }

    /// Handles names and arguments of filters, tests and attributes; returns false for any other token.
    fn suffix(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) -> bool {
        let is_name = token.kind == Kind::Name;
        let next = match (self.level.expect, token.text) {
            (Expect::Operand | Expect::Operator, _) => return false,
            (Expect::FilterArguments, ".") => Expect::FilterName,
            (Expect::TestArguments, ".") | (Expect::Test, "not") => Expect::TestName,
            (Expect::FilterArguments | Expect::TestArguments, "(") => {
                self.open();
                return true;
            }
            (Expect::In, "in") => Expect::Operand,
            (Expect::FilterName, _) if is_name => Expect::FilterArguments,
            (Expect::Test | Expect::TestName, _) if is_name => Expect::TestArguments,
            (Expect::Attribute, _) if is_name || token.kind == Kind::Literal => Expect::Operator,
            (Expect::TestArguments, text) => {
                // A single argument of a test needs no parentheses.
                let has_argument = match token.kind {
                    Kind::Name => !matches!(text, "and" | "or" | "else" | "is"),
                    Kind::Operator => matches!(text, "-" | "+"),
                    kind => kind != Kind::Close,
                };
                self.level.expect = if has_argument { Expect::Operand } else { Expect::Operator };
                return false;
            }
            (expect, text) => {
                // `(` and `.` cannot follow a filter's arguments. As no filter is inserted, they remain
                // syntax errors.
                let is_more = expect == Expect::FilterEnd && matches!(text, "(" | ".");
                if matches!(expect, Expect::FilterArguments | Expect::FilterEnd) && !is_more {
                    self.weigh(self.end, edits);
                }
                self.level.expect = Expect::Operator;
                return false;
            }
        };
        self.level.expect = next;
        true
    }

    /// Handles a binary operator, or a token that ends the expression.
    fn operator(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        self.level.expect = Expect::Operand;
        match token.text {
            "." => self.level.expect = Expect::Attribute,
            "|" => {
                self.end_operand(edits);
                self.level.expect = Expect::FilterName;
            }
            "%" => {
                self.end_factor(edits);
                self.begin_divisor(token, edits);
            }
            "**" => self.end_operand(edits),
            "*" | "/" | "//" => {
                self.end_factor(edits);
                self.level.multiplies |= token.text == "*";
            }
            "~" => self.end_product(edits),
            "+" | "-" => {
                self.end_product(edits);
                self.level.adds |= token.text == "+";
            }
            text => {
                self.end_sum(edits);
                if token.is("not") {
                    self.level.expect = Expect::In;
                }
                if text == "," && self.outer.is_empty() {
                    let is_value = self.statement == "for" && !self.in_target;
                    self.is_tuple |= is_value || self.statement == "set";
                    if self.statement == "with" {
                        self.in_target = true;
                    }
                }
            }
        }
    }

    fn start(&mut self, token: &Token<'_>) {
        self.level.sum.get_or_insert(token.start);
        self.level.product.get_or_insert(token.start);
    }

    fn open(&mut self) {
        self.outer.push(self.level);
        self.level = Level::new(Expect::Operand);
    }

    fn close(&mut self, edits: &mut Vec<Edit>) {
        self.end_sum(edits);
        if let Some(outer) = self.outer.pop() {
            self.level = outer;
        }
        let is_filter = self.level.expect == Expect::FilterArguments;
        self.level.expect = if is_filter { Expect::FilterEnd } else { Expect::Operator };
    }

    fn end_operand(&mut self, edits: &mut Vec<Edit>) {
        if std::mem::take(&mut self.level.has_bracket) {
            self.weigh(self.end, edits);
        }
    }

    /// Ends an operand of `*`, `/`, `//` or `%`.
    fn end_factor(&mut self, edits: &mut Vec<Edit>) {
        self.end_operand(edits);
        if std::mem::take(&mut self.level.is_divisor) {
            edits.push(Edit::insert(self.end, ")"));
        }
    }

    /// Replaces a `%` by a filter on the product before it. `0 or` makes a missing operand a syntax error.
    fn begin_divisor(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        if let Some(start) = self.level.product
            && self.is_expression()
        {
            edits.push(Edit::insert(start, "("));
            edits.push(Edit::replace(token, ")|"));
            edits.extend([REM, "(0 or "].map(|text| Edit::insert(token.end(), text)));
            self.level.is_divisor = true;
        }
    }

    /// Ends what a `for` iterates over. A tuple without brackets is left to minijinja, which refuses it.
    fn end_iterable(&mut self, edits: &mut Vec<Edit>) {
        if self.statement == "for"
            && let Some(start) = self.value.take()
            && start < self.end
            && !self.is_tuple
        {
            edits.push(Edit::insert(start, "("));
            edits.extend([")|", ITERATE, " "].map(|text| Edit::insert(self.end, text)));
        }
    }

    fn end_product(&mut self, edits: &mut Vec<Edit>) {
        self.end_factor(edits);
        let start = self.level.product.take();
        if std::mem::take(&mut self.level.multiplies)
            && let Some(start) = start
        {
            self.weigh_from(start, edits);
        }
    }

    fn end_sum(&mut self, edits: &mut Vec<Edit>) {
        self.end_product(edits);
        let start = self.level.sum.take();
        if std::mem::take(&mut self.level.adds)
            && let Some(start) = start
        {
            self.weigh_from(start, edits);
        }
    }

    fn weigh_from(&self, start: usize, edits: &mut Vec<Edit>) {
        if self.is_expression() {
            edits.push(Edit::insert(start, "("));
            edits.push(Edit::insert(self.end, ")"));
            self.weigh(self.end, edits);
        }
    }

    fn weigh(&self, at: usize, edits: &mut Vec<Edit>) {
        let is_held = self.statement == "set" && self.sets_attribute && self.outer.is_empty();
        if self.is_expression() {
            let name = if is_held { WEIGH_HELD } else { WEIGH };
            // A keyword may follow immediately, as in `x[0]if y`.
            edits.extend([" |", name, " "].map(|text| Edit::insert(at, text)));
        }
    }

    /// Whether a filter is allowed here. The grammar permits none after a macro's parameters, nor after
    /// the calls in `do` and `call`, whose results are discarded and printed, respectively.
    fn is_expression(&self) -> bool {
        let is_bare = self.outer.is_empty() && matches!(self.statement, "macro" | "call" | "do");
        !self.in_target && !is_bare
    }
}

#[cfg(test)]
mod tests;
