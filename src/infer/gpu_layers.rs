//! A network on a GPU, layer by layer: how each runs.

use super::fused::{Conv, FusedLayer, LayerOp};
use super::gpu_device::timed;
use super::gpu_ready::{Ready, ReadyLayers};
use super::gpu_values::{Form, Value, Values, input};
use super::way::Way;
use crate::ops::{self, TileConfig, Window};
use crate::{Error, Mode, Result, Tape, Tensor};

/// Layers with what they need on the device.
pub(super) struct Compiled {
    layers: Vec<(FusedLayer, Ready)>,
    /// By layer: the values that nobody reads any more when it has run.
    released: Vec<Vec<usize>>,
    mode: Mode,
}

impl Compiled {
    /// `ways` holds one for each layer; only convolutions look at theirs.
    pub(super) fn new(made: &mut ReadyLayers<'_>, ways: &[Way]) -> Result<Self> {
        let network = made.network;
        let ready = |(i, layer): (usize, &FusedLayer)| {
            Ok((without_weights(layer), made.ready(i, ways[i])?))
        };
        let layers = network.layers.iter().enumerate().map(ready).collect::<Result<_>>()?;
        Ok(Self { layers, released: network.released(), mode: made.settings.mode })
    }

    /// By layer: how its convolution is cut, where it is a dense one.
    pub(super) fn tiles(&self) -> Vec<Option<TileConfig>> {
        let tiles = self.layers.iter().map(|(_, ready)| match ready {
            Ready::Rows(_, config) => Some(*config),
            _ => None,
        });
        tiles.collect()
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, |_, layer| layer())
    }

    /// Seconds of each layer on operands that are there in its form.
    pub(super) fn layer_seconds(&self, x: &Tensor) -> Result<Vec<f64>> {
        let device = x.device();
        let mut seconds = vec![0.0; self.layers.len()];
        self.run(x, |i, layer| {
            let (y, time) = timed(&device, layer)?;
            seconds[i] = time;
            Ok(y)
        })?;
        Ok(seconds)
    }

    /// Logits of x. `each` gets every layer as a function; it calls that and returns its result.
    fn run(
        &self,
        x: &Tensor,
        mut each: impl FnMut(usize, &dyn Fn() -> Result<Value>) -> Result<Value>,
    ) -> Result<Tensor> {
        let mut values = Values::new(self.mode, x.clone());
        for (i, ((layer, ready), released)) in self.layers.iter().zip(&self.released).enumerate() {
            let form = self.form(layer, ready, values.form(layer.input)?);
            let x = values.need(layer.input, form)?;
            let residual = layer.residual.map(|value| values.need(value, form)).transpose()?;
            let y = each(i, &|| self.layer(layer, ready, &x, residual.as_ref()))?;
            values.push(y);
            released.iter().for_each(|&value| values.forget(value));
        }
        values.logits()
    }

    /// The form in which a layer reads, if its operand was computed in `own`.
    fn form(&self, layer: &FusedLayer, ready: &Ready, own: Form) -> Form {
        match (&layer.op, ready) {
            (_, Ready::Rows(..)) => Form::Rows,
            (_, Ready::Groups(_) | Ready::Lists(_)) => Form::Planes,
            (_, Ready::Linear { .. }) => Form::Matrix,
            (LayerOp::GlobalAvgPool, _) if matches!(own, Form::Image | Form::Matrix) => own,
            (LayerOp::GlobalAvgPool, _) => Form::Rows,
            (LayerOp::MaxPool(Window::HALVES), _) => Form::Rows,
            (LayerOp::MaxPool(_) | LayerOp::AvgPool(_) | LayerOp::Flatten, _) => Form::Image,
            (_, Ready::Normalize(_)) => Form::Image,
            (_, Ready::Nothing) => match own {
                Form::Image => Form::Rows,
                Form::Planes if layer.pool => Form::Rows,
                own => own,
            },
        }
    }

    fn layer(
        &self,
        layer: &FusedLayer,
        ready: &Ready,
        x: &Value,
        residual: Option<&Value>,
    ) -> Result<Value> {
        let mut tape = Tape::new(self.mode);
        let (of, added) = (x.tensor(), residual.map(Value::tensor));
        match (&layer.op, ready) {
            (_, Ready::Rows(conv, config)) => {
                let mut y = of.empty_like(&conv.output_shape(of.shape())?, of.dtype())?;
                conv.run(of, added, *config, &mut y)?;
                Ok(Value::Rows(y, conv.filter.filters()))
            }
            (_, Ready::Groups(filter)) => {
                let mut y = of.empty_like(&filter.output_shape(of, layer.pool), of.dtype())?;
                ops::infer_sparse_conv2d(of, filter, added, layer.relu, layer.pool, &mut y)?;
                self.planes(x, y)
            }
            (_, Ready::Lists(filter)) => {
                let mut y = of.empty_like(&filter.output_shape(of, layer.pool), of.dtype())?;
                ops::infer_sparse_lists(of, filter, added, layer.relu, layer.pool, &mut y)?;
                self.planes(x, y)
            }
            (_, Ready::Linear { weight, bias }) => {
                let y = ops::linear(&mut tape, of, weight, Some(bias))?;
                self.finish(layer, Value::Matrix(y), residual)
            }
            (LayerOp::GlobalAvgPool, _) => x.to(Form::Matrix, self.mode),
            (LayerOp::MaxPool(Window::HALVES), _) => self.max_pool(x),
            (LayerOp::MaxPool(window), _) => {
                ops::max_pool(&mut tape, of, *window).map(Value::Image)
            }
            (LayerOp::AvgPool(window), _) => {
                ops::avg_pool(&mut tape, of, *window).map(Value::Image)
            }
            (LayerOp::Flatten, _) => ops::flatten(&mut tape, of).map(Value::Matrix),
            (_, Ready::Normalize([mean, std])) => {
                let y = input(of, Some([mean, std]), self.mode)?;
                let residual = residual.map(|value| value.to(Form::Rows, self.mode)).transpose()?;
                self.finish(layer, y, residual.as_ref())
            }
            (_, Ready::Nothing) => self.finish(layer, x.clone(), residual),
        }
    }

    /// The planes y of as many images as the planes x have.
    fn planes(&self, x: &Value, y: Tensor) -> Result<Value> {
        let Value::Planes(_, [n, ..]) = x else {
            return Err(Error::param("plan", "sparse convolution", "of planes"));
        };
        let shape = [*n, y.shape()[2], y.shape()[3], y.shape()[1]];
        Ok(Value::Planes(y, shape))
    }

    /// What follows the product of a layer that does not do it itself; the residual lies as y does.
    fn finish(&self, layer: &FusedLayer, mut y: Value, residual: Option<&Value>) -> Result<Value> {
        if let Value::Matrix(x) = &y {
            let (mut tape, mut y) = (Tape::new(self.mode), x.clone());
            if let Some(residual) = residual {
                y = ops::add(&mut tape, &y, residual.tensor())?;
            }
            return Ok(Value::Matrix(if layer.relu { ops::relu(&mut tape, &y)? } else { y }));
        }
        if let Some(residual) = residual {
            y = elementwise(&y, |x, y| ops::infer_add(x, &chunks(residual)?, y))?;
        }
        if layer.relu {
            y = elementwise(&y, ops::infer_relu)?;
        }
        if layer.pool { self.max_pool(&y) } else { Ok(y) }
    }

    fn max_pool(&self, x: &Value) -> Result<Value> {
        let x = x.to(Form::Rows, self.mode)?;
        let rows = x.tensor();
        let [n, h, w, c] = rows.dims4("plan", "x")?;
        let mut y = rows.empty_like(&[n, h / 2, w / 2, c], rows.dtype())?;
        ops::infer_max_pool2(rows, &mut y)?;
        Ok(x.with(y))
    }
}

/// The result of an operation on single elements, wherever these lie.
fn elementwise(x: &Value, op: impl Fn(&Tensor, &mut Tensor) -> Result<()>) -> Result<Value> {
    let of = chunks(x)?;
    let mut y = of.empty_like(of.shape(), of.dtype())?;
    op(&of, &mut y)?;
    Ok(x.with(y.reshape(x.tensor().shape())?))
}

/// The elements of rows or planes as rows of one chunk.
fn chunks(x: &Value) -> Result<Tensor> {
    let (x, len) = (x.tensor(), 16 / x.tensor().dtype().size());
    x.reshape(&[x.len() / len, 1, 1, len])
}

/// The layer for the host, which runs it by what the device holds of its weights.
fn without_weights(layer: &FusedLayer) -> FusedLayer {
    let op = match &layer.op {
        LayerOp::Conv(conv) => LayerOp::Conv(Conv {
            name: conv.name.clone(),
            weight: Vec::new(),
            bias: Vec::new(),
            channels: conv.channels.clone(),
            ..*conv
        }),
        op => op.clone(),
    };
    FusedLayer { op, ..*layer }
}
