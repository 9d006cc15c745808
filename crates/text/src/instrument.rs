//! Rewrites a chat template so that every container it builds passes through a filter of
//! [`meter`](crate::meter).
//!
//! The filters are appended to the source, tag by tag, without parsing it: brackets and operators
//! suffice to tell where an operand, a product and a sum end. A filter binds tighter than any binary
//! operator, so most need no parentheses:
//!
//! ```jinja
//! {% set a = [b, c[1:]] + d * 2 %}
//! {% set a = ([b, c[1:]|weigh]|weigh + (d * 2)|weigh)|weigh %}
//! ```
//!
//! minijinja parses the result, so a mistake here is a syntax error or a needless filter, never a
//! different program; and a filter more costs only its own time. Weighed are operands with a bracket
//! in them (literals, tuples, slices, calls), products with `*`, sums with `+`, the result of each
//! filter, and what a namespace is given. Within one tag values can still add up, but not multiply,
//! and the number of tokens in a tag is bounded.

use crate::Error;
use crate::meter::{WEIGH, WEIGH_HELD};
use crate::tags::{Kind, Tag, Token, tags};

/// Tokens in one tag. Also bounds the recursion of minijinja's parser and compiler, which nothing else
/// does for chains such as `not not not x` or `a.b.c.d`.
const TOKENS: usize = 2_000;

/// `elif` branches of a template, each of which is a recursion in minijinja.
const BRANCHES: usize = 1_000;

/// Appends the weighing filters. Also replaces `{% generation %}`, which marks training targets for
/// Hugging Face, by a condition that is always true: whitespace around it is trimmed alike.
///
/// # Errors
/// [`Error::Template`] for a syntax error that hides where a tag ends, and for a tag that is too long.
pub(crate) fn instrument(source: &str) -> Result<String, Error> {
    let mut edits = Vec::new();
    let mut branches = 0;
    for tag in tags(source)? {
        if tag.tokens.len() > TOKENS {
            return Err(Error::Template(format!("a tag holds more than {TOKENS} tokens")));
        }
        match &tag.tokens[..] {
            [name] if tag.is_block && name.is("generation") => {
                edits.push(Edit::replace(name, "if true"))
            }
            [name] if tag.is_block && name.is("endgeneration") => {
                edits.push(Edit::replace(name, "endif"))
            }
            tokens => {
                branches += usize::from(tokens.first().is_some_and(|name| name.is("elif")));
                Weigher::new(&tag).run(&mut edits);
            }
        }
    }
    if branches > BRANCHES {
        return Err(Error::Template(format!("it has more than {BRANCHES} elif branches")));
    }
    Ok(apply(source, edits))
}

/// Bytes of the template replaced by others.
struct Edit {
    start: usize,
    end: usize,
    text: &'static str,
}

impl Edit {
    const fn insert(at: usize, text: &'static str) -> Self {
        Self { start: at, end: at, text }
    }

    fn replace(token: &Token<'_>, text: &'static str) -> Self {
        Self { start: token.start, end: token.end(), text }
    }
}

fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.start); // stable: at one offset, inner edits come first
    let mut out = String::with_capacity(source.len() * 2);
    let mut copied = 0;
    for edit in edits {
        out.push_str(&source[copied..edit.start]);
        out.push_str(edit.text);
        copied = edit.end;
    }
    out.push_str(&source[copied..]);
    out
}

/// What may come next within a pair of brackets, or in a tag outside of all brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A value, or a sign before it.
    Operand,
    /// A binary operator, a bracket or dot after a value, or the end of the expression.
    Operator,
    /// The name after a dot.
    Attribute,
    FilterName,
    /// The arguments of a filter, if it has any.
    FilterArguments,
    TestName,
    TestArguments,
}

/// An expression in progress.
#[derive(Clone, Copy)]
struct Level {
    expect: Expect,
    /// The current operand has a bracket in it.
    has_bracket: bool,
    /// Where the current sum and product start, once they have.
    sum: Option<usize>,
    product: Option<usize>,
    /// Whether they have a `+` and a `*`.
    adds: bool,
    multiplies: bool,
}

impl Level {
    const fn new(expect: Expect) -> Self {
        let (has_bracket, adds, multiplies) = (false, false, false);
        Self { expect, has_bracket, sum: None, product: None, adds, multiplies }
    }
}

/// Parts of a statement that are no expressions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The names that `for`, `set` or `with` assign to.
    Open,
    None,
}

/// Finds where the filters of one tag go.
struct Weigher<'t, 's> {
    tag: &'t Tag<'s>,
    /// The statement, or empty.
    statement: &'s str,
    level: Level,
    outer: Vec<Level>,
    target: Target,
    /// The target is an attribute, which only a namespace has.
    sets_attribute: bool,
    /// The right-hand side of a `set` starts here, and it has a comma outside of brackets.
    value: Option<usize>,
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
            target: if assigns { Target::Open } else { Target::None },
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
        if self.level.expect == Expect::FilterArguments {
            self.weigh(self.end, edits);
        }
        self.end_sum(edits);
        if let Some(value) = self.value
            && value < self.end
            && (self.is_tuple || self.sets_attribute)
        {
            self.weigh_from(value, edits);
        }
    }

    /// Handles what is special about the left-hand side of an assignment.
    fn is_target(&mut self, token: &Token<'_>) -> bool {
        if self.target == Target::None {
            return false;
        }
        self.sets_attribute |= token.text == ".";
        if !self.outer.is_empty() {
            return false;
        }
        match (self.statement, token.text) {
            ("for", "in") | ("with", "=") => self.level = Level::new(Expect::Operand),
            ("set", "=") => {
                self.level = Level::new(Expect::Operand);
                self.value = Some(token.end());
            }
            ("set", "|") => self.level = Level::new(Expect::FilterName),
            _ => return false,
        }
        self.target = Target::None;
        true
    }

    fn token(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        if self.suffix(token, edits) {
            return;
        }
        match (token.kind, self.level.expect) {
            (Kind::Close, _) => self.close(token, edits),
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
            (Kind::Literal, _) => {} // adjacent strings are one
            (Kind::Name, _) if token.text == "is" => {
                self.end_operand(edits);
                self.level.expect = Expect::TestName;
            }
            _ => self.operator(token, edits),
        }
    }

    /// Handles the names and arguments of filters, tests and attributes; false if `token` is none of
    /// them.
    fn suffix(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) -> bool {
        let is_name = token.kind == Kind::Name;
        let next = match (self.level.expect, token.text) {
            (Expect::Operand | Expect::Operator, _) => return false,
            (Expect::FilterArguments, ".") => Expect::FilterName,
            (Expect::TestArguments, ".") | (Expect::TestName, "not") => Expect::TestName,
            (Expect::FilterArguments | Expect::TestArguments, "(") => {
                self.open();
                return true;
            }
            (Expect::FilterName, _) if is_name => Expect::FilterArguments,
            (Expect::TestName, _) if is_name => Expect::TestArguments,
            (Expect::Attribute, _) if is_name || token.kind == Kind::Literal => Expect::Operator,
            (Expect::TestArguments, text) => {
                // A test takes one argument without parentheses.
                let has_argument = match token.kind {
                    Kind::Name => !matches!(text, "and" | "or" | "else" | "is"),
                    Kind::Operator => text == "-",
                    kind => kind != Kind::Close,
                };
                self.level.expect = if has_argument { Expect::Operand } else { Expect::Operator };
                return false;
            }
            (expect, _) => {
                if expect == Expect::FilterArguments {
                    self.weigh(self.end, edits);
                }
                self.level.expect = Expect::Operator;
                return false;
            }
        };
        self.level.expect = next;
        true
    }

    /// Handles a binary operator, or what ends an expression.
    fn operator(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        self.level.expect = Expect::Operand;
        match token.text {
            "." => self.level.expect = Expect::Attribute,
            "|" => {
                self.end_operand(edits);
                self.level.expect = Expect::FilterName;
            }
            "*" | "/" | "//" | "%" | "**" => {
                self.end_operand(edits);
                self.level.multiplies |= token.text == "*";
            }
            "~" => self.end_product(edits),
            "+" | "-" => {
                self.end_product(edits);
                self.level.adds |= token.text == "+";
            }
            text => {
                self.end_sum(edits);
                if text == "," && self.outer.is_empty() {
                    self.is_tuple |= self.statement == "set";
                    if self.statement == "with" {
                        self.target = Target::Open;
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

    fn close(&mut self, token: &Token<'_>, edits: &mut Vec<Edit>) {
        self.end_sum(edits);
        if let Some(outer) = self.outer.pop() {
            self.level = outer;
        }
        if self.level.expect == Expect::FilterArguments {
            self.weigh(token.end(), edits);
        }
        self.level.expect = Expect::Operator;
    }

    fn end_operand(&mut self, edits: &mut Vec<Edit>) {
        if std::mem::take(&mut self.level.has_bracket) {
            self.weigh(self.end, edits);
        }
    }

    fn end_product(&mut self, edits: &mut Vec<Edit>) {
        self.end_operand(edits);
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
            [" |", name, " "].into_iter().for_each(|text| edits.push(Edit::insert(at, text)));
        }
    }

    /// Whether a value may stand here. The grammar allows no filter after the parameters of a macro and
    /// the calls of `do` and `call`, whose results are dropped and printed.
    fn is_expression(&self) -> bool {
        let is_bare = self.outer.is_empty() && matches!(self.statement, "macro" | "call" | "do");
        self.target == Target::None && !is_bare
    }
}
