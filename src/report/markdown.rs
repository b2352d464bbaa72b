//! The report as Markdown: the sentences and the tables of the page.

use super::section::{Part, Section};
use super::text::inline;

/// The whole file.
pub fn text(title: &str, sections: &[Section]) -> String {
    let mut text = format!("# {}\n", inline(title));
    for section in sections {
        let parts: Vec<String> = section.parts.iter().filter_map(part).collect();
        if !parts.is_empty() {
            text += &format!("\n## {}\n\n{}", section.title, parts.join("\n"));
        }
    }
    text
}

fn part(part: &Part) -> Option<String> {
    match part {
        Part::Text { network, text, rest } => {
            let name = network.as_ref().map(|(_, name)| format!("**{}**: ", inline(name)));
            let text = [text.as_str(), rest].join(" ");
            Some(format!("{}{}\n", name.unwrap_or_default(), inline(text.trim())))
        }
        Part::Table(table) => Some(table.markdown()),
        Part::Chart(_) | Part::Html(_) => None,
    }
}
