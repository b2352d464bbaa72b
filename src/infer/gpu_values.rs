//! The values of a plan on a GPU, and the forms that its layers want them in.

use crate::dtype::DType;
use crate::ops;
use crate::{Error, Mode, Result, Tape, Tensor};

/// A value, by how its elements lie.
#[derive(Clone)]
pub(super) enum Value {
    /// f32 `[N, H, W, C]`.
    Image(Tensor),
    /// `[N, H, W, padded C]` in the mode's storage type, and C.
    Rows(Tensor, usize),
    /// Planes in the mode's storage type, and the `[N, H, W, C]` that they are.
    Planes(Tensor, [usize; 4]),
    /// f32 `[N, C]`.
    Matrix(Tensor),
}

/// What a layer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Image,
    Rows,
    Planes,
    Matrix,
}

impl Value {
    pub(super) fn form(&self) -> Form {
        match self {
            Self::Image(_) => Form::Image,
            Self::Rows(..) => Form::Rows,
            Self::Planes(..) => Form::Planes,
            Self::Matrix(_) => Form::Matrix,
        }
    }

    /// Its elements, whatever they mean.
    pub(super) fn tensor(&self) -> &Tensor {
        match self {
            Self::Image(x) | Self::Rows(x, _) | Self::Planes(x, _) | Self::Matrix(x) => x,
        }
    }

    /// The value with other elements of the same shape.
    pub(super) fn with(&self, tensor: Tensor) -> Self {
        match self {
            Self::Image(_) => Self::Image(tensor),
            Self::Rows(_, c) => Self::Rows(tensor, *c),
            Self::Planes(_, shape) => Self::Planes(tensor, *shape),
            Self::Matrix(_) => Self::Matrix(tensor),
        }
    }

    /// In that form.
    pub(super) fn to(&self, form: Form, mode: Mode) -> Result<Self> {
        let storage = mode.storage();
        match (self, form) {
            (own, form) if own.form() == form => Ok(own.clone()),
            (Self::Image(image), Form::Rows) => input(image, None, mode),
            (Self::Rows(rows, c), Form::Image) => {
                let [n, h, w, _] = rows.dims4("plan", "x")?;
                let mut image = rows.empty_like(&[n, h, w, *c], DType::F32)?;
                ops::infer_image(rows, &mut image)?;
                Ok(Self::Image(image))
            }
            (Self::Rows(rows, c), Form::Planes) => {
                let [n, h, w, _] = rows.dims4("plan", "x")?;
                let shape = [n, h, w, *c];
                let mut planes = rows.empty_like(&ops::planes_shape(shape, storage), storage)?;
                ops::rows_to_planes(rows, &mut planes)?;
                Ok(Self::Planes(planes, shape))
            }
            (Self::Planes(planes, [n, h, w, c]), Form::Rows) => {
                let mut rows = planes.empty_like(&[*n, *h, *w, storage.padded(*c)], storage)?;
                ops::planes_to_rows(planes, &mut rows)?;
                Ok(Self::Rows(rows, *c))
            }
            (Self::Rows(rows, c), Form::Matrix) => {
                let mut y = rows.empty_like(&[rows.shape()[0], *c], DType::F32)?;
                ops::infer_global_avg_pool(rows, &mut y)?;
                Ok(Self::Matrix(y))
            }
            (Self::Image(image), Form::Matrix) => {
                ops::global_avg_pool(&mut Tape::new(mode), image).map(Self::Matrix)
            }
            (Self::Matrix(x), Form::Image) => {
                let [n, c] = x.dims2("plan", "x")?;
                x.reshape(&[n, 1, 1, c]).map(Self::Image)
            }
            (Self::Matrix(_), _) => self.to(Form::Image, mode)?.to(form, mode),
            (_, _) => self.to(Form::Rows, mode)?.to(form, mode),
        }
    }
}

/// The image as rows, normalised by mean and standard deviation where there are such.
pub(super) fn input(image: &Tensor, by: Option<[&Tensor; 2]>, mode: Mode) -> Result<Value> {
    let [n, h, w, c] = image.dims4("plan", "x")?;
    let storage = mode.storage();
    let mut y = image.empty_like(&[n, h, w, storage.padded(c)], storage)?;
    ops::infer_input(image, by, &mut y)?;
    Ok(Value::Rows(y, c))
}

/// The values of one run.
pub(super) struct Values {
    mode: Mode,
    /// Each value in every form that a layer read it in, first as it was computed.
    forms: Vec<Vec<Value>>,
}

impl Values {
    /// Of a network that reads `image`.
    pub(super) fn new(mode: Mode, image: Tensor) -> Self {
        Self { mode, forms: vec![vec![Value::Image(image)]] }
    }

    pub(super) fn push(&mut self, value: Value) {
        self.forms.push(vec![value]);
    }

    /// Forgets a value that nobody reads any more.
    pub(super) fn forget(&mut self, value: usize) {
        self.forms[value].clear();
    }

    /// The form in which a value was computed.
    pub(super) fn form(&self, value: usize) -> Result<Form> {
        self.own(value).map(Value::form)
    }

    /// The value in a form, converted once for all its readers.
    pub(super) fn need(&mut self, value: usize, form: Form) -> Result<Value> {
        if let Some(there) = self.forms[value].iter().find(|there| there.form() == form) {
            return Ok(there.clone());
        }
        let converted = self.own(value)?.to(form, self.mode)?;
        self.forms[value].push(converted.clone());
        Ok(converted)
    }

    /// The last value as a matrix.
    pub(super) fn logits(&self) -> Result<Tensor> {
        let last = self.own(self.forms.len() - 1)?.to(Form::Matrix, self.mode)?;
        Ok(last.tensor().clone())
    }

    fn own(&self, value: usize) -> Result<&Value> {
        let missing = || Error::param("plan", value, "a value that is computed before it is read");
        self.forms.get(value).and_then(|forms| forms.first()).ok_or_else(missing)
    }
}
