//! The networks of a report. Each has one name, one colour and one marker on the whole page, whichever files speak of it.

use super::input::Report;
use super::load::Run;
use std::path::{Path, PathBuf};

/// Characters of a name that a legend has room for.
const ROOM: usize = 48;

/// The names, in the order of the colours, and who is who.
#[derive(Default)]
pub struct Networks {
    names: Vec<String>,
    /// The network of each run.
    pub runs: Vec<usize>,
    /// The network of each result of `rewire attack`.
    pub attacked: Vec<usize>,
    /// The network of each result of `rewire bench`.
    pub benches: Vec<usize>,
    /// The network of each result of `rewire verify`.
    pub verified: Vec<usize>,
}

impl Networks {
    /// Finds the networks. A result belongs to a run where it names the run's best checkpoint.
    pub fn of(report: &Report) -> Self {
        let mut own = Self::default();
        let mut known: Vec<(PathBuf, String)> = Vec::new();
        for run in &report.runs {
            own.runs.push(known.len());
            known.push((run.best(), run.name()));
        }
        let mut place = |model: Option<&String>, file: Option<&Path>| {
            let path = model.map(PathBuf::from).or(file.map(PathBuf::from)).unwrap_or_default();
            known.iter().position(|(other, _)| same(other, &path)).unwrap_or_else(|| {
                let name = file_name(&path);
                known.push((path, name));
                known.len() - 1
            })
        };
        own.attacked = report.attacked.iter().map(|one| place(Some(&one.model), None)).collect();
        let benches = report.benches.iter();
        own.benches =
            benches.map(|one| place(one.result.model.as_ref(), Some(&one.path))).collect();
        let verified = report.verified.iter();
        own.verified =
            verified.map(|one| place(one.result.model.as_ref(), Some(&one.path))).collect();
        let twice = |name: &String| known.iter().filter(|(_, other)| other == name).count() > 1;
        own.names = known
            .iter()
            .map(|(path, name)| match twice(name) {
                // The folder of a run, the file of another network.
                true => {
                    let run = path.ends_with("checkpoints/best.safetensors");
                    let folder = path.ancestors().nth(2).filter(|_| run);
                    shortened(&folder.unwrap_or(path).display().to_string(), Kept::End)
                }
                false => shortened(name, Kept::Start),
            })
            .collect();
        own
    }

    /// The name of a network.
    pub fn name(&self, network: usize) -> &str {
        self.names.get(network).map_or("", String::as_str)
    }

    /// Every network with its name.
    pub fn all(&self) -> impl Iterator<Item = (usize, &str)> {
        self.names.iter().map(String::as_str).enumerate()
    }

    /// Measured speeds: of runs that were measured, and of results of `rewire bench`.
    pub fn speeds<'a>(
        &'a self,
        report: &'a Report,
    ) -> impl Iterator<Item = (usize, &'a crate::bench::BenchResult)> {
        let runs = self.runs.iter().zip(&report.runs);
        let runs = runs.filter_map(|(&network, run)| Some((network, run.bench.as_ref()?)));
        let benches = self.benches.iter().zip(&report.benches);
        runs.chain(benches.map(|(&network, one)| (network, &one.result)))
    }

    /// The run of a network.
    pub fn run<'a>(&self, report: &'a Report, network: usize) -> Option<&'a Run> {
        report.runs.get(self.runs.iter().position(|&other| other == network)?)
    }
}

/// Whether two paths are the same file, as text or on this machine.
fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    a.components().eq(b.components()) || real(a).is_some_and(|a| real(b) == Some(a))
}

/// `dense` for `runs/dense/checkpoints/best.safetensors`, `net` for `models/net.safetensors`.
fn file_name(path: &Path) -> String {
    let text =
        |name: Option<&std::ffi::OsStr>| name.map(|name| name.to_string_lossy().into_owned());
    let stem = text(path.file_stem()).unwrap_or_else(|| "network".into());
    let folder = path.parent().filter(|folder| folder.ends_with("checkpoints"));
    match folder.and_then(|folder| text(folder.parent()?.file_name())) {
        Some(run) if stem == "best" => run,
        Some(run) => format!("{run} ({stem})"),
        None => stem,
    }
}

enum Kept {
    Start,
    End,
}

/// At most [`ROOM`] characters of a name, none of them a control character.
fn shortened(name: &str, kept: Kept) -> String {
    let name: Vec<char> = name.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    let more = name.len().saturating_sub(ROOM);
    match kept {
        _ if more == 0 => name.into_iter().collect(),
        Kept::Start => name[..ROOM].iter().collect::<String>() + "…",
        Kept::End => "…".to_owned() + &name[more..].iter().collect::<String>(),
    }
}
