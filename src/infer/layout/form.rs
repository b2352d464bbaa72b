//! What a layout is: where the elements of a value lie, and how layers run on them there.

use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::infer::fused::{Conv, FusedLayer, Network};
use crate::infer::step::Work;
use crate::infer::way::Algorithm;

/// The name of a layout; [`super::Layouts`] has them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Form {
    /// `[n][h][w][c]`.
    Nhwc,
    /// One image in each lane: [`crate::cpu::lanes`].
    Lanes,
    /// Planes for sparse convolutions: [`crate::cpu::planes`].
    Planes,
    /// Rows of channels in bf16: [`crate::cpu::bf16`].
    Blocked,
}

/// Everything that the places of a value's elements depend on, but for the number of images, which is the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) struct Placement {
    pub(in crate::infer) form: Form,
    /// `[h, w, c]`.
    pub(in crate::infer) shape: [usize; 3],
    /// Zeros around the planes, in pixels. 0 in forms that have none.
    pub(in crate::infer) halo: usize,
}

/// A convolution of a network.
pub(in crate::infer) struct ConvLayer<'a> {
    pub(in crate::infer) network: &'a Network,
    /// Position of the layer.
    pub(in crate::infer) index: usize,
    pub(in crate::infer) layer: &'a FusedLayer,
    pub(in crate::infer) conv: &'a Conv,
    pub(in crate::infer) algorithm: Algorithm,
}

impl ConvLayer<'_> {
    /// `[h, w, c]` of what the layer reads.
    pub(super) fn input(&self) -> [usize; 3] {
        self.network.shapes[self.layer.input]
    }

    /// What may follow the sums before they are written. The maximum of a layer with a residual waits until that is added.
    pub(super) fn finish(&self) -> Finish {
        let FusedLayer { relu, pool, residual, .. } = *self.layer;
        Finish { relu, pool: pool && residual.is_none() }
    }
}

/// How a layout runs a convolution.
pub(in crate::infer) struct ConvSteps {
    /// The form in which it reads the layer's input.
    pub(in crate::infer) reads: Form,
    /// A pass over that input which makes the operand, and where the operand lies.
    pub(in crate::infer) prepare: Option<(Placement, Work)>,
    /// The convolution itself.
    pub(in crate::infer) work: Work,
    /// Where its result lies; the residual that it adds lies so too.
    pub(in crate::infer) writes: Placement,
    /// Whether the result is already that of the layer's 2×2 maximum.
    pub(in crate::infer) pooled: bool,
}

/// `[h, w, c]` of a convolution's result.
pub(super) fn result(shape: &ConvShape, pooled: bool) -> [usize; 3] {
    let edge = |edge: usize| if pooled { edge / 2 } else { edge };
    [edge(shape.p()), edge(shape.q()), shape.k]
}

/// A way to lay out the values of a program, and the layers that run on them.
pub(in crate::infer) trait Layout {
    /// Floats of a value.
    fn len(&self, placement: Placement) -> usize;

    /// Whether there are zeros between a value's elements that its writers leave alone, so that the memory serves values
    /// of equal placement only.
    fn keeps_zeros(&self, _placement: Placement) -> bool {
        false
    }

    /// Zeros around the planes of value number `value`, in pixels.
    fn halo(&self, _value: usize) -> usize {
        0
    }

    /// Whether the convolution runs in this layout. What no layout claims runs in NHWC or with images in the lanes.
    fn claims(&self, _conv: &ConvLayer) -> bool {
        false
    }

    /// How the convolution runs.
    fn conv(&self, conv: &ConvLayer) -> ConvSteps;

    /// The 2×2 maximum with stride 2 of a value in this layout.
    fn max_pool(&self, from: Placement, to: Placement) -> Work;

    /// The mean over all pixels of a value in this layout, and the form in which it lies.
    fn mean(&self, from: Placement) -> (Form, Work);

    /// The pass from NHWC to this layout; none in NHWC itself.
    fn nhwc_to_own(&self, to: Placement) -> Option<Work>;

    /// The pass from this layout to NHWC; none in NHWC itself.
    fn own_to_nhwc(&self, from: Placement) -> Option<Work>;

    /// The pass to this layout from another than NHWC, where one pass is enough.
    fn form_to_own(&self, _from: Form, _to: Placement) -> Option<Work> {
        None
    }

    /// The pass from this layout to another than NHWC, where one pass is enough.
    fn own_to_form(&self, _from: Placement, _to: Form) -> Option<Work> {
        None
    }
}
