//! Where in an expression a token is.

/// What may come next in an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// A value, or a sign before it.
    Operand,
    /// A binary operator, a bracket or dot after a value, or the end of the expression.
    Operator,
    /// The second word of `not in`.
    In,
    /// The name after a dot.
    Attribute,
    FilterName,
    /// The arguments of a filter, if it has any.
    FilterArguments,
    FilterEnd,
    /// The name of a test, or `not` before it.
    Test,
    TestName,
    TestArguments,
}

/// The expression in progress within a pair of brackets, or outside all brackets.
#[derive(Clone, Copy)]
pub(super) struct Level {
    pub(super) expect: Expect,
    /// Whether the current operand contains a bracket.
    pub(super) has_bracket: bool,
    /// Start of the current sum and product, once there is one.
    pub(super) sum: Option<usize>,
    pub(super) product: Option<usize>,
    /// Whether the sum contains a `+` and the product a `*`.
    pub(super) adds: bool,
    pub(super) multiplies: bool,
    /// Whether the current operand is the right side of a `%`.
    pub(super) is_divisor: bool,
}

impl Level {
    pub(super) const fn new(expect: Expect) -> Self {
        Self {
            expect,
            has_bracket: false,
            sum: None,
            product: None,
            adds: false,
            multiplies: false,
            is_divisor: false,
        }
    }
}
