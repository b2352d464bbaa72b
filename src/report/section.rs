//! A section of a report: sentences, charts, tables and images under one heading.

use super::chart::Chart;
use super::table::Table;

/// What stands under one heading of the page and of the Markdown file.
pub struct Section {
    /// The anchor.
    pub id: &'static str,
    pub title: &'static str,
    pub parts: Vec<Part>,
}

/// A piece of a section.
pub enum Part {
    /// A paragraph, about a network where it names one: what matters most, then the rest.
    Text {
        network: Option<(usize, String)>,
        text: String,
        rest: String,
    },
    /// On the page alone.
    Chart(Chart),
    Table(Table),
    /// HTML of the page alone, escaped already.
    Html(String),
}

impl Section {
    /// A section with what is there; `None` where nothing is.
    pub fn new(id: &'static str, title: &'static str, parts: Vec<Part>) -> Option<Self> {
        let filled = |part: &Part| !matches!(part, Part::Table(table) if table.rows.is_empty());
        let parts: Vec<Part> = parts.into_iter().filter(filled).collect();
        (!parts.is_empty()).then_some(Self { id, title, parts })
    }
}

impl Part {
    /// A paragraph about no network in particular.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { network: None, text: text.into(), rest: String::new() }
    }
}
