//! A planted method does what no other does yet: its filters move, and not before the end of the third epoch.

use super::budget::Rounding;
use super::{Draw, Granularity, METHODS, Method, Pruner, Redistribution, Rewiring, Start};
use crate::nn::{ArchSpec, Model};
use crate::{Device, Result, Seed, Tensor, models};
use std::collections::BTreeMap;

/// The planted method.
#[derive(Debug)]
struct Late;

impl Method for Late {
    fn keys(&self) -> Result<toml::Table> {
        Ok(toml::Table::new())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn granularities(&self) -> &'static [Granularity] {
        &Granularity::ALL
    }

    fn start(&self) -> Start {
        Start::Random(Draw::Covered)
    }

    fn moves(&self) -> bool {
        true
    }

    fn rewiring(&self, epoch: usize, _: usize) -> Option<Rewiring> {
        let (rounding, redistribution) = (Rounding::Exact, Redistribution::Momentum);
        (epoch >= 3).then_some(Rewiring { rate: 0.5, rounding, redistribution })
    }
}

/// A pruner of the planted method, half of whose weights are kept.
pub(crate) fn late(granularity: Granularity, model: &Model, seed: Seed) -> Pruner {
    Pruner::of(Box::new(Late), granularity, 0.5, model, seed).unwrap()
}

/// A network whose convolutions have biases and batch norms.
pub(crate) fn vgg16() -> Model {
    let arch = ArchSpec::parse("vgg16:width=0.0625,in_channels=1,classes=4").unwrap().resolve();
    models::initialised(arch, Seed(4), &Device::Cpu).unwrap()
}

/// By name the mask of every bias, scale and shift of VGG16, whose batch norms follow their convolutions by number.
pub(crate) fn companions(pruner: &Pruner) -> BTreeMap<String, Vec<u8>> {
    let mut masks = BTreeMap::new();
    for (weight, _) in pruner.masks() {
        let place: usize = weight.split('.').nth(1).unwrap().parse().unwrap();
        let [conv, norm] = [place, place + 1].map(|place| format!("features.{place}"));
        for name in [format!("{conv}.bias"), format!("{norm}.weight"), format!("{norm}.bias")] {
            let mask = pruner.mask(&name).unwrap().to_vec().unwrap();
            masks.insert(name, mask);
        }
    }
    masks
}

/// What the companions' masks must be: 1 where any weight of the filter is active.
fn kept_filters(pruner: &Pruner) -> Vec<Vec<u8>> {
    let kept = |(_, mask): (&str, &Tensor)| {
        let filter = mask.len() / mask.shape()[0];
        let mask = mask.to_vec::<u8>().unwrap();
        mask.chunks(filter).map(|weights| u8::from(weights.contains(&1))).collect()
    };
    pruner.masks().map(kept).collect()
}

fn momentum(model: &Model, step: u64) -> BTreeMap<String, Tensor> {
    let params = model.params().iter().enumerate();
    let of = |(i, (name, tensor)): (usize, (&String, &Tensor))| {
        let drawn = Seed(5).stream("momentum", step, i as u32);
        let values = (0..tensor.len()).map(|k| drawn.normal(k)).collect();
        (name.clone(), Tensor::from_vec::<f32>(values, tensor.shape(), &Device::Cpu).unwrap())
    };
    params.map(of).collect()
}

#[test]
fn a_method_says_whether_its_masks_move() {
    for entry in METHODS {
        let method = (entry.build)(toml::Table::new()).unwrap();
        let moved = (1..=9).any(|epoch| method.rewiring(epoch, 9).is_some());
        assert_eq!(method.moves(), moved, "{}", entry.name);
    }
    assert!(!late(Granularity::Irregular, &vgg16(), Seed(1)).is_static());
}

#[test]
fn biases_and_batch_norms_follow_their_filters() {
    let mut model = vgg16();
    let mut pruner = late(Granularity::Filter, &model, Seed(1));
    pruner.apply(&mut model).unwrap();
    let mut before = companions(&pruner);
    for epoch in 1..=5 {
        let momentum = momentum(&model, epoch as u64);
        let rewired = pruner.rewire(&mut model, &momentum, epoch, 9).unwrap();
        assert_eq!(rewired.is_some(), epoch >= 3, "epoch {epoch}");
        let now = companions(&pruner);
        assert_eq!(now == before, epoch < 3, "epoch {epoch}");
        let kept = kept_filters(&pruner);
        assert_eq!(now.len(), 3 * kept.len());
        for ((weight, mask), kept) in pruner.masks().zip(&kept) {
            let active = mask.to_vec::<u8>().unwrap().iter().filter(|&&m| m == 1).count();
            let filters = kept.iter().filter(|&&kept| kept == 1).count();
            assert_eq!(active, filters * mask.len() / kept.len(), "{weight}: part of a filter");
            let place: usize = weight.split('.').nth(1).unwrap().parse().unwrap();
            for name in [
                format!("features.{place}.bias"),
                format!("features.{}.weight", place + 1),
                format!("features.{}.bias", place + 1),
            ] {
                assert_eq!(&now[&name], kept, "epoch {epoch}, {name}");
                let values = model.param(&name).unwrap().to_vec::<f32>().unwrap();
                let dropped = values.iter().zip(kept).filter(|(_, kept)| **kept == 0);
                assert!(dropped.into_iter().all(|(v, _)| v.to_bits() == 0), "{epoch}, {name}");
            }
        }
        before = now;
    }
    // A pruner of other masks goes on from the state with these.
    let mut other = late(Granularity::Filter, &model, Seed(2));
    assert!(companions(&other) != before);
    other.load_state(pruner.state().unwrap()).unwrap();
    assert!(companions(&other) == before);
}
