//! The detailed pane: time per step, and candidates for the last token.

use std::time::Duration;

use nanoinfer_engine::Stage;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::super::app::App;
use super::super::telemetry::Phase;
use super::super::worker::Details;
use super::super::wrap::width as columns;
use super::bars::{bar, time};
use super::put_all;

/// Steps grouped for display.
const GROUPS: &[(&str, &[Stage])] = &[
    ("norm", &[Stage::Embed, Stage::Norm]),
    ("QKV", &[Stage::Qkv, Stage::Cache]),
    (
        "attention",
        &[
            Stage::Attention,
            Stage::Convolve,
            Stage::States,
            Stage::PackAttention,
            Stage::AttnOutput,
        ],
    ),
    ("FFN", &[Stage::GateUp, Stage::Down, Stage::Router, Stage::Experts]),
    ("head", &[Stage::Head]),
    ("sampling", &[Stage::Sampling]),
];
const NAME: usize = 10;

/// Both tables, one above the other.
pub(crate) fn lines(app: &App, width: usize) -> Vec<Line<'static>> {
    let mut lines = steps(app, width);
    lines.push(Line::default());
    lines.extend(candidates(app, width));
    lines
}

/// Both tables, side by side.
pub(crate) fn in_columns(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let left = area.width / 2;
    let [steps_area, candidates_area] = [
        Rect { x: area.x + 1, width: left.saturating_sub(2), ..area },
        Rect { x: area.x + left + 1, width: (area.width - left).saturating_sub(2), ..area },
    ];
    put_all(frame, steps_area, &steps(app, usize::from(steps_area.width)));
    put_all(frame, candidates_area, &candidates(app, usize::from(candidates_area.width)));
}

fn step_time(details: &Details, step: Stage) -> Duration {
    details.steps.get(step as usize).copied().unwrap_or_default()
}

fn steps(app: &App, width: usize) -> Vec<Line<'static>> {
    let empty = Details::default();
    let details = app.telemetry.details.as_ref().unwrap_or(&empty);
    let total: Duration = details.steps.iter().sum();
    let passes = details.passes.max(1) as u32;
    let unit = match app.telemetry.phase {
        Phase::Prefill => "pass",
        _ => "token",
    };
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("Time per {unit}  "), app.theme.strong()),
        Span::raw(if total.is_zero() { String::new() } else { time(total / passes) }),
    ])];
    for (name, parts) in GROUPS {
        let sum: Duration = parts.iter().map(|step| step_time(details, *step)).sum();
        let share = sum.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        let room = width.saturating_sub(NAME + 15).max(2);
        let mut spans = vec![Span::styled(format!("{name:NAME$}"), app.theme.dim())];
        spans.extend(bar(room, &[(share, '█', app.theme.bar())], app.theme.dim()));
        let ms = (sum / passes).as_secs_f64() * 1e3;
        spans.push(Span::raw(format!("{:>3.0} %{ms:>7.2} ms", 100.0 * share)));
        lines.push(Line::from(spans));
    }
    lines
}

fn candidates(app: &App, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(Span::styled("Last token", app.theme.strong()))];
    let Some(details) = &app.telemetry.details else { return lines };
    for (text, probability, chosen) in &details.candidates {
        let text = fit(&visible(text), NAME + 2);
        let style = if *chosen { app.theme.selected() } else { app.theme.plain() };
        let pad = " ".repeat((NAME + 3).saturating_sub(columns(&text)));
        let room = width.saturating_sub(NAME + 3 + 8).max(4);
        let mut spans = vec![Span::styled(text, style), Span::raw(pad)];
        let share = f64::from(*probability);
        spans.extend(bar(room, &[(share, '█', app.theme.bar())], app.theme.dim()));
        spans.push(Span::raw(format!("{:>6.1} %", 100.0 * share)));
        lines.push(Line::from(spans));
    }
    lines
}

/// A token's text with visible whitespace.
pub(crate) fn visible(text: &str) -> String {
    nanoinfer_text::terminal_safe(text).replace(' ', "·").replace('\n', "⏎").replace('\t', "→")
}

/// Truncates a string to `width` columns.
fn fit(text: &str, width: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let longer = format!("{out}{c}");
        if columns(&longer) > width {
            out.pop();
            return out + "…";
        }
        out = longer;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_belongs_to_one_group() {
        let mut shown: Vec<usize> =
            GROUPS.iter().flat_map(|(_, parts)| parts.iter().map(|s| *s as usize)).collect();
        shown.sort_unstable();
        assert_eq!(shown, (0..Stage::ALL.len()).collect::<Vec<_>>());
    }

    #[test]
    fn long_tokens_are_truncated() {
        assert_eq!(visible(" the\n\t\x1b"), "·the⏎→␛");
        assert_eq!(fit("extraordinarily", 6), "extra…");
        assert_eq!(fit("短い言葉", 5), "短…");
        assert_eq!(fit("short", 6), "short");
    }
}
