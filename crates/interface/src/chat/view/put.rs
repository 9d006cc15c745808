//! Draws lines into areas.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;

/// Draws a line, clipped to `area` and the screen.
pub(super) fn put(frame: &mut Frame<'_>, area: Rect, line: &Line<'_>) {
    let area = area.intersection(frame.area());
    if !area.is_empty() {
        frame.buffer_mut().set_line(area.x, area.y, line, area.width);
    }
}

/// Draws lines from top to bottom.
pub(super) fn put_all(frame: &mut Frame<'_>, area: Rect, lines: &[Line<'_>]) {
    for (line, row) in lines.iter().zip(area.rows()) {
        put(frame, row, line);
    }
}
