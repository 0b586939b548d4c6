//! A table that is no wider than the terminal: first long cells are shortened, then columns are left out.

use sidegate_core::without_controls;

/// Between two columns.
const GAP: usize = 2;

/// Which part of a long cell is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The start.
    Start,
    /// The end.
    End,
    /// The start, without a mark: of an ID it is enough, and can be copied.
    Beginning,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    head: &'static str,
    cells: Vec<String>,
    right: bool,
    /// What it may be shortened to, and what is kept.
    least: Option<(usize, Keep)>,
    /// The highest is left out first.
    rank: u8,
    width: usize,
}

impl Column {
    pub(super) fn new(head: &'static str, cells: impl Iterator<Item = String>) -> Self {
        // What strangers say has no width that can be counted before it is made harmless.
        let cells: Vec<String> = cells.map(|cell| without_controls(&cell)).collect();
        let width = cells.iter().map(|cell| cell.chars().count()).chain([head.len()]).max().unwrap_or(0);
        Self { head, cells, right: false, least: None, rank: 0, width }
    }

    pub(super) fn right(self) -> Self {
        Self { right: true, ..self }
    }

    pub(super) fn least(self, least: usize, keep: Keep) -> Self {
        Self { least: Some((least, keep)), ..self }
    }

    pub(super) fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    fn can_shrink(&self) -> bool {
        self.least.is_some_and(|(least, _)| self.width > least)
    }

    fn cell(&self, text: &str) -> String {
        let width = self.width;
        let text = shortened(text, width, self.least.map_or(Keep::Start, |(_, keep)| keep));
        if self.right { format!("{text:>width$}") } else { format!("{text:<width$}") }
    }
}

/// `text` of at most `width` characters.
#[must_use]
pub fn shortened(text: &str, width: usize, keep: Keep) -> String {
    let length = text.chars().count();
    match (keep, width) {
        _ if length <= width => text.to_owned(),
        (_, 0) => String::new(),
        (Keep::Beginning, _) => text.chars().take(width).collect(),
        (Keep::Start, _) => text.chars().take(width - 1).chain(['…']).collect(),
        (Keep::End, _) => std::iter::once('…').chain(text.chars().skip(length - width + 1)).collect(),
    }
}

#[derive(Debug, Clone)]
pub(super) struct Table(pub(super) Vec<Column>);

impl Table {
    /// Its lines, the first with the heads of the columns. Without a width nothing is shortened.
    pub(super) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let columns = width.map_or_else(|| self.0.clone(), |width| self.fit(width));
        let rows = self.0.first().map_or(0, |column| column.cells.len());
        let line = |cell: &dyn Fn(&Column) -> String| {
            let cells: Vec<String> = columns.iter().map(cell).collect();
            let line = cells.join(&" ".repeat(GAP));
            let line = line.trim_end();
            width.map_or_else(|| line.to_owned(), |width| shortened(line, width, Keep::Start))
        };
        let head = line(&|column: &Column| column.cell(column.head));
        std::iter::once(head).chain((0..rows).map(|row| line(&|column: &Column| column.cell(&column.cells[row])))).collect()
    }

    /// The columns that have room.
    fn fit(&self, width: usize) -> Vec<Column> {
        let total = |columns: &[Column]| columns.iter().map(|column| column.width + GAP).sum::<usize>().saturating_sub(GAP);
        let mut left = self.0.clone();
        loop {
            let mut columns = left.clone();
            while total(&columns) > width {
                // What loses nothing by it, then the widest of those that may get smaller.
                let keeps = |column: &Column| column.least.is_some_and(|(_, keep)| keep == Keep::Beginning);
                let smaller = columns.iter_mut().filter(|column| column.can_shrink());
                let Some(widest) = smaller.max_by_key(|column| (keeps(column), column.width)) else { break };
                widest.width -= 1;
            }
            // Three are always there.
            if total(&columns) <= width || left.len() <= 3 {
                return columns;
            }
            let Some(highest) = left.iter().map(|column| column.rank).max() else { return columns };
            left.retain(|column| column.rank != highest);
        }
    }
}
