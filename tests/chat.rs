//! The full-screen chat in a pseudo-terminal, with the default model from the user's cache.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/pty.rs"]
mod pty;

use std::io::{Read, Write};
use std::process::Stdio;

use common::std_with_default_model;
use pty::Pty;
use rustix::process::Signal;

fn chat(args: &[&str]) -> Pty {
    let mut pty = Pty::start(&[&["chat"], args].concat(), 100, 30, &[]);
    pty.wait_for_text("ready");
    pty
}

/// An answer of a million tokens, so that every test acts before the answer ends.
const ENDLESS: [&str; 5] = ["--ignore-eos", "--ctx", "4096", "--overflow", "slide"];

#[test]
fn a_question_is_answered_and_exit_quits() {
    let mut pty = chat(&[]);
    let screen = pty.wait_for_text("/help");
    assert!(screen.contains("smollm2") && screen.contains("KV cache"), "{screen}");
    pty.send("What is the capital of France?\r");
    let screen = pty.wait_for_text("tokens/s");
    assert!(screen.contains("▌ What is the capital of France?"), "{screen}");
    assert!(screen.contains("● The capital of France is Paris."), "{screen}");
    for figure in ["First", "t/s now", "p50", "of 4096"] {
        assert!(screen.contains(figure), "{figure}:\n{screen}");
    }
    pty.send("exit\r");
    assert_eq!(pty.wait().code(), Some(0));
    pty.assert_restored();
}

#[test]
fn later_turns_compute_only_new_tokens() {
    let mut pty = Pty::start(&["chat", "-n", "24"], 160, 50, &[]); // fits the figures on one line
    pty.wait_for_text("ready");
    let mut context = 0;
    for (turn, question) in
        ["Name a river.", "Another.", "A lake.", "A sea.", "Thanks."].into_iter().enumerate()
    {
        pty.send(&format!("{question}\r"));
        let screen =
            pty.wait_for(|s| s.matches("reused\n").count() + s.matches("reused ").count() > turn);
        let footer = screen.lines().rfind(|l| l.contains(" · prompt ")).unwrap();
        let number = |before: &str| -> usize {
            let rest = footer.split(before).nth(1).unwrap();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let (new, reused) = (number("prompt "), number("new, "));
        if turn > 0 {
            assert!(reused >= context && new < 20, "turn {turn}: {footer}");
        }
        context = new + reused;
    }
}

#[test]
fn esc_stops_an_answer_and_keeps_its_text() {
    let mut pty = chat(&ENDLESS);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    pty.send("\x1b");
    let screen = pty.wait_for_text("stopped ·");
    assert!(screen.contains("● "), "{screen}");
    pty.send("/undo\r");
    pty.wait_for_text("removed the last message");
    pty.send("What is the capital of France?\r");
    pty.wait_for_text("Paris");
}

#[test]
fn esc_during_prefill_returns_the_message_to_the_input() {
    let mut pty = chat(&ENDLESS);
    // If the prompt is processed before the key arrives, Esc stops the answer instead, and the test
    // retries with a prompt that begins differently, so that none of it is cached.
    for attempt in 0.. {
        assert!(attempt < 20, "Esc never arrived in time:\n{}", pty.screen());
        let lines = "word and word\r\n".repeat(900);
        pty.send(&format!("\x1b[200~{attempt}: {lines}\x1b[201~"));
        pty.wait_for(|s| s.lines().filter(|l| l.contains("word and word")).count() > 5);
        pty.send("\r");
        pty.wait_for(|s| s.contains("reading") || s.contains("answering"));
        pty.send("\x1b");
        let screen = pty.wait_for(|s| s.contains("back in the input") || s.contains("stopped ·"));
        if screen.contains("back in the input") {
            assert!(screen.contains("word and word"), "{screen}");
            break;
        }
        pty.send("/clear\r");
        pty.wait_for(|s| s.contains("ready") && !s.contains("word and word"));
    }
    pty.send("\x15\x7f");
    pty.wait_for_text("ready");
}

#[test]
fn pasted_lines_stay_one_message_until_enter() {
    let mut pty = chat(&[]);
    pty.send("\x1b[200~first line\r\nexit\r\nlast line\x1b[201~");
    let screen = pty.wait_for_text("last line");
    assert!(screen.contains("› first line") && screen.contains("  exit"), "{screen}");
    assert!(!screen.contains("▌"), "the paste was sent: {screen}");
}

#[test]
fn an_answer_survives_resizing() {
    let mut pty = chat(&ENDLESS);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    for (columns, rows) in [(60, 16), (200, 50), (20, 5), (1, 1), (100, 30)] {
        pty.resize(columns, rows);
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    // The beginning of the answer may have left the screen by now.
    let shows_text =
        |line: &str| line.split('│').next().is_some_and(|s| s.contains(char::is_alphabetic));
    pty.wait_for(|s| {
        s.contains("KV cache") && s.lines().take(20).filter(|l| shows_text(l)).count() > 1
    });
    pty.send("\x1b");
    pty.wait_for_text("stopped ·");
}

#[test]
fn sigterm_during_an_answer_restores_the_terminal() {
    let mut pty = chat(&ENDLESS);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    pty.kill(Signal::TERM);
    assert_eq!(pty.wait().code(), Some(143));
    pty.assert_restored();
}

#[test]
fn ctrl_c_during_an_answer_quits() {
    let mut pty = chat(&ENDLESS);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    pty.send("\x03");
    assert_eq!(pty.wait().code(), Some(0));
    pty.assert_restored();
}

#[test]
fn closing_the_terminal_ends_the_program() {
    let mut pty = chat(&ENDLESS);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    pty.close();
    assert_eq!(pty.wait().code(), Some(129));

    let mut pty = chat(&[]);
    pty.kill(Signal::HUP);
    assert_eq!(pty.wait().code(), Some(129));
    pty.assert_restored();
}

/// SIGBUS on an engine thread during an answer.
#[test]
fn truncating_the_model_file_ends_the_chat_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.nano");
    let mut convert = std_with_default_model();
    convert.args(["convert", "--model", "smollm2", "--out"]).arg(&file);
    assert!(convert.output().unwrap().status.success());
    let args = [&["--model", file.to_str().unwrap()], &ENDLESS[..]].concat();
    let mut pty = chat(&args);
    pty.send("Tell me a long story.\r");
    pty.wait_for_text("t/s now");
    std::fs::File::options().write(true).open(&file).unwrap().set_len(100_000).unwrap();
    assert_eq!(pty.wait().code(), Some(1));
    pty.assert_restored();
    let screen = pty.screen();
    assert!(screen.contains("error: a mapped file can no longer be read"), "{screen}");
}

#[cfg(debug_assertions)]
#[test]
fn a_panic_is_reported_after_the_terminal_is_restored() {
    for thread in ["ui", "worker"] {
        let mut pty = chat(&[]);
        pty.send(&format!("/panic {thread}\r"));
        assert_eq!(pty.wait().code(), Some(101));
        pty.assert_restored();
        let screen = pty.screen();
        assert!(
            screen.contains("panicked at") && screen.contains("requested by a test"),
            "{screen}"
        );
    }
}

#[test]
fn history_is_kept_between_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/history");
    let env = [("NANOINFER_HISTORY", file.to_str().unwrap())];
    let mut pty = Pty::start(&["chat"], 100, 30, &env);
    pty.wait_for_text("ready");
    pty.send("/set temp 0.25\r");
    pty.wait_for_text("temp 0.25");
    pty.send("\x03");
    pty.wait();
    let mut pty = Pty::start(&["chat"], 100, 30, &env);
    pty.wait_for_text("ready");
    pty.send("\x12temp");
    pty.wait_for_text("/set temp 0.25");
    pty.send("\r");
    pty.wait_for_text("› /set temp 0.25");
}

#[test]
fn plain_works_on_a_terminal() {
    let mut pty = Pty::start(&["chat", "--plain"], 100, 30, &[]);
    pty.wait_for_text("> ");
    pty.send("What is the capital of France?\r");
    let screen = pty.wait_for_text("tokens/s]");
    assert!(screen.contains("Paris"), "{screen}");
    // A mistake does not end a conversation that a person types.
    pty.send("/frobnicate\r");
    pty.wait_for_text("[unknown command /frobnicate");
    pty.send("/help\r");
    pty.wait_for_text("/export FILE");
    pty.send("exit\r");
    assert_eq!(pty.wait().code(), Some(0));
    pty.assert_restored();
}

#[test]
fn a_closed_pipe_ends_the_chat_quietly() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = std_with_default_model();
    command.args(["chat", "--ignore-eos", "-n", "4000"]).stdin(Stdio::piped());
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command); // closes its copy of the pipe
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"What is the capital of France?\n").unwrap();
    reader.read_exact(&mut [0; 5]).unwrap(); // like `| head -c 5`
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
