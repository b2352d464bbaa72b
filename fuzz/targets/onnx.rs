//! ONNX files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::io::{ImportSettings, model_bytes, onnx_bytes, read_onnx};
use rewire::{Device, prune};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let (path, settings) = (Path::new("fuzzed"), ImportSettings { size: Some(4), ..ImportSettings::default() });
    let Ok(model) = read_onnx(path, bytes, None, &settings, &Device::Cpu) else { return };
    model_bytes(path, &model).unwrap();
    prune::shrink(&model).unwrap();
    // What was imported is exported and imported again as it was.
    let exported = onnx_bytes(&model, false).unwrap();
    let again = read_onnx(path, &exported, None, &settings, &Device::Cpu).unwrap();
    assert_eq!(onnx_bytes(&again, false).unwrap(), exported);
});
