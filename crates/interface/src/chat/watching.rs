//! The cost of the interface: answers timed with and without drawing.

use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nanoinfer_engine::{Drafting, Error, GenerateOptions, Message, Sampling, Session};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::Event;
use super::app::{App, Busy, Pane};
use super::history::History;
use super::theme::Theme;
use super::ui::Ui;
use super::worker::{Answer, Controls, ModelInfo, Report};

/// Tokens per segment.
const SEGMENT: usize = 32;
/// Pause between segments, long enough to draw a pending frame.
const SETTLE: Duration = Duration::from_millis(60);

/// Times of two adjacent segments of an answer, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Without drawing.
    pub without: f64,
    /// With the interface drawing, details included.
    pub with: f64,
}

/// Generates one long answer and times segments of 32 tokens, alternately with and without the
/// interface drawing to `terminal`, which has `columns` × `rows` cells. The order within a pair
/// alternates too. The event loop, reports and drawing are those of the chat.
///
/// # Errors
/// The engine or the terminal fails.
pub fn watching_costs(
    session: &mut Session,
    terminal: File,
    (columns, rows): (u16, u16),
    pairs: usize,
) -> Result<Vec<Pair>, Box<dyn std::error::Error + Send + Sync>> {
    let question = "Tell me a long story, with headings, lists and code.";
    let (events, received) = mpsc::channel();
    let (commands, _ignored) = mpsc::channel();
    let options = GenerateOptions {
        sampling: Sampling { temperature: 0.8, seed: 1, ..Sampling::default() },
        ignore_eos: true,
        drafting: Drafting::OFF, // one token per pass, so that segments are comparable
        ..GenerateOptions::default()
    };
    let info = ModelInfo { ctx: session.engine().ctx(), ..ModelInfo::default() };
    let theme = Theme::new(true);
    let mut app = App::new(info, None, options.clone(), History::default(), theme);
    let _ = app.send_message(question.to_owned()); // answered below, without a worker
    app.pane = Pane::Details;
    app.busy = Busy::No; // without ticks, only reports cause frames
    session.prompt_chat(&[Message::new("user", question)])?;
    session.start(options)?;
    let area = Rect::new(0, 0, columns, rows);
    let fixed = TerminalOptions { viewport: Viewport::Fixed(area) };
    let backend = CrosstermBackend::new(BufWriter::new(terminal));
    let mut screen = Terminal::with_options(backend, fixed)?;
    let controls = Arc::new(Controls::default());
    let pace = Arc::clone(&controls);
    thread::scope(|scope| {
        let ui = thread::Builder::new().name("ui".into()).spawn_scoped(scope, move || {
            let gate = |draw: &mut dyn FnMut() -> io::Result<()>| Some(draw());
            Ui { app, screen: &mut screen, events: received, commands, controls, gate }.run()
        })?;
        let result = segments(session, pairs, &pace, |report| {
            drop(events.send(Event::Engine(Box::new(report))));
        });
        let _ = events.send(Event::Closed); // the interface may have ended already
        match ui.join() {
            Ok(_) => Ok(result?),
            Err(_) => Err("the interface panicked".into()),
        }
    })
}

fn segments(
    session: &mut Session,
    pairs: usize,
    controls: &Controls,
    report: impl Fn(Report),
) -> Result<Vec<Pair>, Error> {
    let mut answer = Answer::begin(session);
    while session.stats().generated == 0 {
        answer.step(session)?;
    }
    let mut out = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        let (mut with, mut without) = (0.0, 0.0);
        for drawn in [pair % 2 == 0, pair % 2 == 1] {
            thread::sleep(SETTLE);
            answer.profile(session, drawn);
            let start = Instant::now();
            for _ in 0..SEGMENT {
                if !drawn {
                    session.next()?;
                    continue;
                }
                answer.step(session)?;
                if answer.is_due(controls.report_interval()) {
                    report(Report::Progress(answer.report(session)));
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            *(if drawn { &mut with } else { &mut without }) = seconds;
        }
        out.push(Pair { without, with });
    }
    Ok(out)
}
