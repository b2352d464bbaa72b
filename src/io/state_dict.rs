//! State dicts as people have them: their names in terms of an architecture's.

use std::collections::{BTreeMap, BTreeSet};

/// What wrappers (`DataParallel`, `torch.compile`, Lightning) and checkpoint dictionaries put in front of names.
const PREFIXES: [&str; 7] =
    ["module", "model", "_orig_mod", "state_dict", "model_state_dict", "net", "network"];

/// First parts of the names of what a checkpoint dictionary holds beside a network.
const BESIDE: [&str; 16] = [
    "acc",
    "accuracy",
    "args",
    "best_acc",
    "best_acc1",
    "best_prec1",
    "epoch",
    "global_step",
    "loss",
    "lr",
    "lr_scheduler",
    "optimizer",
    "optimizer_state_dict",
    "scaler",
    "scheduler",
    "step",
];

/// The names of a file in terms of an architecture's.
pub(super) struct Renamed {
    /// By the name in the file; what is no part of the network is not there.
    pub(super) names: BTreeMap<String, String>,
    /// In sentences, what was changed.
    pub(super) notes: Vec<String>,
}

/// Matches the names of a file with those that an architecture has, `wanted`.
///
/// One common prefix is taken away, that which leaves the most names known; then what stands outside of it is left out. In residual
/// networks `shortcut` is `downsample` and `linear` is `fc`.
pub(super) fn renamed<'a>(
    stored: impl Iterator<Item = &'a String> + Clone,
    wanted: &BTreeSet<String>,
) -> Renamed {
    let mut prefixes: BTreeSet<(usize, &str)> = BTreeSet::from([(0, "")]);
    for name in stored.clone() {
        let mut end = 0;
        for part in name.split_inclusive('.') {
            if !part.strip_suffix('.').is_some_and(|part| PREFIXES.contains(&part)) {
                break;
            }
            end += part.len();
            prefixes.insert((end, &name[..end]));
        }
    }
    let known = |name: &str| wanted.contains(unmasked(name)) || usual(name, wanted).is_some();
    let hits = |prefix: &str| {
        let names = stored.clone().filter_map(|name| name.strip_prefix(prefix));
        names.filter(|name| known(name)).count()
    };
    let mut best = ("", hits(""));
    for (_, prefix) in prefixes {
        let found = hits(prefix);
        if found > best.1 {
            best = (prefix, found);
        }
    }
    let prefix = best.0;
    let (mut names, mut beside, mut scheme) = (BTreeMap::new(), Vec::new(), 0);
    for name in stored.clone() {
        let first = name.split('.').next().unwrap_or_default();
        let Some(plain) = name.strip_prefix(prefix) else {
            beside.push(name);
            continue;
        };
        if prefix.is_empty() && BESIDE.contains(&first) {
            beside.push(name);
            continue;
        }
        let taken =
            |new: &String| stored.clone().any(|other| other.strip_prefix(prefix) == Some(new));
        let new = usual(plain, wanted).filter(|new| !taken(new));
        scheme += usize::from(new.is_some());
        names.insert(name.clone(), new.unwrap_or_else(|| plain.to_owned()));
    }
    let mut notes = Vec::new();
    if !prefix.is_empty() {
        notes.push(format!("the prefix `{prefix}` of the names is left out"));
    }
    if scheme > 0 {
        notes.push(format!(
            "{scheme} names are mapped (`shortcut` is `downsample`, `linear` is `fc`)"
        ));
    }
    if let Some(first) = beside.first() {
        let count = beside.len();
        notes.push(format!("{count} entries beside the network are left out, first `{first}`"));
    }
    Renamed { names, notes }
}

/// Without the endings of `torch.nn.utils.prune`.
fn unmasked(name: &str) -> &str {
    name.strip_suffix("_orig").or_else(|| name.strip_suffix("_mask")).unwrap_or(name)
}

/// The name in torchvision's scheme, of one in the other common scheme of residual networks.
fn usual(name: &str, wanted: &BTreeSet<String>) -> Option<String> {
    if wanted.contains(unmasked(name)) {
        return None;
    }
    let parts = name.split('.').enumerate().map(|(i, part)| match part {
        "shortcut" => "downsample",
        "linear" if i == 0 => "fc",
        part => part,
    });
    let new = parts.collect::<Vec<_>>().join(".");
    wanted.contains(unmasked(&new)).then_some(new)
}

/// What torchvision's network for ImageNet has in place of what `wanted` names, by the shapes, in PyTorch's order, of a file.
pub(super) fn imagenet_variant<'a>(
    wanted: &BTreeSet<String>,
    shape: impl Fn(&str) -> Option<&'a [usize]>,
) -> Option<&'static str> {
    if wanted.contains("classifier.weight") && shape("classifier.6.weight").is_some() {
        return Some(
            "three linear layers (classifier.0, classifier.3, classifier.6) in the place of one",
        );
    }
    let stem = wanted.contains("conv1.weight").then(|| shape("conv1.weight")).flatten();
    matches!(stem, Some([_, _, 7, 7]))
        .then_some("a 7×7 stem with stride 2 and a maximum behind it in the place of a 3×3 stem")
}
