//! What watching costs: answers timed with the interface drawing, and without.

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

/// Tokens of one segment.
const SEGMENT: usize = 32;
/// Pause between two segments, in which a frame that is due is drawn.
const SETTLE: Duration = Duration::from_millis(60);

/// The seconds that two neighbouring segments of an answer took.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Nobody watches.
    pub without: f64,
    /// The interface draws what comes, the inside included.
    pub with: f64,
}

/// Generates one long answer and times segments of 32 tokens of it, in turns with the interface
/// drawing to `terminal`, of `columns` × `rows`, and without; which comes first alternates too.
/// The loop, the reports and the drawing are those of the chat.
///
/// # Errors
/// The engine's, or the terminal's.
pub fn watching_costs(
    session: &mut Session,
    terminal: File,
    (columns, rows): (u16, u16),
    pairs: usize,
) -> Result<Vec<Pair>, Box<dyn std::error::Error + Send + Sync>> {
    let question = "Tell me a long story, with headings, lists and code.";
    let (events, received) = mpsc::channel();
    let (commands, _asked) = mpsc::channel();
    let options = GenerateOptions {
        sampling: Sampling { temperature: 0.8, seed: 1, ..Sampling::default() },
        ignore_eos: true,
        drafting: Drafting::OFF, // a token a pass, so that segments are alike
        ..GenerateOptions::default()
    };
    let info = ModelInfo { ctx: session.engine().ctx(), ..ModelInfo::default() };
    let theme = Theme::new(true);
    let mut app = App::new(info, None, options.clone(), History::default(), theme);
    let _ = app.ask(question.to_owned()); // its answer is made here, not by a worker
    app.pane = Pane::Inside;
    app.busy = Busy::No; // no ticks: only reports make frames
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
        let _ = events.send(Event::Closed); // it may have ended already
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
        for watched in [pair % 2 == 0, pair % 2 == 1] {
            thread::sleep(SETTLE);
            answer.watch(session, watched);
            let start = Instant::now();
            for _ in 0..SEGMENT {
                if !watched {
                    session.next()?;
                    continue;
                }
                answer.step(session)?;
                if answer.is_due(controls.report_every()) {
                    report(Report::Progress(answer.report(session)));
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            *(if watched { &mut with } else { &mut without }) = seconds;
        }
        out.push(Pair { without, with });
    }
    Ok(out)
}
