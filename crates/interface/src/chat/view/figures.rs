//! The figures of the telemetry pane.

use nanoinfer_engine::Drafted;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::super::app::{App, Pane};
use super::super::telemetry::Phase;
use super::bars::{bar, size, sparkline, time};
use super::{details, put_all};

/// Width of the labels on the left.
const NAME: usize = 9;

/// The pane beside the conversation.
pub(crate) fn beside(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let width = usize::from(area.width);
    let mut lines = vec![machine(app), process(app), Line::default()];
    lines.extend(prompt(app, width));
    lines.push(Line::default());
    lines.extend(decode(app, width));
    lines.push(Line::default());
    lines.extend(cache(app, width));
    lines.push(Line::default());
    lines.extend(memory(app, width));
    if app.pane == Pane::Details {
        let details = details::lines(app, width);
        // If not everything fits, the details take precedence.
        let room = usize::from(area.height).saturating_sub(details.len() + 1);
        if lines.len() > room {
            lines.retain(|line| line.width() > 0);
        }
        lines.truncate(room);
        lines.push(Line::default());
        lines.extend(details);
    }
    put_all(frame, area, &lines);
}

/// Two lines between the conversation and the input.
pub(crate) fn below(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let t = &app.telemetry;
    let mut first = Vec::new();
    match t.phase {
        Phase::Prefill => {
            let (done, total) = t.last.prefill;
            first.push(Span::raw(" prefill "));
            first.extend(prefill_bar(app, usize::from(area.width).saturating_sub(40)));
            first.push(Span::raw(format!(" {done}/{total}")));
            let left = t.prefill_left(app.now).map(|left| format!(" · {} left", time(left)));
            first.extend(left.map(Span::raw));
        }
        _ => {
            let mut parts = Vec::new();
            parts.extend(t.speed_now().map(|tps| format!(" {tps:.1} t/s")));
            parts.extend(t.speed_mean().map(|tps| format!("mean {tps:.1}")));
            parts.extend(spread(app));
            if parts.is_empty() {
                parts.push(format!(" {} threads · {}", app.info.threads, app.info.isa));
            }
            let text = parts.join(" · ");
            let room = usize::from(area.width).saturating_sub(text.chars().count() + 2).min(12);
            first.push(Span::raw(text + " "));
            first.push(Span::styled(sparkline(t.speeds.iter(), room), app.theme.bar()));
        }
    }
    let mut second = vec![Span::raw(" KV ")];
    second.extend(cache_bar(app, 6));
    let mut text = format!(" {}/{}", t.last.cached, app.info.ctx);
    if t.last.slid > 0 {
        text += &format!(" · {} slid", t.last.slid);
    }
    if t.last.stats.reused_tokens > 0 {
        text += &format!(" (▒ {})", t.last.stats.reused_tokens);
    }
    if let Some(traffic) = traffic(app) {
        text += &format!(" · {traffic}");
    }
    if t.last.stats.generated > 0 {
        text += &format!(" · first {}", time(t.last.stats.first_token));
    }
    second.push(Span::raw(text));
    put_all(frame, area, &[Line::from(first), Line::from(second)]);
}

fn machine(app: &App) -> Line<'_> {
    let i = &app.info;
    Line::from(vec![
        Span::styled(i.name.as_str(), app.theme.strong()),
        Span::raw(format!(" {} · {}", i.weights, size(i.file_bytes))),
    ])
}

fn process(app: &App) -> Line<'_> {
    let i = &app.info;
    let rss = app.telemetry.rss.map_or(String::new(), |rss| format!(" · {}", size(rss)));
    Line::from(format!("{} · {} threads{rss}", i.isa, i.threads))
}

/// A label and its value.
fn named<'a>(app: &App, name: &'a str, rest: Vec<Span<'a>>) -> Line<'a> {
    let name = Span::styled(format!("{name:NAME$}"), app.theme.dim());
    Line::from_iter([name].into_iter().chain(rest).collect::<Vec<_>>())
}

fn text<'a>(app: &App, name: &'a str, text: String) -> Line<'a> {
    named(app, name, vec![Span::raw(text)])
}

fn prefill_bar(app: &App, width: usize) -> Vec<Span<'static>> {
    let (done, total) = app.telemetry.last.prefill;
    let share = done as f64 / total.max(1) as f64;
    bar(width, &[(share, '█', app.theme.bar())], app.theme.dim())
}

fn prompt(app: &App, width: usize) -> Vec<Line<'static>> {
    let t = &app.telemetry;
    let ((done, total), stats) = (t.last.prefill, t.last.stats);
    let room = width.saturating_sub(NAME + 6);
    let share = (done * 100).checked_div(total).unwrap_or(0);
    let mut line = prefill_bar(app, room);
    line.push(Span::raw(format!(" {share:>3} %")));
    let pace = match t.phase {
        Phase::Prefill => match t.prefill_left(app.now) {
            Some(left) => format!("{done}/{total} · {} left", time(left)),
            None if total > 0 => format!("{done}/{total}"),
            None => String::new(),
        },
        _ if total > 0 => format!("{total} tokens · {:.0} t/s", stats.prefill_tps()),
        _ => "–".to_owned(),
    };
    let reused = match stats.prompt_tokens {
        0 => "–".to_owned(),
        all => format!("{} of {all} tokens ▒", stats.reused_tokens),
    };
    let first = match stats.generated {
        0 => "–".to_owned(),
        _ => time(stats.first_token),
    };
    vec![
        named(app, "Prefill", line),
        text(app, "", pace),
        text(app, "Reused", reused),
        text(app, "First", first),
    ]
}

/// Median and 99th percentile of the time per token.
fn spread(app: &App) -> Option<String> {
    let t = &app.telemetry;
    let (p50, p99) = (t.percentile(0.5)?, t.percentile(0.99)?);
    Some(format!("p50 {p50:.1} p99 {p99:.1} ms"))
}

fn decode(app: &App, width: usize) -> Vec<Line<'static>> {
    let t = &app.telemetry;
    let speed = match (t.speed_now(), t.speed_mean()) {
        (Some(now), Some(mean)) => format!("{now:.1} t/s now · {mean:.1} mean"),
        (Some(now), None) => format!("{now:.1} t/s now"),
        _ => "–".to_owned(),
    };
    let line = sparkline(t.speeds.iter(), width.saturating_sub(NAME));
    let mut lines = vec![
        text(app, "Decode", speed),
        named(app, "", vec![Span::styled(line, app.theme.bar())]),
        text(app, "ms/token", spread(app).unwrap_or("–".to_owned())),
    ];
    lines.extend(drafts(app).map(|drafts| text(app, "Drafts", drafts)));
    lines
}

/// "74 % of 58 · 2.3/pass"; with two sources, the acceptance of each.
fn drafts(app: &App) -> Option<String> {
    let stats = app.telemetry.last.stats.drafts;
    let drafted = stats.all().drafted;
    let percent = |d: Drafted| format!("{:.0}", 100.0 * d.acceptance());
    let share = match (stats.lookup.drafted, stats.model.drafted) {
        (0, 0) => return None,
        (0, _) | (_, 0) => percent(stats.all()),
        _ => format!("{}+{}", percent(stats.lookup), percent(stats.model)),
    };
    Some(format!("{share} % of {drafted} · {:.1}/pass", stats.tokens_per_pass()))
}

fn cache_bar(app: &App, width: usize) -> Vec<Span<'static>> {
    let (t, ctx) = (&app.telemetry, app.info.ctx.max(1) as f64);
    let reused = t.last.stats.reused_tokens.min(t.last.cached);
    let new = t.last.cached - reused;
    let shares =
        [(reused as f64 / ctx, '▒', app.theme.reused()), (new as f64 / ctx, '█', app.theme.bar())];
    bar(width, &shares, app.theme.dim())
}

fn cache(app: &App, width: usize) -> Vec<Line<'static>> {
    let (cached, ctx) = (app.telemetry.last.cached, app.info.ctx);
    let mut line = cache_bar(app, width.saturating_sub(NAME + 6));
    line.push(Span::raw(format!(" {:>3} %", (cached * 100).checked_div(ctx).unwrap_or(0))));
    let slid = match app.telemetry.last.slid {
        0 => String::new(),
        n => format!(" · {n} slid"),
    };
    vec![
        named(app, "KV cache", line),
        text(app, "", format!("{cached} of {ctx} · {}{slid}", app.info.kv)),
    ]
}

/// "31 of 36 GB/s"
fn traffic(app: &App) -> Option<String> {
    let now = app.telemetry.traffic()? / 1e9;
    Some(match app.telemetry.roofline {
        Some(roof) => format!("{now:.1} of {:.0} GB/s", roof / 1e9),
        None => format!("{now:.1} GB/s"),
    })
}

fn memory(app: &App, width: usize) -> Vec<Line<'static>> {
    let t = &app.telemetry;
    let label = traffic(app).unwrap_or("–".to_owned());
    let Some((roof, now)) = t.roofline.zip(t.traffic()) else {
        return vec![text(app, "Memory", label)];
    };
    let room = width.saturating_sub(NAME + 6);
    let mut line = bar(room, &[(now / roof, '█', app.theme.bar())], app.theme.dim());
    line.push(Span::raw(format!(" {:>3.0} %", 100.0 * now / roof)));
    vec![named(app, "Memory", line), text(app, "", label)]
}
