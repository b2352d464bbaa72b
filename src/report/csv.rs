//! The CSV files of a run folder.

use super::chart::Points;
use crate::{Error, Result, file};
use std::path::Path;

/// A CSV file of numbers. A cell without text is `None`; text that is no number is NaN.
#[derive(Default)]
pub struct Csv {
    header: Vec<String>,
    rows: Vec<Vec<Option<f64>>>,
}

impl Csv {
    /// Reads the file. A file that does not exist is one without columns.
    ///
    /// Errors: [`crate::ErrorKind::Io`] for a file that cannot be read, [`crate::ErrorKind::File`] for a line with more or
    /// fewer cells than the header.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = String::from_utf8(file::read_bounded(path, 1 << 30)?)
            .map_err(|_| Error::file(path, "is not UTF-8 text; expected a CSV file"))?;
        Self::parse(&text).map_err(|message| Error::file(path, message))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lines = text.lines().enumerate();
        let header: Vec<String> = match lines.next() {
            Some((_, line)) => line.split(',').map(str::to_owned).collect(),
            None => return Ok(Self::default()),
        };
        let mut rows = Vec::new();
        for (index, line) in lines {
            let number = |cell: &str| cell.trim().parse().unwrap_or(f64::NAN);
            let row: Vec<Option<f64>> = line
                .split(',')
                .map(|cell| (!cell.trim().is_empty()).then(|| number(cell)))
                .collect();
            if row.len() != header.len() {
                let (got, want) = (row.len(), header.len());
                return Err(format!("line {}: {got} cells, expected {want}", index + 1));
            }
            rows.push(row);
        }
        Ok(Self { header, rows })
    }

    /// The names of the columns, in the order of the file.
    pub fn columns(&self) -> &[String] {
        &self.header
    }

    /// The values of a column; empty where the file has no such column.
    pub fn column(&self, name: &str) -> Vec<Option<f64>> {
        let index = self.header.iter().position(|cell| cell == name);
        index.map_or(Vec::new(), |index| self.rows.iter().map(|row| row[index]).collect())
    }

    /// The points (x, y) of two columns; none where a column is missing. An empty cell is no point.
    pub fn points(&self, x: &str, y: &str) -> Points {
        let pairs = self.column(x).into_iter().zip(self.column(y));
        Points::new(pairs.filter_map(|(x, y)| Some((x?, y?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_points_and_names_a_ragged_line() {
        let csv = Csv::parse("epoch,loss,pgd\n1,0.5,\n2,0.25,40\n").unwrap();
        assert_eq!(csv.points("epoch", "loss").kept, [[1.0, 0.5], [2.0, 0.25]]);
        assert_eq!(csv.points("epoch", "pgd").kept, [[2.0, 40.0]]);
        assert!(csv.points("epoch", "nothing").kept.is_empty());
        // A cell without text is no point; one that is no finite number is counted.
        let csv = Csv::parse("step,loss\n1,NaN\n2,\n3,inf\n4,1e308\n5,2\n").unwrap();
        let points = csv.points("step", "loss");
        assert_eq!((points.kept, points.left_out), (vec![[5.0, 2.0]], 3));
        let error = Csv::parse("a,b\n1,2\n3\n").err().unwrap();
        assert_eq!(error, "line 3: 1 cells, expected 2");
    }
}
