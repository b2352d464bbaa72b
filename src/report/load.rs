//! Reads a run folder. The report knows files only, never a model.

use crate::bench::BenchResult;
use crate::run::{RunResult, Samples};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What a run folder holds. A run that is not finished has no result yet; a run that was never measured
/// has no `bench.json`.
pub struct Run {
    /// The folder.
    pub dir: PathBuf,
    /// `result.json`.
    pub result: Option<RunResult>,
    /// `bench.json`.
    pub bench: Option<BenchResult>,
    /// `samples.json`.
    pub samples: Option<Samples>,
    /// `epochs.csv`.
    pub epochs: Table,
    /// `steps.csv`.
    pub steps: Table,
}

impl Run {
    /// Reads the folder.
    ///
    /// Errors: [`crate::ErrorKind::File`] where `dir` is no run folder or a file in it is damaged.
    pub fn load(dir: &Path) -> Result<Self> {
        if !dir.join("recipe.toml").is_file() {
            return Err(Error::file(dir, "is not a run folder: no recipe.toml in it"));
        }
        Ok(Self {
            dir: dir.to_owned(),
            result: json(&dir.join("result.json"))?,
            bench: json(&dir.join("bench.json"))?,
            samples: json(&dir.join("samples.json"))?,
            epochs: Table::load(&dir.join("epochs.csv"))?,
            steps: Table::load(&dir.join("steps.csv"))?,
        })
    }

    /// The recipe's name, or the folder's.
    pub fn name(&self) -> String {
        match &self.result {
            Some(result) => result.name.clone(),
            None => self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::file(path, error.to_string()))
}

/// A CSV file of numbers; an empty cell is NaN.
#[derive(Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<f64>>,
}

impl Table {
    /// Reads it; a file that is not there is an empty table.
    fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Error::io(path, error)),
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
    fn a_table_gives_points_and_names_a_ragged_line() {
        let table = Table::parse("epoch,loss,pgd\n1,0.5,\n2,0.25,40\n").unwrap();
        assert_eq!(table.points("epoch", "loss"), [(1.0, 0.5), (2.0, 0.25)]);
        assert_eq!(table.points("epoch", "pgd"), [(2.0, 40.0)]);
        assert!(table.points("epoch", "nothing").is_empty());
        let error = Table::parse("a,b\n1,2\n3\n").err().unwrap();
        assert_eq!(error, "line 3: 1 cells, expected 2");
    }
}
