//! Rows in aligned columns: as wide as their contents, or cut down to the terminal. Rows may be many, so all cells lie in
//! one text.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: &str = "  ";
/// A column is not cut down further to let others fit.
const LEAST: usize = 8;

/// A table in the making.
#[derive(Default)]
pub struct Grid {
    text: String,
    /// Where each cell ends.
    ends: Vec<usize>,
    widths: Vec<usize>,
    column: usize,
}

impl Grid {
    /// With a heading.
    pub fn new<S: AsRef<str>>(heading: impl IntoIterator<Item = S>) -> Self {
        let mut grid = Self::default();
        for name in heading {
            grid.widths.push(0);
            grid.cell(&name.as_ref().to_uppercase());
        }
        grid.column = 0;
        grid
    }

    /// The next cell, from left to right and then in the next row. What would break the line or steer the terminal is
    /// shown as a blank.
    pub fn cell(&mut self, content: &str) {
        let from = self.text.len();
        match content.contains(char::is_control) {
            false => self.text.push_str(content),
            true => self.text.extend(content.chars().map(|sign| if sign.is_control() { ' ' } else { sign })),
        }
        self.ends.push(self.text.len());
        let column = self.column % self.widths.len();
        self.column = column + 1;
        self.widths[column] = self.widths[column].max(self.text[from..].width());
    }

    /// Writes it, in lines of at most `room` columns where that is possible.
    pub fn write(&self, to: &mut impl Write, room: Option<usize>) -> io::Result<()> {
        let widths = room.map_or_else(|| self.widths.clone(), |room| fitted(&self.widths, room));
        let mut from = 0;
        for row in self.ends.chunks(self.widths.len()) {
            // Blanks are written before what follows them, so that no line ends with any.
            let mut blanks = 0;
            for (end, width) in row.iter().zip(&widths) {
                let cell = &self.text[from..*end];
                from = *end;
                let (shown, cut, taken) = cut_to(cell, *width);
                if !shown.is_empty() || cut {
                    write!(to, "{:blanks$}{shown}{}", "", if cut { "…" } else { "" })?;
                    blanks = 0;
                }
                blanks += width - taken + GAP.len();
            }
            writeln!(to)?;
        }
        Ok(())
    }
}

/// What fits, whether something is missing, and how wide that is with the sign for it.
fn cut_to(cell: &str, room: usize) -> (&str, bool, usize) {
    let width = cell.width();
    if width <= room {
        return (cell, false, width);
    }
    let mut taken = 0;
    for (at, sign) in cell.char_indices() {
        let wide = sign.width().unwrap_or(0);
        if taken + wide + 1 > room {
            return (&cell[..at], true, taken + 1);
        }
        taken += wide;
    }
    (cell, false, width)
}

/// Widths that fit into a line: the widest columns give first.
fn fitted(wanted: &[usize], room: usize) -> Vec<usize> {
    let room = room.saturating_sub(GAP.len() * wanted.len().saturating_sub(1));
    let total = |cap: usize| wanted.iter().map(|width| *width.min(&cap)).sum::<usize>();
    let widest = wanted.iter().copied().max().unwrap_or(0);
    let cap = (LEAST..=widest).rev().find(|cap| total(*cap) <= room).unwrap_or(LEAST.min(widest));
    let mut spare = room.saturating_sub(total(cap));
    wanted
        .iter()
        .map(|width| {
            let more = spare.min(width.saturating_sub(cap)).min(1);
            spare -= more;
            width.min(&cap) + more
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[&[&str]], room: Option<usize>) -> String {
        let mut grid = Grid::new(rows[0]);
        for cell in rows[1..].iter().flat_map(|row| row.iter()) {
            grid.cell(cell);
        }
        let mut bytes = Vec::new();
        grid.write(&mut bytes, room).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_contents_and_no_line_ends_with_blanks() {
        let table = written(&[&["id", "name"], &["1", "a"], &["100", ""], &["2", "日本語 b"]], None);
        assert_eq!(table, "ID   NAME\n1    a\n100\n2    日本語 b\n");
    }

    #[test]
    fn the_widest_columns_are_cut_to_the_terminal() {
        let long = "x".repeat(50);
        let table = written(&[&["id", "text", "more"], &["1", &long, "short"]], Some(30));
        assert_eq!(table, format!("ID  TEXT                 MORE\n1   {}…  short\n", "x".repeat(18)));
        assert!(table.lines().all(|line| line.width() <= 30), "{table}");
        let narrow = written(&[&["a", "b"], &[&long, &long]], Some(5));
        assert_eq!(narrow.lines().last(), Some("xxxxxxx…  xxxxxxx…"), "there is a least width");
    }

    #[test]
    fn nothing_in_a_cell_steers_the_terminal() {
        assert_eq!(written(&[&["a"], &["x\n\u{1b}[2Jy"]], None), "A\nx  [2Jy\n");
    }
}
