//! What runs alike in NHWC and with images in the lanes. The memory of images in the lanes is NHWC too, with a channel more for
//! each lane and an image for each block of them.

use super::form::{ConvLayer, ConvSteps, Form, Placement, result};
use crate::cpu::window::Window;
use crate::cpu::{lanes, pointwise, window_pool};
use crate::infer::step::{Work, pass, work};

/// One of the two layouts in which every layer can run.
#[derive(Clone, Copy)]
pub(in crate::infer) struct Interleaved {
    pub(in crate::infer) form: Form,
    /// Images that lie together in each channel.
    images: usize,
}

impl Interleaved {
    pub(in crate::infer) const NHWC: Self = Self { form: Form::Nhwc, images: 1 };

    /// Lanes where they are mostly full, and for all parts of more images than there are lanes: whether these are cut into
    /// parts depends on the number of threads, which must not change bits.
    pub(super) fn of(batch: usize) -> Self {
        let lanes = lanes::lanes();
        // VGG16 took as long for 9 images one way as the other with 16 lanes.
        if batch > lanes || 5 * batch >= 3 * lanes {
            Self { form: Form::Lanes, images: lanes }
        } else {
            Self::NHWC
        }
    }

    /// `[n, h, w, c]` of the NHWC that the memory of `batch` images is.
    fn extents(self, batch: usize, [h, w, c]: [usize; 3]) -> [usize; 4] {
        [batch.div_ceil(self.images), h, w, c * self.images]
    }

    /// Scale and shift of each of `c` channels where there are such, the sum with a residual, ReLU.
    pub(in crate::infer) fn pointwise(
        self,
        scale: Option<&(Vec<f32>, Vec<f32>)>,
        relu: bool,
        c: usize,
    ) -> Work {
        let each = |values: &[f32]| -> Vec<f32> {
            values.iter().flat_map(|&value| std::iter::repeat_n(value, self.images)).collect()
        };
        let scale = scale.map(|(scale, shift)| (each(scale), each(shift)));
        let channels = c * self.images;
        work(move |x, residual, y| {
            let scale = scale.as_ref().map(|(scale, shift)| (&scale[..], &shift[..]));
            pointwise::run(channels, x, scale, residual, relu, y);
        })
    }

    /// The maximum of each window of `batch` images.
    pub(in crate::infer) fn max(self, window: Window, batch: usize, shape: [usize; 3]) -> Work {
        let extents = self.extents(batch, shape);
        pass(move |x, y| window_pool::max_forward(window, extents, x, y, None))
    }

    /// The mean of each window of `batch` images.
    pub(in crate::infer) fn mean(self, window: Window, batch: usize, shape: [usize; 3]) -> Work {
        let extents = self.extents(batch, shape);
        pass(move |x, y| window_pool::mean_forward(window, extents, x, y))
    }
}

/// Copies the channels of an index out of so many, from x to y.
type Pick = fn(usize, &[usize], &[f32], &mut [f32]);

/// A convolution in `form`: by Winograd's tiles where they are given, else by `sum`. `pick` gathers the channels that it reads,
/// where these are not all.
pub(super) fn conv(
    form: Form,
    batch: usize,
    at: &ConvLayer,
    tiles: Option<Work>,
    sum: impl FnOnce() -> Work,
    pick: Pick,
) -> ConvSteps {
    let [h, w, c] = at.input();
    let placement = |shape| Placement { form, shape, halo: 0 };
    let prepare = at.conv.channels.clone().map(|list| {
        let picked = placement([h, w, list.len()]);
        (picked, pass(move |x, y| pick(c, &list, x, y)))
    });
    // The maximum is the tiles' alone.
    let pooled = at.finish().pool && tiles.is_some();
    let writes = placement(result(&at.conv.shape(batch, [h, w]), pooled));
    ConvSteps { reads: form, prepare, work: tiles.unwrap_or_else(sum), writes, pooled }
}
