//! A table of a report, rendered as HTML, Markdown or CSV.

use std::fmt::Write;

/// A titled table of text cells; the first column is left-aligned, the others right-aligned.
pub struct Table {
    pub(super) title: String,
    /// Stands under the title: what the figures are.
    pub(super) note: &'static str,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading, a note and a pipe table.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n{}\n\n", self.title, self.note);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text += &line(&self.header);
        let rule = |index| if index == 0 { "---" } else { "---:" }.to_owned();
        text += &line(&(0..self.header.len()).map(rule).collect::<Vec<_>>());
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }

    /// A header line and one line a row; cells hold no comma but shapes, which are quoted.
    pub fn csv(&self) -> String {
        let quote = |cell: &str| match cell.contains([',', '"']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.to_owned(),
        };
        let mut text = self.header.join(",") + "\n";
        for row in &self.rows {
            text += &(row.iter().map(|cell| quote(cell)).collect::<Vec<_>>().join(",") + "\n");
        }
        text
    }

    /// A section with the table.
    pub fn html(&self) -> String {
        let mut text =
            format!("<h2>{}</h2>\n<p class=note>{}</p>\n", escape(&self.title), self.note);
        text += "<div class=scroll><table><thead><tr>";
        self.header.iter().for_each(|cell| _ = write!(text, "<th>{}</th>", escape(cell)));
        text += "</tr></thead><tbody>\n";
        for row in &self.rows {
            text += "<tr>";
            row.iter().for_each(|cell| _ = write!(text, "<td>{}</td>", escape(cell)));
            text += "</tr>\n";
        }
        text + "</tbody></table></div>\n"
    }
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
