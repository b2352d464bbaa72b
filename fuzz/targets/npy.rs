//! `.npy` files, as arrays and as images and labels of a data set.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::data::{Dataset, Need};
use rewire::npy;
use rewire_fuzz::{put, spec};

fuzz_target!(|bytes: &[u8]| {
    let path = put("images/test_images.npy", bytes);
    if let Ok(array) = npy::read(&path) {
        let length: usize = array.shape.iter().product();
        assert!(array.to_integers().is_none_or(|values| values.count() == length));
        assert!(array.to_f32().is_none_or(|values| values.len() == length));
        let shape = array.shape.clone();
        if let Some(values) = array.clone().into_u8() {
            // What is written is read back as it was.
            let copy = put("copy.npy", &[]);
            npy::write(&copy, &shape, &values).unwrap();
            assert_eq!(npy::read(&copy).unwrap().into_u8().as_deref(), Some(&values[..]));
        }
    }
    if let Ok(set) = Dataset::load_for(&spec("npy", "images"), Need::PREDICT) {
        let split = set.test().unwrap();
        let pixels = split.images_nchw(0..split.len());
        assert_eq!(pixels.len(), split.shape.iter().product::<usize>());
        assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
    }
    if let [.., n] = bytes {
        // So many images of one pixel under these labels.
        let (n, labels) = (usize::from(*n), &bytes[..bytes.len() - 1]);
        let images = put("labels/test_images.npy", &[]);
        npy::write(&images, &[n, 1, 1, 1], &vec![0u8; n]).unwrap();
        put("labels/test_labels.npy", labels);
        let _ = Dataset::load_for(&spec("npy", "labels"), Need::EVAL);
    }
});
