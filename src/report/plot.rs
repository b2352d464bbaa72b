//! Charts as inline SVG.

use plotters::prelude::*;

/// One line of a chart.
pub struct Series {
    /// Stands in the legend.
    pub name: String,
    /// Points in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// Seven colours that people with colour-vision deficiency can tell apart (Okabe & Ito 2008, less the yellow).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// A line chart; `None` where there is nothing to draw. The same input gives the same bytes.
pub fn lines(title: &str, x: &str, y: &str, series: &[Series]) -> Option<String> {
    let points = || series.iter().flat_map(|series| &series.points);
    let finite = |value: &f64| value.is_finite();
    let (x_low, x_high) = range(points().map(|point| point.0).filter(finite))?;
    let (y_low, y_high) = range(points().map(|point| point.1).filter(finite))?;
    let margin = (y_high - y_low).max(1e-9) * 0.05;
    let mut svg = String::new();
    draw_lines(
        &mut svg,
        [title, x, y],
        series,
        (x_low..x_high.max(x_low + 1e-9), y_low - margin..y_high + margin),
    )
    .ok()?;
    Some(inline(&svg))
}

type Failure = Box<dyn std::error::Error>;

fn draw_lines(
    svg: &mut String,
    [title, x, y]: [&str; 3],
    series: &[Series],
    (x_range, y_range): (std::ops::Range<f64>, std::ops::Range<f64>),
) -> Result<(), Failure> {
    let area = SVGBackend::with_string(svg, (560, 320)).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(x_range, y_range)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x)
        .y_desc(y)
        .label_style(("sans-serif", 12))
        .draw()?;
    for (line, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let points = line.points.iter().copied().filter(|point| point.1.is_finite());
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}

/// Horizontal bars with their values; `unit` stands behind each value.
pub fn bars(title: &str, unit: &str, rows: &[(String, f64)]) -> Option<String> {
    let high = rows.iter().map(|row| row.1).filter(|value| value.is_finite()).fold(0.0, f64::max);
    if high <= 0.0 {
        return None;
    }
    let mut svg = String::new();
    draw_bars(&mut svg, title, unit, rows, high).ok()?;
    Some(inline(&svg))
}

fn draw_bars(
    svg: &mut String,
    title: &str,
    unit: &str,
    rows: &[(String, f64)],
    high: f64,
) -> Result<(), Failure> {
    const ROW: i32 = 22;
    const LEFT: i32 = 190;
    const WIDE: f64 = 270.0;
    let height = (rows.len() as i32 * ROW + 44) as u32;
    let area = SVGBackend::with_string(svg, (560, height)).into_drawing_area();
    area.draw(&Text::new(title.to_owned(), (8, 8), ("sans-serif", 16)))?;
    for (index, (name, value)) in rows.iter().enumerate() {
        let top = 34 + index as i32 * ROW;
        let right = LEFT + (value / high * WIDE).round() as i32;
        let colour = COLOURS[index % COLOURS.len()];
        area.draw(&Text::new(name.clone(), (8, top + 2), ("sans-serif", 12)))?;
        area.draw(&Rectangle::new([(LEFT, top), (right, top + ROW - 6)], colour.filled()))?;
        let label = format!("{value:.*} {unit}", if *value < 1000.0 { 2 } else { 0 });
        area.draw(&Text::new(label, (right + 6, top + 2), ("sans-serif", 12)))?;
    }
    area.present()?;
    Ok(())
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// The `svg` element alone, scaled to its container.
fn inline(svg: &str) -> String {
    let start = svg.find("<svg ").unwrap_or(0);
    svg[start..].replacen("<svg ", "<svg style=\"max-width:100%;height:auto\" ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_nothing_is_none_and_a_flat_line_is_drawn() {
        assert!(lines("t", "x", "y", &[]).is_none());
        let flat = Series { name: "flat".into(), points: vec![(1.0, 2.0)] };
        assert!(lines("t", "x", "y", &[flat]).unwrap().contains("</svg>"));
        assert!(bars("t", "ms", &[("zero".into(), 0.0)]).is_none());
    }

    #[test]
    fn charts_are_deterministic_and_name_their_series() {
        let series = || {
            ["clean <b>", "pgd"].map(|name| Series {
                name: name.into(),
                points: vec![(1.0, 10.0), (2.0, 30.0), (3.0, f64::NAN)],
            })
        };
        let svg = lines("accuracy", "epoch", "%", &series()).unwrap();
        assert_eq!(svg, lines("accuracy", "epoch", "%", &series()).unwrap());
        assert!(svg.contains("pgd") && svg.contains("clean &lt;b&gt;"));
    }
}
