//! Constants that a file computes, mostly the shapes of flattened images, and what changes shapes alone.

use super::attributes::Attributes;
use super::constant::{Constant, Data, Refusal};
use super::graph::Value;
use super::importer::Importer;
use super::proto;
use crate::nn::Op;
use std::rc::Rc;

impl Importer<'_> {
    pub(super) fn constant(&mut self, all: &Attributes) -> Result<Value, Refusal> {
        let single = |data: Data| Constant { dims: Vec::new(), data };
        let Some(value) = all.0.attribute.first() else { return Err("it holds no value".into()) };
        let constant = match (value.name.as_str(), value) {
            ("value", proto::Attribute { t: Some(stored), .. }) => self.decode(stored)?,
            ("value_float", proto::Attribute { f: Some(f), .. }) => {
                single(Data::Floats(Rc::new(vec![*f])))
            }
            ("value_int", proto::Attribute { i: Some(i), .. }) => {
                single(Data::Ints(Rc::new(vec![Some(*i)])))
            }
            ("value_floats", value) => Constant::floats(value.floats.clone()),
            ("value_ints", value) => Constant::ints(value.ints.iter().copied().map(Some).collect()),
            (name, _) => return Err(format!("its attribute `{name}` is not supported")),
        };
        self.written.found(constant.len());
        Ok(Value::Constant(constant))
    }

    /// Extents `[N, C, H, W]` or `[N, C]` of a value, N unknown.
    pub(super) fn shape(&mut self, x: &Value, all: &Attributes) -> Result<Value, Refusal> {
        let dims: Vec<Option<usize>> = match x {
            Value::Constant(constant) => constant.dims.iter().copied().map(Some).collect(),
            Value::Pooled(node) => {
                vec![None, self.written.shapes[*node].first().copied(), Some(1), Some(1)]
            }
            other => {
                let node = self.written.node(other)?;
                match *self.written.shapes[node] {
                    [h, w, c] => vec![None, Some(c), Some(h), Some(w)],
                    ref other => {
                        std::iter::once(None).chain(other.iter().copied().map(Some)).collect()
                    }
                }
            }
        };
        let len = dims.len() as i64;
        let place =
            |at: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(0, len) as usize;
        let (start, end) = (place(all.int("start", 0)), place(all.int("end", len)));
        let dims = dims.get(start..end).unwrap_or_default();
        Ok(Value::Constant(Constant::ints(
            dims.iter().map(|dim| dim.map(|dim| dim as i64)).collect(),
        )))
    }

    pub(super) fn flatten(&mut self, x: &Value) -> Result<Value, Refusal> {
        if let Value::Pooled(node) = x {
            return Ok(Value::Node(*node));
        }
        let from = self.written.node(x)?;
        match self.written.shapes[from].len() {
            1 => Ok(Value::Node(from)),
            _ => self.written.push(Op::Flatten, &[from]).map(Value::Node),
        }
    }

    /// A flattening, or a constant under other dimensions.
    pub(super) fn reshape(
        &mut self,
        x: &Value,
        shape: &[Option<i64>],
        allow_zero: bool,
    ) -> Result<Value, Refusal> {
        if let Value::Constant(constant) = x {
            let known: Option<Vec<i64>> = shape.iter().copied().collect();
            let len: usize = constant.dims.iter().product();
            let known = known.ok_or("a constant cannot be shaped by the number of images")?;
            let mut given = known.iter().filter(|dim| **dim > 0);
            let given = given.try_fold(1usize, |given, &dim| given.checked_mul(dim as usize));
            let given = given.unwrap_or(0);
            let rest = len.checked_div(given).unwrap_or(0) as i64;
            let dims: Vec<i64> =
                known.iter().map(|&dim| if dim == -1 { rest } else { dim }).collect();
            return constant.shaped(extents(&dims)?).map(Value::Constant);
        }
        let features: usize = match x {
            Value::Pooled(node) => self.written.shapes[*node].iter().product(),
            other => {
                let node = self.written.node(other)?;
                self.written.shapes[node].iter().product()
            }
        };
        let images = |dim: Option<i64>| match dim {
            None | Some(-1) => true,
            Some(0) => !allow_zero,
            other => other == self.batch,
        };
        match *shape {
            [n, Some(f)] if images(n) && (f == features as i64 || (f == -1 && n != Some(-1))) => {
                self.flatten(x)
            }
            _ => Err(format!(
                "reshapes to {}; only flattening to [N, {features}] is supported",
                sizes(shape)
            )),
        }
    }

    /// Takes dimensions of 1 away, or puts them in.
    pub(super) fn squeeze(
        &mut self,
        x: &Value,
        axes: Option<Vec<i64>>,
        away: bool,
    ) -> Result<Value, Refusal> {
        match (x, axes.as_deref(), away) {
            (Value::Pooled(node), None | Some([2, 3] | [-2, -1] | [3, 2] | [-1, -2]), true) => {
                Ok(Value::Node(*node))
            }
            (Value::Constant(constant), axes, true) => {
                let rank = constant.dims.len() as i64;
                let named = |i: i64| {
                    axes.is_none_or(|axes| axes.contains(&i) || axes.contains(&(i - rank)))
                };
                let kept =
                    constant.dims.iter().zip(0i64..).filter(|&(&dim, i)| dim != 1 || !named(i));
                constant.shaped(kept.map(|(&dim, _)| dim).collect()).map(Value::Constant)
            }
            (Value::Constant(constant), Some(axes), false) => {
                let rank = constant.dims.len() + axes.len();
                if rank > 16 {
                    return Err(format!("makes a constant of {rank} dimensions"));
                }
                let mut dims = constant.dims.iter().copied();
                let inserted = |i: usize| {
                    axes.contains(&(i as i64)) || axes.contains(&(i as i64 - rank as i64))
                };
                let dims = (0..rank).map(|i| if inserted(i) { Some(1) } else { dims.next() });
                let dims: Option<Vec<usize>> = dims.collect();
                constant.shaped(dims.ok_or("its axes do not fit its operand")?).map(Value::Constant)
            }
            _ => {
                Err("only the height and width of 1 behind a global average can be taken away"
                    .into())
            }
        }
    }

    /// Elements of a list, or channels of an image.
    pub(super) fn gather(
        &mut self,
        x: &Value,
        index: Option<&Constant>,
        all: &Attributes,
    ) -> Result<Value, Refusal> {
        let index_dims = index.map_or(&[][..], |index| &index.dims);
        let list = index.and_then(Constant::known_ints).ok_or("its index must be a constant")?;
        let axis = all.int("axis", 0);
        if let Value::Constant(constant) = x {
            let values = constant
                .as_ints()
                .filter(|_| axis == 0)
                .ok_or("from a constant, only elements of a list of integers can be gathered")?;
            let len = values.len() as i64;
            let at =
                |i: &i64| values.get(usize::try_from(if *i < 0 { *i + len } else { *i }).ok()?);
            let found: Option<Vec<Option<i64>>> = list.iter().map(|i| at(i).copied()).collect();
            let found = Constant::ints(found.ok_or("its index lies outside the list")?);
            return found.shaped(index_dims.to_vec()).map(Value::Constant);
        }
        let from = self.written.node(x)?;
        if axis != 1 || self.written.shapes[from].len() != 3 || index_dims.len() != 1 {
            return Err("only channels of an image can be gathered, axis 1".into());
        }
        Ok(Value::Gathered(from, extents(&list)?))
    }
}

/// Numbers of another type are the same numbers here: everything is computed in f32.
pub(super) fn cast(x: &Value, like: Option<&Value>, all: &Attributes) -> Result<Value, Refusal> {
    use proto::data::{BFLOAT16, DOUBLE, FLOAT, FLOAT16};
    let to_float = match like {
        Some(Value::Constant(like)) => like.as_floats().is_some(),
        Some(_) => true,
        None => [FLOAT, DOUBLE, FLOAT16, BFLOAT16]
            .iter()
            .any(|&kind| all.int("to", 0) == i64::from(kind)),
    };
    match x {
        Value::Constant(constant) if to_float => constant.widened().map(Value::Constant),
        Value::Constant(constant) if constant.as_ints().is_some() => Ok(x.clone()),
        Value::Constant(_) => {
            Err("a cast of floating point numbers to integers is not supported".into())
        }
        other if to_float => Ok(other.clone()),
        _ => Err("a cast of floating point numbers to integers is not supported".into()),
    }
}

/// Why images are not joined.
pub(super) const JOINS: &str = "joining images or vectors is not supported";

/// A shape for messages; N is the number of images.
fn sizes(shape: &[Option<i64>]) -> String {
    let size = |size: &Option<i64>| size.map_or("N".to_owned(), |size| size.to_string());
    format!("[{}]", shape.iter().map(size).collect::<Vec<_>>().join(", "))
}

/// Lists of integers, one behind the other.
pub(super) fn concat(inputs: &[Option<Value>]) -> Result<Value, Refusal> {
    let mut joined = Vec::new();
    let most = 1 << 12;
    for input in inputs {
        let Some(Value::Constant(constant)) = input else {
            return Err(JOINS.into());
        };
        joined.extend_from_slice(constant.as_ints().ok_or("only lists of integers can be joined")?);
        if joined.len() > most {
            return Err(format!("joins lists to one of more than {most} elements"));
        }
    }
    Ok(Value::Constant(Constant::ints(joined)))
}

pub(super) fn extents(dims: &[i64]) -> Result<Vec<usize>, Refusal> {
    let extents: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    extents.ok_or_else(|| format!("the dimensions {dims:?} are impossible"))
}
