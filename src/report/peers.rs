//! Comparisons with other frameworks: the results of `benches/peers`.

use super::table::Table;
use super::text::list;
use super::turns::Turns;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A result of one of the scripts.
#[derive(Deserialize)]
pub struct Peers(Kind);

#[derive(Deserialize)]
#[serde(untagged)]
enum Kind {
    /// Of `inference.py`: whole networks.
    Networks(Networks),
    /// Of the others: kernels, training steps.
    Turns(Turns),
}

/// What one call of `inference.py` measured on one machine.
#[derive(Deserialize)]
struct Networks {
    date: String,
    commit: String,
    device: String,
    mode: String,
    threads: usize,
    cpu: String,
    #[serde(default)]
    gpu: Option<String>,
    cases: Vec<Case>,
}

/// One network at one batch size.
#[derive(Deserialize)]
struct Case {
    case: String,
    batch: usize,
    /// By side; rewire's are `rewire dense`, …, `rewire fastest`.
    median_ms: BTreeMap<String, f64>,
    /// By peer: median over the rounds of its time over that of `rewire fastest`.
    ratio_of_rewire_fastest: BTreeMap<String, f64>,
    spread: f64,
    /// Of a pruned network, where the run also had the dense one.
    #[serde(default)]
    fastest_dense: Option<FastestDense>,
    /// Speed-up over rewire's own dense execution.
    #[serde(default)]
    figures: Option<Figures>,
}

/// The dense network on the side that runs it fastest.
#[derive(Deserialize)]
struct FastestDense {
    side: String,
    /// Its time over that of `rewire fastest` on the pruned network.
    ratio: f64,
}

/// As in `crate::bench::Figures`, for one batch size.
#[derive(Deserialize)]
struct Figures {
    projected: f64,
    mac_ratio: f64,
    measured_compact: f64,
    measured_sparse: f64,
}

impl Peers {
    /// The tables of the comparison.
    pub(super) fn tables(&self) -> Vec<Table> {
        match &self.0 {
            Kind::Networks(networks) => vec![networks.against_peers(), networks.against_dense()],
            Kind::Turns(turns) => vec![turns.table()],
        }
    }

    /// How often rewire is faster than the fastest of the others.
    pub(super) fn sentence(&self) -> Option<String> {
        let mut ratios: Vec<f64> = self.ratios().into_iter().map(|(_, ratio)| ratio).collect();
        ratios.retain(|ratio| ratio.is_finite());
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.len().checked_sub(1)? / 2;
        let median = 0.5 * (ratios[middle] + ratios[ratios.len() / 2]);
        let (faster, all) = (ratios.iter().filter(|&&ratio| ratio > 1.0).count(), ratios.len());
        let (what, machine) = match &self.0 {
            Kind::Networks(networks) => (networks.what(), networks.machine()),
            Kind::Turns(turns) => (turns.what().to_owned(), turns.machine()),
        };
        Some(format!(
            "{what} on {machine}: rewire is faster than the fastest of the other frameworks in {faster} of {all} comparisons. \
             The other's time over rewire's is {median:.2} in the median."
        ))
    }

    /// The ratio to the fastest peer, by what was compared.
    pub(super) fn ratios(&self) -> Vec<(String, f64)> {
        match &self.0 {
            Kind::Networks(networks) => networks.ratios(),
            Kind::Turns(turns) => turns.ratios(),
        }
    }
}

impl Networks {
    /// `Whole networks at batch 1, 32`.
    fn what(&self) -> String {
        let mut batches: Vec<usize> = self.cases.iter().map(|case| case.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let batches: Vec<String> = batches.iter().map(usize::to_string).collect();
        format!("Whole networks at batch {}", list(&batches))
    }

    fn machine(&self) -> String {
        let Self { cpu, threads, device, mode, date, .. } = self;
        let on = match &self.gpu {
            Some(gpu) if device != "cpu" => gpu.clone(),
            _ => format!("{cpu}, {threads} threads"),
        };
        let commit = self.commit.get(..12).unwrap_or(&self.commit);
        format!("{on}, {mode}, {date}, commit {commit}")
    }

    /// One row a network and batch size: rewire's time, its spread, and each peer's ratio and time.
    fn against_peers(&self) -> Table {
        let mut peers: Vec<&str> = self
            .cases
            .iter()
            .flat_map(|case| case.ratio_of_rewire_fastest.keys())
            .map(String::as_str)
            .collect();
        peers.sort_unstable();
        peers.dedup();
        let header = ["network", "batch", "rewire ms", "spread"].into_iter().chain(peers.clone());
        let rows = self.cases.iter().map(|case| {
            let ms =
                |side: &str| case.median_ms.get(side).map_or("–".into(), |ms| format!("{ms:.3}"));
            let mut row = vec![case.case.clone(), case.batch.to_string(), ms("rewire fastest")];
            row.push(format!("{:.0} %", 100.0 * case.spread));
            row.extend(peers.iter().map(|peer| match case.ratio_of_rewire_fastest.get(*peer) {
                Some(ratio) => format!("{ratio:.2}× ({})", ms(peer)),
                None => "–".to_owned(),
            }));
            row
        });
        Table {
            title: format!("Against other frameworks: {}", self.machine()),
            note: "A cell holds a ratio and a time. Ratio: the other framework's time over rewire's on the same network, the median over rounds in which both took turns. Time: the other framework's median time of a call in ms. Spread: of rewire's time over the rounds.".into(),
            header: header.map(str::to_owned).collect(),
            rows: rows.collect(),
            ..Table::default()
        }
    }

    /// One row a pruned network and batch size, where the run had the dense network too: what pruning gains.
    fn against_dense(&self) -> Table {
        let rows = self.cases.iter().filter_map(|case| {
            let dense = case.fastest_dense.as_ref()?;
            let to_dense = format!("{:.2}× ({})", dense.ratio, dense.side);
            let figures = match &case.figures {
                Some(Figures { projected, mac_ratio, measured_compact, measured_sparse }) => {
                    [projected, mac_ratio, measured_compact, measured_sparse]
                        .map(|figure| format!("{figure:.2}×"))
                }
                None => [(); 4].map(|()| "–".to_owned()),
            };
            let named = [case.case.clone(), case.batch.to_string(), to_dense];
            Some(named.into_iter().chain(figures).collect())
        });
        let header = [
            "network",
            "batch",
            "to the fastest dense",
            "projected",
            "counted",
            "measured compact",
            "measured sparse",
        ];
        Table {
            title: format!("Against dense networks: {}", self.machine()),
            note: "To the fastest dense: time of the dense network, in the framework that is named, over rewire's time on the pruned network. The other columns are speed-ups over rewire's own dense execution of the pruned weights: projected from the layers' times and dead channels; counted in multiply-accumulates; measured without dead channels (compact); measured with kept weights only (sparse).".into(),
            header: header.map(str::to_owned).to_vec(),
            rows: rows.collect(),
            ..Table::default()
        }
    }

    /// The ratio to the fastest peer, by network and batch size.
    fn ratios(&self) -> Vec<(String, f64)> {
        let least = |case: &Case| case.ratio_of_rewire_fastest.values().copied().reduce(f64::min);
        let label = |case: &Case| format!("{} @{}", case.case, case.batch);
        self.cases.iter().filter_map(|case| Some((label(case), least(case)?))).collect()
    }
}
