//! Convolution by plain loops in float64.

/// x `[n, h, w, c]`, w `[k, r, s, c]`.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    pub x: [usize; 4],
    pub w: [usize; 4],
    pub stride: usize,
    pub padding: usize,
}

impl Conv {
    /// `[n, p, q, k]`.
    pub fn y(&self) -> [usize; 4] {
        let [n, h, w, _] = self.x;
        let [k, r, s, _] = self.w;
        let out =
            |input: usize, filter: usize| (input + 2 * self.padding - filter) / self.stride + 1;
        [n, out(h, r), out(w, s), k]
    }

    pub fn forward(&self, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; self.y().iter().product()];
        self.each(|xi, wi, yi| y[yi] += x[xi] * w[wi]);
        for (i, y) in y.iter_mut().enumerate().filter(|_| !bias.is_empty()) {
            *y += bias[i % bias.len()];
        }
        y
    }

    pub fn backward_input(&self, dy: &[f64], w: &[f64]) -> Vec<f64> {
        let mut dx = vec![0.0; self.x.iter().product()];
        self.each(|xi, wi, yi| dx[xi] += dy[yi] * w[wi]);
        dx
    }

    pub fn backward_weight(&self, x: &[f64], dy: &[f64]) -> Vec<f64> {
        let mut dw = vec![0.0; self.w.iter().product()];
        self.each(|xi, wi, yi| dw[wi] += dy[yi] * x[xi]);
        dw
    }

    pub fn backward_bias(&self, dy: &[f64]) -> Vec<f64> {
        let mut db = vec![0.0; self.w[0]];
        let k = db.len();
        dy.iter().enumerate().for_each(|(i, dy)| db[i % k] += dy);
        db
    }

    /// Calls `f(index in x, index in w, index in y)` for every product.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([_, h, width, c], [_, r, s, _], [n, p, q, k]) = (self.x, self.w, self.y());
        for (image, row, column, filter) in indices([n, p, q, k]) {
            let y = ((image * p + row) * q + column) * k + filter;
            for tap in 0..r * s {
                let at = |out: usize, tap: usize, end: usize| {
                    (out * self.stride + tap).checked_sub(self.padding).filter(|&i| i < end)
                };
                let (Some(i), Some(j)) = (at(row, tap / s, h), at(column, tap % s, width)) else {
                    continue;
                };
                for channel in 0..c {
                    let x = ((image * h + i) * width + j) * c + channel;
                    f(x, (filter * r * s + tap) * c + channel, y);
                }
            }
        }
    }
}

fn indices([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}
