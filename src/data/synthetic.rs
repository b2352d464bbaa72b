//! Made-up images that a small network learns: one smooth random pattern a class, shifted, mixed and with noise.
//!
//! Image = 0.55·pattern of its class + 0.2·pattern of another class + 0.25·noise, the patterns shifted together
//! by up to an eighth of the size. A pure function of the specification: the run's seed plays no part.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::rng::{Philox, Seed, unit};

use super::dataset::{Dataset, KEY, Need};
use super::entry::DatasetEntry;
use super::split::{Pixels, Split};

pub(super) const SYNTHETIC: DatasetEntry = DatasetEntry {
    name: "synthetic",
    summary: "made-up images that a small network learns; any key may be left out",
    form: "synthetic:classes=10,size=32,channels=3,train=2048,test=512",
    files: &[],
    load,
};

const SEED: Seed = Seed(0x5eed);

/// Cells of a pattern in each direction, before it is interpolated to the size.
const CELLS: usize = 4;

struct Spec {
    classes: usize,
    size: usize,
    channels: usize,
    train: usize,
    test: usize,
}

fn load(argument: Option<&str>, _need: Need) -> Result<Dataset> {
    let spec = Spec::parse(argument.unwrap_or(""))?;
    let patterns = patterns(&spec);
    let train = split(&spec, &patterns, "train", spec.train);
    let test = split(&spec, &patterns, "test", spec.test);
    let names = (0..spec.classes).map(|class| format!("class {class}")).collect();
    Dataset::join(SYNTHETIC.name, Some(spec.classes), names, Some(train), Some(test))
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let mut spec = Self { classes: 10, size: 32, channels: 3, train: 2048, test: 512 };
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (field, range) = match key {
                "classes" => (&mut spec.classes, 2..=1000),
                "size" => (&mut spec.size, 1..=1024),
                "channels" => (&mut spec.channels, 1..=64),
                "train" => (&mut spec.train, 1..=1_000_000),
                "test" => (&mut spec.test, 1..=1_000_000),
                _ => return Err(Error::param(KEY, format!("synthetic:{text}"), SYNTHETIC.form)),
            };
            *field = value.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
                let want = format!("a whole number in {}..={}", range.start(), range.end());
                Error::param(format!("{KEY} synthetic:{key}"), value, want)
            })?;
        }
        let pixels = spec.channels * spec.size * spec.size * (spec.train + spec.test);
        if pixels > 1 << 32 {
            let want = "at most 2^32 pixel values in all";
            return Err(Error::param(KEY, format!("synthetic:{text}"), want));
        }
        Ok(spec)
    }
}

/// [classes, C, size, size]: random cells, interpolated linearly and periodically.
fn patterns(spec: &Spec) -> Vec<f32> {
    let plane = spec.size * spec.size;
    let mut patterns = vec![0.0; spec.classes * spec.channels * plane];
    for (p, to) in patterns.chunks_exact_mut(plane).enumerate() {
        let stream = SEED.stream("synthetic.pattern", p as u64, 0);
        let cell = |y: usize, x: usize| stream.uniform((y % CELLS) * CELLS + x % CELLS);
        for (i, v) in to.iter_mut().enumerate() {
            let at = |i: usize| {
                let position = (i * CELLS) as f32 / spec.size as f32;
                (position as usize, position.fract())
            };
            let ((y, fy), (x, fx)) = (at(i / spec.size), at(i % spec.size));
            let row = |y: usize| cell(y, x) * (1.0 - fx) + cell(y, x + 1) * fx;
            *v = row(y) * (1.0 - fy) + row(y + 1) * fy;
        }
    }
    patterns
}

fn split(spec: &Spec, patterns: &[f32], name: &str, count: usize) -> Split {
    let image = spec.channels * spec.size * spec.size;
    let mut pixels = vec![0u8; count * image];
    let mut labels = vec![0i32; count];
    pixels.par_chunks_exact_mut(image).zip(&mut labels).enumerate().for_each(|(i, (to, label))| {
        // Every class in turn: balanced, and the first images hold all of them.
        let class = i % spec.classes;
        *label = class as i32;
        draw(spec, patterns, class, SEED.stream(&format!("synthetic.{name}"), i as u64, 0), to);
    });
    Split {
        shape: [count, spec.channels, spec.size, spec.size],
        pixels: Pixels::U8(pixels),
        labels: Some(labels),
        source: format!("synthetic {name}").into(),
    }
}

fn draw(spec: &Spec, patterns: &[f32], class: usize, stream: Philox, to: &mut [u8]) {
    let size = spec.size;
    let plane = size * size;
    let [other, dy, dx, _] = stream.block(0);
    let below = |bits: u32, n: usize| ((u64::from(bits) * n as u64) >> 32) as usize;
    let other = (class + 1 + below(other, spec.classes - 1)) % spec.classes;
    let reach = size / 8;
    let shift = |bits: u32| size - reach + below(bits, 2 * reach + 1);
    let (dy, dx) = (shift(dy), shift(dx));
    for (i, v) in to.iter_mut().enumerate() {
        let (c, y, x) = (i / plane, i % plane / size, i % size);
        let at = (y + dy) % size * size + (x + dx) % size;
        let pattern = |class: usize| patterns[(class * spec.channels + c) * plane + at];
        let noise = unit(stream.block(1 + (i / 4) as u32)[i % 4]);
        *v = (255.0 * (0.55 * pattern(class) + 0.2 * pattern(other) + 0.25 * noise)).round() as u8;
    }
}
