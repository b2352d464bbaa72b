//! Networks as safetensors files with torchvision's names; PyTorch loads them with `load_state_dict`.
//!
//! The metadata key `rewire` holds what the tensors alone do not say. A file without it, saved from
//! PyTorch, is read with an architecture given by the caller.

use super::tensors::{bytes, document, read_tensors};
use crate::nn::{Arch, ArchSpec, Blueprint, Graph, Model, Normalization, Op};
use crate::{DType, Device, Error, Result, Tensor, file, models};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    read_model(path, &file::read(path)?, hints, device)
}

/// The network in the bytes of a safetensors file; `path` is for messages. Pairs `X_orig` and `X_mask`, as
/// `torch.nn.utils.prune` leaves them in a state dict, are the tensor `X` = orig · mask.
///
/// Errors: [`crate::ErrorKind::File`] for a file that is corrupt, holds a value that is not finite, or does not fit the
/// architecture: then all missing, unexpected and misshaped tensors are named. [`crate::ErrorKind::Param`] for hints that
/// contradict the file.
pub fn read_model(path: &Path, content: &[u8], hints: &Hints, device: &Device) -> Result<Model> {
    // On the host first: values are checked and turned before they travel.
    let (mut tensors, json) = read_tensors(path, content, &Device::Cpu)?;
    let (arch, graph, class_names) = match json {
        Some(json) => described(path, &json, hints)?,
        None => {
            apply_masks(path, &mut tensors)?;
            (guessed(path, &tensors, hints)?, None, Vec::new())
        }
    };
    let model = match &graph {
        None => {
            let blueprint = models::blueprint(&arch)?;
            check_names(path, &arch, &blueprint.graph, &tensors, Some(&blueprint))?;
            check_values(path, &tensors)?;
            Model::new(arch, blueprint.graph, tensors, device)
        }
        Some(graph) => {
            check_names(path, &arch, graph, &tensors, None)?;
            check_values(path, &tensors)?;
            Model::new(arch, graph.clone(), tensors, device)
                .map_err(|error| Error::file(path, format!("its graph does not fit: {error}")))
        }
    };
    Ok(model?.with_class_names(class_names))
}

/// The architecture that a file's metadata name; `None` for one of another origin.
///
/// Errors: as [`load_model`].
pub fn stored_arch(path: &Path) -> Result<Option<Arch>> {
    let json = document(path, &file::read(path)?)?;
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
        let want = format!("left out or what {} says: {:?}", path.display(), arch.normalize);
        return Err(Error::param("--normalize", format!("{:?}", hints.normalize), want));
    }
    Ok((arch, graph, class_names))
}

/// The architecture of a file without metadata.
fn guessed(path: &Path, tensors: &BTreeMap<String, Tensor>, hints: &Hints) -> Result<Arch> {
    let Some(spec) = hints.arch.clone() else {
        let want = "holds no metadata `rewire`; its architecture must be given by --arch NAME[:key=value,…]";
        return Err(Error::file(path, want));
    };
    // The names of the first convolution and of the last layer do not depend on what is looked for.
    let graph = models::blueprint(&spec.clone().or(None, None, hints.size).resolve())?.graph;
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

/// Names all tensors that are missing, unexpected or of another shape.
fn check_names(
    path: &Path,
    arch: &Arch,
    graph: &Graph,
    tensors: &BTreeMap<String, Tensor>,
    blueprint: Option<&Blueprint>,
) -> Result<()> {
    let names = graph.tensors();
    let missing = names.iter().filter(|name| !tensors.contains_key(*name)).cloned();
    let unexpected = tensors.keys().filter(|name| !names.contains(name)).cloned();
    let misshaped = blueprint.into_iter().flat_map(|b| &b.parameters).filter_map(|p| {
        let got = tensors.get(&p.name)?.shape();
        (got != p.shape)
            .then(|| format!("{} {:?} (must be {:?})", p.name, oihw(got), oihw(&p.shape)))
    });
    let (missing, unexpected, misshaped): (Vec<_>, Vec<_>, Vec<_>) =
        (missing.collect(), unexpected.collect(), misshaped.collect());
    let mut faults = Vec::new();
    for (what, names) in
        [("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped)]
    {
        if !names.is_empty() {
            faults.push(format!("{what}: {}", names.join(", ")));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::file(path, format!("does not fit {arch}; {}", faults.join("; "))))
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
