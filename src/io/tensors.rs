//! Named tensors and one JSON document in a safetensors file.
//!
//! In a file filters stand in PyTorch's order OIHW, so every tensor of four dimensions (weights, masks,
//! momentum alike) is turned on the way in and out. The bytes depend on the content alone.

use super::kind::{self, Expected};
use crate::tensor::{nchw_to_nhwc, nhwc_to_nchw};
use crate::{DType, Device, Error, Result, Tensor, file};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The only key in the header's metadata.
const KEY: &str = "rewire";
/// Of a file: the weights of the largest network, with what training keeps for each of them.
pub(super) const MOST_BYTES: u64 = 1 << 34;

/// Writes `tensors` and the JSON document `json` to `path`, atomically.
///
/// Errors: [`crate::ErrorKind::Io`] where the file cannot be written.
pub fn save_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, json: &str) -> Result<()> {
    file::write_bytes(path, &bytes(path, tensors, json)?)
}

/// Reads what [`save_tensors`] wrote; the document is `None` in a file of another origin.
///
/// Errors: [`crate::ErrorKind::Io`] where it cannot be read, [`crate::ErrorKind::File`] where it is cut short,
/// corrupt or holds a tensor of a type that this crate has none of.
pub fn load_tensors(
    path: &Path,
    device: &Device,
) -> Result<(BTreeMap<String, Tensor>, Option<String>)> {
    read_tensors(path, &file::read_bounded(path, MOST_BYTES)?, device)
}

/// [`load_tensors`] of bytes that are there already; `path` is for messages.
pub fn read_tensors(
    path: &Path,
    content: &[u8],
    device: &Device,
) -> Result<(BTreeMap<String, Tensor>, Option<String>)> {
    let (stored, metadata) = parse(path, content)?;
    let names = stored.iter().map(|(name, _)| (name.to_owned(), name.to_owned())).collect();
    Ok((decoded(path, &stored, &names, device)?, metadata.get(KEY).cloned()))
}

/// The tensors `names` of a file on the host, each under its new name.
pub(super) fn read_named(
    path: &Path,
    content: &[u8],
    names: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Tensor>> {
    decoded(path, &parse(path, content)?.0, names, &Device::Cpu)
}

/// Shapes by name, as they stand in the file.
pub(super) fn shapes(path: &Path, content: &[u8]) -> Result<BTreeMap<String, Vec<usize>>> {
    let (stored, _) = parse(path, content)?;
    Ok(stored.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect())
}

fn decoded(
    path: &Path,
    stored: &SafeTensors,
    names: &BTreeMap<String, String>,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (name, view) in stored.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")) {
        let Some(new) = names.get(name) else { continue };
        let tensor = tensor(&view, device)?.ok_or_else(|| {
            let want = "must be F64, F32, F16, BF16, I32, U8 or BOOL";
            Error::file(path, format!("{name} is of type {}; {want}", view.dtype()))
        })?;
        tensors.insert(new.clone(), tensor);
    }
    Ok(tensors)
}

/// The JSON document in a file's metadata.
pub(super) fn document(path: &Path, content: &[u8]) -> Result<Option<String>> {
    Ok(parse(path, content)?.1.remove(KEY))
}

/// The tensors of a file and its metadata.
fn parse<'a>(
    path: &Path,
    content: &'a [u8],
) -> Result<(SafeTensors<'a>, BTreeMap<String, String>)> {
    kind::check(path, content, Expected::Safetensors)?;
    let invalid = |error| {
        let what = "is not a whole safetensors file: it is cut short or damaged";
        Error::file(path, format!("{what} ({error})"))
    };
    let (_, header) = SafeTensors::read_metadata(content).map_err(invalid)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((SafeTensors::deserialize(content).map_err(invalid)?, metadata))
}

/// A tensor of any safetensors file.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its type, as the format calls it: `F32`, `I64`, …
    pub dtype: String,
    /// As it stands in the file.
    pub shape: Vec<usize>,
    /// Elements of which not every bit is 0, but for the sign of a floating point number; absent for types of less than a
    /// byte an element.
    pub nonzero: Option<usize>,
}

/// What any safetensors file holds, by name, and its metadata: networks of this crate or not.
///
/// Errors: as [`load_tensors`], but for types.
pub fn list_tensors(path: &Path) -> Result<(Vec<StoredTensor>, BTreeMap<String, String>)> {
    let content = file::read_bounded(path, MOST_BYTES)?;
    let (stored, metadata) = parse(path, &content)?;
    let mut tensors: Vec<StoredTensor> = stored
        .iter()
        .map(|(name, view)| StoredTensor {
            name: name.to_owned(),
            dtype: view.dtype().to_string(),
            shape: view.shape().to_vec(),
            nonzero: nonzero(&view),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((tensors, metadata))
}

fn nonzero(view: &TensorView) -> Option<usize> {
    let bits = view.dtype().bitsize();
    let size = bits / 8;
    if size == 0 || bits % 8 != 0 {
        return None;
    }
    let integers =
        [Dtype::BOOL, Dtype::U8, Dtype::I8, Dtype::U16, Dtype::I16, Dtype::U32, Dtype::I32];
    let signed =
        !integers.contains(&view.dtype()) && ![Dtype::U64, Dtype::I64].contains(&view.dtype());
    // The sign is the highest bit of the last byte.
    let some = |element: &&[u8]| {
        let (last, first) = element.split_last().unwrap_or((&0, &[]));
        first.iter().any(|&byte| byte != 0) || *last != 0 && !(signed && *last == 0x80)
    };
    Some(view.data().chunks_exact(size).filter(some).count())
}

/// The content of a safetensors file.
pub fn bytes(path: &Path, tensors: &BTreeMap<String, Tensor>, json: &str) -> Result<Vec<u8>> {
    let mut stored: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors {
        let (dtype, shape, bytes) = match tensor.dtype() {
            DType::F32 => stored_order::<f32>(tensor, Dtype::F32)?,
            DType::Bf16 => stored_order::<bf16>(tensor, Dtype::BF16)?,
            DType::U8 => stored_order::<u8>(tensor, Dtype::U8)?,
            DType::I32 => stored_order::<i32>(tensor, Dtype::I32)?,
        };
        stored.push((name, dtype, shape, bytes));
    }
    let invalid = |error| Error::file(path, format!("cannot be written: {error}"));
    let views = stored.iter().map(|(name, dtype, shape, bytes)| {
        Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(invalid)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(KEY.to_owned(), json.to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(invalid)
}

fn stored_order<T: crate::dtype::Element>(
    tensor: &Tensor,
    dtype: Dtype,
) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
    let mut values = tensor.to_vec::<T>()?;
    let mut shape = tensor.shape().to_vec();
    if let [k, r, s, c] = *tensor.shape() {
        shape = vec![k, c, r, s];
        values = nhwc_to_nchw(&values, [k, c, r, s]);
    }
    Ok((dtype, shape, bytemuck::cast_slice(&values).to_vec()))
}

/// One stored tensor; `None` for a type that has no counterpart.
fn tensor(view: &TensorView, device: &Device) -> Result<Option<Tensor>> {
    let data = view.data();
    let words = |size: usize| data.chunks_exact(size);
    let shape = view.shape();
    Ok(Some(match view.dtype() {
        Dtype::F32 => {
            place(words(4).map(bytemuck::pod_read_unaligned).collect::<Vec<f32>>(), shape, device)?
        }
        Dtype::F64 => {
            let values = words(8).map(|w| bytemuck::pod_read_unaligned::<f64>(w) as f32);
            place(values.collect(), shape, device)?
        }
        Dtype::F16 => {
            let values = words(2).map(|w| bytemuck::pod_read_unaligned::<f16>(w).to_f32());
            place(values.collect(), shape, device)?
        }
        Dtype::BF16 => {
            let values = words(2).map(|w| bytemuck::pod_read_unaligned::<bf16>(w).to_f32());
            place(values.collect(), shape, device)?
        }
        Dtype::I32 => {
            place(words(4).map(bytemuck::pod_read_unaligned).collect::<Vec<i32>>(), shape, device)?
        }
        Dtype::U8 | Dtype::BOOL => place(data.to_vec(), shape, device)?,
        _ => return Ok(None),
    }))
}

fn place<T: crate::dtype::Element>(
    values: Vec<T>,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    match *shape {
        [k, c, r, s] => {
            Tensor::from_vec(nchw_to_nhwc(&values, [k, c, r, s]), &[k, r, s, c], device)
        }
        _ => Tensor::from_vec(values, shape, device),
    }
}
