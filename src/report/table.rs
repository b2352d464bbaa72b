//! A table of a report, rendered as HTML, Markdown or CSV.

use super::marker::marker;
use super::text::{escape, inline};
use std::fmt::Write;

/// A titled table of text cells; the first column is left-aligned, the others right-aligned.
#[derive(Default)]
pub struct Table {
    pub(super) title: String,
    /// Stands under the title: what the figures are.
    pub(super) note: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// For each row, the network whose marker stands before the first cell; empty: no row has one.
    pub(super) networks: Vec<Option<usize>>,
    /// Whether the page shows the title alone until the reader opens the table.
    pub(super) folded: bool,
}

impl Table {
    /// A heading, a note and a pipe table.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n{}\n\n", inline(&self.title), inline(&self.note));
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| inline(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        text += &line(&self.header);
        let rule = |index| if index == 0 { "---" } else { "---:" }.to_owned();
        text += &line(&(0..self.header.len()).map(rule).collect::<Vec<_>>());
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }

    /// A header line and one line a row; a cell with a comma, a quote or a line break is quoted.
    pub fn csv(&self) -> String {
        let quote = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        };
        let line = |cells: &Vec<String>| cells.iter().map(quote).collect::<Vec<_>>().join(",");
        let lines = std::iter::once(&self.header).chain(&self.rows);
        lines.map(|cells| line(cells) + "\n").collect()
    }

    /// A heading, a note and the table in a box that scrolls by itself.
    pub fn html(&self) -> String {
        let (title, note) = (escape(&self.title), escape(&self.note));
        let mut text = match self.folded {
            true => format!("<details><summary>{title}</summary>\n"),
            false => format!("<h3>{title}</h3>\n"),
        };
        if !note.is_empty() {
            _ = writeln!(text, "<p class=note>{note}</p>");
        }
        text += "<div class=scroll tabindex=0><table><thead><tr>";
        self.header.iter().for_each(|cell| _ = write!(text, "<th>{}</th>", escape(cell)));
        text += "</tr></thead><tbody>\n";
        for (at, row) in self.rows.iter().enumerate() {
            text += "<tr>";
            for (column, cell) in row.iter().enumerate() {
                let network = self.networks.get(at).copied().flatten();
                let mark = network.filter(|_| column == 0).map(marker).unwrap_or_default();
                _ = write!(text, "<td>{mark}{}</td>", escape(cell));
            }
            text += "</tr>\n";
        }
        text += "</tbody></table></div>\n";
        text + if self.folded { "</details>\n" } else { "" }
    }
}

/// The cells of a header.
pub fn cells(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_leave_their_table() {
        let table = Table {
            title: "<i>t".into(),
            header: cells(&["a|b", "c"]),
            rows: vec![cells(&["<b>|", "1,\"2\"\n3"])],
            networks: vec![Some(1)],
            ..Table::default()
        };
        let text = table.markdown();
        assert!(text.starts_with("### &lt;i>t\n"), "{text}");
        assert!(
            text.ends_with("| a\\|b | c |\n| --- | ---: |\n| &lt;b>\\| | 1,\"2\" 3 |\n"),
            "{text}"
        );
        assert_eq!(table.csv(), "a|b,c\n<b>|,\"1,\"\"2\"\"\n3\"\n");
        let page = table.html();
        assert!(page.contains("</svg>&lt;b&gt;|</td><td>1,&quot;2&quot;"), "{page}");
        assert!(!page.contains("<b>") && !page.contains("<i>"), "{page}");
    }
}
