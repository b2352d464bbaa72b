//! The time of a launch, without the host's share: replays of a graph that holds many of them.

use crate::synchronize;
use anyhow::Result;
use rewire::Device;
use rewire::device::Graph;
use std::time::Instant;

/// Bytes that the sets of buffers have together at least: three times the L2 cache of a large GPU, so that the one that
/// comes next lies in memory.
pub const ROTATED_BYTES: usize = 180_000_000;
/// Sets of buffers at least.
pub const FEWEST_SETS: usize = 3;
/// Launches of a graph.
const LAUNCHES: [usize; 2] = [20, 400];
/// Seconds of a graph, between these numbers of launches.
const GRAPH_SECONDS: f64 = 0.01;
/// Launches whose mean decides how long a graph becomes.
const TRIED: usize = 5;

/// Calls of one kernel family, each set of buffers in turn.
pub struct Timer {
    device: Device,
    rotating: Graph,
    hot: Graph,
    launches: usize,
}

/// How many sets of so many bytes; a handful at small sizes.
pub fn sets(bytes: usize, small: bool) -> usize {
    let rotated = if small { 0 } else { ROTATED_BYTES };
    rotated.div_ceil(bytes.max(1)).max(FEWEST_SETS)
}

/// Whether launches queue on the device, so that their time means something.
pub fn records(device: &Device) -> bool {
    crate::timed_by_graph(device)
}

/// Mean seconds of some queued calls, after one that is not counted.
pub fn estimate(device: &Device, mut call: impl FnMut() -> rewire::Result<()>) -> Result<f64> {
    call()?;
    synchronize(device);
    let start = Instant::now();
    for _ in 0..TRIED {
        call()?;
    }
    synchronize(device);
    Ok(start.elapsed().as_secs_f64() / TRIED as f64)
}

impl Timer {
    /// Runs every set once and records the graphs; `None` where the device cannot: there the calls have only run.
    pub fn record(
        device: &Device,
        sets: usize,
        call: &mut dyn FnMut(usize) -> rewire::Result<()>,
    ) -> Result<Option<Self>> {
        (0..sets).try_for_each(&mut *call)?;
        synchronize(device);
        if !records(device) {
            return Ok(None);
        }
        let [fewest, most] = LAUNCHES;
        let seconds = estimate(device, || call(0))?;
        let launches = ((GRAPH_SECONDS / seconds) as usize).clamp(fewest, most);
        let launches = launches.next_multiple_of(sets);
        let mut graph = |sets: usize| -> Result<Graph> {
            let all = || (0..launches).try_for_each(|i| call(i % sets));
            Ok(Graph::record(device, all)?.0)
        };
        let (rotating, hot) = (graph(sets)?, graph(1)?);
        Ok(Some(Self { device: device.clone(), rotating, hot, launches }))
    }

    /// Launches of one graph.
    pub fn launches(&self) -> usize {
        self.launches
    }

    /// Microseconds of a launch over about so many seconds of replays: rotating over the sets, and of the first set alone.
    pub fn turn(&self, seconds: f64) -> Result<[f64; 2]> {
        Ok([self.replays(&self.rotating, seconds)?, self.replays(&self.hot, seconds)?])
    }

    fn replays(&self, graph: &Graph, seconds: f64) -> Result<f64> {
        let replay = |count: usize| -> Result<f64> {
            let start = Instant::now();
            for _ in 0..count {
                graph.launch()?;
            }
            synchronize(&self.device);
            Ok(start.elapsed().as_secs_f64())
        };
        let first = replay(1)?;
        let count = ((seconds / first) as usize).max(2);
        Ok(1e6 * replay(count)? / (count * self.launches) as f64)
    }
}
