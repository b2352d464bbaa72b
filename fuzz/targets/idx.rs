//! MNIST's idx files, plain or gzipped: images, and labels of one image.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::data::{Dataset, Need};
use rewire_fuzz::{put, spec};

fuzz_target!(|bytes: &[u8]| {
    put("images/t10k-images-idx3-ubyte", bytes);
    if let Ok(set) = Dataset::load_for(&spec("mnist", "images"), Need::PREDICT) {
        let split = set.test().unwrap();
        assert_eq!(split.images_nchw(0..split.len()).len(), split.len() * 1024);
    }
    let image = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28], &[7; 784][..]].concat();
    put("labels/t10k-images-idx3-ubyte", &image);
    put("labels/t10k-labels-idx1-ubyte", bytes);
    if let Ok(set) = Dataset::load_for(&spec("mnist", "labels"), Need::EVAL) {
        assert!(matches!(set.test().unwrap().labels().unwrap(), [0..=9]));
    }
});
