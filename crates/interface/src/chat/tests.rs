//! The whole chat without a terminal: actions in, frames out. Screens are tested with made-up reports,
//! and figures with the real engine.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nanoinfer_engine::{
    DraftStats, Drafted, Engine, EngineOptions, FinishReason, GenerateOptions, Model, Overflow,
    Session, Stage, Stats,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Store};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::app::{App, Busy, Effect, Full, Overlay};
use super::history::History;
use super::keys::{Action, Direction, Scroll};
use super::theme::Theme;
use super::view;
use super::worker::{
    Command, Context, ContextToken, Controls, Details, ModelInfo, Progress, Report, Worker,
};

/// Stages of models of other kinds.
const ABSENT: [Stage; 4] = [Stage::Convolve, Stage::States, Stage::Router, Stage::Experts];

fn info() -> ModelInfo {
    ModelInfo {
        name: "smollm2".into(),
        weights: "q8".into(),
        kv: "q8",
        file_bytes: 138_470_976,
        isa: "avx512vnni",
        threads: 2,
        ctx: 4096,
        trained: 8192,
        layers: 30,
        vocab: 49152,
    }
}

fn app(color: bool) -> App {
    let options = GenerateOptions::default();
    App::new(info(), None, options, History::default(), Theme::new(color))
}

fn frame(app: &mut App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            let areas = view::prepare(app, frame.area());
            view::draw(frame, app, &areas);
        })
        .unwrap();
    terminal
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let terminal = frame(app, width, height);
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width));
    let row = |cells: &[ratatui::buffer::Cell]| -> String {
        // The second cell of a wide character holds a space that the terminal does not show.
        let mut skip = 0;
        let mut text = String::new();
        for cell in cells {
            if skip == 0 {
                text.push_str(cell.symbol());
            }
            skip = if skip > 0 { skip - 1 } else { super::wrap::width(cell.symbol()).max(1) - 1 };
        }
        text.trim_end().to_owned()
    };
    rows.map(row).collect::<Vec<_>>().join("\n")
}

fn send(app: &mut App, text: &str) -> Option<Effect> {
    app.act(Action::Insert(text.into()));
    app.act(Action::Send)
}

const ANSWER: &str = "## Sorting\n\nThree ways, *fastest* last:\n\n1. bubble sort\n2. merge sort\n\n\
    ```rust\nfn sort(list: &mut [i32]) {\n    list.sort_unstable(); // in place\n}\n```\n\n\
    | name | cost |\n|--|--:|\n| 冒泡 | n² |\n| merge 🚀 | n log n |\n";

fn progress(text: &str, generated: usize) -> Progress {
    let ms = Duration::from_millis;
    Progress {
        text: text.into(),
        reasoning: String::new(),
        token_times: vec![ms(6); generated - 1],
        prefill: (40, 40),
        stats: Stats {
            prompt_tokens: 340,
            reused_tokens: 300,
            generated,
            prefill: ms(50),
            first_token: ms(56),
            decode: ms(6) * (generated as u32 - 1),
            drafts: DraftStats {
                passes: 60,
                lookup: Drafted { drafted: 58, accepted: 40 },
                ..DraftStats::default()
            },
            ..Stats::default()
        },
        cached: 340 + generated - 1,
        slid: 0,
        processed: 40 + generated as u64 - 1,
        token_bytes: 138_000_000,
        details: Some(Details {
            // Of a model without recurrent layers and experts.
            steps: (Stage::ALL.iter())
                .scan(0, |time, stage| {
                    let absent = ABSENT.contains(stage);
                    *time += if absent { 0 } else { 10 };
                    Some(if absent { Duration::ZERO } else { ms(*time) })
                })
                .collect(),
            passes: 100,
            candidates: vec![(" the".into(), 0.61, true), ("\n".into(), 0.2, false)],
        }),
    }
}

/// A chat in the middle of an answer.
fn answering(color: bool) -> App {
    let mut app = app(color);
    send(&mut app, "How do I sort?\n\tIn Rust, 请.");
    app.report(Report::Bandwidth(36e9));
    app.report(Report::Progress(progress(ANSWER, 200)));
    app.telemetry.rss = Some(160_000_000);
    app
}

fn context() -> Context {
    let token = |(id, text): (u32, &&str)| ContextToken {
        id,
        text: (*text).into(),
        is_control: text.starts_with("<|"),
    };
    let texts = ["<|im_start|>", "user", "\n", "What", " is", " 言", "?", "<|im_end|>", "\n"];
    Context { tokens: (1..).zip(&texts).map(token).collect(), cached: 8, reused: 3, ctx: 4096 }
}

#[test]
fn screens() {
    let mut app = answering(true);
    insta::assert_snapshot!("welcome_100x30", screen(&mut self::app(true), 100, 30));
    insta::assert_snapshot!("answer_100x30", screen(&mut app, 100, 30));
    insta::assert_snapshot!("answer_60x16", screen(&mut app, 60, 16));
    insta::assert_snapshot!("answer_200x50", screen(&mut app, 200, 50));
    app.act(Action::Telemetry);
    insta::assert_snapshot!("details_100x30", screen(&mut app, 100, 30));
    insta::assert_snapshot!("details_60x16", screen(&mut app, 60, 16));
    app.report(Report::Context(context()));
    insta::assert_snapshot!("context_60x16", screen(&mut app, 60, 16));
    app.act(Action::Help);
    insta::assert_snapshot!("help_100x30", screen(&mut app, 100, 30));
    app.act(Action::Stop);
    app.report(Report::TooLong { tokens: 5000, ctx: 4096 });
    insta::assert_snapshot!("full_60x16", screen(&mut app, 60, 16));
}

#[test]
fn prefill_shows_progress_and_time_left() {
    let mut app = app(true);
    send(&mut app, "long");
    let prefill = |done| Progress { prefill: (done, 4000), ..Progress::default() };
    app.report(Report::Progress(prefill(1000)));
    app.now += Duration::from_secs(1);
    for (width, height) in [(60, 16), (100, 30)] {
        let screen = screen(&mut app, width, height);
        assert!(screen.contains("1000") && screen.contains("3.0 s left"), "{screen}");
        assert!(screen.contains("reading 25 %"), "{screen}");
    }
}

#[test]
fn any_size_can_be_drawn() {
    let mut apps: Vec<App> = (0..8).map(|_| answering(true)).collect();
    apps[1].act(Action::Telemetry);
    apps[2].act(Action::Help);
    apps[3].report(Report::Context(context()));
    apps[4].act(Action::Search);
    apps[5].report(Report::TooLong { tokens: 5000, ctx: 4096 });
    apps[6].act(Action::Insert("long input ".repeat(50)));
    apps[7] = app(true);
    for app in &mut apps {
        for width in (1..20).chain([59, 89, 90, 91, 140, 250]) {
            for height in (1..12).chain([30, 80]) {
                frame(app, width, height);
            }
        }
    }
}

#[test]
fn no_color_leaves_every_cell_uncoloured() {
    let mut app = answering(false);
    app.act(Action::Telemetry);
    let terminal = frame(&mut app, 120, 50);
    let coloured =
        |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
    assert!(!terminal.backend().buffer().content.iter().any(coloured));
    let terminal = frame(&mut answering(true), 120, 50);
    assert!(terminal.backend().buffer().content.iter().any(coloured));
}

#[test]
fn a_scrolled_up_window_stays_in_place() {
    let mut app = answering(true);
    app.report(Report::Progress(progress(&"\n\nmore text".repeat(40), 210)));
    let _ = screen(&mut app, 60, 16);
    app.act(Action::Scroll(Scroll::PageUp));
    app.act(Action::Scroll(Scroll::WheelUp));
    let top = |s: String| s.lines().next().unwrap().to_owned();
    let before = screen(&mut app, 60, 16);
    app.report(Report::Progress(progress("\n\nand more\n\nand more", 220)));
    let after = screen(&mut app, 60, 16);
    assert_eq!(top(before), top(after.clone()));
    assert!(after.contains("lines below"), "{after}");
    app.act(Action::End);
    let end = screen(&mut app, 60, 16);
    assert!(end.contains("and more") && !end.contains("lines below"), "{end}");
    app.act(Action::Home);
    assert!(screen(&mut app, 60, 16).starts_with("▌ How do I sort?"));
}

#[test]
fn reasoning_is_shown_until_the_answer_begins() {
    let mut app = app(true);
    send(&mut app, "Why?");
    let reasoning = |text: &str| Progress { reasoning: text.into(), ..Progress::default() };
    app.report(Report::Progress(reasoning("Let me think\x1b about ")));
    app.report(Report::Progress(reasoning("it.")));
    let shown = screen(&mut app, 60, 20);
    assert!(shown.contains("● Let me think␛ about it."), "{shown}");
    finish(&mut app, "Because.");
    let shown = screen(&mut app, 60, 20);
    assert!(shown.contains("● thought, 5 words") && shown.contains("  Because."), "{shown}");
    assert!(!shown.contains("Let me think"), "{shown}");
    app.act(Action::Reasoning);
    let shown = screen(&mut app, 60, 20);
    assert!(shown.contains("● Let me think␛ about it.") && shown.contains("  Because."), "{shown}");
    app.act(Action::Reasoning);
    assert!(screen(&mut app, 60, 20).contains("● thought, 5 words"));
    let last = app.transcript.messages().pop().unwrap();
    assert_eq!(last.reasoning_content.as_deref(), Some("Let me think\x1b about it."));
    assert_eq!(last.content.text(), "Because.");
    let saved = app.transcript.json().unwrap();
    app.transcript.load(&saved).unwrap();
    assert_eq!(app.transcript.messages().pop(), Some(last));
}

#[test]
fn model_output_cannot_control_the_terminal() {
    let mut app = answering(true);
    app.report(Report::Progress(progress("\x1b[2J\x07\u{202e}\u{9b}evil", 201)));
    let screen = screen(&mut app, 100, 40);
    assert!(screen.contains("␛[2J␇") && screen.contains("\\u{202e}"), "{screen}");
    assert!(!screen.contains(['\x1b', '\x07', '\u{202e}', '\u{9b}']));
    let last = app.transcript.messages().pop().unwrap();
    assert!(
        last.content.text().ends_with("\x1b[2J\x07\u{202e}\u{9b}evil"),
        "the model receives its text unchanged"
    );
}

/// The messages of an effect that requests an answer.
fn sent(effect: Option<Effect>) -> Vec<(String, String)> {
    match effect {
        Some(Effect::Command(Command::Answer { messages, .. })) => {
            messages.into_iter().map(|m| (m.role, m.content.text().into_owned())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn finish(app: &mut App, text: &str) {
    let last = progress(text, 2);
    app.report(Report::Finished { reason: FinishReason::Stop, last });
}

#[test]
fn commands_change_the_conversation() {
    let mut app = app(true);
    send(&mut app, "/system Be brief.");
    let turn = |role: &str, text: &str| (role.to_owned(), text.to_owned());
    let system = turn("system", "Be brief.");
    assert_eq!(sent(send(&mut app, "one")), [system.clone(), turn("user", "one")]);
    assert!(send(&mut app, "two").is_none(), "sent while answering");
    assert_eq!(app.editor.take(), "two");
    finish(&mut app, "1");
    assert_eq!(sent(send(&mut app, "two")).len(), 4);
    finish(&mut app, "2");

    let seed = app.options.sampling.seed;
    assert_eq!(sent(send(&mut app, "/regen")).len(), 4);
    assert_eq!(app.options.sampling.seed, seed + 1);
    finish(&mut app, "2b");
    send(&mut app, "/edit");
    assert_eq!(app.editor.take(), "two");
    assert_eq!(app.transcript.messages().len(), 3);
    assert_eq!(sent(send(&mut app, "three")).len(), 4);
    finish(&mut app, "3");
    let Some(Effect::Copy(copied)) = send(&mut app, "/copy") else { panic!("nothing copied") };
    assert_eq!(copied, "3");

    let Some(Effect::Write { text: saved, .. }) = send(&mut app, "/save x.json") else {
        panic!("nothing written")
    };
    let Some(Effect::Write { text: exported, .. }) = send(&mut app, "/export x.md") else {
        panic!("nothing written")
    };
    assert!(exported.contains("**System:**\n\nBe brief.\n\n**You:**\n\none\n"), "{exported}");
    let before = app.transcript.messages();
    send(&mut app, "/undo");
    assert_eq!(app.transcript.messages().len(), 3);
    send(&mut app, "/clear");
    assert_eq!(app.transcript.messages().len(), 1);
    app.loaded(&saved).unwrap();
    assert_eq!(app.transcript.messages(), before);
    for wrong in ["", "{}", r#"{"messages":[{"role":"x","content":""}]}"#] {
        assert!(app.loaded(wrong).is_err(), "{wrong}");
    }
    assert_eq!(app.transcript.messages(), before);
    for (command, part) in [
        ("/nonsense", "/help"),
        ("/save", "file"),
        ("/set temp hot", "number"),
        ("/set", ""),
        ("/model", ""),
        ("/system", ""),
    ] {
        assert!(send(&mut app, command).is_none());
        let notice = app.notice.as_ref().map_or("", |n| n.text.as_str());
        assert!(notice.contains(part), "{command}: {notice}");
    }
    assert_eq!(app.transcript.messages(), before, "notes are not sent to the model");
    let screen = screen(&mut app, 100, 40);
    assert!(screen.contains("System: Be brief.") && screen.contains("top-k 0"), "{screen}");
    assert!(matches!(send(&mut app, "exit"), Some(Effect::Quit)));
}

#[test]
fn an_answer_that_did_not_begin_leaves_no_trace() {
    let mut app = app(true);
    send(&mut app, "question");
    let last = Progress::default();
    app.report(Report::Finished { reason: FinishReason::Cancelled, last });
    assert_eq!((app.transcript.messages().len(), app.editor.take().as_str()), (0, "question"));
    // A refused message is out of the way of the next one.
    send(&mut app, "question");
    app.report(Report::Failed("no system message".into()));
    assert_eq!((app.transcript.messages().len(), app.editor.text(), app.busy), (0, "", Busy::No));
    assert!(
        app.notice.as_ref().is_some_and(|n| n.is_error && n.text.contains("Up brings it back"))
    );
    let next = send(&mut app, "another");
    assert_eq!(sent(next), [("user".to_owned(), "another".to_owned())]);
    finish(&mut app, "said");
    app.act(Action::Move(Direction::Up));
    app.act(Action::Move(Direction::Up));
    assert_eq!(app.editor.take(), "question");
}

#[test]
fn a_context_beyond_the_models_training_is_noted() {
    let mut app = app(true);
    assert!(app.transcript.entries.is_empty());
    let beyond = ModelInfo { ctx: 9000, ..info() };
    app.report(Report::Opened(Box::new(beyond.clone())));
    let new = App::new(beyond, None, Default::default(), History::open(None), Theme::new(true));
    for app in [app, new] {
        let note = &app.transcript.entries[0];
        assert!(note.text.contains("9000") && note.text.contains("8192"), "{}", note.text);
        assert!(app.transcript.messages().is_empty());
    }
}

#[test]
fn two_slashes_send_one() {
    let mut app = app(true);
    assert_eq!(sent(send(&mut app, "//help")), [("user".to_owned(), "/help".to_owned())]);
}

#[test]
fn a_full_context_offers_choices() {
    let full = |app: &mut App| {
        for text in ["a", "b"] {
            send(app, text);
            finish(app, "said");
        }
        send(app, "too much");
        app.report(Report::TooLong { tokens: 5000, ctx: 4096 });
        assert!(matches!(app.overlay, Overlay::Full(_)));
        assert_eq!(
            app.transcript.messages().len(),
            4,
            "messages were dropped before the user chose"
        );
    };
    let mut app = self::app(true);
    full(&mut app);
    app.act(Action::Move(Direction::Down)); // not a choice
    let Some(Effect::Command(Command::Shorten(mut messages))) = app.act(Action::Insert("1".into()))
    else {
        panic!("not shortened")
    };
    assert_eq!(messages.len(), 5);
    messages.drain(..2);
    let messages_sent = sent(app.report(Report::Shortened(messages)));
    assert_eq!(
        messages_sent.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>(),
        ["b", "said", "too much"]
    );
    let shown = screen(&mut app, 100, 30);
    assert!(shown.contains("▌ a") && shown.contains("2 messages are no longer"), "{shown}");

    let mut app = self::app(true);
    full(&mut app);
    assert_eq!(sent(app.act(Action::Insert("2".into()))).len(), 1);

    let mut app = self::app(true);
    full(&mut app);
    assert!(app.act(Action::Insert("3".into())).is_none());
    assert_eq!(app.editor.take(), "too much");

    let mut app = self::app(true);
    full(&mut app);
    let before = app.transcript.messages();
    // Not even the shortened conversation fits.
    app.act(Action::Insert("1".into()));
    app.report(Report::TooLong { tokens: 5000, ctx: 4096 });
    let Overlay::Full(Full { message, .. }) = &app.overlay else { panic!("no choice") };
    assert_eq!(message.as_deref(), Some("too much"));
    assert_eq!(app.transcript.messages(), before);
    assert!(app.act(Action::Stop).is_none());
    assert_eq!((app.editor.text(), app.transcript.messages()), ("", before));
}

/// A worker on its own thread, with the real model.
fn worker(
    ctx: usize,
    overflow: Overflow,
) -> (Sender<Command>, Receiver<Report>, std::sync::Arc<Controls>) {
    let model = ModelRef::parse("smollm2").unwrap();
    let path = Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap();
    let (threads, ctx) = (Some(2), Some(ctx));
    let options = EngineOptions { threads, ctx, overflow, ..EngineOptions::default() };
    let engine = Engine::new(Model::open(path).unwrap(), &options).unwrap();
    let (sender, reports) = channel();
    let (commands, received) = channel();
    let controls = std::sync::Arc::new(Controls::default());
    let worker = Worker {
        session: Session::new(engine).unwrap(),
        name: "smollm2".into(),
        open: Box::new(|name, _| Err(format!("no {name} here"))),
        describe: ToString::to_string,
        bandwidth: None,
        controls: std::sync::Arc::clone(&controls),
        reports: Box::new(move |report| drop(sender.send(report))),
    };
    std::thread::spawn(move || worker.run(&received));
    (commands, reports, controls)
}

/// Executes an effect, and all effects that follow from it, with the real engine. Returns the first
/// details, which are those of the prompt's first pass.
fn execute(
    app: &mut App,
    mut effect: Option<Effect>,
    to: &Sender<Command>,
    from: &Receiver<Report>,
) -> Option<Details> {
    let mut first = None;
    while let Some(Effect::Command(command)) = effect.take() {
        to.send(command).unwrap();
        loop {
            // A timeout in case the worker hangs; if the worker ends, receiving fails at once.
            let report = from.recv_timeout(Duration::from_secs(600)).unwrap();
            let progress = matches!(report, Report::Progress(_));
            if let Report::Progress(Progress { details, .. }) = &report {
                first = first.or_else(|| details.clone());
            }
            effect = app.report(report);
            if !progress {
                break;
            }
        }
    }
    first
}

#[test]
fn figures_agree_with_the_engine_over_five_turns() {
    let (to, from, controls) = worker(4096, Overflow::Stop);
    controls.show_details(true);
    let mut app = app(true);
    app.options.max_tokens = Some(16);
    let mut cached = 0;
    for (turn, text) in
        ["Hi", "Name a river.", "Where is it?", "Is it long?", "Thanks."].into_iter().enumerate()
    {
        app.now = Instant::now();
        let effect = send(&mut app, text);
        let prompt = execute(&mut app, effect, &to, &from).unwrap();
        let last = app.telemetry.last.clone();
        let (new, all) = (last.prefill.1, last.stats.prompt_tokens);
        // The engine counts new prompt tokens, all generated tokens except the last, and rejected
        // drafts.
        let drafts = last.stats.drafts;
        assert_eq!(last.processed, (new + drafts.passes + drafts.all().drafted) as u64);
        assert_eq!(drafts.passes + drafts.all().accepted, last.stats.generated - 1);
        assert_eq!(last.stats.reused_tokens, all - new);
        assert_eq!(last.stats.reused_tokens, cached, "turn {turn}");
        assert_eq!(last.cached, all + last.stats.generated - 1);
        cached = last.cached;

        app.pane = super::app::Pane::Figures;
        let shown = screen(&mut app, 120, 40);
        for figure in [
            format!("{new} tokens · "),
            format!("{} of {all} tokens ▒", all - new),
            format!("{cached} of 4096"),
            format!("prompt {new} new, {} reused", all - new),
        ] {
            assert!(shown.contains(&figure), "turn {turn}: {figure}\n{shown}");
        }
        app.pane = super::app::Pane::Details;
        let details = app.telemetry.details.clone().unwrap();
        // Keys and values are stored by the attention step or, if it has several items per KV head, by a
        // separate step. The first pass over a prompt samples nothing. The model has no recurrent layers and no experts.
        let all_timed = |details: &Details, except| {
            let mut steps = Stage::ALL.iter().zip(&details.steps);
            let may = |step: &Stage| *step == except || ABSENT.contains(step);
            steps.all(|(step, time)| may(step) || !time.is_zero())
        };
        assert!(new > 8 && all_timed(&prompt, Stage::Sampling), "{new}: {prompt:?}");
        assert!(all_timed(&details, Stage::Cache), "{details:?}");
        assert_eq!(details.candidates.len(), 8);
        let sum: f32 = details.candidates.iter().map(|(_, p, _)| p).sum();
        assert!(sum > 0.1 && sum <= 1.0001, "{details:?}");
        // Greedy sampling chooses the most likely token.
        assert!(details.candidates[0].2, "{details:?}");
        assert!(screen(&mut app, 120, 50).contains("attention"));
    }
    let effect = send(&mut app, "/context");
    execute(&mut app, effect, &to, &from);
    let Overlay::Context { context, .. } = &app.overlay else { panic!("no context") };
    assert_eq!(context.cached, cached);
    assert!(screen(&mut app, 100, 30).contains("<|im_start|>assistant⏎"));
}

#[test]
fn a_full_context_is_shortened_only_by_choice() {
    let (to, from, _) = worker(160, Overflow::Stop);
    let mut app = app(true);
    app.options.max_tokens = Some(20);
    app.info.ctx = 160;
    let mut chosen = 0;
    for turn in 0..8 {
        let effect = send(&mut app, "Tell me something about rivers and lakes in the mountains.");
        execute(&mut app, effect, &to, &from);
        if matches!(app.overlay, Overlay::Full(_)) {
            chosen += 1;
            let effect = app.act(Action::Insert("1".into()));
            execute(&mut app, effect, &to, &from);
            assert!(matches!(app.overlay, Overlay::None), "turn {turn}: {:?}", app.overlay);
        }
    }
    assert!(chosen > 0 && app.transcript.entries.iter().any(|e| e.forgotten));
    assert!(app.transcript.entries.last().is_some_and(|e| !e.text.is_empty()));
}

#[test]
fn stopping_before_and_during_an_answer() {
    // An answer of a million tokens: no machine finishes it before the stop.
    let (to, from, controls) = worker(4096, Overflow::Slide);
    let mut app = app(true);
    app.options.ignore_eos = true;
    let effect = send(&mut app, "Tell me a story.");
    controls.rearm();
    let Some(Effect::Command(command)) = effect else { panic!("no answer requested") };
    to.send(command).unwrap();
    while app.telemetry.last.stats.generated < 3 {
        app.report(from.recv().unwrap());
    }
    controls.stop();
    while app.busy != Busy::No {
        app.report(from.recv().unwrap());
    }
    let shown = screen(&mut app, 100, 30);
    assert!(shown.contains("  stopped · "), "{shown}");
    let partial = app.transcript.messages();

    // A stop before the answer begins must neither be lost nor affect the next answer.
    let effect = send(&mut app, "And another.");
    controls.stop();
    execute(&mut app, effect, &to, &from);
    assert_eq!(app.transcript.messages(), partial);
    app.editor.take();
    controls.rearm();
    app.options.max_tokens = Some(4);
    let effect = send(&mut app, "Go on.");
    execute(&mut app, effect, &to, &from);
    assert_eq!(app.telemetry.last.stats.generated, 4);
    let effect = send(&mut app, "/model nonsense");
    execute(&mut app, effect, &to, &from);
    assert!(app.notice.as_ref().is_some_and(|n| n.is_error && n.text == "no nonsense here"));
    assert_eq!(app.busy, Busy::No);
}
