//! Single kernels at the sizes of VGG16 and CIFAR-10, timed on a GPU by replaying graphs of launches that rotate over sets of
//! buffers. Every result is compared with float64 first.
//!
//! ```text
//! benches rows [--small] [PART…]   checks and times every row whose name has one of the parts; all without any
//! benches rows --list              their names
//! benches turns [--small]          reads `prepare ROW [FILE]`, `time SECONDS` and `quit` line by line and answers each
//!                                  with a line of JSON, for benches/peers/kernels.py; FILE gets the weight (.npy, KRSC)
//! ```
//!
//! Small sizes show that everything runs and is right. Where a device records no graphs (`cuda-host`) sizes are small, and nothing
//! is timed.

mod convolution;
mod flat;
mod timer;

use crate::device;
use anyhow::{Context, Result, bail};
use half::bf16;
use rewire::{DType, Device, Mode, Tensor};
use serde_json::json;
use std::io::{BufRead, Write};
use std::path::Path;
use timer::Timer;

/// Seconds of a turn of `rows`.
const SECONDS: f64 = 0.2;

/// What can be timed.
#[derive(Clone, Copy)]
enum Row {
    /// `relu(x ∗ w + bias)` with every weight.
    Dense { layer: usize, mode: Mode, images: usize },
    /// The same with a share of the weights, in percent, drawn uniformly or with channels of very different shares.
    Sparse { layer: usize, kept: usize, skewed: bool, mode: Mode, images: usize },
    /// A step of an attack.
    PgdStep { images: usize },
    /// Noise on the weights of every layer.
    Noise,
    /// The threshold over all weights at 5 % kept, and the mask.
    Prune,
    /// A step of SGD over all weights.
    Sgd { masked: bool },
}

/// A row whose operands lie on the device, and whose result has been found right.
struct Prepared {
    /// Runs on the set of buffers of that number.
    call: Box<dyn FnMut(usize) -> rewire::Result<()>>,
    sets: usize,
    /// ‖result − float64‖ / ‖float64‖.
    error: f64,
    /// Floating-point operations of a call, zeros included, and those of kept weights.
    flop: [f64; 2],
    /// Bytes that must move: each operand once.
    bytes: usize,
    /// The weight `[K, R, S, C]`, where there is one.
    weight: Option<Tensor>,
    /// How it is computed, in words.
    how: String,
}

impl Row {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for images in [128, 1024] {
            for mode in [Mode::Bf16, Mode::Tf32] {
                let layers = [2, 4, 7, 10, 13];
                all.extend(layers.map(|layer| Self::Dense { layer, mode, images }));
            }
        }
        for layer in [4, 5, 7, 8, 10] {
            for (kept, skewed) in [(10, false), (5, false), (5, true), (3, false)] {
                let row = |mode| Self::Sparse { layer, kept, skewed, mode, images: 1024 };
                all.extend([Mode::Bf16, Mode::Tf32, Mode::F32].map(row));
            }
        }
        all.extend([128, 1024].map(|images| Self::PgdStep { images }));
        let (sgd, masked_sgd) = (Self::Sgd { masked: false }, Self::Sgd { masked: true });
        all.extend([Self::Noise, Self::Prune, sgd, masked_sgd]);
        all
    }

    fn name(self) -> String {
        match self {
            Self::Dense { layer, mode, images } => format!("conv/c{layer}/{mode}/{images}"),
            Self::Sparse { layer, kept, skewed, mode, images } => {
                let how = if skewed { "skewed" } else { "" };
                format!("sparse/c{layer}/keep{kept}{how}/{mode}/{images}")
            }
            Self::PgdStep { images } => format!("pgd_step/{images}"),
            Self::Noise => "noise/vgg16".into(),
            Self::Prune => "prune/vgg16".into(),
            Self::Sgd { masked: false } => "sgd/vgg16".into(),
            Self::Sgd { masked: true } => "sgd_masked/vgg16".into(),
        }
    }

    fn prepare(self, device: &Device, small: bool) -> Result<Prepared> {
        match self {
            Self::Dense { layer, mode, images } => {
                convolution::dense(&convolution::Layer::new(layer, images, small), mode, device)
            }
            Self::Sparse { layer, kept, skewed, mode, images } => {
                let layer = convolution::Layer::new(layer, images, small);
                convolution::sparse(&layer, kept as f32 / 100.0, skewed, mode, device)
            }
            Self::PgdStep { images } => flat::pgd_step(images, small, device),
            Self::Noise => flat::noise(small, device),
            Self::Prune => flat::prune(small, device),
            Self::Sgd { masked } => flat::sgd(small, masked, device),
        }
    }
}

/// The way into this part where the arguments ask for it.
pub fn main(arguments: &[String]) -> Option<Result<()>> {
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|&a| a != "--bench").collect();
    match arguments.as_slice() {
        ["rows", "--list"] => {
            Row::all().iter().for_each(|row| println!("{}", row.name()));
            Some(Ok(()))
        }
        ["rows", "--small", parts @ ..] => Some(rows(parts, true)),
        ["rows", parts @ ..] => Some(rows(parts, false)),
        ["turns", "--small"] => Some(turns(true)),
        ["turns"] => Some(turns(false)),
        _ => None,
    }
}

fn gpu() -> Result<Device> {
    match device() {
        Device::Cpu => bail!("rows are kernels of CUDA devices: REWIRE_BENCH_DEVICE=cuda"),
        device => Ok(device),
    }
}

fn rows(parts: &[&str], small: bool) -> Result<()> {
    let device = gpu()?;
    let small = small || !timer::records(&device);
    println!("{:<32}{:>10}{:>12}{:>10}{:>6}  how", "row", "error", "us rotating", "us hot", "sets");
    for row in Row::all() {
        let name = row.name();
        if !(parts.is_empty() || parts.iter().any(|part| name.contains(part))) {
            continue;
        }
        let mut found = row.prepare(&device, small).with_context(|| name.clone())?;
        let timer = Timer::record(&device, found.sets, &mut found.call)?;
        let seconds = if small { 0.0 } else { SECONDS };
        let [rotating, hot] = match timer {
            Some(timer) => timer.turn(seconds)?.map(|time| format!("{time:.2}")),
            None => ["-", "-"].map(str::to_owned),
        };
        let Prepared { error, sets, how, .. } = &found;
        println!("{name:<32}{error:>10.1e}{rotating:>12}{hot:>10}{sets:>6}  {how}");
    }
    Ok(())
}

fn turns(small: bool) -> Result<()> {
    let device = gpu()?;
    let small = small || !timer::records(&device);
    // The timer's graphs name the memory of the operands: dropped first.
    let mut now: Option<(Option<Timer>, Prepared)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["prepare", name, file @ ..] => {
                now = None;
                prepare(name, file.first().copied(), small, &device).map(
                    |(timer, found, answer)| {
                        now = Some((timer, found));
                        answer
                    },
                )
            }
            ["time", seconds] => match &now {
                Some((timer, _)) => time(timer.as_ref(), seconds),
                None => Err(anyhow::anyhow!("no row is prepared")),
            },
            ["quit"] => return Ok(()),
            _ => Err(anyhow::anyhow!("`{line}`: must be prepare ROW [FILE], time SECONDS or quit")),
        };
        let answer = answer.unwrap_or_else(|error| json!({ "failed": format!("{error:#}") }));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn prepare(
    name: &str,
    file: Option<&str>,
    small: bool,
    device: &Device,
) -> Result<(Option<Timer>, Prepared, serde_json::Value)> {
    let row = Row::all().into_iter().find(|row| row.name() == name);
    let row = row.with_context(|| format!("{name}: is no row (benches rows --list)"))?;
    let mut found = row.prepare(device, small)?;
    if let (Some(file), Some(weight)) = (file, &found.weight) {
        rewire::npy::write(Path::new(file), weight.shape(), &weight.to_vec::<f32>()?)?;
    }
    let timer = Timer::record(device, found.sets, &mut found.call)?;
    let answer = json!({
        "row": name,
        "error": found.error,
        "sets": found.sets,
        "launches": timer.as_ref().map(Timer::launches),
        "flop": found.flop[0],
        "kept_flop": found.flop[1],
        "bytes": found.bytes,
        "shape": found.weight.as_ref().map(Tensor::shape),
        "how": found.how,
    });
    Ok((timer, found, answer))
}

fn time(timer: Option<&Timer>, seconds: &str) -> Result<serde_json::Value> {
    let seconds: f64 = seconds.parse().with_context(|| format!("{seconds}: must be seconds"))?;
    match timer {
        Some(timer) => {
            let [rotating, hot] = timer.turn(seconds)?;
            Ok(json!({ "us": rotating, "hot_us": hot }))
        }
        // Emulated launches take no time that means anything.
        None => Ok(json!({ "us": null, "hot_us": null })),
    }
}

/// ‖got − want‖ / ‖want‖, an error above `tolerance`, or where nothing could be told from zeros.
fn compare(got: &[f32], want: &[f64], tolerance: f64) -> Result<f64> {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - b)).sum();
    let norm: f64 = want.iter().copied().map(square).sum();
    let error = (error / norm).sqrt();
    if got.len() != want.len() || error.is_nan() || error > tolerance {
        bail!("differs from float64: {error:.1e}, at most {tolerance:.0e}");
    }
    Ok(error)
}

/// Values in storage of either type.
fn floats(x: &Tensor) -> Result<Vec<f32>> {
    Ok(match x.dtype() {
        DType::Bf16 => x.to_vec::<bf16>()?.into_iter().map(f32::from).collect(),
        _ => x.to_vec()?,
    })
}
