//! Values of a file that do not depend on the image.

use super::proto::{self, data};
use crate::file;
use crate::io::kind::{LFS_ADVICE, is_lfs_pointer};
use half::{bf16, f16};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};
use std::rc::Rc;

/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// Elements that one value may be repeated to.
const MOST_REPEATED: usize = 1 << 20;

/// A tensor in row-major order.
#[derive(Clone)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
}

#[derive(Clone)]
pub(super) enum Data {
    Floats(Rc<Vec<f32>>),
    /// `None` is the number of images.
    Ints(Rc<Vec<Option<i64>>>),
}

/// Why something cannot be used.
pub(super) type Refusal = String;

/// Of a file whose weights or activations are small integers.
pub(super) const QUANTISED: &str =
    "a quantised file; import the float32 file that it was made from";

impl Constant {
    /// A vector of integers.
    pub(super) fn ints(values: Vec<Option<i64>>) -> Self {
        Self { dims: vec![values.len()], data: Data::Ints(Rc::new(values)) }
    }

    /// A vector of numbers.
    pub(super) fn floats(values: Vec<f32>) -> Self {
        Self { dims: vec![values.len()], data: Data::Floats(Rc::new(values)) }
    }

    /// A stored tensor; values in other files are read from `folder`.
    pub(super) fn decode(stored: &proto::Tensor, folder: Option<&Path>) -> Result<Self, Refusal> {
        let (dims, len) = extents(&stored.dims)?;
        let external = match stored.data_location == proto::EXTERNAL {
            true => Some(external(stored, len, folder)?),
            false => None,
        };
        let raw = external.as_deref().or(stored.raw_data.as_deref());
        let data = match (stored.data_type, raw) {
            (data::FLOAT, Some(raw)) => floats(raw, f32::from_le_bytes),
            (data::FLOAT, None) => Data::Floats(Rc::new(stored.float_data.clone())),
            (data::DOUBLE, Some(raw)) => floats(raw, |bytes| f64::from_le_bytes(bytes) as f32),
            (data::DOUBLE, None) => {
                Data::Floats(Rc::new(stored.double_data.iter().map(|&v| v as f32).collect()))
            }
            (data::FLOAT16, Some(raw)) => floats(raw, |bytes| f16::from_le_bytes(bytes).to_f32()),
            (data::BFLOAT16, Some(raw)) => floats(raw, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            (data::FLOAT16, None) => halves(stored, |bits| f16::from_bits(bits).to_f32()),
            (data::BFLOAT16, None) => halves(stored, |bits| bf16::from_bits(bits).to_f32()),
            (data::INT64, Some(raw)) => integers(raw, i64::from_le_bytes),
            (data::INT64, None) => {
                Data::Ints(Rc::new(stored.int64_data.iter().copied().map(Some).collect()))
            }
            (data::INT32, Some(raw)) => integers(raw, |bytes| i32::from_le_bytes(bytes).into()),
            (data::BOOL, Some(raw)) => integers(raw, |[byte]: [u8; 1]| byte.into()),
            (data::INT32 | data::BOOL, None) => {
                let values = stored.int32_data.iter().map(|&value| Some(value.into()));
                Data::Ints(Rc::new(values.collect()))
            }
            (other, _) if data::is_quantised(other) => {
                return Err(format!("`{}` holds {}: {QUANTISED}", stored.name, data::name(other)));
            }
            (other, _) => {
                let (name, found) = (&stored.name, data::name(other));
                return Err(format!(
                    "`{name}` holds {found}; must hold floating point numbers, int32, int64 or booleans"
                ));
            }
        };
        let constant = Self { dims, data };
        if constant.len() != len {
            let (found, dims) = (constant.len(), &constant.dims);
            return Err(format!("`{}` holds {found} values; its shape is {dims:?}", stored.name));
        }
        Ok(constant)
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Floats(values) => values.len(),
            Data::Ints(values) => values.len(),
        }
    }

    /// A sparse tensor of at most `room` elements, written out.
    pub(super) fn decode_sparse(
        stored: &proto::SparseTensor,
        folder: Option<&Path>,
        room: usize,
    ) -> Result<Self, Refusal> {
        let (dims, len) = extents(&stored.dims)?;
        let (Some(values), Some(indices)) = (&stored.values, &stored.indices) else {
            return Err("a sparse tensor without values or indices".to_owned());
        };
        let name = &values.name;
        if len > room {
            return Err(format!("`{name}` has {len} elements, too many for a file of few values"));
        }
        let (values, indices) = (Self::decode(values, folder)?, Self::decode(indices, folder)?);
        let (Data::Floats(values), Data::Ints(positions)) = (&values.data, &indices.data) else {
            return Err(format!(
                "the sparse `{name}` must hold floating point values and integer indices"
            ));
        };
        let each = match *indices.dims {
            [count] if count == values.len() => 1,
            [count, rank] if count == values.len() && rank == dims.len() && rank > 0 => rank,
            _ => {
                let (count, shape) = (values.len(), &indices.dims);
                return Err(format!(
                    "the sparse `{name}` has {count} values and indices of the shape {shape:?}"
                ));
            }
        };
        let mut dense = vec![0.0; len];
        for (value, position) in values.iter().zip(positions.chunks_exact(each)) {
            let place = |at: Option<usize>, (index, dim): (&Option<i64>, usize)| {
                let index = usize::try_from((*index)?).ok().filter(|&index| index < dim)?;
                Some(at? * dim + index)
            };
            let own = if each == 1 { vec![len] } else { dims.clone() };
            let at = position.iter().zip(own).fold(Some(0), place);
            *at.and_then(|at| dense.get_mut(at)).ok_or_else(|| {
                let at: Vec<i64> = position.iter().flatten().copied().collect();
                format!("the sparse `{name}` has the index {at:?} in the shape {dims:?}")
            })? = *value;
        }
        Ok(Self { dims, data: Data::Floats(Rc::new(dense)) })
    }

    /// Its numbers, where they are of floating point type.
    pub(super) fn as_floats(&self) -> Option<&Rc<Vec<f32>>> {
        match &self.data {
            Data::Floats(values) => Some(values),
            Data::Ints(_) => None,
        }
    }

    /// Its integers, where it holds some.
    pub(super) fn as_ints(&self) -> Option<&[Option<i64>]> {
        match &self.data {
            Data::Ints(values) => Some(values),
            Data::Floats(_) => None,
        }
    }

    /// The integers of a list that depends on no number of images.
    pub(super) fn known_ints(&self) -> Option<Vec<i64>> {
        self.as_ints()?.iter().copied().collect()
    }

    /// As floating point numbers.
    pub(super) fn widened(&self) -> Result<Self, Refusal> {
        let Data::Ints(values) = &self.data else { return Ok(self.clone()) };
        let values: Option<Vec<f32>> = values.iter().map(|value| value.map(|v| v as f32)).collect();
        let values = values.ok_or("the number of images cannot become a value")?;
        Ok(Self { dims: self.dims.clone(), data: Data::Floats(Rc::new(values)) })
    }

    /// The same elements under other dimensions.
    pub(super) fn shaped(&self, dims: Vec<usize>) -> Result<Self, Refusal> {
        let len = |dims: &[usize]| dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
        if len(&dims) != len(&self.dims) {
            return Err(format!(
                "a constant of the shape {:?} cannot have the shape {dims:?}",
                self.dims
            ));
        }
        Ok(Self { dims, data: self.data.clone() })
    }

    /// One value repeated.
    pub(super) fn repeated(&self, dims: Vec<usize>) -> Result<Self, Refusal> {
        let len = dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
        let len = len.filter(|&len| len <= MOST_REPEATED);
        let len = len.ok_or_else(|| {
            format!("repeats a constant to the shape {dims:?}, which is too large")
        })?;
        let data = match &self.data {
            Data::Floats(values) if values.len() == 1 => {
                Data::Floats(Rc::new(vec![values[0]; len]))
            }
            Data::Ints(values) if values.len() == 1 => Data::Ints(Rc::new(vec![values[0]; len])),
            _ => {
                return Err(format!(
                    "repeats a constant of the shape {:?}; only single numbers can be repeated",
                    self.dims
                ));
            }
        };
        Ok(Self { dims, data })
    }

    /// A matrix with rows and columns exchanged.
    pub(super) fn transposed(&self) -> Result<Self, Refusal> {
        let (&[rows, columns], Some(values)) = (self.dims.as_slice(), self.as_floats()) else {
            return Err(format!(
                "transposes a constant of the shape {:?}; must be a matrix of numbers",
                self.dims
            ));
        };
        if values.is_empty() {
            return Err(format!(
                "transposes a constant of the shape {:?}; must be a matrix of numbers",
                self.dims
            ));
        }
        let columns_first =
            (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j]));
        let data = Data::Floats(Rc::new(columns_first.collect()));
        Ok(Self { dims: vec![columns, rows], data })
    }
}

/// Extents and their product.
fn extents(dims: &[i64]) -> Result<(Vec<usize>, usize), Refusal> {
    if dims.len() > MOST_DIMENSIONS {
        return Err(format!(
            "a tensor of {} dimensions; at most {MOST_DIMENSIONS} are read",
            dims.len()
        ));
    }
    let wrong = || format!("a tensor of the impossible shape {dims:?}");
    let extents: Option<Vec<usize>> =
        dims.iter().map(|&dim| usize::try_from(dim).ok().filter(|&dim| dim < 1 << 31)).collect();
    let extents = extents.ok_or_else(wrong)?;
    let len =
        extents.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim).filter(|&l| l < 1 << 40));
    Ok((extents, len.ok_or_else(wrong)?))
}

/// Little-endian numbers of `SIZE` bytes; a rest that is none counts as one more, so that lengths do not agree.
fn numbers<const SIZE: usize, T>(raw: &[u8], read: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let number = |bytes: &[u8]| {
        let mut whole = [0; SIZE];
        whole[..bytes.len()].copy_from_slice(bytes);
        read(whole)
    };
    raw.chunks(SIZE).map(number).collect()
}

fn floats<const SIZE: usize>(raw: &[u8], read: impl Fn([u8; SIZE]) -> f32) -> Data {
    Data::Floats(Rc::new(numbers(raw, read)))
}

fn integers<const SIZE: usize>(raw: &[u8], read: impl Fn([u8; SIZE]) -> i64) -> Data {
    Data::Ints(Rc::new(numbers(raw, |bytes| Some(read(bytes)))))
}

/// Numbers of 16 bits, one in the low half of each stored one.
fn halves(stored: &proto::Tensor, read: impl Fn(u16) -> f32) -> Data {
    Data::Floats(Rc::new(stored.int32_data.iter().map(|&bits| read(bits as u16)).collect()))
}

/// Where a tensor lies in another file, and how large that is.
pub(super) fn external_size<'a>(
    stored: &'a proto::Tensor,
    folder: Option<&Path>,
) -> Option<(&'a str, u64)> {
    let mut entries = stored.external_data.iter().filter(|entry| entry.key == "location");
    let location = entries.next().filter(|_| stored.data_location == proto::EXTERNAL)?;
    let size = folder?.join(&location.value).metadata().map_or(0, |data| data.len());
    Some((&location.value, size))
}

/// The bytes of a tensor in another file, which must lie in the folder of the model or below it.
fn external(stored: &proto::Tensor, len: usize, folder: Option<&Path>) -> Result<Vec<u8>, Refusal> {
    let entry = |key: &str| {
        stored.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    };
    let location = entry("location").unwrap_or_default();
    let name = &stored.name;
    let inside = Path::new(location).components().all(|part| matches!(part, Component::Normal(_)));
    let folder = match folder {
        Some(folder) if inside && !location.is_empty() => folder,
        _ => {
            let want = "which must be in the folder of this one or below";
            return Err(format!("`{name}` lies in another file, `{location}`, {want}"));
        }
    };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("the {key} of `{name}` is `{text}`; must be a number of bytes")),
    };
    let size = match stored.data_type {
        data::DOUBLE | data::INT64 => 8,
        data::FLOAT16 | data::BFLOAT16 => 2,
        data::BOOL => 1,
        _ => 4,
    };
    let bytes = len as u64 * size;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(bytes));
    let path = folder.join(location);
    let failed = |error: std::io::Error| format!("`{name}` lies in {}: {error}", path.display());
    let mut file = file::open(&path).map_err(|error| format!("`{name}` lies in {error}"))?;
    let there = file.metadata().map_err(failed)?.len();
    let shown = path.display();
    if length != bytes {
        return Err(format!(
            "`{name}` needs {bytes} bytes, but this file gives it {length} bytes of {shown}: the two files do not belong together"
        ));
    }
    if offset.checked_add(bytes).is_none_or(|end| end > there) {
        let mut head = Vec::new();
        file.take(64).read_to_end(&mut head).map_err(failed)?;
        if is_lfs_pointer(&head) {
            return Err(format!(
                "{shown}, which holds `{name}`, is a Git LFS pointer; {LFS_ADVICE}"
            ));
        }
        return Err(format!(
            "{shown} is {there} bytes long, but `{name}` lies in its bytes {offset} to {}: that file is cut short or another one",
            offset.saturating_add(bytes)
        ));
    }
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    file.take(bytes).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}
