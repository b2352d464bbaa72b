//! The geometry of a two-dimensional convolution.

/// Extents of `y[n,p,q,k] = Σ_{r,s,c} x[n, p·stride − pad + r, q·stride − pad + s, c] · w[k,r,s,c]`.
///
/// Shapes: x `[n, h, w, c]`, filter `[k, r, s, c]`, y `[n, p(), q(), k]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Input channels.
    pub c: usize,
    /// Output channels.
    pub k: usize,
    /// Filter height.
    pub r: usize,
    /// Filter width.
    pub s: usize,
    /// Step between outputs, in input pixels, at least 1.
    pub stride: usize,
    /// Zeros around the input on each side.
    pub pad: usize,
}

impl ConvShape {
    /// Output height; 0 where the filter does not fit.
    pub fn p(&self) -> usize {
        extent(self.h, self.r, self)
    }

    /// Output width; 0 where the filter does not fit.
    pub fn q(&self) -> usize {
        extent(self.w, self.s, self)
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Elements of the filter.
    pub fn filter_len(&self) -> usize {
        self.k * self.r * self.s * self.c
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.n * self.p() * self.q() * self.k
    }
}

fn extent(input: usize, filter: usize, shape: &ConvShape) -> usize {
    (input + 2 * shape.pad).checked_sub(filter).map_or(0, |room| room / shape.stride + 1)
}
