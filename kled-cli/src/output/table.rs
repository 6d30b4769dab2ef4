//! Columns without borders, as kubectl prints them.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::{Look, printable};

/// Between two columns.
const GAP: usize = 3;

#[derive(Clone, Debug)]
struct Cell {
    text: String,
    style: Style,
}

/// A table. The columns are as wide as their widest cell; nothing is cut.
///
/// ```
/// use kled_cli::output::Table;
///
/// let mut table = Table::new(["NAME", "STATE"]);
/// table.row(["demo", "Running"]);
/// assert_eq!(table.to_text(false), "NAME   STATE\ndemo   Running\n");
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new<const COLUMNS: usize>(headings: [&str; COLUMNS]) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(headings);
        table
    }

    /// Adds a row.
    pub fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.styled_row(cells.into_iter().map(|text| (text.into(), Style::new())));
    }

    pub(crate) fn styled_row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        let cell = |(text, style): (String, Style)| {
            // A line break inside a cell would break the table.
            let text = printable(&text).replace('\n', " ");
            Cell { text: if text.is_empty() { "-".into() } else { text }, style }
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The table as lines.
    #[must_use]
    pub fn to_text(&self, color: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.width())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        self.rows.iter().map(|row| line(row, &widths, color)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], color: bool) -> String {
    // The time is of no matter to a cell.
    let look = Look { color, now: jiff::Timestamp::UNIX_EPOCH };
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let plain = cell.style == Style::new();
        line.push_str(&if plain { cell.text.clone() } else { look.paint(cell.style, &cell.text) });
        if index + 1 < row.len() {
            line.push_str(&" ".repeat(width - cell.text.width() + GAP));
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstyle::AnsiColor;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let mut table = Table::new(["NAME", "TEXT", "LAST"]);
        table.row(["a", "日本", "x"]);
        table.row(["long-name", "two\nlines\u{1b}[2J", ""]);
        table.styled_row([
            ("b".into(), AnsiColor::Red.on_default()),
            ("é".into(), Style::new()),
            ("y".into(), Style::new()),
        ]);
        insta::assert_snapshot!(table.to_text(false), @r#"
        NAME        TEXT                 LAST
        a           日本                 x
        long-name   two lines\u{1b}[2J   -
        b           é                    y
        "#);
        let colored = table.to_text(true);
        assert!(colored.contains("\u{1b}[31mb\u{1b}[0m           é"), "{colored:?}");
    }
}
