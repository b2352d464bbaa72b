//! How values lie on the CPU. Each layout is a file with one implementation of [`Layout`]; it has a name in [`Form`] and a place
//! in [`Layouts`].

mod blocked;
mod form;
mod interleaved;
mod lanes;
mod nhwc;
mod planes;

pub(super) use blocked::runs_in_bf16;
pub(super) use form::{ConvLayer, Form, Layout, Placement};
pub(super) use interleaved::Interleaved;
pub(super) use nhwc::flatten;

use super::fused::Network;
use super::step::Work;
use super::way::Algorithm;
use crate::Mode;
use blocked::BlockedLayout;
use lanes::LanesLayout;
use nhwc::NhwcLayout;
use planes::PlanesLayout;

/// The layouts of a program.
pub(super) struct Layouts {
    /// In the order of [`Form`].
    all: [Box<dyn Layout>; 4],
    /// Where layers run that no other layout claims.
    pub(super) interleaved: Interleaved,
}

impl Layouts {
    /// For `batch` images of a network. `algorithms` holds one for each layer.
    pub(super) fn new(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Self {
        let all: [Box<dyn Layout>; 4] = [
            Box::new(NhwcLayout { batch, mode }),
            Box::new(LanesLayout { batch, mode }),
            Box::new(PlanesLayout::new(network, batch, mode, algorithms)),
            Box::new(BlockedLayout::new(network, batch, mode, algorithms)),
        ];
        let native = runs_in_bf16(mode);
        let interleaved = if native { Interleaved::NHWC } else { Interleaved::of(batch) };
        Self { all, interleaved }
    }

    /// The layout of a form.
    pub(super) fn get(&self, form: Form) -> &dyn Layout {
        &*self.all[form as usize]
    }

    /// The layout in which a convolution runs.
    pub(super) fn of_conv(&self, conv: &ConvLayer) -> &dyn Layout {
        let claimed = self.all.iter().find(|layout| layout.claims(conv));
        claimed.map_or(self.get(self.interleaved.form), |layout| &**layout)
    }

    /// Where value number `value` lies in a form if its shape is `shape`.
    pub(super) fn placement(&self, form: Form, shape: [usize; 3], value: usize) -> Placement {
        Placement { form, shape, halo: self.get(form).halo(value) }
    }

    /// The passes that bring a value from one placement to another, each with the placement that it leads to. Where there is no
    /// pass from form to form they lead through NHWC.
    pub(super) fn passes(&self, from: Placement, to: Placement) -> Vec<(Placement, Work)> {
        let [source, target] = [from, to].map(|placement| self.get(placement.form));
        let direct =
            target.form_to_own(from.form, to).or_else(|| source.own_to_form(from, to.form));
        if let Some(work) = direct {
            return vec![(to, work)];
        }
        let nhwc = Placement { form: Form::Nhwc, halo: 0, ..from };
        let there = source.own_to_nhwc(from).map(|work| (nhwc, work));
        let back = target.nhwc_to_own(to).map(|work| (to, work));
        there.into_iter().chain(back).collect()
    }
}
