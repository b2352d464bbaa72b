//! The HTML page: one file that loads nothing.

use super::chart::Chart;
use super::marker::{look, marker, symbols};
use super::networks::Networks;
use super::section::{Part, Section};
use super::text::escape;
use crate::Result;
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Chart.js and the licences of what it is made of; `chart/README.md` says which version.
const LIBRARY: &str = include_str!("chart/chart.umd.min.js");
const LICENCES: [&str; 2] = [include_str!("chart/LICENSE"), include_str!("chart/LICENSE-color")];

/// The whole page.
///
/// Errors: [`crate::ErrorKind::File`] where a chart cannot be written as JSON.
pub fn html(title: &str, sections: &[Section], networks: &Networks) -> Result<String> {
    let title = escape(title);
    let mut charts: Vec<&Chart> = Vec::new();
    let mut body = String::new();
    for section in sections {
        let Section { id, title, parts } = section;
        _ = writeln!(body, "<section id={id}>\n<h2><a href=\"#{id}\">{}</a></h2>", escape(title));
        for part in parts {
            body += &match part {
                Part::Text { network, text, rest } => paragraph(network.as_ref(), text, rest),
                Part::Table(table) => table.html(),
                Part::Html(html) => html.clone(),
                Part::Chart(chart) => {
                    charts.push(chart);
                    figure(charts.len() - 1, chart, title)
                }
            };
        }
        body += "</section>\n";
    }
    let link =
        |section: &Section| format!("<a href=\"#{}\">{}</a>\n", section.id, escape(section.title));
    let contents: String = sections.iter().map(link).collect();
    let looks: Vec<_> = networks.all().map(|(network, name)| look(network, name)).collect();
    let data = serde_json::json!({"networks": looks, "charts": charts}).to_string();
    // Inside a script element nothing may look like the end of one, or like a comment.
    let data = data.replace('<', "\\u003c");
    let licences = LICENCES.join("\n");
    let library = LIBRARY.lines().filter(|line| !line.starts_with("//# sourceMappingURL"));
    let library = library.collect::<Vec<_>>().join("\n");
    Ok(format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title} – rewire report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}\
         <header>\n<p class=kind>rewire report</p>\n<h1>{title}</h1>\n<button id=theme type=button hidden>Dark</button>\n</header>\n\
         <nav aria-label=Contents>\n{contents}</nav>\n<main>\n\
         <noscript><p class=note>The charts of this page need JavaScript. The sentences and the tables say the same without it.</p></noscript>\n\
         {body}</main>\n\
         <script id=data type=\"application/json\">{data}</script>\n\
         <script>\n/*\n{licences}\n*/\n{library}\n</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        symbols()
    ))
}

fn paragraph(network: Option<&(usize, String)>, text: &str, rest: &str) -> String {
    let name = network
        .map(|(network, name)| format!("<strong>{}{}</strong> ", marker(*network), escape(name)));
    let text = format!("<p class=answer>{}{}</p>\n", name.unwrap_or_default(), escape(text));
    match rest {
        "" => text,
        _ => format!("{text}<p class=\"answer rest\">{}</p>\n", escape(rest)),
    }
}

/// The place of a chart. The script adds the switches, the legend and the drawing.
fn figure(at: usize, chart: &Chart, section: &str) -> String {
    let (title, note) = (escape(&chart.title), escape(&chart.note));
    let heading =
        if chart.title == section { String::new() } else { format!("<h3>{title}</h3>\n") };
    format!(
        "<figure class=chart data-chart={at}>\n{heading}<div class=controls></div>\n\
         <div class=drawing><canvas role=img aria-label=\"{title}\"></canvas></div>\n\
         <div class=legend></div>\n<figcaption class=note>{note}</figcaption>\n</figure>\n"
    )
}
