//! Markdown tables.

use ratatui::text::Span;

use super::theme::Theme;
use super::wrap::{width, wrap};

type Spans = Vec<Span<'static>>;

/// A table, filled cell by cell.
pub(crate) struct Table {
    /// Whether each column is right-aligned.
    right: Vec<bool>,
    rows: Vec<Vec<Spans>>,
    row: Vec<Spans>,
}

/// Minimum width of a column.
const MIN_WIDTH: usize = 3;

impl Table {
    pub(crate) fn new(right: &[bool]) -> Self {
        Self { right: right.to_vec(), rows: Vec::new(), row: Vec::new() }
    }

    pub(crate) fn cell(&mut self, cell: Spans) {
        self.row.push(cell);
    }

    pub(crate) fn end_row(&mut self) {
        self.rows.push(std::mem::take(&mut self.row));
    }

    /// Lays out the table within `room` terminal columns if possible.
    pub(crate) fn lines(mut self, room: usize, theme: Theme) -> Vec<Spans> {
        if !self.row.is_empty() {
            self.end_row();
        }
        let widths = self.widths(room);
        if widths.iter().sum::<usize>() + 3 * widths.len().saturating_sub(1) > room {
            return self.stacked(room);
        }
        let mut lines = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            lines.extend(self.row_lines(row, &widths, theme));
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
                lines.push(vec![Span::styled(rules.join("─┼─"), theme.dim())]);
            }
        }
        lines
    }

    /// Widths of the columns' content, with the widest columns shrunk if necessary.
    fn widths(&self, room: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = vec![MIN_WIDTH; self.right.len()];
        for row in &self.rows {
            for (to, cell) in widths.iter_mut().zip(row) {
                *to = (*to).max(cell.iter().map(|s| width(&s.content)).sum());
            }
        }
        let available = room.saturating_sub(3 * widths.len().saturating_sub(1));
        while widths.iter().sum::<usize>() > available {
            match widths.iter_mut().max().filter(|widest| **widest > MIN_WIDTH) {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        widths
    }

    fn row_lines(&self, row: &[Spans], widths: &[usize], theme: Theme) -> Vec<Spans> {
        let empty = Vec::new();
        let cells = (0..widths.len()).map(|i| wrap(row.get(i).unwrap_or(&empty), widths[i]));
        let cells: Vec<Vec<Spans>> = cells.collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        (0..height).map(|line| self.row_line(&cells, line, widths, theme)).collect()
    }

    fn row_line(&self, cells: &[Vec<Spans>], line: usize, widths: &[usize], theme: Theme) -> Spans {
        let mut out = Vec::new();
        for (column, (cell, to)) in cells.iter().zip(widths).enumerate() {
            if column > 0 {
                out.push(Span::styled(" │ ", theme.dim()));
            }
            let text = cell.get(line).cloned().unwrap_or_default();
            let used: usize = text.iter().map(|s| width(&s.content)).sum();
            let pad = Span::raw(" ".repeat(to.saturating_sub(used)));
            if self.right[column] {
                out.extend([pad].into_iter().chain(text));
            } else {
                out.extend(text.into_iter().chain([pad]));
            }
        }
        out
    }

    /// Fallback for too many columns: one line per cell.
    fn stacked(&self, room: usize) -> Vec<Spans> {
        let cells = self.rows.iter().flatten().filter(|cell| !cell.is_empty());
        cells.flat_map(|cell| wrap(cell, room)).collect()
    }
}
