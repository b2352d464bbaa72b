//! CIFAR's files: the first byte says which kind the rest is.
#![no_main]

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use rewire::data::{Dataset, Need};
use rewire_fuzz::{put, spec};
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let [kind, bytes @ ..] = bytes else { return };
    let read = match kind % 4 {
        0 => {
            put("python10/test_batch", bytes);
            spec("cifar10", "python10")
        }
        1 => {
            put("python100/test", bytes);
            spec("cifar100", "python100")
        }
        2 => {
            put("binary/test_batch.bin", bytes);
            spec("cifar10", "binary")
        }
        _ => {
            // Stored, with a checksum that is right: what is to be tried is the reader of the archive.
            let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
            gzip.write_all(bytes).unwrap();
            put("archive.tar.gz", &gzip.finish().unwrap());
            spec("cifar10", "archive.tar.gz")
        }
    };
    if let Ok(set) = Dataset::load_for(&read, Need::EVAL) {
        let split = set.test().unwrap();
        split.check_labels(set.classes.unwrap()).unwrap();
        assert_eq!(split.images_nchw(0..split.len()).len(), split.len() * 3072);
        assert_eq!(split.labels().unwrap().len(), split.len());
    }
});
