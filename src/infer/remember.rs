//! Choices that were measured, on disk.

use super::fused::{LayerOp, Network};
use super::way::{Choice, Way};
use crate::ops::TileConfig;
use crate::{Device, Mode, file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A choice on disk, under the digest of everything that it depends on.
pub(super) struct Remembered {
    file: Option<PathBuf>,
    pub(super) content: Option<Content>,
}

/// What the file of a choice holds, by layer.
#[derive(Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) ways: Vec<Way>,
    /// How dense convolutions are cut on a GPU; nothing on a CPU.
    pub(super) tiles: Vec<Option<TileConfig>>,
    /// By number of threads that there are: those that a plan on a CPU runs on.
    #[serde(default)]
    pub(super) threads: BTreeMap<usize, usize>,
}

/// Most bytes of a file of a choice. A layer takes some ten.
const MOST_BYTES: u64 = 1 << 24;

impl Remembered {
    /// What is remembered of `choice`: of [`Choice::Remeasured`] nothing, but what is kept is that of [`Choice::Measured`].
    pub(super) fn find(
        network: &Network,
        batch: usize,
        mode: Mode,
        device: &Device,
        choice: Choice,
    ) -> Self {
        let name = digest(network, batch, mode, device, choice) + ".json";
        let file = crate::device::cache_folder().map(|folder| folder.join("plans").join(name));
        let layers = network.layers.len();
        let read = |file: &PathBuf| -> Option<Content> {
            let content: Content =
                serde_json::from_slice(&file::read_bounded(file, MOST_BYTES).ok()?).ok()?;
            let tiles = if *device == Device::Cpu { 0 } else { layers };
            let there = |way: &Way| *way == Way::Dense || Way::sparse(device, mode).contains(way);
            let fits = content.ways.len() == layers && content.tiles.len() == tiles;
            let counts = |(available, used): (&usize, &usize)| (1..=*available).contains(used);
            let possible = content.ways.iter().all(there) && content.threads.iter().all(counts);
            (fits && possible).then_some(content)
        };
        let content = file.as_ref().filter(|_| choice != Choice::Remeasured).and_then(read);
        Self { file, content }
    }

    pub(super) fn keep(&self, content: &Content) {
        // What stands there and is no file, a pipe for one, would not take it, or only wait.
        let taken = |file: &&PathBuf| !fs::metadata(file).is_ok_and(|there| !there.is_file());
        let Some(file) = self.file.as_ref().filter(taken) else { return };
        // A cache that cannot be written costs time, not the result.
        if let (Some(folder), Ok(json)) = (file.parent(), serde_json::to_vec(content))
            && fs::create_dir_all(folder).is_ok()
        {
            let _ = file::write_bytes(file, &json);
        }
    }
}

/// The digest of the program's file, the machine, the call and what is pruned. The number of threads is not in it: algorithms
/// are remembered for all numbers together, so that results do not depend on it.
fn digest(network: &Network, batch: usize, mode: Mode, device: &Device, choice: Choice) -> String {
    let mut hash = Sha256::new();
    let machine = match device {
        Device::Cpu => crate::device::cpu_name(),
        Device::Gpu(gpu) => gpu.model(),
    };
    let program = std::env::current_exe().and_then(|path| path.metadata()).ok();
    let program = program.map(|file| (file.len(), file.modified().ok()));
    let forced = match choice {
        Choice::Forced(algorithm) => Some(algorithm),
        Choice::Measured | Choice::Remeasured => None,
    };
    hash.update(format!("{program:?} {machine} {batch} {mode} {forced:?}\n"));
    for layer in &network.layers {
        hash.update(format!(
            "{} {:?} {} {}\n",
            layer.input, layer.residual, layer.relu, layer.pool
        ));
        let LayerOp::Conv(conv) = &layer.op else { continue };
        hash.update(format!(
            "{:?} {} {} {:?}\n",
            conv.dims, conv.stride, conv.padding, conv.channels
        ));
        let kept: Vec<u8> = conv.weight.iter().map(|&weight| u8::from(weight != 0.0)).collect();
        hash.update(kept);
    }
    hash.update(format!("{:?}", network.shapes));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
