//! Filters as the inference kernels read them.

use super::implicit_gemm::int;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result};

/// A convolution that reads some of its input's channels.
#[derive(Debug, Clone, Copy)]
pub struct Channels<'a> {
    /// The channels in the filter's order, distinct.
    pub index: &'a [i32],
    /// How many channels the input has.
    pub of: usize,
}

/// A filter and a bias in device memory: rows of whole 16-byte chunks in the mode's storage type, rounded once.
///
/// A filter that reads only a list of channels is stored in one of two layouts:
///
/// - Each column stands at its channel, with zeros between. This serves lists that leave out less than a quarter of the
///   channels, and 1 × 1 filters, whose convolution is bound by reading x anyway.
/// - The columns stand side by side, and each call first gathers the channels into a tensor of its own. The gather reads x
///   once, where zeros between the columns would be multiplied R·S·K times. (Reasoned, not measured.)
#[derive(Debug, Clone)]
pub struct PackedFilter {
    pub(super) mode: Mode,
    /// `[K, R, S, padded columns]`.
    pub(super) filter: Tensor,
    /// f32, `[padded K]`.
    pub(super) bias: Tensor,
    pub(super) k: usize,
    pub(super) r: usize,
    pub(super) s: usize,
    /// Channels of the input.
    pub(super) input: usize,
    /// The channels to gather, i32.
    pub(super) gathered: Option<Tensor>,
}

impl PackedFilter {
    /// Packs weight `[K, R, S, C]` and bias `[K]`, f32 on a GPU, for products in `mode`.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, [`crate::ErrorKind::Param`] for channels that are
    /// not the input's or come twice, [`crate::ErrorKind::Device`] on the CPU.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        mode: Mode,
        channels: Option<Channels<'_>>,
    ) -> Result<Self> {
        const OP: &str = "packed filter";
        let [k, r, s, c] = weight.dims4(OP, "weight")?;
        weight.expect_dtype(OP, DType::F32)?;
        bias.expect_dtype(OP, DType::F32)?;
        bias.expect_shape(OP, "bias", &[k])?;
        if weight.is_empty() {
            return Err(Error::shape(OP, "weight", "of 1 element or more", weight.shape()));
        }
        if weight.device() != bias.device() {
            return Err(Error::device(
                weight.device().to_string(),
                "packed filter: bias must be there",
            ));
        }
        let (mut source, mut gathered, mut input) = (None, None, c);
        if let Some(channels) = channels {
            let source_of = inverse(channels, weight.shape())?;
            input = channels.of;
            let [kept, all] = [c, input].map(|c| mode.storage().padded(c));
            if r * s == 1 || 4 * kept >= 3 * all {
                source = Some(on_device(source_of, weight)?);
            } else {
                gathered = Some(on_device(channels.index.to_vec(), weight)?);
            }
        }
        let columns = if gathered.is_some() { c } else { input };
        let to = mode.storage().padded(columns);
        let filter = weight.empty_like(&[k, r, s, to], mode.storage())?;
        pack(weight, source.as_ref(), mode, &filter, [k * r * s, c])?;
        let padded_bias = bias.empty_like(&[mode.storage().padded(k)], DType::F32)?;
        pack(bias, None, Mode::F32, &padded_bias, [1, k])?;
        Ok(Self { mode, filter, bias: padded_bias, k, r, s, input, gathered })
    }

    /// The arithmetic it was packed for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Output channels K.
    pub fn filters(&self) -> usize {
        self.k
    }

    /// Channels that a multiplied row has: those of the input or of the list, with what pads them.
    pub(super) fn columns(&self) -> usize {
        self.filter.shape()[3]
    }
}

/// For each channel of the input, padded to the widest chunk, the filter's column or −1.
fn inverse(channels: Channels<'_>, weight: &[usize]) -> Result<Vec<i32>> {
    let Channels { index, of } = channels;
    if index.len() != weight[3] {
        let want = format!("filters of {} channels", index.len());
        return Err(Error::shape("packed filter", "weight", want, weight));
    }
    let mut column = vec![-1; DType::Bf16.padded(of)];
    for (j, &channel) in index.iter().enumerate() {
        match usize::try_from(channel).ok().filter(|&c| c < of && column[c] < 0) {
            Some(c) => column[c] = int(j)?,
            None => {
                let want = format!("distinct and below {of}");
                return Err(Error::param("packed filter: channels", channel, want));
            }
        }
    }
    Ok(column)
}

fn on_device(index: Vec<i32>, like: &Tensor) -> Result<Tensor> {
    let len = index.len();
    Tensor::from_vec(index, &[len], &like.device())
}

/// `rows` rows of `from` elements as the rows of `out`.
fn pack(
    x: &Tensor,
    source: Option<&Tensor>,
    mode: Mode,
    out: &Tensor,
    [rows, from]: [usize; 2],
) -> Result<()> {
    let On::Gpu(gpu) = x.on() else {
        return Err(Error::device("cpu", "packed filters are for GPUs"));
    };
    if out.is_empty() {
        return Ok(());
    }
    let name = ["infer_conv2d_pack_f32", "infer_conv2d_pack_tf32", "infer_conv2d_pack_bf16"];
    Launch::new(name[mode as usize])
        .elements(out.len())
        .arg(x)
        .arg(&source)
        .arg(out)
        .arg(&(rows as i64))
        .arg(&int(from)?)
        .arg(&int(out.len() / rows)?)
        .run(gpu)
}
