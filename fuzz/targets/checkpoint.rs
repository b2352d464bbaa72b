//! Networks in safetensors files: with a graph of their own, and as a state dict of a given architecture.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::io::{Hints, load_model, load_tensors, model_bytes};
use rewire::nn::{ArchSpec, Model, Weights};
use rewire::{Device, Mode, Tape, Tensor, prune};
use rewire_fuzz::put;
use std::path::Path;

/// Most values that a node may have here: a forward pass is to be quick.
const MOST: usize = 1 << 14;

fuzz_target!(|bytes: &[u8]| {
    let path = put("m.safetensors", bytes);
    let _ = load_tensors(&path, &Device::Cpu);
    if let Ok(model) = load_model(&path, &Hints::default(), &Device::Cpu) {
        used(&model);
    }
    let arch = ArchSpec::parse("resnet18:width=0.0078125").unwrap();
    let hints = Hints { arch: Some(arch), ..Hints::default() };
    let _ = load_model(&path, &hints, &Device::Cpu);
});

/// What was read is written and read back as it was, runs, and can be shrunk.
fn used(model: &Model) {
    let bytes = model_bytes(Path::new("copy"), model).unwrap();
    let copy = put("copy.safetensors", &bytes);
    let again = load_model(&copy, &Hints::default(), &Device::Cpu).unwrap();
    assert_eq!((again.arch(), again.graph()), (model.arch(), model.graph()));
    assert_eq!(model_bytes(Path::new("copy"), &again).unwrap(), bytes);

    let (arch, tensors) = (model.arch(), model.state_dict());
    let input = [arch.size, arch.size, arch.in_channels];
    let shape = |name: &str| tensors.get(name).map(Tensor::shape);
    let shapes = model.graph().shapes(input, &shape).unwrap();
    let values = |shape: &Vec<usize>| shape.iter().product::<usize>();
    model.layers().unwrap();
    let shrunk = prune::shrink(model).unwrap();
    if shapes.iter().map(values).max().unwrap_or(0) > MOST || shapes.len() > 100 {
        return;
    }
    for model in [model, &shrunk] {
        let image = vec![0.5f32; input.iter().product()];
        let image =
            Tensor::from_vec(image, &[1, input[0], input[1], input[2]], &Device::Cpu).unwrap();
        let logits =
            model.forward_eval(&mut Tape::new(Mode::F32), &image, &Weights::default()).unwrap();
        assert_eq!(logits.shape()[1..], shapes.last().unwrap()[..]);
    }
}
