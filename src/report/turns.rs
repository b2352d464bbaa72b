//! Comparisons row by row: the results of `benches/peers/kernels.py`, and of `train_step.py` on a GPU.

use super::table::Table;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What one call of a script measured on one machine, with everything that took its turn there.
#[derive(Deserialize)]
pub(super) struct Turns {
    date: String,
    commit: String,
    gpu: String,
    torch: String,
    /// What is compared: the title.
    what: String,
    /// Of all times.
    unit: String,
    rows: Vec<Row>,
}

/// One kernel or one training step at one size.
#[derive(Deserialize)]
struct Row {
    row: String,
    /// rewire's median over the rounds.
    time: f64,
    /// (largest − smallest) / median over the rounds.
    spread: f64,
    /// |first / second − 1| of rewire against itself in one round, the median over the rounds: what is noise.
    noise: f64,
    /// Computed, where it is known.
    #[serde(default)]
    floor: Option<f64>,
    /// By name.
    peers: BTreeMap<String, Peer>,
    /// By name: why a peer was not measured.
    #[serde(default)]
    left_out: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Peer {
    time: f64,
    /// Median over the rounds of its time over rewire's in the same round.
    ratio: f64,
    /// (largest − smallest) / median of these ratios.
    spread: f64,
}

impl Turns {
    /// A line for each peer of each row.
    pub(super) fn table(&self) -> Table {
        let Self { what, unit, .. } = self;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut rows = Vec::new();
        for row in &self.rows {
            let floor = row.floor.map_or("–".into(), |floor| percent(floor / row.time));
            let own = [
                row.row.clone(),
                format!("{:.2}", row.time),
                percent(row.spread),
                percent(row.noise),
                floor,
            ];
            let measured = row.peers.iter().map(|(name, peer)| {
                let ratio = format!("{:.2}×", peer.ratio);
                [name.clone(), format!("{:.2}", peer.time), ratio, percent(peer.spread)]
            });
            let absent = row.left_out.iter().map(|(name, why)| {
                let cell = || "–".to_owned();
                [format!("{name}: {why}"), cell(), cell(), cell()]
            });
            rows.extend(measured.chain(absent).map(|peer| [&own[..], &peer[..]].concat()));
        }
        let header = [
            "row",
            &format!("rewire {unit}"),
            "spread",
            "noise",
            "of the floor",
            "peer",
            &format!("peer {unit}"),
            "ratio",
            "spread",
        ];
        Table {
            title: format!("{what}: {}", self.machine()),
            note: "Times are medians over rounds in which all sides took turns. Ratio: the other framework's time over rewire's, the median over the rounds. Noise: rewire against itself in one round. Of the floor: the computed least time over rewire's time.".into(),
            header: header.map(str::to_owned).to_vec(),
            rows,
            ..Table::default()
        }
    }

    /// What is compared.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Where and when.
    pub(super) fn machine(&self) -> String {
        let Self { date, gpu, torch, .. } = self;
        let commit: String = self.commit.chars().take(12).collect();
        format!("{gpu}, PyTorch {torch}, {date}, commit {commit}")
    }

    /// The ratio to the fastest peer, by row.
    pub(super) fn ratios(&self) -> Vec<(String, f64)> {
        let least = |row: &Row| row.peers.values().map(|peer| peer.ratio).reduce(f64::min);
        self.rows.iter().filter_map(|row| Some((row.row.clone(), least(row)?))).collect()
    }
}
