//! Training with the planted method of `src/prune/tests.rs`.

use super::{Event, TrainSettings, Trainer};
use crate::data::Dataset;
use crate::prune::Granularity;
use crate::prune::tests::{companions, late, vgg16};
use crate::{Mode, Seed, Tensor};

fn trainer(text: &str, granularity: Granularity) -> Trainer {
    let settings: TrainSettings =
        toml::from_str(&format!("epochs = 5\nbatch_size = 8\n{text}")).unwrap();
    let model = vgg16();
    let pruner = late(granularity, &model, Seed(3));
    Trainer::new(settings, model, Some(pruner), Seed(3), Mode::F32).unwrap()
}

fn run(trainer: &mut Trainer, mut observe: impl FnMut(&Trainer, Event)) {
    let spec = "synthetic:classes=4,size=32,channels=1,train=16,test=4";
    let data = Dataset::load(spec).unwrap();
    let mut observe = |trainer: &Trainer, event| {
        observe(trainer, event);
        Ok(())
    };
    trainer.run(&data, true, &[], &mut observe).unwrap();
}

/// Every bit of the weights, and every mask.
fn content(trainer: &Trainer) -> (Vec<Vec<u32>>, Vec<Vec<u8>>) {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    let pruner = trainer.pruner().unwrap();
    let masks = pruner.masks().map(|(_, mask)| mask.to_vec().unwrap());
    let masks = masks.chain(companions(pruner).into_values()).collect();
    (trainer.model().state_dict().values().map(bits).collect(), masks)
}

#[test]
fn a_run_whose_filters_moved_goes_on_with_the_same_bits() {
    let mut whole = trainer("", Granularity::Filter);
    let mut states = Vec::new();
    let (mut masks, mut moved) = (content(&whole).1, 0);
    run(&mut whole, |trainer, event| {
        moved += usize::from(matches!(event, Event::Rewired(..)) && content(trainer).1 != masks);
        masks = content(trainer).1;
        if !matches!(event, Event::Rewired(..)) {
            states.push(trainer.state().unwrap());
        }
    });
    assert_eq!((moved, states.len()), (2, 15));
    for (tensors, json) in states {
        let mut half = trainer("", Granularity::Filter);
        half.load_state(tensors, &json).unwrap();
        run(&mut half, |_, _| {});
        assert!(content(&half) == content(&whole), "from {json}");
    }
}

#[test]
fn before_masks_move_pruned_weights_have_the_gradients_that_rank_them() {
    let mut trainer = trainer("execution = 'sparse'", Granularity::Irregular);
    let (mut steps, mut rewired) = (0, 0);
    run(&mut trainer, |trainer, event| match event {
        Event::Step(_) => {
            steps += 1;
            for (name, mask) in trainer.pruner().unwrap().masks() {
                let v = trainer.optimizer().momentum()[name].to_vec::<f32>().unwrap();
                let mask = mask.to_vec::<u8>().unwrap();
                let hidden = v.iter().zip(mask).filter(|(v, m)| *m == 0 && **v != 0.0).count();
                assert!(hidden > 0, "step {steps}, {name}: no momentum at pruned weights");
            }
        }
        Event::Rewired(..) => rewired += 1,
        Event::Epoch(_) => {}
    });
    assert_eq!((steps, rewired), (10, 2));
}
