//! What it costs to bring a value from one layout on the CPU to another.

use super::fused::Network;
use super::layout::{Form, Layouts, Placement, runs_in_bf16};
use crate::Mode;
use crate::cpu::aligned::Aligned;
use std::time::Instant;

/// Seconds that a value of the shape takes from the form of dense convolutions to planes. Of each pass the shorter of two times
/// counts.
pub(super) fn conversion_seconds(shape: [usize; 3], batch: usize, mode: Mode) -> f64 {
    let network = Network { layers: Vec::new(), shapes: vec![shape] };
    let layouts = Layouts::new(&network, batch, mode, &[]);
    let dense = if runs_in_bf16(mode) { Form::Blocked } else { layouts.interleaved.form };
    let [mut from, planes] = [dense, Form::Planes].map(|form| Placement { form, shape, halo: 1 });
    let mut seconds = 0.0;
    for (to, work) in layouts.passes(from, planes) {
        let memory = |place: Placement| Aligned::zeros(layouts.get(place.form).len(place));
        let (x, mut y) = (memory(from), memory(to));
        let [first, second] = [(); 2].map(|()| {
            let start = Instant::now();
            work(&x, None, &mut y);
            start.elapsed().as_secs_f64()
        });
        seconds += first.min(second);
        from = to;
    }
    seconds
}
