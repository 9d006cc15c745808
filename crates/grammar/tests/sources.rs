//! Sources: what is accepted, and what errors say.

mod common;

use common::{allowed, byte_level, sentence_piece};
use nanoinfer_grammar::{Error, Grammars, Options, Source, source_of};
use serde_json::{Value, json};

/// The error of compiling a source.
fn error(grammars: &Grammars, source: Result<Source, Error>) -> Error {
    source.and_then(|source| grammars.compile(&source)).expect_err("an error")
}

#[test]
fn errors_of_schemas_name_the_keyword_and_its_place() {
    let grammars = Grammars::new(byte_level());
    for (schema, place, part) in [
        (r#"{"type": "string", "pattern": "(?=a)b"}"#, "#/pattern", "look-around"),
        (r#"{"type": "string", "pattern": "(a"}"#, "#/pattern", "unclosed group"),
        (
            r#"{"properties": {"a/b": {"items": {"pattern": "x(?!y)"}}}}"#,
            "#/properties/a~1b/items/pattern",
            "look-around",
        ),
        (r#"{"patternProperties": {"(?<=a)": {}}}"#, "#/patternProperties/(?<=a)", "look-around"),
        (r##"{"$ref": "#"}"##, "#/$ref", "requires itself"),
        (
            r##"{"properties": {"a": {"$ref": "#"}}, "type": "object", "required": ["a"]}"##,
            "#/properties/a/$ref",
            "requires itself",
        ),
        (
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}"##,
            "#/$ref",
            "requires itself",
        ),
        (r##"{"$ref": "#/$defs/missing"}"##, "#/$ref", "does not exist"),
        (r#"{"$ref": "https://example.org/schema"}"#, "#/$ref", "not within this schema"),
        (
            r#"{"properties": {"a": {"not": {"type": "null"}}}}"#,
            "#/properties/a/not",
            "cannot be enforced",
        ),
        (r#"{"type": "array", "uniqueItems": true}"#, "#/uniqueItems", "cannot be enforced"),
        (r#"{"type": "object", "colour": "red"}"#, "#/colour", "unknown"),
        (r#"{"x-guidance": {"lenient": true}}"#, "#/x-guidance", "cannot be enforced"),
        (
            r#"{"anyOf": [{"type": "null"}, {"type": "string", "format": "colour"}]}"#,
            "#/anyOf/1/format",
            "colour",
        ),
        (r#"{"items": {"type": "text"}}"#, "#/items", "Invalid type"),
        (
            r#"{"properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}}, "type": "object", "required": ["n"]}"#,
            "#/properties/n/minimum",
            "nsatisfiable",
        ),
        (
            r#"{"oneOf": [{"type": "string"}, {"minLength": 3, "type": "string"}]}"#,
            "#/oneOf",
            "oneOf",
        ),
        (r#"{"type": "string", "minLength": "3"}"#, "#/minLength", "minLength"),
        ("false", "#", "false"),
        ("[1]", "#", "an object, true or false"),
        ("{\"type\":\n tru}", "line 2, column 5", "not JSON"),
    ] {
        let error = error(&grammars, Source::schema(schema));
        let text = error.to_string();
        assert_eq!(error.place(), Some(place), "{schema}: {text}");
        assert!(text.contains(part), "{schema}: {text}");
        assert!(!text.contains('\n') && text.contains("; "), "{text:?}");
    }
}

#[test]
fn errors_of_grammars_name_the_line() {
    let grammars = Grammars::new(byte_level());
    let regex = |text: &str| Ok(Source::Regex(text.to_owned()));
    for (source, place, part) in [
        (Ok(Source::grammar("start: \"a\"\nb: )")), "line 2, column 4", "expecting"),
        (
            Ok(Source::grammar(&format!("start: {}", "\"a\" ".repeat(70_000)))),
            "the grammar",
            "it is too large or complex to be compiled; simplify it",
        ),
        (Ok(Source::grammar("start: missing")), "line 1, column 8", "missing"),
        (Ok(Source::grammar("root ::= \"a\"\n  other")), "line 2", "expected ::= after other"),
        (Ok(Source::grammar("")), "the grammar", ""),
        (Ok(Source::grammar(&format!("start: {}", "(".repeat(1000)))), "line 1", "nested"),
        (regex("a(?=b)"), "the regular expression", "look-around"),
        (regex("(ab"), "the regular expression", "unclosed group"),
        (regex(""), "the regular expression", "empty"),
        (regex("^$"), "the regular expression", "only the empty text"),
        (regex(&"(".repeat(100_000)), "the regular expression", "nested"),
        (Ok(Source::Choice(vec![])), "the choices", "none"),
        (
            Ok(Source::grammar(&format!("start: \"{}\"", "a".repeat(2 << 20)))),
            "the grammar",
            "bytes",
        ),
    ] {
        let error = error(&grammars, source);
        let text = error.to_string();
        assert_eq!(error.place(), Some(place), "{text}");
        assert!(text.contains(part), "{text}");
        assert!(!text.contains('\n') && text.contains("; "), "{text:?}");
    }
}

#[test]
fn hostile_sources_are_accepted_or_rejected_soon() {
    let options = Options { cache_bytes: 100_000, ..Options::default() };
    let grammars = Grammars::with_options(byte_level(), options);
    let nested = |n: usize| format!("{}{{}}{}", r#"{"items":"#.repeat(n), "}".repeat(n));
    let wide = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!(r#""p{i}":{{"type":"string"}}"#)).collect();
        format!(r#"{{"type":"object","properties":{{{}}}}}"#, names.join(","))
    };
    let texts: Vec<String> = (0..10_000).map(|i| format!("option {i}")).collect();
    for source in [
        Source::Regex("(a+)+b".to_owned()),
        Source::Regex("(a{1,1000}){1,1000}".to_owned()),
        Source::Regex("(((a{1,100}){1,100}){1,100}){1,100}".to_owned()),
        Source::schema(r#"{"type": "string", "maxLength": 1000000}"#).unwrap(),
        Source::schema(r#"{"type": "array", "maxItems": 1000000, "items": {"maxItems": 100000}}"#)
            .unwrap(),
        Source::schema(r#"{"minimum": 1e300, "multipleOf": 0.000001, "type": "number"}"#).unwrap(),
        Source::schema(&nested(100)).unwrap(),
        Source::schema(&wide(2000)).unwrap(),
        Source::Choice(texts),
        Source::grammar("root ::= root root | \"a\""),
        Source::grammar("root ::= (\"a\"?){2000}"),
        Source::grammar("start: start start | \"a\" | \"\""),
    ] {
        let Ok(grammar) = grammars.compile(&source) else { continue };
        let mut constraint = grammar.constraint(false);
        let ids = allowed(constraint.as_mut(), common::VOCAB);
        constraint.push(ids[0]);
        allowed(constraint.as_mut(), common::VOCAB);
    }
    assert!(Source::schema(&nested(200)).is_err(), "deeper than JSON's reader goes");
    assert!(grammars.cached_bytes() <= options.cache_bytes);
}

#[test]
fn chains_that_are_too_long_for_recursion_are_rejected() {
    let grammars = Grammars::new(byte_level());
    let chain = |n: usize, separator: &str, link: &dyn Fn(usize) -> String| {
        (0..n).map(link).collect::<Vec<_>>().join(separator)
    };
    let links: [&dyn Fn(usize) -> Source; 4] = [
        &|n| {
            let rules = chain(n, "\n", &|i| format!("a{i} ::= \"b\" a{}", i + 1));
            Source::grammar(&format!("root ::= a0\n{rules}\na{n} ::= \"x\" | root"))
        },
        &|n| {
            let rules = chain(n, "\n", &|i| format!("A{i}: \"b\" A{}", i + 1));
            Source::grammar(&format!("start: A0\n{rules}\nA{n}: \"x\""))
        },
        &|n| {
            let link = |i| format!(r##""d{i}":{{"items":{{"$ref":"#/$defs/d{}"}}}}"##, i + 1);
            let parts = chain(n, ",", &link);
            let text = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{parts},"d{n}":{{}}}}}}"##);
            Source::schema(&text).unwrap()
        },
        &|n| {
            let link = |i| format!(r##""p{i}":{{"$ref":"#/properties/p{}"}}"##, i + 1);
            let parts = chain(n, ",", &link);
            Source::schema(&format!(r#"{{"properties":{{{parts},"p{n}":{{}}}}}}"#)).unwrap()
        },
    ];
    for (i, source) in links.iter().enumerate() {
        let grammar = grammars.compile(&source(1000)).unwrap();
        let mut constraint = grammar.constraint(false);
        let ids = allowed(constraint.as_mut(), common::VOCAB);
        constraint.push(ids[0]);
        assert!(!allowed(constraint.as_mut(), common::VOCAB).is_empty(), "{i}");
        let error = grammars.compile(&source(16_000)).expect_err("an error").to_string();
        assert!(error.contains(" deep, of at most 8000; simplify it"), "{i}: {error}");
    }
}

#[test]
fn annotations_are_allowed() {
    let grammars = Grammars::new(sentence_piece());
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:example", "title": "T", "description": "d", "x-order": 1, "deprecated": true,
        "type": "object",
        "properties": {"not": {"type": "boolean", "default": false, "examples": [true], "nullable": false}},
        "definitions": {"unused": {"type": "null"}},
    });
    let grammar = grammars.compile(&Source::JsonSchema(schema)).unwrap();
    assert!(grammar.accepts(br#"{"not": true}"#));
    assert!(grammar.accepts(br#"{"not": true, "more": [1, {}]}"#));
    assert!(!grammar.accepts(br#"{"not": 1}"#) && !grammar.accepts(br#"{"not":true}"#));
}

#[test]
fn grammars_in_both_formats_accept_the_same_texts() {
    let grammars = Grammars::new(byte_level());
    let gbnf = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"#;
    let grammar = grammars.compile(&Source::grammar(gbnf)).unwrap();
    for text in
        [r#"{}"#, r#"{"a": [1, -2.5e3, {"b": null}], "\u00e9": "é\n"}"#, "{\n\t\"a\": true}"]
    {
        assert!(grammar.accepts(text.as_bytes()), "{text}");
    }
    for text in ["", "[1]", r#"{"a" 1}"#, r#"{"a": 1,}"#, "{\"a\": \"\n\"}", "{} x"] {
        assert!(!grammar.accepts(text.as_bytes()), "{text}");
    }
    let lark = grammars.compile(&Source::grammar("start: \"(\" start? \")\"")).unwrap();
    let gbnf = grammars.compile(&Source::grammar("root ::= \"(\" root? \")\"")).unwrap();
    for text in ["()", "(())", "((()))", "(()", "())", ""] {
        assert_eq!(lark.accepts(text.as_bytes()), gbnf.accepts(text.as_bytes()), "{text}");
    }
}

#[test]
fn requests_mean_what_other_servers_mean() {
    let source = |request: Value| source_of(request.as_object().unwrap());
    let schema = json!({"type": "object"});
    let is_schema = Some(Source::JsonSchema(schema.clone()));
    for (request, want) in [
        (json!({"prompt": "x", "grammar": null, "format": ""}), None),
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), Some(Source::JsonObject)),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}}),
            is_schema.clone(),
        ),
        (json!({"response_format": {"type": "json_object", "schema": schema}}), is_schema.clone()),
        (json!({"json_schema": schema}), is_schema.clone()),
        (json!({"guided_json": schema.to_string()}), is_schema.clone()),
        (json!({"guided_json": schema, "structured_outputs": {"json": schema}}), is_schema.clone()),
        (
            json!({"structured_outputs": {"regex": "a+", "json": null}}),
            Some(Source::Regex("a+".to_owned())),
        ),
        (
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            Some(Source::Choice(vec!["a".to_owned(), "b".to_owned()])),
        ),
        (
            json!({"structured_outputs": {"grammar": "start: \"a\""}}),
            Some(Source::Lark("start: \"a\"".to_owned())),
        ),
        (json!({"grammar": "root ::= \"a\""}), Some(Source::Gbnf("root ::= \"a\"".to_owned()))),
        (json!({"format": "json"}), Some(Source::JsonObject)),
        (json!({"format": schema}), is_schema),
    ] {
        assert_eq!(source(request.clone()).unwrap(), want, "{request}");
    }
    for (request, place) in [
        (json!({"response_format": {"type": "xml"}}), "response_format"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.schema"),
        (json!({"guided_choice": [1]}), "guided_choice"),
        (json!({"guided_regex": "(?=a)"}), "guided_regex, the regular expression"),
        (json!({"json_schema": {"not": {}}}), "json_schema, #/not"),
        (json!({"json_schema": "{"}), "json_schema, line 1, column 1"),
        (json!({"grammar": "root ::= a", "guided_regex": "a"}), "grammar, line 1"),
        (json!({"grammar": "root ::= \"a\"", "guided_regex": "a"}), "guided_regex"),
        (json!({"structured_outputs": {"structural_tag": "{}"}}), "structured_outputs"),
        (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
    ] {
        let error = source(request.clone()).expect_err("an error");
        assert_eq!(error.place(), Some(place), "{request}: {error}");
    }
}
