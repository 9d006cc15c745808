//! Templates compared with Jinja2 as transformers sets it up. tools/make_template_goldens.py makes the
//! goldens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::Value;
use nanoinfer_text::{ChatInput, ChatTemplate, Content, Message, Part, ToolCall};

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

/// Calls `check` with every template of a folder, the name of a conversation, the conversation, and what
/// Jinja2 gives. Returns the number of templates.
fn each_golden(folder: &str, check: &mut dyn FnMut(&str, &str, &str, Rendered)) -> usize {
    let mut templates = 0;
    for entry in std::fs::read_dir(data(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for (name, expected) in goldens(&path.with_extension("json")) {
            let request = data(&format!("{folder}/conversations/{name}.json"));
            let request = std::fs::read_to_string(request).unwrap();
            let name = format!("{}, {name}", path.file_name().unwrap().display());
            check(&source, &name, &request, expected);
        }
        templates += 1;
    }
    templates
}

#[test]
fn templates_render_conversations_as_jinja2_does() {
    let mut wrong = Vec::new();
    for (folder, count) in [("templates", 20), ("tools", 16)] {
        let templates = each_golden(folder, &mut |source, name, request, expected| {
            let input = ChatInput::from_json(request).unwrap().at_time(NOW);
            let found = render(source, &input);
            if found.as_ref().ok() != expected.as_ref() {
                wrong.push(format!("{name}:\n{expected:?}\n{found:?}"));
            }
        });
        assert_eq!(templates, count);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A message from that of a chat API, member by member.
fn message(value: &Value) -> Message {
    let member = |value: &Value, key: &str| value.get_attr(key).unwrap();
    let text = |value: &Value, key: &str| member(value, key).as_str().map(str::to_owned);
    let items = |value: Value| value.try_iter().ok().into_iter().flatten();
    let content = member(value, "content");
    let content = match content.as_str() {
        Some(text) => Content::from(text),
        None => {
            let parts = items(content);
            Content::Parts(parts.map(|p| Part::Text(text(&p, "text").unwrap())).collect())
        }
    };
    let calls = items(member(value, "tool_calls")).map(|call| {
        let function = member(&call, "function");
        let arguments = serde_json::to_string(&member(&function, "arguments")).unwrap();
        ToolCall { id: text(&call, "id"), name: text(&function, "name").unwrap(), arguments }
    });
    Message {
        tool_calls: calls.collect(),
        tool_call_id: text(value, "tool_call_id"),
        name: text(value, "name"),
        reasoning_content: text(value, "reasoning_content"),
        ..Message::new(text(value, "role").unwrap(), content)
    }
}

#[test]
fn messages_render_as_those_of_a_request() {
    let mut wrong = Vec::new();
    each_golden("tools", &mut |source, name, request, expected| {
        let request: Value = serde_json::from_str(request).unwrap();
        let member = |key: &str| request.get_attr(key).unwrap();
        let messages: Vec<_> =
            member("messages").try_iter().unwrap().map(|m| message(&m)).collect();
        let mut input =
            ChatInput::from_messages(&messages, member("add_generation_prompt").is_true());
        if !member("tools").is_undefined() {
            input = input.with_tools(&serde_json::to_string(&member("tools")).unwrap()).unwrap();
        }
        let variables = member("chat_template_kwargs");
        for key in variables.try_iter().ok().into_iter().flatten() {
            let value = serde_json::to_string(&variables.get_item(&key).unwrap()).unwrap();
            input = input.with_variable(key.as_str().unwrap(), &value).unwrap();
        }
        let found = render(source, &input.at_time(NOW));
        if found.as_ref().ok() != expected.as_ref() {
            wrong.push(format!("{name}:\n{expected:?}\n{found:?}"));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn variables_cannot_replace_the_conversation() {
    let input = || ChatInput::from_messages(&[Message::new("user", "Hi")], true);
    for name in ["messages", "tools", "bos_token", "add_generation_prompt", "raise_exception"] {
        assert!(input().with_variable(name, "[]").is_err(), "{name}");
    }
    assert!(input().with_variable("enable_thinking", "no").is_err());
    assert!(input().with_tools("[1]").is_err());
    let twice = input().with_variable("x", "1").unwrap().with_variable("x", "2").unwrap();
    assert_eq!(render("{{ x }}", &twice).unwrap(), "2");
}
