//! The real binary with the real default model; see `common::std_with_default_model`.

mod common;

use std::fs;
use std::io::Read;
use std::process::{Output, Stdio};

use assert_cmd::Command;
use common::{
    assert_fails, json, std_with_default_model, stderr, stdout, temp, with_default_model,
};
use serde_json::Value;

fn generate(args: &[&str]) -> Command {
    let mut command = with_default_model();
    command.arg("generate").args(args);
    command
}

fn run(args: &[&str]) -> Output {
    generate(args).output().unwrap()
}

fn object(args: &[&str]) -> Value {
    json(&run(&[args, &["--json"]].concat()))
}

const FRANCE: [&str; 3] = ["--chat", "--prompt", "What is the capital of France?"];

#[test]
fn a_question_is_answered() {
    let answer = object(&FRANCE);
    assert!(answer["text"].as_str().unwrap().contains("Paris"), "{answer}");
    assert_eq!(answer["finish_reason"], "stop");

    let object = answer.as_object().unwrap();
    let mut keys: Vec<_> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "drafts",
        "evicted_tokens",
        "finish_reason",
        "isa",
        "overflow",
        "prompt_tokens",
        "reused_tokens",
        "seed",
        "text",
        "threads",
        "timings",
        "tokens",
    ];
    assert_eq!(keys, expected);
    for list in ["prompt_tokens", "tokens"] {
        assert!(object[list].as_array().unwrap().iter().all(Value::is_u64), "{list}");
    }
    let timings = object["timings"].as_object().unwrap();
    for key in ["load_ms", "prefill_ms", "prefill_tps", "decode_tps", "ttft_ms"] {
        assert!(timings[key].as_f64().unwrap() > 0.0, "{key}: {timings:?}");
    }
    assert_eq!(timings.len(), 5);
    assert!(object["threads"].as_u64().unwrap() >= 1);

    // Without --json the output is exactly the text.
    let plain = run(&FRANCE);
    assert_eq!(stdout(&plain), answer["text"].as_str().unwrap());
    assert!(plain.stderr.is_empty(), "{}", stderr(&plain));
}

#[test]
fn finish_reasons() {
    let length = object(&["--prompt", "Once upon a time", "-n", "5"]);
    assert_eq!(length["finish_reason"], "length");
    assert_eq!(length["tokens"].as_array().unwrap().len(), 5);

    let context = object(&["--prompt", "Once upon a time", "--ctx", "64", "--ignore-eos"]);
    assert_eq!(context["finish_reason"], "context");
    let tokens = |list: &str| context[list].as_array().unwrap().len();
    assert!((63..=65).contains(&(tokens("prompt_tokens") + tokens("tokens"))), "{context}");

    let slid = ["--ctx", "128", "--overflow", "slide", "-n", "200", "--ignore-eos"];
    let slid = object(&[&["--prompt", "Once upon a time"], &slid[..]].concat());
    assert_eq!((&slid["finish_reason"], &slid["overflow"]), (&"length".into(), &"slide".into()));
    assert_eq!(slid["tokens"].as_array().unwrap().len(), 200);
    assert_eq!(slid["evicted_tokens"], 128);
    assert_eq!(context["evicted_tokens"], 0);

    let whole = object(&FRANCE);
    let cut = object(&[&FRANCE[..], &["--stop", "Paris"]].concat());
    assert_eq!(cut["finish_reason"], "stop");
    let before = whole["text"].as_str().unwrap().split("Paris").next().unwrap();
    assert_eq!(cut["text"].as_str().unwrap(), before);
}

#[test]
fn the_same_seed_produces_the_same_text() {
    let text = |seed: &str, threads: &str| {
        let sampling = ["--temp", "1", "--seed", seed, "--threads", threads];
        object(&[&["--prompt", "The weather today", "-n", "12"], &sampling[..]].concat())["tokens"]
            .clone()
    };
    assert_eq!(text("1", "1"), text("1", "2"));
    assert_ne!(text("1", "1"), text("2", "1"));

    let fastest = object(&["--prompt", "The weather", "-n", "4"]);
    let mut command = generate(&["--prompt", "The weather", "-n", "4", "--json"]);
    let scalar = json(&command.env("NANOINFER_ISA", "scalar").output().unwrap());
    assert_eq!(scalar["isa"], "scalar");
    assert_eq!(scalar["tokens"], fastest["tokens"]);
    let unknown = generate(&["--prompt", "x"]).env("NANOINFER_ISA", "mmx").output().unwrap();
    assert_fails(&unknown, 1, &["NANOINFER_ISA", "mmx"]);
}

#[test]
fn the_prompt_comes_from_an_argument_a_file_or_standard_input() {
    let folder = temp();
    let file = folder.path().join("prompt.txt");
    fs::write(&file, "Once upon a time").unwrap();
    let text = run(&["-n", "5", "--prompt", "Once upon a time"]);
    assert!(text.status.success() && !text.stdout.is_empty(), "{}", stderr(&text));
    let from_file = generate(&["-n", "5", "--prompt-file"]).arg(&file).output().unwrap();
    let from_stdin = generate(&["-n", "5"]).write_stdin("Once upon a time").output().unwrap();
    assert_eq!(stdout(&from_file), stdout(&text));
    assert_eq!(stdout(&from_stdin), stdout(&text));

    let missing = run(&["--prompt-file", "none.txt"]);
    assert_fails(&missing, 1, &["none.txt", "No such file"]);
    let binary = generate(&[]).write_stdin(b"ab\xff".as_slice()).output().unwrap();
    assert_fails(&binary, 1, &["standard input", "byte 2", "UTF-8"]);
    let long = generate(&["--ctx", "64"]).write_stdin("word ".repeat(100)).output().unwrap();
    assert_fails(&long, 1, &["--ctx"]);
}

#[test]
fn drafts_never_change_the_text() {
    let text = "one two three four five six seven eight nine ten, ".repeat(6);
    // One thread, because two would wait for each other on a busy machine.
    let base = ["--prompt", &text, "-n", "60", "--ignore-eos", "--temp", "0.3", "--seed", "4"];
    let base = [&base[..], &["--threads", "1"]].concat();
    let with = object(&base);
    let without = object(&[&base[..], &["--no-draft"]].concat());
    let always = object(&[&base[..], &["--draft-length", "5"]].concat());
    let model = ["--draft", "smollm2", "--draft-length", "3"];
    let model = object(&[&base[..], &model[..]].concat());
    for other in [&without, &always, &model] {
        assert_eq!(with["tokens"], other["tokens"]);
    }
    let count = |o: &Value, name: &str| o["drafts"][name].as_u64().unwrap();
    assert_eq!((count(&without, "drafted"), count(&without, "passes")), (0, 59));
    // The number of drafts depends on timing unless the length is fixed; the result does not.
    for drafted in [&always, &model] {
        assert!(count(drafted, "accepted") > 0, "{}", drafted["drafts"]);
    }
    for lookups in [&with, &always] {
        assert_eq!(count(lookups, "passes") + count(lookups, "accepted"), 59);
        assert_eq!(lookups["drafts"]["lookup"]["accepted"], lookups["drafts"]["accepted"]);
    }
    assert_eq!(count(&model, "passes") + count(&model, "accepted"), 59);

    let both = run(&["--prompt", "x", "--no-draft", "--draft", "smollm2"]);
    assert_fails(&both, 2, &["--no-draft"]);
    let missing = run(&["--prompt", "x", "--draft", "none.nano"]);
    assert_fails(&missing, 1, &["none.nano"]);
}

#[test]
fn a_cached_prompt_is_not_recomputed() {
    let folder = temp();
    let prompt = "The sea was calm that morning. ".repeat(20);
    let dir = folder.path().to_str().unwrap();
    let args = ["--prompt", &prompt, "-n", "5", "--json", "--cache-dir", dir];
    let first = run(&args);
    let second = run(&args);
    let (a, b) = (json(&first), json(&second));
    assert_eq!(a["tokens"], b["tokens"]);
    let prompt_tokens = a["prompt_tokens"].as_array().unwrap().len();
    assert_eq!(
        (&a["reused_tokens"], &b["reused_tokens"]),
        (&0.into(), &(prompt_tokens - 1).into())
    );
    assert!(stderr(&first).is_empty() && stderr(&second).is_empty(), "{}", stderr(&second));

    let file = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let third = run(&args);
    assert_eq!(json(&third)["tokens"], a["tokens"]);
    assert_eq!(json(&third)["reused_tokens"], 0);
    let note = stderr(&third);
    assert!(note.contains("damaged") && note.contains("ignored"), "{note}");
    let size = run(&["--prompt", "x", "--cache-size", "5"]);
    assert_fails(&size, 2, &["--cache-dir"]);
}

#[test]
fn a_baked_prompt_is_the_default_system_message() {
    let folder = temp();
    let (text, out) = (folder.path().join("system.txt"), folder.path().join("baked.nano"));
    fs::write(&text, "You are a pirate. Arr! ".repeat(10)).unwrap();
    let mut convert = with_default_model();
    convert.args(["convert", "--model", "smollm2", "--bake"]).arg(&text).arg("--out").arg(&out);
    let output = convert.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let verify = with_default_model().arg("verify").arg(&out).output().unwrap();
    assert!(verify.status.success(), "{}", stderr(&verify));
    let ask = ["--chat", "--prompt", "Who are you?", "-n", "5"];
    let baked = object(&[&ask[..], &["--model", out.to_str().unwrap()]].concat());
    let system = fs::read_to_string(&text).unwrap();
    let plain = object(&[&ask[..], &["--system", system.trim()]].concat());
    assert_eq!(baked["prompt_tokens"], plain["prompt_tokens"]);
    assert_eq!(baked["tokens"], plain["tokens"]);
    assert_eq!(plain["reused_tokens"], 0);
    assert!(baked["reused_tokens"].as_u64().unwrap() > 60, "{}", baked["reused_tokens"]);
}

#[test]
fn tokenization_round_trips() {
    let run = |args: &[&str]| {
        json(
            &with_default_model()
                .args(["tokenize", "--json", "--text"])
                .args(args)
                .output()
                .unwrap(),
        )
    };
    let object = run(&["Hello, world"]);
    let expected =
        r#"{"ids":[19556,28,905],"decoded":"Hello, world","pieces":["Hello",","," world"]}"#;
    assert_eq!(object.to_string(), expected);
    let control = run(&["a<|im_end|>", "--special"]);
    assert_eq!(control["ids"].as_array().unwrap().last(), Some(&2.into()));
    assert_eq!(control["decoded"], "a<|im_end|>");
    let plain = run(&["a<|im_end|>"]);
    assert!(!plain["ids"].as_array().unwrap().contains(&2.into()));
    assert_eq!(plain["decoded"], "a<|im_end|>");
}

/// A repeated escape sequence ("reset attributes") that the model continues.
fn escapes() -> String {
    "\x1b[0m".repeat(40)
}

#[test]
fn a_pipe_gets_escape_sequences_unchanged() {
    let prompt = escapes();
    let args = ["--prompt", &prompt, "-n", "8"];
    let text = object(&args)["text"].as_str().unwrap().to_owned();
    assert!(text.contains('\x1b'), "{text:?}");
    assert_eq!(run(&args).stdout, text.as_bytes());
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_no_escape_sequences() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let open = || fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
    let mut command = std_with_default_model();
    command.args(["generate", "--prompt", &escapes(), "-n", "8"]);
    let status = command.stdout(open()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    drop(command); // closes its copy of the terminal, so that reading ends (with an error)
    let mut shown = Vec::new();
    fs::File::from(terminal).read_to_end(&mut shown).unwrap_err();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("␛["), "{shown:?}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = std_with_default_model();
    command.args(["generate", "--ignore-eos", "-n", "100000", "--prompt", "Once upon a time"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command); // closes its copy of the pipe
    reader.read_exact(&mut [0; 5]).unwrap(); // like `| head -c 5`
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_with_130() {
    let mut command = std_with_default_model();
    // More text than a pipe buffers, so that the answer cannot end before the signal arrives.
    command.args(["generate", "--ignore-eos", "-n", "100000", "--prompt", "Once upon a time"]);
    command.args(["--overflow", "slide"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap(); // wait for output
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_piped_conversation_keeps_context_until_exit() {
    let said = "Say the word \"banana\".\n\nRepeat your last answer.\nexit\nAnd again.\n";
    let output = with_default_model().arg("chat").write_stdin(said).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let notes = stderr(&output);
    assert_eq!(notes.matches("tokens/s]").count(), 2, "{notes}");
    assert!(!notes.contains("> "), "a prompt mark without a terminal: {notes}");
    let answers = stdout(&output);
    assert!(answers.ends_with('\n') && !answers.contains("tokens/s"), "{answers}");
    let lines: Vec<&str> = answers.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("anana") && lines[0] == lines[1], "{answers}");

    let mut long = with_default_model();
    let question = "word ".repeat(100);
    let output = long.args(["chat", "--ctx", "64"]).write_stdin(question).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not answered: ") && stderr(&output).contains("--ctx"));
    assert!(output.stdout.is_empty());
}

/// A prompt made by hand is answered like the template's, up to the control token that `--stop` names.
#[test]
fn a_prompt_made_by_hand_equals_the_templates() {
    let templated = object(&FRANCE);
    let shown =
        json(&with_default_model().args(["tokenize", "--json"]).args(FRANCE).output().unwrap());
    assert_eq!(shown["ids"], templated["prompt_tokens"]);
    let prompt = shown["decoded"].as_str().unwrap();
    let by_hand = ["--special", "--prompt", prompt, "--ignore-eos"];
    let stopped = object(&[&by_hand[..], &["--stop", "<|im_end|>"]].concat());
    for key in ["prompt_tokens", "tokens", "text", "finish_reason"] {
        assert_eq!(stopped[key], templated[key], "{key}");
    }
    let endless = object(&[&by_hand[..], &["-n", "40"]].concat());
    assert_eq!(endless["finish_reason"], "length");
    let missing = run(&["--fim-prefix", "a", "--fim-suffix", "b"]);
    assert_fails(&missing, 1, &["no tokens for --fim-prefix", "smollm2"]);
}
