//! The CSV files of a run folder.

use crate::{Error, Result};
use std::path::Path;

/// A CSV file of numbers; an empty cell is NaN.
#[derive(Default)]
pub struct Csv {
    header: Vec<String>,
    rows: Vec<Vec<f64>>,
}

impl Csv {
    /// Reads it; a file that is not there is one without columns.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match crate::file::read_bounded(path, 1 << 30) {
            Ok(text) => String::from_utf8(text).map_err(|_| Error::file(path, "is not text"))?,
            Err(_) if !path.exists() => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        Self::parse(&text).map_err(|message| Error::file(path, message))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lines = text.lines().enumerate();
        let header: Vec<String> = match lines.next() {
            Some((_, line)) => line.split(',').map(str::to_owned).collect(),
            None => return Ok(Self::default()),
        };
        let mut rows = Vec::new();
        for (number, line) in lines {
            let row: Vec<f64> =
                line.split(',').map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
            if row.len() != header.len() {
                let (got, want) = (row.len(), header.len());
                return Err(format!("line {}: {got} cells, expected {want}", number + 1));
            }
            rows.push(row);
        }
        Ok(Self { header, rows })
    }

    /// The points (x, y) of two columns, without those that have no number; empty where a column is not there.
    pub fn points(&self, x: &str, y: &str) -> Vec<(f64, f64)> {
        let column = |name: &str| self.header.iter().position(|cell| cell == name);
        let (Some(x), Some(y)) = (column(x), column(y)) else { return Vec::new() };
        let points = self.rows.iter().map(|row| (row[x], row[y]));
        points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_points_and_names_a_ragged_line() {
        let csv = Csv::parse("epoch,loss,pgd\n1,0.5,\n2,0.25,40\n").unwrap();
        assert_eq!(csv.points("epoch", "loss"), [(1.0, 0.5), (2.0, 0.25)]);
        assert_eq!(csv.points("epoch", "pgd"), [(2.0, 40.0)]);
        assert!(csv.points("epoch", "nothing").is_empty());
        let error = Csv::parse("a,b\n1,2\n3\n").err().unwrap();
        assert_eq!(error, "line 3: 1 cells, expected 2");
    }
}
