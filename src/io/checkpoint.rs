//! Networks as safetensors files with torchvision's names; PyTorch loads them with `load_state_dict`.
//!
//! The metadata key `rewire` holds what the tensors alone do not say. A file without it, saved from
//! PyTorch, is read with an architecture given by the caller.

use super::state_dict::{self, Renamed};
use super::tensors::{MOST_BYTES, bytes, document, read_named, read_tensors, shapes};
use crate::nn::{Arch, ArchSpec, Blueprint, Graph, Model, Normalization, Op};
use crate::{DType, Device, Error, ErrorKind, Result, Tensor, file, models};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The JSON document of a network's file; its fields stand in alphabetical order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    arch: String,
    /// In the order of the logits; absent where they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    class_names: Vec<String>,
    classes: usize,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    divisor: usize,
    /// Where it is not the architecture's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    graph: Option<Graph>,
    in_channels: usize,
    normalize: Option<Normalization>,
    size: usize,
    width: f64,
    /// By layer: filters and the channels each reads.
    widths: BTreeMap<String, [usize; 2]>,
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference.
fn is_one(divisor: &usize) -> bool {
    *divisor == 1
}

/// What a caller knows of a network that its file may not say.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// `--arch`.
    pub arch: Option<ArchSpec>,
    /// `--normalize`; the inner `None` is `none`.
    pub normalize: Option<Option<Normalization>>,
    /// Channels of the data set that the caller named.
    pub in_channels: Option<usize>,
    /// Its classes.
    pub classes: Option<usize>,
    /// Its image size.
    pub size: Option<usize>,
    /// Hears in a sentence what was done to the names of a state dict.
    pub note: Option<fn(&str)>,
}

/// Writes a network to `path`, atomically. The bytes depend on the network alone.
///
/// Errors: [`crate::ErrorKind::Io`] where the file cannot be written.
pub fn save_model(path: &Path, model: &Model) -> Result<()> {
    file::write_bytes(path, &model_bytes(path, model)?)
}

/// The content of the file that [`save_model`] writes; `path` is for messages.
pub fn model_bytes(path: &Path, model: &Model) -> Result<Vec<u8>> {
    let Arch { name, in_channels, classes, width, divisor, size, normalize } = model.arch().clone();
    let tensors = model.state_dict();
    // A network that is not in the registry, or not as the registry has it, brings its graph along.
    let same = models::blueprint(model.arch()).is_ok_and(|derived| {
        derived.graph == *model.graph()
            && derived.parameters.iter().all(|p| tensors[&p.name].shape() == p.shape)
    });
    let metadata = Metadata {
        arch: name,
        class_names: model.class_names().to_vec(),
        classes,
        divisor,
        graph: (!same).then(|| model.graph().clone()),
        in_channels,
        normalize,
        size,
        width,
        widths: widths(&tensors),
    };
    let json = serde_json::to_string(&metadata);
    let json = json.map_err(|error| Error::file(path, format!("cannot be written: {error}")))?;
    bytes(path, &tensors, &json)
}

/// Reads a network. Metadata say everything where there are any; `hints` must not contradict them, and
/// fill in for them where there are none.
///
/// Errors: [`crate::ErrorKind::Io`] where the file cannot be read; as [`read_model`].
pub fn load_model(path: &Path, hints: &Hints, device: &Device) -> Result<Model> {
    read_model(path, &file::read_bounded(path, MOST_BYTES)?, hints, device)
}

/// The network in the bytes of a safetensors file; `path` is for messages.
///
/// A state dict without metadata may have its names behind a prefix (`module.`, `model.`, `_orig_mod.`, `state_dict.`, `net.`, also
/// several of them), stand in a checkpoint dictionary beside `epoch` and `optimizer`, and name the layers of residual networks
/// `shortcut` and `linear` instead of `downsample` and `fc`; `hints.note` hears of it. Pairs `X_orig` and `X_mask`, as
/// `torch.nn.utils.prune` leaves them, are the tensor `X` = orig · mask.
///
/// Errors: [`crate::ErrorKind::File`] for a file that is corrupt, holds a value that is not finite, or does not fit the
/// architecture: then missing, unexpected and misshaped tensors are counted and the first of them named.
/// [`crate::ErrorKind::Param`] for hints that contradict the file.
pub fn read_model(path: &Path, content: &[u8], hints: &Hints, device: &Device) -> Result<Model> {
    let Some(json) = document(path, content)? else {
        return foreign(path, content, hints, device);
    };
    // On the host first: values are checked and turned before they travel.
    let (tensors, _) = read_tensors(path, content, &Device::Cpu)?;
    let (arch, graph, class_names) = described(path, &json, hints)?;
    let model = match graph {
        None => {
            let blueprint = models::blueprint(&arch)?;
            check_names(path, &arch, &blueprint.graph, &tensors, Some(&blueprint))?;
            check_values(path, &tensors)?;
            Model::new(arch, blueprint.graph, tensors, device)
        }
        Some(graph) => {
            check_names(path, &arch, &graph, &tensors, None)?;
            check_values(path, &tensors)?;
            Model::new(arch, graph, tensors, device)
                .map_err(|error| Error::file(path, format!("its graph does not fit: {error}")))
        }
    };
    Ok(model?.with_class_names(class_names))
}

/// What a network that PyTorch knows how to write needs to be read here.
const BY_ONNX: &str = "a network of another architecture comes in as ONNX: write it with torch.onnx.export(model, images, \
                       'model.onnx') and read it with `rewire import model.onnx -o model.safetensors`";

/// A state dict without metadata.
fn foreign(path: &Path, content: &[u8], hints: &Hints, device: &Device) -> Result<Model> {
    let Some(spec) = hints.arch.clone() else {
        let known: Vec<&str> = models::MODELS.iter().map(|model| model.name).collect();
        let message = format!(
            "holds no metadata `rewire`; its architecture must be given by --arch NAME[:key=value,…], NAME one of {}; {BY_ONNX}",
            known.join(", ")
        );
        return Err(Error::file(path, message));
    };
    let own = models::blueprint(&spec.clone().or(None, None, hints.size).resolve())?;
    let wanted: BTreeSet<String> = own.graph.tensors().into_iter().collect();
    let shapes = shapes(path, content)?;
    let Renamed { names, notes } = state_dict::renamed(shapes.keys(), &wanted);
    let shape = |name: &str| {
        let (old, _) = names.iter().find(|(_, new)| *new == name)?;
        shapes.get(old).map(Vec::as_slice)
    };
    if let Some(found) = state_dict::imagenet_variant(&wanted, shape) {
        let name = &spec.name;
        return Err(Error::file(
            path,
            format!(
                "is the ImageNet variant of {name}, as torchvision has it, with {found}; --arch {name} is the variant for small images; \
                 {BY_ONNX}"
            ),
        ));
    }
    let mut tensors = read_named(path, content, &names)?;
    apply_masks(path, &mut tensors)?;
    let arch = guessed(&own.graph, &tensors, spec, hints)?;
    let blueprint = models::blueprint(&arch)?;
    check_names(path, &arch, &blueprint.graph, &tensors, Some(&blueprint)).map_err(|error| {
        match error.kind() {
            ErrorKind::File { message, .. } => {
                let hint = "check the name and the keys of --arch";
                Error::file(path, format!("{message}; {hint}; {BY_ONNX}"))
            }
            _ => error,
        }
    })?;
    check_values(path, &tensors)?;
    if let (Some(note), false) = (hints.note, notes.is_empty()) {
        note(&format!("{}: {}", path.display(), notes.join("; ")));
    }
    Model::new(arch, blueprint.graph, tensors, device)
}

/// The architecture that a file's metadata name; `None` for one of another origin.
///
/// Errors: as [`load_model`].
pub fn stored_arch(path: &Path) -> Result<Option<Arch>> {
    let json = document(path, &file::read_bounded(path, MOST_BYTES)?)?;
    json.map(|json| described(path, &json, &Hints::default()).map(|(arch, ..)| arch)).transpose()
}

/// Puts `X` in the place of `X_orig` and `X_mask`.
fn apply_masks(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let prefixes: Vec<String> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix("_orig"))
        .filter(|prefix| tensors.contains_key(&format!("{prefix}_mask")))
        .map(str::to_owned)
        .collect();
    for prefix in prefixes {
        let mut part = |part: &str| tensors.remove(&format!("{prefix}_{part}"));
        let (Some(orig), Some(mask)) = (part("orig"), part("mask")) else { continue };
        let mask_values = match mask.dtype() {
            DType::U8 => mask.cpu::<u8>()?.iter().map(|&kept| f32::from(kept)).collect(),
            _ => mask.to_vec::<f32>()?,
        };
        let whole = mask_values.iter().all(|&kept| kept == 0.0 || kept == 1.0);
        if mask.shape() != orig.shape() || !whole {
            let want = format!("must hold zeros and ones, one for each value of {prefix}_orig");
            return Err(Error::file(path, format!("{prefix}_mask {want}")));
        }
        let values = orig.to_vec::<f32>()?.into_iter().zip(mask_values);
        let values = values.map(|(value, kept)| if kept == 0.0 { 0.0 } else { value }).collect();
        let masked = Tensor::from_vec::<f32>(values, orig.shape(), &Device::Cpu)?;
        tensors.insert(prefix, masked);
    }
    Ok(())
}

/// The architecture, the graph where it is not the architecture's own, and the names of the classes, from the metadata.
fn described(path: &Path, json: &str, hints: &Hints) -> Result<(Arch, Option<Graph>, Vec<String>)> {
    let metadata: Metadata = serde_json::from_str(json)
        .map_err(|error| Error::file(path, format!("metadata `rewire`: {error}")))?;
    let Metadata { arch, classes, divisor, graph, in_channels, normalize, size, width, .. } =
        metadata;
    let class_names = metadata.class_names;
    if class_names.len() > classes {
        let message =
            format!("metadata `rewire`: {} class_names for {classes} classes", class_names.len());
        return Err(Error::file(path, message));
    }
    let arch = Arch { name: arch, in_channels, classes, width, divisor, size, normalize };
    // An unknown name or a width out of range is this file's fault here, not a flag's.
    let checked = match &graph {
        Some(_) => arch.check(),
        None => models::blueprint(&arch).map(drop),
    };
    checked.map_err(|error| Error::file(path, format!("metadata `rewire`: {error}")))?;
    if let Some(spec) = hints.arch.as_ref().filter(|spec| !spec.fits(&arch)) {
        let want = format!("left out or what {} says: {arch}", path.display());
        return Err(Error::param("--arch", &spec.name, want));
    }
    if hints.normalize.as_ref().is_some_and(|given| *given != arch.normalize) {
        let words = |normalize: Option<&Normalization>| {
            normalize.map_or("none".to_owned(), ToString::to_string)
        };
        let want =
            format!("left out or what {} says: {}", path.display(), words(arch.normalize.as_ref()));
        let given = words(hints.normalize.as_ref().and_then(Option::as_ref));
        return Err(Error::param("--normalize", given, want));
    }
    Ok((arch, graph, class_names))
}

/// The architecture of a file without metadata, whose layers have the names of `graph`.
fn guessed(
    graph: &Graph,
    tensors: &BTreeMap<String, Tensor>,
    spec: ArchSpec,
    hints: &Hints,
) -> Result<Arch> {
    // The names of the first convolution and of the last layer do not depend on what is looked for.
    let shape = |name: &String| tensors.get(&format!("{name}.weight")).map(Tensor::shape);
    let first = graph.nodes.iter().find_map(|node| match &node.op {
        Op::Conv { name, .. } => shape(name).filter(|shape| shape.len() == 4).map(|s| s[3]),
        _ => None,
    });
    let last = graph.nodes.iter().rev().find_map(|node| match &node.op {
        Op::Linear { name, .. } => shape(name).and_then(|shape| shape.first().copied()),
        _ => None,
    });
    let spec = spec.or(first, last, None).or(hints.in_channels, hints.classes, hints.size);
    let mut arch = spec.resolve();
    arch.normalize = hints.normalize.clone().flatten();
    arch.check()?;
    Ok(arch)
}

/// Counts the tensors that are missing, unexpected or of another shape, and names the first.
fn check_names(
    path: &Path,
    arch: &Arch,
    graph: &Graph,
    tensors: &BTreeMap<String, Tensor>,
    blueprint: Option<&Blueprint>,
) -> Result<()> {
    let names = graph.tensors();
    let known: BTreeSet<&String> = names.iter().collect();
    let missing = names.iter().filter(|name| !tensors.contains_key(*name)).cloned();
    let unexpected = tensors.keys().filter(|name| !known.contains(name)).cloned();
    let misshaped = blueprint.into_iter().flat_map(|b| &b.parameters).filter_map(|p| {
        let got = tensors.get(&p.name)?.shape();
        (got != p.shape)
            .then(|| format!("{} {:?} (must be {:?})", p.name, oihw(got), oihw(&p.shape)))
    });
    let faults = [
        listed(missing.collect(), "missing"),
        listed(unexpected.collect(), "unexpected"),
        listed(misshaped.collect(), "of another shape"),
    ];
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::file(path, format!("does not fit {arch}: {}", faults.join("; "))))
}

/// The count of some tensors and the first names.
fn listed(names: Vec<String>, what: &str) -> Option<String> {
    const MOST: usize = 4;
    let tensors = if names.len() == 1 { "tensor is" } else { "tensors are" };
    let more = if names.len() > MOST { ", …" } else { "" };
    let first = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| format!("{} {tensors} {what}: {first}{more}", names.len()))
}

/// A stored filter's shape in PyTorch's order.
fn oihw(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [k, r, s, c] => vec![k, c, r, s],
        _ => shape.to_vec(),
    }
}

/// Refuses values with which every logit would be NaN.
pub(super) fn check_values(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        if tensor.dtype() != DType::F32 {
            return Err(Error::file(path, format!("{name} must be of floating point type")));
        }
        let values = tensor.cpu::<f32>()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::file(path, format!("{name} holds {value}; must be finite")));
        }
        if name.ends_with(".running_var") && values.iter().any(|&value| value < 0.0) {
            return Err(Error::file(path, format!("{name} must not be negative")));
        }
    }
    Ok(())
}

/// Filters of every layer and the channels each reads.
fn widths(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, [usize; 2]> {
    let layer = |(name, tensor): (&String, &Tensor)| {
        let prefix = name.strip_suffix(".weight")?;
        let shape = tensor.shape();
        (shape.len() > 1).then(|| (prefix.to_owned(), [shape[0], shape[shape.len() - 1]]))
    };
    tensors.iter().filter_map(layer).collect()
}
