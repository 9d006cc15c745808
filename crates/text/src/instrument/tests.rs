use super::*;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, State, Value, context};
use proptest::prelude::*;

fn marked(source: &str) -> String {
    let weighed = instrument(source).unwrap();
    let weighed = weighed.replace(")|iterate__ ", ")").replace("|rem__(0 or ", "%(");
    weighed.replace(" |weigh__ ", "°").replace(" |weigh_held__ ", "•")
}

#[test]
fn filters_follow_expressions_that_make_containers() {
    for (source, expected) in [
        ("{{ a }}{% if a.b == c and not d %}", "{{ a }}{% if a.b == c and not d %}"),
        ("{{ [a, (b, c)] }}", "{{ [a, (b, c)°]° }}"),
        ("{{ a[0].b(c)[1:] - 1 }}", "{{ a[0].b(c)[1:]° - 1 }}"),
        ("{{ a|f|g(b|h) is i(c) }}", "{{ a|f°|g(b|h°)° is i(c) }}"),
        ("{{ a + b - c * d * e ~ f }}", "{{ (a + b - (c * d * e)° ~ f)° }}"),
        ("{{ not a + b == -c * d }}", "{{ not (a + b)° == (-c * d)° }}"),
        ("{{ f(*a, **b, c=d+e) }}", "{{ f(*a, **b, c=(d+e)°)° }}"),
        ("{{ a[0]if b[1:]else{c: d} }}", "{{ a[0]°if b[1:]°else{c: d}° }}"),
        ("{{ a is in [b] + c }}", "{{ (a is in [b]° + c)° }}"),
        ("{% set a = b, c %}", "{% set a =( b, c)° %}"),
        ("{% set a.b = c %}", "{% set a.b =( c)• %}"),
        ("{% set (a, b) = c %}", "{% set (a, b) = c %}"),
        ("{% set a | f(b) | g %}", "{% set a | f(b)° | g° %}"),
        ("{% set a.b | f %}", "{% set a.b | f• %}"),
        ("{% filter f(a) %}", "{% filter f(a)° %}"),
        ("{% for (a, b) in [c] if d %}", "{% for (a, b) in( [c]°) if d %}"),
        ("{% for a in b or c recursive %}", "{% for a in( b or c) recursive %}"),
        ("{{ -a % b[0] ** 2 % c + 1 }}", "{{ (((-a )%( b[0]° ** 2) )%( c) + 1)° }}"),
        ("{% for a, b in c if d, e %}", "{% for a, b in( c) if d, e %}"),
        ("{% for a in b, c %}", "{% for a in b, c %}"),
        ("{{ 2 * a % b }}", "{{ ((2 * a )%( b))° }}"),
        ("{% with a = [b], (c, d) = e * 2 %}", "{% with a = [b]°, (c, d) = (e * 2)° %}"),
        ("{% macro m(a, b=[c]) %}", "{% macro m(a, b=[c]°) %}"),
        (
            "{% call(a) b([c], d[1:]) %}{% do e(f()) %}",
            "{% call(a) b([c]°, d[1:]°) %}{% do e(f()°) %}",
        ),
        ("{{ '}}[' ~ \"\\\"[\" }}", "{{ '}}[' ~ \"\\\"[\" }}"),
        (
            "{# {{ [a] #}{%- raw +%}{{ [a] {%- endraw %}",
            "{# {{ [a] #}{%- raw +%}{{ [a] {%- endraw %}",
        ),
        ("{{ 1if a else[b] }}", "{{ 1if a else[b]° }}"),
        ("{{ 1e+2 * 0xe+2 * 1.5 }}", "{{ ((1e+2 * 0xe)°+(2 * 1.5)°)° }}"),
    ] {
        assert_eq!(marked(source), expected, "{source}");
    }
}

#[test]
fn generation_tags_become_conditions() {
    for (source, expected) in [
        (
            "a {%- generation -%} b {%+endgeneration%}{% if x %}c{% endif %}",
            "a {%- with -%} b {%+endwith%}{% if x %}c{% endif %}",
        ),
        ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
        ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
        ("{% if generation %}", "{% if generation %}"),
    ] {
        assert_eq!(marked(source), expected);
    }
}

/// Fuzzing found `{%}`.
#[test]
fn tags_without_an_end_are_syntax_errors() {
    for source in [
        "{%}",
        "a {%} b %} c",
        "{% generation",
        "{{ ')' ) }}",
        "{{ (] }}",
        "{{ 1 + not a }}",
        "{{ a in not b }}",
        "{{ 'a\\' }}",
        "{#",
        "{%-",
        "{% raw %}",
    ] {
        let error = instrument(source).expect_err(source).to_string();
        assert!(error.starts_with("chat template: syntax error: unexpected"), "{error}");
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a",
        "b",
        "m",
        "1",
        "2.5",
        "1e+1",
        "2*1.e+1",
        "0x1e+1",
        "0b1",
        "1if a else 2",
        "1_0or b",
        "'x'",
        "\"}}\" 'y'",
        "true",
        "none",
        "[]",
        "{}",
        "()",
        "not",
        "in",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "//",
            "%",
            "**",
            "~",
            "==",
            "<",
            " in ",
            " not in ",
            " and ",
            " or ",
            " if ",
            " is ",
            "|",
            "[",
            ".",
            " ",
            ",",
            "|join ",
            "|first|list ",
            " is eq ",
        ]);
        let form = prop::sample::select(vec![
            "[X,Y]",
            "(X,Y)",
            "{X:Y}",
            "[X]",
            "(X)",
            "X[Y]",
            "X[Y:]",
            "X[:Y:2]",
            "X.a",
            "X.0",
            "X|list",
            "X|default(Y)",
            "X|map('string')|list",
            "not X",
            "-X",
            "X if Y else X",
            "X is eq(Y)",
            "X is eq Y",
            "X is not none",
            "X is in Y",
            "dict(k=X,l=Y)",
            "f(X,Y)",
            "f(*X)",
            "X.items()",
            "X.get(Y)",
            "'a' 'b'[X]",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(x, op, y)| x + op + &y),
            (inner.clone(), form, inner)
                .prop_map(|(x, form, y)| form.replace('X', &x).replace('Y', &y)),
        ]
    })
}

fn render(source: &str) -> Result<String, bool> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.unwrap());
    for name in [WEIGH, WEIGH_HELD, ITERATE] {
        env.add_filter(name, |value: Value| value);
    }
    env.add_filter(REM, |state: &State, a: Value, b: Value| {
        state.env().compile_expression("a % b")?.eval(context! { a, b })
    });
    env.add_function("f", |x: Value, y: Option<Value>| Value::from(vec![y.unwrap_or_default(), x]));
    let template = env.template_from_str(source).map_err(|_| false)?;
    template.render(context! { a => [1, 2], b => "x", m => context! { a => 3 } }).map_err(|_| true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// With no-op filters, the rewritten template renders the same output.
    #[test]
    fn rewriting_preserves_the_output(
        x in expression(),
        y in expression(),
        form in prop::sample::select(vec![
            "{{ X }}", "{{-X-}}", "{% set v = X %}{{ v }}", "{% set v=X,Y%}{{ v }}", "{% set v, w = X %}{{ w }}",
            "{% set n = namespace() %}{% set n.v = X %}{{ n.v }}", "{% if X %}1{% elif Y %}2{% endif %}",
            "{% for v in X %}{{ v }}{% endfor %}", "{% for (v, w) in X if Y %}{{ v }}{% endfor %}",
            "{% for v in X recursive %}{{ loop(Y) if loop.depth < 3 }}{% endfor %}",
            "{% with v = X, (w, u) = Y %}{{ v }}{{ u }}{% endwith %}", "{% set v | default(X) %}b{% endset %}{{ v }}",
            "{% filter default(X)|upper %}b{% endfilter %}", "{% macro g(v, w=X) %}{{ w }}{% endmacro %}{{ g(Y) }}",
            "{% macro g(v) %}{{ caller(X) }}{% endmacro %}{% call(v) g(Y) %}{{ v }}{% endcall %}",
            "{% do f(X,Y) %}", "{% block c %}{{ X }}{% endblock %}{{ self.c() }}", "{%set v=(X)[0:1]+Y*2%}{{v}}",
        ]),
    ) {
        let source = form.replace('X', &x).replace('Y', &y);
        match instrument(&source) {
            Ok(weighed) => prop_assert_eq!(render(&weighed), render(&source), "{}", weighed),
            Err(_) if source.contains("not") => {} // minijinja accepts `not` as a name
            Err(_) => prop_assert_eq!(render(&source), Err(false), "{}", source),
        }
    }
}
