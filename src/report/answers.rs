//! The top of a report: what pruning cost and what it won, in sentences. Every figure was measured, and two figures are
//! compared only where data, attack, architecture and machine are the same.

use super::input::Report;
use super::load::Run;
use super::measures::{Measure, measures};
use super::networks::Networks;
use super::recipes::differing;
use super::section::{Part, Section};
use super::speed::{self, Timed};
use super::text::{fixed, list};
use crate::Result;
use crate::attack::Epsilon;
use crate::bench::BenchResult;
use crate::run::Attacked;

/// Keys that a sentence about two recipes names.
const NAMED_KEYS: usize = 4;

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let (mut parts, mut dense) = (Vec::new(), Vec::new());
    for (network, name) in networks.all() {
        let mut text: Vec<String> = Vec::new();
        match networks.run(report, network) {
            Some(run) => text.extend(of_run(report, networks, network, run)),
            None => text.extend(
                networks
                    .speeds(report)
                    .filter(|own| own.0 == network)
                    .filter_map(|(_, bench)| own_dense(bench)),
            ),
        }
        let attacked = networks.attacked.iter().zip(&report.attacked);
        text.extend(attacked.filter(|own| *own.0 == network).map(|(_, one)| of_attacks(one)));
        let verified = networks.verified.iter().zip(&report.verified);
        text.extend(verified.filter(|own| *own.0 == network).map(|(_, one)| one.result.sentence()));
        // What pruning cost and won stands first.
        let run = networks.run(report, network).and_then(|run| run.result.as_ref());
        let parts = match run.is_some_and(|result| result.active == result.prunable) {
            true => &mut dense,
            false => &mut parts,
        };
        if let [first, rest @ ..] = text.as_slice() {
            let (network, text) = (Some((network, name.to_owned())), first.clone());
            parts.push(Part::Text { network, text, rest: rest.join(" ") });
        }
    }
    parts.extend(dense);
    parts.extend(report.peers.iter().filter_map(|peers| peers.sentence()).map(Part::text));
    Ok(Section::new("answers", "In short", parts))
}

/// What a run says of itself and against the dense run.
fn of_run(report: &Report, networks: &Networks, network: usize, run: &Run) -> Vec<String> {
    let Some(result) = &run.result else {
        let epochs = run.epochs.column("epoch").len();
        return vec![format!(
            "The run is not finished: its folder has no result.json after {epochs} epochs."
        )];
    };
    let own = measures(report, networks, network);
    let pruned = result.active < result.prunable;
    let dense = baseline(report, networks, network, run);
    let kept = kept(run);
    let mut text = Vec::new();
    let Some((base, base_run)) = dense.filter(|_| pruned) else {
        let levels: Vec<String> = own.iter().map(level).collect();
        let levels = match levels.is_empty() {
            true => String::new(),
            false => format!(": {}", list(&levels)),
        };
        text.push(match pruned {
            true => format!("{kept} are kept{levels}."),
            false => format!("No weight is pruned{levels}."),
        });
        text.extend(run.bench.as_ref().and_then(match pruned {
            true => own_dense,
            false => latency,
        }));
        return text;
    };
    let base_name = networks.name(base);
    let theirs = measures(report, networks, base);
    let cost = changes(&own, &theirs);
    let won = run.bench.as_ref().zip(base_run.bench.as_ref());
    let won = won.filter(|(own, base)| speed::comparable(own, base));
    let won = won.and_then(|(own, base)| faster(own, base, base_name));
    let said: Vec<String> = [cost, won.clone()].into_iter().flatten().collect();
    text.push(match said.is_empty() {
        true => format!("{kept} are kept."),
        false if won.is_some() => format!("Pruning to {kept} {}.", said.join(", and ")),
        false => format!("Pruning to {kept} {}, compared with {base_name}.", said.join(", and ")),
    });
    if won.is_none() {
        text.extend(run.bench.as_ref().and_then(own_dense));
    }
    text.extend(other_differences(run, base_run, base_name));
    text.push(size(run, base_run, base_name));
    text
}

/// What else than pruning may be behind a difference to the dense run.
fn other_differences(run: &Run, base_run: &Run, base: &str) -> Option<String> {
    let keys = differing(&run.recipe, &base_run.recipe).into_iter();
    let mut keys: Vec<String> =
        keys.filter(|key| !key.starts_with("prune.") && !key.starts_with("expect")).collect();
    let more = keys.len().saturating_sub(NAMED_KEYS);
    keys.truncate(NAMED_KEYS);
    keys.extend((more > 0).then(|| format!("{more} more keys")));
    (!keys.is_empty()).then(|| {
        format!("Besides pruning, the recipe differs from that of {base} in {}.", list(&keys))
    })
}

/// `10.0 % of the weights (irregular)`.
fn kept(run: &Run) -> String {
    let density = run.result.as_ref().map_or(f64::NAN, |result| result.density);
    let how = run.setting("prune", "granularity");
    let how = how.map(|how| format!(" ({how})")).unwrap_or_default();
    format!("{} % of the weights{how}", fixed(100.0 * density, 1))
}

/// The dense run that a pruned one is compared with: the first of the same architecture and data.
fn baseline<'a>(
    report: &'a Report,
    networks: &Networks,
    network: usize,
    run: &Run,
) -> Option<(usize, &'a Run)> {
    let same = |key: fn(&Run) -> Option<[Option<String>; 3]>, other: &Run| key(run) == key(other);
    let what = |run: &Run| {
        let result = run.result.as_ref()?;
        let limit = run.setting("data", "test_limit");
        Some([Some(result.arch.clone()), Some(result.data.clone()), limit])
    };
    let runs = networks.runs.iter().copied().zip(&report.runs);
    let mut dense = runs.filter(|(_, other)| {
        other.result.as_ref().is_some_and(|result| result.active == result.prunable)
    });
    dense.find(|(other, dense)| *other != network && same(what, dense))
}

/// `85.2 % clean`, `76.5 % under PGD (eps 8/255, 7 steps)`.
fn level(measure: &Measure) -> String {
    let percent = fixed(measure.accuracy, 1);
    match measure.kind {
        "clean" => format!("{percent} % clean accuracy"),
        _ => format!("{percent} % under {}", measure.label()),
    }
}

/// `cost 3.2 points of clean accuracy (85.2 to 82.0 %) and gained …`.
fn changes(own: &[Measure], base: &[Measure]) -> Option<String> {
    let (mut cost, mut gained, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for one in own {
        let Some(other) = base.iter().find(|other| one.comparable(other)) else { continue };
        let points = other.accuracy - one.accuracy;
        let (from, to) = (fixed(other.accuracy, 1), fixed(one.accuracy, 1));
        let place = one.place(&format!("{from} to {to} %"));
        let text = format!("{} points {place}", fixed(points.abs(), 1));
        match points {
            _ if points.abs() < 0.05 => same.push(match one.kind {
                "clean" => format!("clean accuracy at {to} %"),
                _ => format!("accuracy under {} at {to} %", one.label()),
            }),
            _ if points > 0.0 => cost.push(text),
            _ => gained.push(text),
        }
    }
    let said = [("cost", cost), ("gained", gained), ("left", same)];
    let said: Vec<String> = said
        .into_iter()
        .filter(|(_, what)| !what.is_empty())
        .map(|(verb, what)| format!("{verb} {}", list(&what)))
        .collect();
    (!said.is_empty()).then(|| list(&said))
}

/// The two batch sizes that sentences speak of: the smallest and the largest that both were measured at.
fn ends(own: &BenchResult, base: &BenchResult) -> Vec<usize> {
    let theirs = speed::batches(std::iter::once(base));
    let mut both = speed::batches(std::iter::once(own));
    both.retain(|batch| theirs.contains(batch));
    let (first, last) = (both.first().copied(), both.last().copied());
    let mut ends: Vec<usize> = first.into_iter().chain(last).collect();
    ends.dedup();
    ends
}

/// `made the network 1.19 times faster at batch 1 … than demo-dense (…)`.
fn faster(own: &BenchResult, base: &BenchResult, name: &str) -> Option<String> {
    let pairs: Vec<(Timed, Timed)> = ends(own, base)
        .into_iter()
        .filter_map(|batch| Some((speed::fastest(own, batch)?, speed::fastest(base, batch)?)))
        .collect();
    let ratios: Vec<String> = pairs.iter().map(|(own, base)| ratio(*own, *base)).collect();
    let ways = |(own, base): &(Timed, Timed)| match own.way == base.way {
        true => format!("{} for both", own.way),
        false => format!("{} against {}", own.way, base.way),
    };
    let mut by: Vec<String> = pairs.iter().map(ways).collect();
    by.dedup();
    if by.len() > 1 {
        let at = |pair: &(Timed, Timed)| format!("{} at batch {}", ways(pair), pair.0.batch);
        by = pairs.iter().map(at).collect();
    }
    let on = speed::machine(own);
    (!ratios.is_empty()).then(|| {
        format!(
            "made the network {} than {name} (the fastest execution of each: {}; measured on {on})",
            list(&ratios),
            list(&by)
        )
    })
}

/// `1.19 times faster at batch 1`.
fn ratio(own: Timed, base: Timed) -> String {
    let (ratio, batch) = (base.ms / own.ms, own.batch);
    match ratio {
        _ if ratio >= 1.005 => format!("{} times faster at batch {batch}", fixed(ratio, 2)),
        _ if ratio > 0.995 => format!("no faster at batch {batch}"),
        _ => format!("{} times slower at batch {batch}", fixed(1.0 / ratio, 2)),
    }
}

/// Where there is no dense run: against the dense execution of the same weights.
fn own_dense(bench: &BenchResult) -> Option<String> {
    let said: Vec<String> = ends(bench, bench)
        .into_iter()
        .filter_map(|batch| {
            let (own, base) = (speed::fastest(bench, batch)?, speed::dense(bench, batch)?);
            let times =
                format!("{}: {} against {} ms", own.way, fixed(own.ms, 3), fixed(base.ms, 3));
            Some(format!("{} ({times})", ratio(own, base)))
        })
        .collect();
    (!said.is_empty()).then(|| {
        format!(
            "The fastest execution is {} than the dense execution of the same weights, {} % of which are not zero (measured on {}).",
            list(&said),
            fixed(100.0 * bench.density, 1),
            speed::machine(bench)
        )
    })
}

/// How long the fastest execution takes.
fn latency(bench: &BenchResult) -> Option<String> {
    let said: Vec<String> = ends(bench, bench)
        .into_iter()
        .filter_map(|batch| speed::fastest(bench, batch))
        .map(|own| format!("{} ms at batch {} ({})", fixed(own.ms, 3), own.batch, own.way))
        .collect();
    let on = speed::machine(bench);
    (!said.is_empty())
        .then(|| format!("The fastest execution takes {}, measured on {on}.", list(&said)))
}

/// What is left to store and to compute.
fn size(run: &Run, base_run: &Run, base: &str) -> String {
    let megabytes = |bytes: f64| format!("{} MB", fixed(bytes / 1e6, 2));
    let Some(result) = &run.result else { return String::new() };
    let [kept, all] = [result.active, result.prunable].map(|count| megabytes(4.0 * count as f64));
    let files = run.checkpoint_bytes.zip(base_run.checkpoint_bytes);
    let files = files.map_or(String::new(), |(own, theirs)| {
        let [own, theirs] = [own, theirs].map(|bytes| megabytes(bytes as f64));
        format!("; the checkpoint file has {own}, that of {base} {theirs}")
    });
    let sum = |of: fn(&crate::run::LayerResult) -> u64| {
        result.layers.iter().map(of).map(u128::from).sum::<u128>()
    };
    let (left, macs) = (sum(|layer| layer.macs_active) as f64, sum(|layer| layer.macs) as f64);
    let macs = match left > 0.0 {
        true => format!(
            " Of {} million multiply-accumulates an image {} million are left ({} times fewer).",
            fixed(macs / 1e6, 2),
            fixed(left / 1e6, 2),
            fixed(macs / left, 2)
        ),
        false => String::new(),
    };
    format!(
        "The prunable weights that are kept take {kept} of {all} as 32-bit numbers{files}.{macs}"
    )
}

/// What attacks left of the accuracy.
fn of_attacks(one: &Attacked) -> String {
    let mut names: Vec<String> = Vec::new();
    for row in &one.attacks {
        let name = row.sequence.as_ref().unwrap_or(&row.settings.attack);
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let (names, clean) = (list(&names), fixed(one.clean, 1));
    let start = format!(
        "On {} images of {}, accuracy is {clean} % without an attack",
        one.images, one.data
    );
    let eps = one.attacks.first().map(|row| row.settings.eps.to_string()).unwrap_or_default();
    let Some(sweep) = &one.sweep else {
        return format!("{start} and {} % under {names} at eps {eps}.", fixed(one.worst, 1));
    };
    let mut values: Vec<_> = sweep.values.iter().zip(&sweep.worst).collect();
    values.sort_by(|a, b| a.0.exact().total_cmp(&b.0.exact()));
    let at = |(value, worst): &(&Epsilon, &f64)| {
        format!("{} % at {} {value}", fixed(**worst, 1), sweep.key)
    };
    let ends: Vec<String> = match values.as_slice() {
        [] => return format!("{start}."),
        [one] => vec![at(one)],
        [first, .., last] => vec![at(first), at(last)],
    };
    format!("{start}; under {names}, it is {}.", list(&ends))
}
