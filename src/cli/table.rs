//! Tables: columns aligned, the last one cut where the terminal ends.

/// Rows under headings.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// An empty table.
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// The text, `columns` wide at most where that is known.
    pub fn render(&self, columns: Option<usize>) -> String {
        let widths = self.widths();
        let headings = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
        let lines = std::iter::once(&headings).chain(&self.rows).map(|row: &Vec<String>| line(row, &widths, columns));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn widths(&self) -> Vec<usize> {
        let width_of = |(at, heading): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([heading.len()]).max().unwrap_or(0)
        };
        self.headings.iter().enumerate().map(width_of).collect()
    }
}

/// Names and values below each other, the values aligned.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + GAP;
    let lines = rows.iter().map(|(name, value)| format!("{name:width$}{}", plain(value)).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn line(cells: &[String], widths: &[usize], columns: Option<usize>) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(cell);
        let padding = width + GAP - cell.chars().count();
        text.extend(std::iter::repeat_n(' ', padding));
    }
    let text = text.trim_end();
    match columns {
        Some(columns) if text.chars().count() > columns && columns > 1 => {
            text.chars().take(columns - 1).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

/// Messages and reasons are other people's text: on one line, and nothing that
/// a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "SAYS"]);
        table.row(["a".into(), "grüße\n\x1b[31m".into()]);
        table.row(["longer".into(), "x".into()]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(table().render(None), "NAME    SAYS\na       grüße  [31m\nlonger  x");
        assert_eq!(fields(&[("id", "1".into()), ("name", String::new())]), "id    1\nname");
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let text = table().render(Some(12));
        assert_eq!(text, "NAME    SAYS\na       grü…\nlonger  x");
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        assert!(!table().render(None).contains('\x1b'));
    }
}
