//! Bars and sparklines, legible without colour.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::Span;

/// A bar of `width` columns: shares of the whole, each with a character and style, then the empty
/// rest.
pub(crate) fn bar(width: usize, shares: &[(f64, char, Style)], rest: Style) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let (mut sum, mut used) = (0.0, 0);
    for (share, symbol, style) in shares {
        sum += share.max(0.0);
        let end = ((sum * width as f64).round() as usize).min(width);
        // Every nonzero share is visible.
        let end = if *share > 0.0 { end.max(used + 1).min(width) } else { end };
        spans.push(Span::styled(symbol.to_string().repeat(end - used), *style));
        used = end;
    }
    spans.push(Span::styled("░".repeat(width - used), rest));
    spans
}

/// The last `width` values, scaled to their maximum.
pub(crate) fn sparkline<'a>(
    values: impl ExactSizeIterator<Item = &'a f32> + Clone,
    width: usize,
) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let skip = values.len().saturating_sub(width);
    let values = values.skip(skip);
    let top = values.clone().fold(0.0f32, |a, b| a.max(*b)).max(f32::MIN_POSITIVE);
    values.map(|v| LEVELS[((v / top * 7.0).round() as usize).min(7)]).collect()
}

/// A human-readable duration.
pub(crate) fn time(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    match s {
        _ if s < 0.0095 => format!("{:.1} ms", s * 1e3),
        _ if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        _ if s < 59.95 => format!("{s:.1} s"),
        _ => format!("{}:{:02} min", s as u64 / 60, s as u64 % 60),
    }
}

/// A human-readable number of bytes.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..999_950_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(width: usize, shares: &[f64]) -> String {
        let shares: Vec<_> =
            shares.iter().zip("ab".chars()).map(|(s, c)| (*s, c, Style::new())).collect();
        bar(width, &shares, Style::new()).iter().map(|s| s.content.as_ref()).collect()
    }

    #[test]
    fn bars_fill_and_never_overflow() {
        assert_eq!(text(8, &[0.5]), "aaaa░░░░");
        assert_eq!(text(8, &[0.25, 0.5]), "aabbbb░░");
        assert_eq!(text(8, &[1.0, 1.0]), "aaaaaaaa");
        assert_eq!(text(8, &[0.001, 0.001]), "ab░░░░░░");
        assert_eq!(text(0, &[0.5]), "");
    }

    #[test]
    fn the_sparkline_shows_the_newest() {
        assert_eq!(sparkline([9.0, 0.0, 7.0, 14.0].iter(), 3), "▁▅█");
        assert_eq!(sparkline([].iter(), 3), "");
    }

    #[test]
    fn durations_and_sizes() {
        let of = |ms: u64| time(Duration::from_millis(ms));
        assert_eq!([of(5), of(82), of(1500), of(83_000)], ["5.0 ms", "82 ms", "1.5 s", "1:23 min"]);
        assert_eq!([size(138_470_976), size(1_040_000_000)], ["138 MB", "1.0 GB"]);
    }
}
