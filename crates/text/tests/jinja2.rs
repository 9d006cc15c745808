//! Templates compared with Jinja2 as transformers sets it up. tools/make_template_goldens.py makes the
//! goldens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nanoinfer_text::{ChatInput, ChatTemplate};

/// The time of the goldens: a Thursday, 29 February 2024, 12:34:56 UTC.
const NOW: u64 = 1_709_210_096;

/// What a template gives; `None` if it is refused.
type Rendered = Option<String>;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

fn goldens(path: &Path) -> BTreeMap<String, Rendered> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn render(source: &str, input: &ChatInput) -> Result<String, nanoinfer_text::Error> {
    ChatTemplate::new(source, "<s>", "</s>")?.render_input(input)
}

/// A line of expressions.txt as a template.
fn source(line: &str) -> String {
    let marks = ["{{ ", "{{-", "{% ", "{%-", "{%+", "{# "];
    match marks.iter().any(|mark| line.contains(mark)) {
        true => line.replace('⏎', "\n"),
        false => format!("{{{{ {line} }}}}"),
    }
}

/// What still differs, by reason. No published template is known to depend on any of it.
const DIFFERENCES: &[(&str, &[&str])] = &[
    (
        "minijinja orders values of all types, and Python only some; operators have no hook",
        &["1 < 'a'", "1 > none", "none < 1", "undef < 1", "[1] < 1", "d < d", "[1, 'a'] | sort"],
    ),
    ("minijinja's `in` searches strings for any value", &["1 in s"]),
    ("undefined and none have empty slices", &["none[1:]", "undef[1:]"]),
    ("a float is an index if it is whole", &["l[1.0]"]),
    ("minijinja has no unary plus", &["+n"]),
    ("minijinja prints floats without exponents; tojson does not", &["1.5e-7", "1e16"]),
    ("'undefined' within a list begins with a small letter", UNDEFINED_IN_LISTS),
    (
        "methods are no attributes",
        &["d.items is defined", "d.keys is defined", "s.strip is defined"],
    ),
    (
        "views of dictionaries, ranges and generators are lists",
        &[
            "d.keys()",
            "d.values()",
            "d.items()",
            "d.items() is sequence",
            "d.keys() | tojson",
            "range(0)",
            "range(3)",
            "range(3) | tojson",
            "users | map(attribute='name') | tojson",
        ],
    ),
    ("minijinja's macros have no varargs, and defaults do not see other arguments", MACROS),
    (
        "arguments of dict() and namespace() are not checked",
        &["{{ dict(a=1, a=2) }}", "namespace(_a=1)._a"],
    ),
    ("dict() takes no list of pairs", &["dict([('a', 1)])"]),
    ("a loop over a tuple needs brackets", &["{% for x in 1, 2 %}{{ x }}{% endfor %}"]),
    ("the line end after `raw` is trimmed", &["  {% raw %}⏎  a⏎  {% endraw %}⏎b"]),
    ("some arguments have to be named", ARGUMENTS),
    (
        "some conversions of formats are missing",
        &["'%d' % 7.9", "'%r' % 'a'", "'{!r}'.format('a')"],
    ),
    (
        "strings marked as safe print as others do, and `+` escapes nothing",
        &[
            "'<a>' + ('b' | safe)",
            "('b' | safe) + '<a>'",
            "('<b>' | safe).split('b')",
            "['<b>' | safe]",
        ],
    ),
    ("`attr` also finds items", &["d | attr('a')"]),
    ("sorting ignores the case of ASCII letters only", &["u | sort"]),
    ("digraphs have no title case", &["'ǆ'.title()"]),
    ("filters for web pages and for people are missing", FILTERS),
    ("rare methods are missing", METHODS),
];
const UNDEFINED_IN_LISTS: &[&str] =
    &["users | map(attribute='nope') | list", "users | map(attribute='name.x') | list"];
const MACROS: &[&str] = &[
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
];
const ARGUMENTS: &[&str] = &[
    "users | sort(true, attribute='age') | map(attribute='name') | list",
    "{'b': 1, 'a': 2} | dictsort(false, 'value')",
];
const FILTERS: &[&str] = &[
    "'<b>x</b> y' | striptags",
    "'a b&c' | urlencode",
    "{'q': 'a b'} | urlencode",
    "'abc' | center(7) ~ '|'",
    "'some words here' | truncate(9)",
    "'some words here' | truncate(9, true)",
    "'some words here' | truncate(9, true, '')",
    "'some words here' | wordwrap(5)",
    "1024 | filesizeformat",
    "d | pprint",
    "l | pprint",
    "{'id': 'x'} | xmlattr",
];
const METHODS: &[&str] = &[
    "'Straße'.casefold()",
    "'a1_'.isidentifier()",
    "'abc'.encode('utf-8')",
    "'abc'.isprintable()",
    "'abc'.translate({97: 'x'})",
    "(2).bit_length()",
    "n.bit_length()",
    "f.is_integer()",
];

#[test]
fn expressions_give_what_jinja2_gives() {
    let request = std::fs::read_to_string(data("jinja2/request.json")).unwrap();
    let input = ChatInput::from_json(&request).unwrap().at_time(NOW);
    let goldens = goldens(&data("jinja2/expressions.json"));
    assert!(goldens.len() > 900);
    let known: Vec<&str> = DIFFERENCES.iter().flat_map(|(_, lines)| *lines).copied().collect();
    assert!(known.iter().all(|line| goldens.contains_key(*line)));
    let mut wrong = Vec::new();
    for (line, expected) in &goldens {
        let found = render(&source(line), &input);
        if (found.as_ref().ok() != expected.as_ref()) != known.contains(&line.as_str()) {
            wrong.push(format!("{line}\n    Jinja2: {expected:?}\n    here:   {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), goldens.len(), wrong.join("\n"));
}

#[test]
fn templates_render_conversations_as_jinja2_does() {
    let mut templates = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(data("templates")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for (name, expected) in goldens(&path.with_extension("json")) {
            let request = data(&format!("templates/conversations/{name}.json"));
            let request = std::fs::read_to_string(request).unwrap();
            let input = ChatInput::from_json(&request).unwrap().at_time(NOW);
            let found = render(&source, &input);
            if found.as_ref().ok() != expected.as_ref() {
                let template = path.file_name().unwrap();
                wrong.push(format!("{template:?}, {name}:\n{expected:?}\n{found:?}"));
            }
        }
        templates += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(templates, 20);
}
