//! Which filter taps reach which pixels.
//!
//! Pixels that the same taps reach form a class; the products of a class run over its taps only, so
//! padding and the holes of a strided input gradient cost nothing.

/// One axis of a convolution, seen from the side that is written.
pub(crate) struct Axis {
    /// Pixels written.
    pub(crate) len: usize,
    /// Filter extent.
    pub(crate) taps: usize,
    /// `sources[pixel · taps + tap]`: the pixel read, if there is one.
    sources: Vec<Option<usize>>,
}

/// Pixels of an axis that the same taps reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) pixels: Vec<usize>,
    pub(crate) taps: Vec<usize>,
    /// `sources[i · taps.len() + j]`: the pixel that `pixels[i]` reads through `taps[j]`. `None` only in
    /// [`Axis::whole`].
    pub(crate) sources: Vec<Option<usize>>,
}

impl Axis {
    /// Forward: output `p` reads input `p · stride − pad + r`.
    pub(crate) fn forward(
        input: usize,
        output: usize,
        taps: usize,
        stride: usize,
        pad: usize,
    ) -> Self {
        Self::new(output, taps, |p, r| (p * stride + r).checked_sub(pad).filter(|&y| y < input))
    }

    /// Input gradient: input `y` reads the output gradients `p` with `p · stride − pad + r = y`. Taps count from the
    /// last one down, so that consecutive taps read consecutive gradients where the stride is 1.
    pub(crate) fn backward(
        input: usize,
        output: usize,
        taps: usize,
        stride: usize,
        pad: usize,
    ) -> Self {
        Self::new(input, taps, |y, tap| {
            let step = (y + pad).checked_sub(taps - 1 - tap)?;
            (step % stride == 0).then_some(step / stride).filter(|&p| p < output)
        })
    }

    fn new(len: usize, taps: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Self {
        let sources =
            (0..len).flat_map(|i| (0..taps).map(move |t| (i, t))).map(|(i, t)| source(i, t));
        Self { len, taps, sources: sources.collect() }
    }

    fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        self.sources[pixel * self.taps + tap]
    }

    /// The classes of this axis, in the order of their first pixels.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::<Group>::new();
        for pixel in 0..self.len {
            let taps: Vec<usize> =
                (0..self.taps).filter(|&t| self.source(pixel, t).is_some()).collect();
            let sources = taps.iter().map(|&t| self.source(pixel, t)).collect::<Vec<_>>();
            match groups.iter_mut().find(|group| group.taps == taps) {
                Some(group) => {
                    group.pixels.push(pixel);
                    group.sources.extend(sources);
                }
                None => groups.push(Group { pixels: vec![pixel], taps, sources }),
            }
        }
        groups
    }

    /// One class of all pixels and all taps, with holes.
    pub(crate) fn whole(&self) -> Group {
        Group {
            pixels: (0..self.len).collect(),
            taps: (0..self.taps).collect(),
            sources: self.sources.clone(),
        }
    }
}

impl Group {
    /// Whether each pixel reads consecutive pixels through consecutive taps.
    pub(crate) fn is_contiguous(&self) -> bool {
        !self.taps.is_empty()
            && self.taps.windows(2).all(|t| t[1] == t[0] + 1)
            && self.sources.chunks_exact(self.taps.len()).all(|sources| {
                sources
                    .windows(2)
                    .all(|pair| matches!(pair, [Some(first), Some(second)] if *second == first + 1))
            })
            && self.sources.iter().all(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_a_padded_axis_are_edge_interior_edge() {
        let groups = Axis::forward(5, 5, 3, 1, 1).groups();
        let summary: Vec<_> = groups.iter().map(|g| (g.pixels.clone(), g.taps.clone())).collect();
        assert_eq!(
            summary,
            [(vec![0], vec![1, 2]), (vec![1, 2, 3], vec![0, 1, 2]), (vec![4], vec![0, 1])]
        );
        assert!(groups.iter().all(Group::is_contiguous));
    }

    #[test]
    fn a_strided_gradient_splits_by_parity() {
        let groups = Axis::backward(6, 3, 1, 2, 0).groups();
        assert_eq!(groups[0].sources, [Some(0), Some(1), Some(2)]);
        assert!(groups[1].taps.is_empty() && groups[1].pixels == [1, 3, 5]);
    }
}
