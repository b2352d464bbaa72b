//! Charts as data. `report.js` draws them with Chart.js; the page holds them as one block of JSON.

use super::text::grouped;
use serde::Serialize;

/// Points of a curve: a curve with more is thinned.
const MOST_POINTS: usize = 2000;

/// Values beyond this magnitude are left out: no axis could show them beside others.
const LARGEST: f64 = 1e30;

/// Whether a chart can show a value.
pub fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() <= LARGEST
}

/// The points of a curve that a chart can show.
#[derive(Debug, Clone, Default)]
pub struct Points {
    /// `[x, y]`, in the order given; at most [`MOST_POINTS`].
    pub kept: Vec<[f64; 2]>,
    /// Points that are not finite or lie beyond ±[`LARGEST`].
    pub left_out: usize,
    /// Whether the curve had more than [`MOST_POINTS`] points.
    pub thinned: bool,
}

impl Points {
    /// Leaves out what a chart cannot show, and thins a long curve to the lowest and the highest point of equal stretches.
    pub fn new(points: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut kept, mut left_out) = (Vec::new(), 0);
        for (x, y) in points {
            match drawable(x) && drawable(y) {
                true => kept.push([x, y]),
                false => left_out += 1,
            }
        }
        let thinned = kept.len() > MOST_POINTS;
        if thinned {
            kept = thin(&kept);
        }
        Self { kept, left_out, thinned }
    }
}

fn thin(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let ends = |stretch: &[[f64; 2]]| {
        let by_y = |&a: &usize, &b: &usize| stretch[a][1].total_cmp(&stretch[b][1]);
        let low = (0..stretch.len()).min_by(by_y).unwrap_or(0);
        let high = (0..stretch.len()).max_by(by_y).unwrap_or(0);
        let (first, last) = (low.min(high), low.max(high));
        [(true, first), (first != last, last)].map(|(there, at)| there.then(|| stretch[at]))
    };
    points.chunks(stretch).flat_map(ends).flatten().collect()
}

/// How a chart is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A line through the points of each series, with a marker at each.
    Line,
    /// Points alone.
    Scatter,
    /// A group of upright bars for each category.
    Columns,
    /// A group of lying bars for each category, whose names may be long.
    Bars,
}

/// One chart: a view for each combination of its switches, the last switch varying fastest.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    pub kind: Kind,
    pub title: String,
    /// Stands under the chart.
    #[serde(skip)]
    pub note: String,
    /// Whether the reader may smooth the curves.
    pub smooth: bool,
    pub switches: Vec<Switch>,
    pub views: Vec<View>,
}

/// Something that the reader chooses.
#[derive(Debug, Clone, Serialize)]
pub struct Switch {
    pub label: String,
    pub options: Vec<String>,
}

/// What a chart shows under one choice.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// An axis. Without ticks the library chooses them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Axis {
    pub label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Whether the axis is logarithmic.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// A value that a line marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ticks: Vec<Tick>,
    /// Names of the groups of bars.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

/// A value of an axis and its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    pub value: f64,
    pub label: String,
}

/// One curve, or the bars of one colour.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Series {
    pub name: String,
    /// The network that gives its colour; none: the colour of text.
    pub network: Option<usize>,
    /// The marker's shape; none: that of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<&'static str>,
    /// What the shape stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<[f64; 2]>,
    /// Of bars: a value for each category.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Option<f64>>,
    #[serde(skip)]
    pub left_out: usize,
    #[serde(skip)]
    pub thinned: bool,
}

impl Series {
    /// A curve.
    pub fn curve(name: String, network: Option<usize>, points: Points) -> Self {
        let Points { kept, left_out, thinned } = points;
        Self { name, network, points: kept, left_out, thinned, ..Self::default() }
    }

    /// Bars.
    pub fn bars(name: String, network: Option<usize>, values: Vec<Option<f64>>) -> Self {
        let shown: Vec<_> =
            values.iter().map(|value| value.filter(|&value| drawable(value))).collect();
        let left_out = values.iter().zip(&shown).filter(|(given, shown)| given != shown).count();
        Self { name, network, values: shown, left_out, ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        self.points.is_empty() && self.values.iter().all(Option::is_none)
    }
}

impl Axis {
    /// An axis with a label.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), ..Self::default() }
    }

    /// Percent, from 0 to 100.
    pub fn percent(label: &str) -> Self {
        Self { min: Some(0.0), max: Some(100.0), ..Self::new(label) }
    }

    /// Whole numbers: epochs, steps. Every tick is one.
    pub fn whole<'a>(label: &str, series: impl Iterator<Item = &'a Series>) -> Self {
        let xs = series.flat_map(|series| &series.points).map(|point| point[0]);
        let range = xs.fold(None, |range: Option<(f64, f64)>, x| {
            let (low, high) = range.unwrap_or((x, x));
            Some((low.min(x), high.max(x)))
        });
        let ticks = range.map_or(Vec::new(), |(low, high)| whole_ticks(low, high));
        let (min, max) = (range.map(|range| range.0), range.map(|range| range.1));
        Self { min, max, ticks, ..Self::new(label) }
    }
}

/// At most eleven whole numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart.
fn whole_ticks(low: f64, high: f64) -> Vec<Tick> {
    let mut step = 1.0;
    // 1, 2, 5, 10, 20, …
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if (high - low) / step <= 10.0 {
            break;
        }
        step *= factor;
    }
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).clamp(-1.0, 10.0) as i64 + 1;
    (0..count)
        .map(|at| {
            let value = (first + at as f64) * step;
            Tick { value, label: grouped(value) }
        })
        .collect()
}

impl Chart {
    /// A chart with one view; `None` where there is nothing to draw.
    pub fn new(
        kind: Kind,
        title: String,
        note: &str,
        x: Axis,
        y: Axis,
        series: Vec<Series>,
    ) -> Option<Self> {
        Self::switched(kind, title, note, Vec::new(), vec![View { x, y, series }])
    }

    /// A chart with a view for each choice; `None` where there is nothing to draw.
    pub fn switched(
        kind: Kind,
        title: String,
        note: &str,
        switches: Vec<Switch>,
        mut views: Vec<View>,
    ) -> Option<Self> {
        let all = || views.iter().flat_map(|view| &view.series);
        let (left_out, thinned) = (
            all().map(|series| series.left_out).sum::<usize>(),
            all().any(|series| series.thinned),
        );
        let mut notes = vec![note.to_owned()];
        notes.retain(|note| !note.is_empty());
        if thinned {
            let most = grouped(MOST_POINTS as f64);
            notes.push(format!("Of a curve with more than {most} points the lowest and the highest point of each stretch are drawn."));
        }
        if left_out > 0 {
            let (values, are) = if left_out == 1 { ("value", "is") } else { ("values", "are") };
            let count = grouped(left_out as f64);
            notes.push(format!(
                "{count} {values} that {are} not finite or beyond ±1e30 {are} left out."
            ));
        }
        views.iter_mut().for_each(|view| view.series.retain(|series| !series.is_empty()));
        let empty = views.iter().all(|view| view.series.is_empty());
        let note = notes.join(" ");
        (!empty).then_some(Self { kind, title, note, smooth: false, switches, views })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_extremes_in_order() {
        let wave = |x: usize| (x as f64, if x == 77_777 { 9.0 } else { (x as f64 * 0.1).sin() });
        let points = Points::new((0..100_000).map(wave));
        assert!(points.thinned && points.kept.len() <= MOST_POINTS && points.kept.len() > 1900);
        assert!(points.kept.contains(&[77_777.0, 9.0]));
        assert!(points.kept.windows(2).all(|pair| pair[0][0] < pair[1][0]));
        let short = Points::new((0..2000).map(wave));
        assert!(!short.thinned && short.kept.len() == 2000);
    }

    #[test]
    fn values_that_no_axis_can_show_are_left_out_and_counted() {
        let values = [1.0, f64::NAN, f64::INFINITY, 1e308, -1e308, 1e30, 2e30];
        let points = Points::new(values.into_iter().enumerate().map(|(x, y)| (x as f64, y)));
        assert_eq!((points.kept.len(), points.left_out), (2, 5));
        let series = vec![Series::curve("a".into(), None, points)];
        let axis = || Axis::new("");
        let chart = Chart::new(Kind::Line, "t".into(), "", axis(), axis(), series).unwrap();
        assert_eq!(chart.note, "5 values that are not finite or beyond ±1e30 are left out.");
        let none = Series::bars("a".into(), None, vec![Some(1e308), None]);
        assert!(Chart::new(Kind::Bars, "t".into(), "", axis(), axis(), vec![none]).is_none());
    }

    #[test]
    fn ticks_of_epochs_are_whole_and_never_repeat() {
        for (low, high, want) in [
            (1.0, 3.0, "1 2 3"),
            (1.0, 1.0, "1"),
            (1.0, 30.0, "5 10 15 20 25 30"),
            (1.0, 25.0, "5 10 15 20 25"),
            (0.5, 0.7, ""),
            (1.0, 12_000.0, "2,000 4,000 6,000 8,000 10,000 12,000"),
        ] {
            let labels: Vec<_> =
                whole_ticks(low, high).into_iter().map(|tick| tick.label).collect();
            assert_eq!(labels.join(" "), want);
        }
        assert!(whole_ticks(-1e30, 1e30).len() <= 11);
    }
}
