use super::{is_gbnf, to_lark};

#[test]
fn the_format_is_recognized() {
    assert!(is_gbnf("# a comment\nroot  ::= \"a\""));
    assert!(!is_gbnf("start: \"::=\" rest\nrest: \"b\""));
    assert!(!is_gbnf(""));
}

#[test]
fn rules_without_recursion_become_terminals() {
    let lark =
        to_lark("root ::= item+\nitem ::= \"- \" [^\\n]{1,3} nl # text\nnl ::= \"\\n\"").unwrap();
    let expected = "start: T0\n\
                    T0: (T1)+\n\
                    T1: (/\\x{2d} / (/[^\\x{a}]/){1,3} T2)\n\
                    T2: /\\x{a}/\n";
    assert_eq!(lark, expected);
}

#[test]
fn runs_without_recursion_become_terminals() {
    let text = "root ::= \"(\" ws root? ws \")\"\n  | [0-9]+\nws ::= \" \"*";
    let expected = "start: r0\n\
                    r0: ((P0 (r0)? P1) | P2)\n\
                    T1: (/ /)*\n\
                    P0: (/\\x{28}/ T1)\n\
                    P1: (T1 /\\x{29}/)\n\
                    P2: (/[0-9]/)+\n";
    assert_eq!(to_lark(text).unwrap(), expected);
}

#[test]
fn errors_name_the_line() {
    for (text, place, part) in [
        ("a ::= \"x\"", "the grammar", "no rule named root"),
        ("root ::= a\n", "line 1", "a, used by root, is not defined"),
        ("root ::= \"x\n\"", "line 1", "a literal is not closed"),
        ("root ::= \"x\"\nroot ::= \"y\"", "line 2", "defined twice"),
        ("root ::= (\"x\"\n", "line 2", "parenthesis is not closed"),
        ("root ::= [z-a]", "line 1", "reversed"),
        ("root ::= []", "line 1", "empty"),
        ("root ::= \"a\"{3,2}", "line 1", "below its beginning"),
        ("root ::= \"a\"{100000}", "line 1", "more than 2000"),
        (&format!("root ::= \"a\"{}", "*".repeat(500_000)), "line 1", "more than 4 repetitions"),
        ("root ::= \"\\q\"", "line 1", "unknown escape"),
        ("root ::= \"\\uD800\"", "line 1", "hexadecimal"),
        ("root ::= <[12]>", "line 1", "not supported"),
        ("\n\nroot = \"x\"", "line 3", "expected ::="),
        ("root ::= \"x\" )", "line 1", "unexpected ')'"),
        (&format!("root ::= {}", "(".repeat(100_000)), "line 1", "nested parentheses"),
    ] {
        let error = to_lark(text).unwrap_err();
        assert_eq!(error.place(), Some(place), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}
