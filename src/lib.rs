//! `rewire` trains, prunes, attacks and serves convolutional networks, on CUDA devices by kernels of its own and on the CPU.
//!
//! The library is what the program `rewire` is made of. One example shows the whole way: a network of your own is built,
//! trained while it is pruned, attacked, made smaller, compiled and exported.
//!
//! ```
//! use rewire::attack::{self, AttackSettings, Network, Outcome};
//! use rewire::data::Dataset;
//! use rewire::infer::{Choice, Plan};
//! use rewire::nn::{Arch, Builder, Model, Weights, Window};
//! use rewire::prune::{self, Granularity, PruneSettings, Pruner};
//! use rewire::train::{TrainSettings, Trainer};
//! use rewire::{DType, Device, Mode, Seed, Tensor, io};
//!
//! # fn main() -> rewire::Result<()> {
//! // 4,000 training and 1,000 test images that are part of the library: grey, 32×32 pixels, 10 classes.
//! let data = Dataset::load("fashion-mnist-mini")?;
//! let (device, mode, seed) = (Device::new("auto")?, Mode::F32, Seed(1));
//!
//! // Build: every method returns the node that the next one reads.
//! let arch = Arch::custom("small", data.channels, 10, data.height);
//! let mut net = Builder::new(&arch, 1.0);
//! let mut x = net.last(); // the image
//! for (name, filters) in [("1", 8), ("2", 16), ("3", 32)] {
//!     x = net.conv(x, &format!("conv{name}"), filters, 3, 1, false);
//!     x = net.batch_norm(x, &format!("bn{name}"));
//!     x = net.relu(x);
//!     x = net.max_pool(x, Window::HALVES);
//! }
//! x = net.flatten(x);
//! net.linear(x, "fc", arch.classes, true);
//! let model = Model::initialised(arch, net.finish(), seed, &device)?;
//!
//! // Prune and train: DNR keeps half of the input channels and chooses them anew after every epoch.
//! let (granularity, keys) = (Granularity::Channel, Default::default());
//! let half = PruneSettings { method: "dnr".into(), granularity, density: 0.5, keys };
//! let pruner = Pruner::new(&half, &model, seed)?;
//! let settings = TrainSettings { epochs: 2, batch_size: 64, ..Default::default() };
//! let mut trainer = Trainer::new(settings, model, Some(pruner), seed, mode)?;
//! trainer.run(&data, true, &[], &mut |_, _| Ok(()))?;
//! let accuracy = trainer.best().map_or(0.0, |best| best.accuracy);
//! println!("{accuracy:.1} % of the test images are classified correctly");
//! let model = trainer.model();
//!
//! // Attack: PGD, 5 steps, every pixel by at most 8/255, on the first 100 test images in batches of 50.
//! let mut images = data.test()?.clone();
//! images.truncate(100);
//! let network = Network { model, weights: &Weights::default(), mode };
//! let pgd = AttackSettings { steps: Some(5), ..Default::default() };
//! let outcome =
//!     attack::evaluate(&network, &images, &[pgd], 50, seed, Outcome::default(), &mut |_| Ok(()))?;
//! println!("{:.1} % of them withstand PGD", Outcome::percent(&outcome.worst));
//!
//! // Shrink: channels that no weight reads are removed. The logits stay the same.
//! let small = prune::shrink(model)?;
//! assert!(small.parameter_count() < model.parameter_count());
//!
//! // Run it compiled, then keep it: safetensors for this library and PyTorch, ONNX for others.
//! let mut plan = Plan::build(&small, 1, mode, Choice::Measured)?;
//! let image = Tensor::zeros(&[1, 32, 32, 1], DType::F32, &device)?;
//! println!("logits: {:?}", plan.run(&image)?.to_vec::<f32>()?);
//! let folder = std::env::temp_dir();
//! io::save_model(&folder.join("small.safetensors"), &small)?;
//! io::save_onnx(&folder.join("small.onnx"), &small, false)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! | to … | start with |
//! |---|---|
//! | write a network, or take one of the registry | [`nn::Builder`], [`models::initialised`] |
//! | read a data set | [`data::Dataset::load`] |
//! | train, with an attack in the loop if you like | [`train::Trainer`] |
//! | prune, then remove what was pruned | [`prune::Pruner`], [`prune::shrink`] |
//! | attack | [`attack::evaluate`] |
//! | run a network fast | [`infer::Plan`] |
//! | time the ways to run a network | [`bench::Bench`] |
//! | read and write safetensors and ONNX files | [`io::load_model`], [`io::save_model`], [`io::load_onnx`], [`io::save_onnx`] |
//! | run a recipe, with a folder that can be resumed | [`run::Session`] |
//! | call one operation and its gradient | [`ops`], [`Tape`] |
//!
//! # Conventions
//! * Pixels are in [0, 1]. Activations are `[N, H, W, C]` and filters `[K, R, S, C]`; files have PyTorch's order.
//! * The same seed gives the same bits on the same device, with any number of threads.
//! * Bad input is an [`Error`] that says what was found and what was expected.
//!
//! # Features
//! * `cli` (default): the program `rewire`. With `default-features = false` the library has fewer dependencies.
//! * `download`: `rewire data fetch` and `data::fetch`.
//! * `cuda-host`: a device that runs the CUDA kernels on the host, for tests. Needs a C++17 compiler.

pub mod attack;
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
mod cpu;
pub mod data;
pub mod device;
pub mod dtype;
pub mod error;
pub mod file;
pub mod infer;
pub mod io;
pub mod models;
pub mod nn;
pub mod npy;
pub mod ops;
pub mod optim;
pub mod prune;
pub mod report;
pub mod rng;
pub mod run;
pub mod tape;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use dtype::{DType, Mode};
pub use error::{Error, ErrorKind, Result};
pub use rng::Seed;
pub use tape::{Gradients, Tape};
pub use tensor::Tensor;
