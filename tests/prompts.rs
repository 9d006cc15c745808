//! What becomes of the text that users give: prompts, control tokens, templates, conversations through
//! pipes. With a tiny model whose tokens are bytes; see `common::talking`.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use common::{CONTROL, assert_fails, json, nanoinfer, stderr, stdout, talking, temp};
use serde_json::Value;

/// Rejects a message that contains "refuse", as real templates reject roles.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\
    {% if 'refuse' in m.content %}{{ raise_exception('not this one') }}{% endif %}\
    <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const BOS: u32 = 256;

/// A folder with a model, and the binary with that model.
struct Home {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Home {
    fn new(template: Option<&str>) -> Self {
        let folder = temp();
        let model = talking(folder.path(), template);
        let home = Self { folder, model };
        home.run("tokenize", &["--text", ""], ""); // converts the model
        home
    }

    fn run(&self, command: &str, args: &[&str], input: impl Into<Vec<u8>>) -> Output {
        let mut binary = nanoinfer(&self.folder.path().join("cache"));
        binary.arg(command).arg("--model").arg(&self.model).args(args);
        binary.current_dir(self.folder.path()).write_stdin(input).output().unwrap()
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    /// The ids that `tokenize` shows, after checking that `generate` feeds them.
    fn fed(&self, args: &[&str], input: &str) -> Vec<u32> {
        let ids = |command: &str, more: &[&str], list: &str| -> Vec<u32> {
            let object = json(&self.run(command, &[args, more].concat(), input));
            serde_json::from_value(object[list].clone()).unwrap()
        };
        let shown = ids("tokenize", &["--json"], "ids");
        let fed = ids("generate", &["--json", "-n", "1"], "prompt_tokens");
        assert_eq!(shown, fed, "{args:?}");
        fed
    }
}

/// Ids of a text in which the names of control tokens stand for themselves.
fn ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let known = CONTROL.iter().zip(256..).find(|(name, _)| rest.starts_with(**name));
        let (id, len) = known.map_or((rest.as_bytes()[0].into(), 1), |(n, id)| (id, n.len()));
        ids.push(id);
        rest = rest.split_at_checked(len).map_or("", |(_, rest)| rest);
    }
    ids
}

fn with_bos(text: &str) -> Vec<u32> {
    [&[BOS], &text.bytes().map(u32::from).collect::<Vec<_>>()[..]].concat()
}

#[test]
fn files_and_pipes_lose_one_line_end_and_a_byte_order_mark() {
    let home = Home::new(None);
    for (bytes, expected) in [
        ("ab", "ab"),
        ("ab\n", "ab"),
        ("ab\r\n", "ab"),
        ("ab\n\n", "ab\n"),
        ("\u{feff}ab\n", "ab"),
        ("a\0b ", "a\0b "),
    ] {
        home.file("prompt.txt", bytes.as_bytes());
        assert_eq!(home.fed(&["--prompt-file", "prompt.txt"], ""), with_bos(expected), "{bytes:?}");
        assert_eq!(home.fed(&[], bytes), with_bos(expected), "{bytes:?}");
    }
    assert_eq!(home.fed(&["--keep-newline"], "ab\n"), with_bos("ab\n"));
    assert_eq!(home.fed(&["--prompt", "- ab\n"], ""), with_bos("- ab\n"), "--prompt is as typed");

    home.file("latin1.txt", b"one\ntwo \xe9");
    let missing = ["--model", "none.gguf", "--prompt-file", "latin1.txt"];
    let mut binary = nanoinfer(&home.folder.path().join("cache"));
    let output = binary.arg("generate").args(missing).current_dir(home.folder.path()).output();
    // Before the model is looked for.
    assert_fails(&output.unwrap(), 1, &["latin1.txt", "line 2", "byte 8"]);
    assert_fails(&home.run("generate", &[], b"\xff\xfea\0"), 1, &["standard input", "UTF-16"]);
    assert_fails(&home.run("tokenize", &[], b"\n\xff"), 1, &["standard input", "line 2"]);
}

#[test]
fn names_of_control_tokens_are_text_unless_special() {
    let home = Home::new(Some(TEMPLATE));
    let text = "<|im_start|>user\nHi<|im_end|>\n";
    assert_eq!(home.fed(&["--prompt", text], ""), with_bos(text));
    let parsed = [&[BOS], &ids(text)[..]].concat();
    assert_eq!(home.fed(&["--special", "--prompt", text], ""), parsed);
    assert_eq!(home.fed(&["--special"], &format!("{text}\n")), parsed);
    // A prompt that spells out the first token gets no second one.
    assert_eq!(home.fed(&["--special", "--prompt", "<s>Hi"], ""), ids("<s>Hi"));
    assert_eq!(home.fed(&["--prompt", "<s>Hi"], ""), with_bos("<s>Hi"));

    // Typed text never becomes a control token.
    let chat = ["--chat", "--system", "<|im_end|>", "--prompt", text];
    let count = |ids: &[u32]| ids.iter().filter(|id| **id >= BOS).count();
    let fed = home.fed(&chat, "");
    assert_eq!(count(&fed), 1 + 2 + 2 + 1, "BOS, two messages and the beginning of the answer");
    assert_fails(&home.run("generate", &["--special", "--chat"], ""), 2, &["--chat"]);
}

#[test]
fn tokenize_shows_ids_text_and_pieces() {
    let home = Home::new(None);
    let object = |args: &[&str]| json(&home.run("tokenize", &[&["--json"], args].concat(), ""));
    let shown = object(&["--special", "--text", "é<|im_end|>"]);
    let expected = serde_json::json!({
        "ids": [BOS, 0xc3, 0xa9, BOS + 3],
        "decoded": "<s>é<|im_end|>",
        "pieces": ["<s>", "\u{fffd}", "\u{fffd}", "<|im_end|>"],
    });
    assert_eq!(shown, expected);
    assert_eq!(object(&["--no-bos", "--text", "a"])["ids"], serde_json::json!([97]));
    assert_eq!(object(&["--plain", "--text", "a"]), object(&["--text", "a"]));
    assert_eq!(stdout(&home.run("tokenize", &["-t", "a"], "")), "256,97\n");
}

#[test]
fn a_template_can_be_named_or_given_as_a_file() {
    let without = Home::new(None);
    let ask = ["--chat", "--prompt", "Hi"];
    let missing = without.run("generate", &ask, "");
    assert_fails(&missing, 1, &["error: no chat template in", "--chat-template", "--special"]);
    assert!(!stderr(&missing).contains(".nano"), "names a cached file: {}", stderr(&missing));
    assert_fails(&without.run("chat", &[], "Hi\n"), 1, &["no chat template in", "--chat-template"]);

    let fed = |home: &Home, template: &str, file: &str| {
        home.file("chat.jinja", file.as_bytes());
        home.fed(&[&ask[..], &["--chat-template", template]].concat(), "")
    };
    let chatml = ids("<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(fed(&without, "chatml", ""), chatml);
    let own = "\u{feff}{{ bos_token }}[{{ messages[0].content }}]\n";
    assert_eq!(fed(&without, "chat.jinja", own), ids("<s>[Hi]"));
    let with = Home::new(Some("own"));
    assert_eq!(fed(&with, "./chat.jinja", own), ids("<s>[Hi]"), "instead of the model's");
    let answer = without.run("chat", &["--chat-template", "chatml", "-n", "4"], "Hi\n");
    assert!(answer.status.success() && !answer.stdout.is_empty(), "{}", stderr(&answer));

    with.file("broken.jinja", b"{% for %}");
    for (template, parts) in [
        ("frobnicate", &["--chat-template frobnicate", "neither", "chatml", "zephyr"][..]),
        ("mistral", &["mistral-v1", "mistral-v3"]),
        ("none.jinja", &["--chat-template", "none.jinja", "cannot open"]),
        ("broken.jinja", &["--chat-template broken.jinja", "template"]),
    ] {
        let args = [&ask[..], &["--chat-template", template]].concat();
        assert_fails(&with.run("generate", &args, ""), 1, parts);
    }
    assert_fails(&with.run("generate", &["--chat-template", "chatml"], ""), 2, &["--chat"]);
}

#[test]
fn reasoning_is_turned_on_and_off_by_the_template() {
    let home = Home::new(None);
    let ask = |template: &str, think: &str| {
        home.file("chat.jinja", template.as_bytes());
        ["--chat", "--prompt", "Hi", "--chat-template", "chat.jinja", "--think", think]
            .map(String::from)
    };
    let fed = |template: &str, think| {
        let args = ask(template, think);
        home.fed(&args.each_ref().map(String::as_str), "")
    };
    let switch = "[{{ messages[0].content }}]{% if enable_thinking is defined and not enable_thinking %}\
                  <think></think>{% endif %}";
    assert_eq!(fed(switch, "on"), ids("[Hi]"));
    assert_eq!(fed(switch, "off"), ids("[Hi]<think></think>"));
    assert_eq!(fed("[{{ messages[0].content }}]", "off"), ids("[Hi]"), "it never reasons");
    for (template, think, part) in [
        ("[{{ messages[0].content }}]", "on", "the model's chat template has no reasoning"),
        ("{{ messages[0].content.split('</think>')[-1] }}", "off", "cannot turn reasoning off"),
        (switch, "20", "no tokens around its reasoning"),
    ] {
        let args = ask(template, think);
        let refused = home.run("generate", &args.each_ref().map(String::as_str), "");
        assert_fails(&refused, 1, &["error: --think", part]);
    }
}

#[test]
fn a_refusal_by_the_template_names_the_model_as_given() {
    let home = Home::new(Some(TEMPLATE));
    let refused = home.run("generate", &["--chat", "--prompt", "refuse"], "");
    assert_fails(&refused, 1, &["not this one", "talking"]);
    assert!(!stderr(&refused).contains(".nano"), "{}", stderr(&refused));
}

#[test]
fn gaps_are_filled_by_models_with_the_tokens() {
    let home = Home::new(None);
    let args = ["--fim-prefix", "a<|im_end|>", "--fim-suffix", "-b"];
    let text = |s: &str| s.bytes().map(u32::from).collect::<Vec<_>>();
    let (pre, suf, mid) = (BOS + 4, BOS + 5, BOS + 6);
    let expected = [&[BOS, pre], &text("a<|im_end|>")[..], &[suf], &text("-b"), &[mid]].concat();
    assert_eq!(home.fed(&args, ""), expected);
    assert_eq!(home.fed(&["--fim-suffix", "b"], ""), [BOS, pre, suf, u32::from(b'b'), mid]);
    let parsed = home.fed(&[&args[..], &["--special"]].concat(), "");
    assert_eq!(parsed[2..4], [u32::from(b'a'), BOS + 3]);
    for other in ["--chat", "--prompt=x", "--prompt-file=x"] {
        assert_fails(&home.run("generate", &[&args[..], &[other]].concat(), ""), 2, &["--fim-"]);
    }

    let json = fs::read_to_string(home.model.join("tokenizer.json")).unwrap();
    fs::write(home.model.join("tokenizer.json"), json.replace("<|fim_middle|>", "<|x|>")).unwrap();
    assert_fails(&home.run("generate", &args, ""), 1, &["no tokens for --fim-prefix", "talking"]);
}

#[test]
fn minus_one_is_no_limit() {
    let home = Home::new(None);
    let object = |args: &[&str]| {
        let args = [&["--json", "--prompt", "abc", "--ignore-eos"], args].concat();
        let output = home.run("generate", &args, "");
        (json(&output), stderr(&output))
    };
    let (all, _) = object(&["-n", "-1", "--ctx", "64"]);
    assert_eq!(all["finish_reason"], "context");
    let sampled = ["-n", "8", "--temp", "2"];
    let with = |more: &[&str]| object(&[&sampled[..], more].concat());
    let (every, none) = (with(&["--top-k", "-1"]).0, with(&["--top-k", "0"]).0);
    assert_eq!((&every["tokens"], &every["seed"]), (&none["tokens"], &0.into()));
    let (random, note) = with(&["--seed", "-1"]);
    let seed = random["seed"].as_u64().unwrap().to_string();
    assert_eq!(note, format!("nanoinfer: seed {seed}\n"));
    assert_eq!(with(&["--seed", &seed]).0["tokens"], random["tokens"]);
    for (option, wrong) in [("-n", "-2"), ("--top-k", "x"), ("--seed", "-3")] {
        let output = home.run("generate", &["--prompt", "x", option, wrong], "");
        assert_fails(&output, 2, &["expected", "-1", "--help"]);
    }
}

#[test]
fn a_context_beyond_the_models_training_is_warned_about() {
    let home = Home::new(Some(TEMPLATE));
    let beyond = home.run("generate", &["--prompt", "a", "-n", "1", "--ctx", "1024"], "");
    assert!(beyond.status.success());
    let warning = stderr(&beyond);
    assert!(warning.starts_with("nanoinfer: warning: ") && warning.lines().count() == 1);
    assert!(warning.contains("512"), "{warning}");
    let chat = home.run("chat", &["-n", "1", "--ctx", "1024"], "Hi\n");
    assert!(stderr(&chat).starts_with("nanoinfer: warning: "), "{}", stderr(&chat));
    let within = home.run("generate", &["--prompt", "a", "-n", "1", "--ctx", "512"], "");
    assert!(within.stderr.is_empty(), "{}", stderr(&within));

    // No advice that leads to garbage.
    let fails = |n: usize, parts: &[&str], not: &str| {
        let output = home.run("generate", &["--ctx", "64"], "a".repeat(n));
        assert_fails(&output, 1, parts);
        assert!(!stderr(&output).contains(not), "{}", stderr(&output));
    };
    fails(100, &["101 tokens", "larger --ctx", "512"], "slide");
    fails(600, &["601 tokens", "512", "shorter prompt", "--overflow slide"], "--ctx");
}

#[cfg(target_os = "linux")]
#[test]
fn arguments_that_are_not_utf8_are_paths_or_errors() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new(None);
    let latin1 = OsStr::from_bytes(b"caf\xe9");
    let other = OsStr::from_bytes(b"na\xefve");
    fs::write(home.folder.path().join(latin1), "ab").unwrap();
    let run = |command: &str, options: &[&OsStr]| {
        let mut binary = nanoinfer(&home.folder.path().join("cache"));
        binary.arg(command).arg("--model").arg(&home.model).args(options);
        binary.current_dir(home.folder.path()).write_stdin("").output().unwrap()
    };
    let option = OsStr::new;
    let read = run("generate", &[option("--json"), option("--prompt-file"), latin1]);
    assert_eq!(json(&read)["prompt_tokens"], Value::from(with_bos("ab")));
    let cached = ["--prompt=ab", "-n1", "--cache-dir"].map(option);
    let cached = run("generate", &[&cached[..], &[other]].concat());
    assert!(cached.status.success(), "{}", stderr(&cached));
    assert!(home.folder.path().join(other).is_dir());
    let logits = ["--tokens=1,2", "--out"].map(option);
    let logits = run("logits", &[&logits[..], &[OsStr::from_bytes(b"\xff")]].concat());
    assert!(logits.status.success(), "{}", stderr(&logits));
    let text = run("generate", &[option("--prompt"), latin1]);
    assert_fails(&text, 2, &["not valid UTF-8", "generate --help"]);
    let mut binary = nanoinfer(home.folder.path());
    assert_fails(&binary.arg(latin1).output().unwrap(), 2, &["--help"]);
    for command in [&["generate", "--prompt=a"][..], &["tokenize", "-ta"], &["eval"], &["bench"]] {
        let mut binary = nanoinfer(home.folder.path());
        let missing = OsStr::from_bytes(b"none\xe9.gguf");
        let model = binary.args(command).arg("--model").arg(missing).write_stdin("text").output();
        assert_fails(&model.unwrap(), 1, &["none", ".gguf"]);
    }
}

/// Runs a piped conversation with short answers.
fn piped(home: &Home, args: &[&str], input: impl Into<Vec<u8>>) -> Output {
    home.run("chat", &[&["-n", "8", "--ignore-eos"], args].concat(), input)
}

fn answers(output: &Output) -> usize {
    stderr(output).matches("tokens/s").count()
}

#[test]
fn commands_work_through_pipes() {
    let home = Home::new(Some(TEMPLATE));
    let input = "\u{feff}/help\r\n/system Be brief.\r\nHi\r\n//etc is a folder\r\n/save all.json\r\n\
                 /clear\r\n/load all.json\r\n/undo\r\n/regen\r\n/export all.md\r\n/set top-k -1\r\n\
                 /usr/bin is a folder\r\n/ alone\r\n/exit\r\nnever read\r\n";
    let output = piped(&home, &[], input);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(answers(&output), 5, "{}", stderr(&output));
    for part in ["/export FILE", "wrote all.json", "started a new", "removed the last", "top-k 0"] {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    let saved = fs::read_to_string(home.folder.path().join("all.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["system"], "Be brief.");
    let user = |n: usize| saved["messages"][n]["content"].as_str().unwrap();
    assert_eq!((user(0), user(2)), ("Hi", "/etc is a folder"));

    for (bad, parts) in [
        (&b"Hi\n/frobnicate\nHi\n"[..], &["line 2", "/frobnicate", "/help"][..]),
        (b"Hi\n/copy\nHi\n", &["line 2", "/copy", "full-screen"]),
        (b"Hi\n/set temp hot\nHi\n", &["line 2", "temp"]),
        (b"Hi\n/load none.json\nHi\n", &["line 2", "none.json"]),
        (b"Hi\nna\xefve\nHi\n", &["line 2", "byte 5", "UTF-8"]),
    ] {
        let output = piped(&home, &[], bad);
        assert_eq!((output.status.code(), answers(&output)), (Some(1), 1), "{}", stderr(&output));
        let last = stderr(&output).lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("nanoinfer: error: standard input, "), "{last}");
        assert!(parts.iter().all(|part| last.contains(part)), "{last}");
    }
}

#[test]
fn a_refused_message_is_out_of_the_way_of_the_next_one() {
    let home = Home::new(Some(TEMPLATE));
    let long = "x".repeat(600);
    for refused in ["refuse", &long] {
        let output = piped(&home, &[], format!("Hi\n{refused}\nHo\n/save all.json\n"));
        assert_eq!((output.status.code(), answers(&output)), (Some(1), 2), "{}", stderr(&output));
        assert!(stderr(&output).contains("[not answered: "), "{}", stderr(&output));
        assert!(stderr(&output).contains("nanoinfer: error: messages not answered: 1;"));
        let saved = fs::read_to_string(home.folder.path().join("all.json")).unwrap();
        let saved: Value = serde_json::from_str(&saved).unwrap();
        let messages = saved["messages"].as_array().unwrap();
        let said = |n: usize| messages[n]["content"].as_str().unwrap();
        assert_eq!((messages.len(), said(0), said(2)), (4, "Hi", "Ho"));
    }
}

#[test]
fn a_piped_chat_goes_on_when_the_context_is_full() {
    let home = Home::new(Some(TEMPLATE));
    let message = format!("{}\n", "tell me more ".repeat(3));
    let turns = message.repeat(12); // each has about 70 tokens
    let output = piped(&home, &["--ctx", "256"], turns.clone());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(answers(&output), 12);
    assert!(stderr(&output).contains("are no longer in the context"), "{}", stderr(&output));
    let slid = piped(&home, &["--ctx", "256", "--overflow", "slide"], turns);
    assert!(slid.status.success() && !stderr(&slid).contains("no longer"), "{}", stderr(&slid));

    let cut = home.run("chat", &["--ignore-eos", "--ctx", "128"], "Hi\n");
    assert_eq!(cut.status.code(), Some(1), "{}", stderr(&cut));
    assert!(stderr(&cut).contains("--overflow slide"), "{}", stderr(&cut));
    assert!(stderr(&cut).contains("nanoinfer: error: messages not answered: 0; answers cut off by the end of the context: 1;"), "{}", stderr(&cut));
}

/// A pipe or a device named by `--out` must not be replaced by a file.
#[cfg(target_os = "linux")]
#[test]
fn logits_are_written_into_a_pipe() {
    use std::io::Read;
    use std::os::unix::fs::FileTypeExt;
    let home = Home::new(None);
    let (pipe, file) = (home.folder.path().join("pipe"), home.folder.path().join("file"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Opened for both, so that neither side waits for the other.
    let mut ends = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    for out in ["pipe", "file"] {
        let output = home.run("logits", &["--tokens", "1,2", "--out", out], "");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let expected = fs::read(file).unwrap();
    let mut written = vec![0; expected.len()];
    ends.read_exact(&mut written).unwrap();
    assert_eq!(written, expected);
}
