//! MNIST and Fashion-MNIST: idx files, plain and gzipped, embedded and Debian's.

use super::*;

fn idx(axes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, axes.len() as u8];
    axes.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn images(n: u32, seed: u64) -> Vec<u8> {
    idx(&[n, 28, 28], &noise(seed, n as usize * 784))
}

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

fn complete() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (TRAIN_IMAGES, images(3, 1)),
        (TRAIN_LABELS, idx(&[3], &[9, 0, 4])),
        (TEST_IMAGES, images(2, 2)),
        (TEST_LABELS, idx(&[2], &[1, 2])),
    ]
}

/// `complete` with one file replaced, or left out.
fn with(name: &str, content: Option<Vec<u8>>) -> TempDir {
    let mut files = complete();
    files.retain(|(n, _)| *n != name);
    files.extend(
        content.map(|content| (TEST_NAMES.iter().find(|n| **n == name).copied().unwrap(), content)),
    );
    folder(&files)
}

const TEST_NAMES: [&str; 4] = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS];

#[test]
fn images_are_padded_with_zeros_to_32() {
    let dir = folder(&complete());
    let set = load("mnist", &dir, Need::TRAIN).unwrap();
    assert_eq!((set.channels, set.height, set.width, set.classes), (1, 32, 32, Some(10)));
    let train = set.train().unwrap();
    assert_eq!(train.labels().unwrap(), [9, 0, 4]);
    let raw = noise(1, 3 * 784);
    for (i, &v) in bytes(train).iter().enumerate() {
        let (n, y, x) = (i / 1024, i % 1024 / 32, i % 32);
        let inside = (2..30).contains(&y) && (2..30).contains(&x);
        assert_eq!(v, if inside { raw[n * 784 + (y - 2) * 28 + x - 2] } else { 0 }, "{n} {y} {x}");
    }
}

#[test]
fn gzipped_files_hold_the_same() {
    let files: Vec<_> = complete();
    let plain = folder(&files);
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in &files {
        put(dir.path(), &format!("{name}.gz"), &gzip(content));
    }
    let (a, b) = (
        load("mnist", &plain, Need::TRAIN).unwrap(),
        load("fashion-mnist", &dir, Need::TRAIN).unwrap(),
    );
    assert_eq!(bytes(a.train().unwrap()), bytes(b.train().unwrap()));
    assert_eq!(a.test().unwrap().labels, b.test().unwrap().labels);
    assert_eq!((b.name, b.class_names[9].as_str()), ("fashion-mnist", "Ankle boot"));
}

#[test]
fn wrong_files_are_refused_even_where_they_are_not_needed() {
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let mut long = images(2, 2);
    long.push(0);
    let mut corrupt = gzip(&images(2, 2));
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 8].fill(0xa5);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (TEST_IMAGES, cut(images(2, 2)), "1567"),
        (TEST_IMAGES, long, "1568"),
        (TEST_IMAGES, Vec::new(), "cut short"),
        (TEST_IMAGES, vec![0, 0, 8], "cut short"),
        (TEST_IMAGES, idx(&[2], &[1, 2]), "magic number 0x00000801; must be 0x00000803"),
        (TEST_IMAGES, idx(&[2, 27, 28], &noise(0, 2 * 27 * 28)), "[2, 27, 28]"),
        (TEST_IMAGES, idx(&[0, 28, 28], &[]), "N > 0"),
        (TEST_IMAGES, idx(&[u32::MAX; 3], &[0; 100]), "4294967295"),
        (TEST_IMAGES, cut(gzip(&images(2, 2))), "cut short"),
        (TEST_IMAGES, gzip(&images(2, 2))[..40].to_vec(), "cut short"),
        (TEST_IMAGES, corrupt, TEST_IMAGES),
        (TEST_LABELS, idx(&[2], &[1, 10]), "label 10 of image 1"),
        (TEST_LABELS, idx(&[3], &[1, 2, 3]), "3 labels for the 2 images"),
        (TEST_LABELS, images(2, 2), "magic number"),
        (TRAIN_LABELS, idx(&[3], &[1, 2, 200]), "label 200 of image 2"),
        (TRAIN_IMAGES, cut(images(3, 2)), "bytes"),
        // Nobody makes room for what is only declared.
        (TEST_IMAGES, gzip(&idx(&[1 << 21, 28, 28], &[0; 784])), "at most 1073741824 bytes"),
        (TEST_IMAGES, idx(&[1 << 20, 28, 28], &[0; 784]), "needs 822083584 bytes"),
    ];
    for (name, content, says) in cases {
        let dir = with(name, Some(content));
        for need in [Need::TRAIN, Need::PREDICT, Need::ANY] {
            refused(load("mnist", &dir, need), &[name, says]);
        }
    }
}

#[test]
fn what_is_missing_is_refused_only_where_it_is_needed() {
    let no_train = folder(&complete()[2..]);
    assert!(load("mnist", &no_train, Need::EVAL).unwrap().train.is_none());
    refused(load("mnist", &no_train, Need::TRAIN), &[TRAIN_IMAGES, "missing"]);
    let no_labels = with(TEST_LABELS, None);
    let set = load("mnist", &no_labels, Need::PREDICT).unwrap();
    assert!(set.test().unwrap().labels.is_none() && set.train().is_ok());
    refused(load("mnist", &no_labels, Need::EVAL), &[TEST_LABELS, "missing"]);
}

#[test]
fn the_embedded_images_are_balanced() {
    let set = Dataset::load("fashion-mnist-mini").unwrap();
    let (train, test) = (set.train().unwrap(), set.test().unwrap());
    assert_eq!((train.shape, test.shape), ([4000, 1, 32, 32], [1000, 1, 32, 32]));
    for (split, per_class) in [(train, 400), (test, 100)] {
        let labels = split.labels().unwrap();
        for class in 0..10 {
            assert_eq!(labels.iter().filter(|&&label| label == class).count(), per_class);
        }
    }
    refused(Dataset::load("fashion-mnist-mini:x"), &["no argument"]);
}

/// Against the full set, where Debian's package is installed (as in `.ci/run`).
#[test]
fn the_embedded_images_are_the_first_of_each_class_of_debians() {
    if !Path::new(DEBIAN).exists() {
        let package = "apt-get install dataset-fashion-mnist";
        return crate::fixture::skipped(&format!("{DEBIAN} is not there ({package})"));
    }
    let full = Dataset::load(&format!("fashion-mnist:{DEBIAN}")).unwrap();
    let mini = Dataset::load("fashion-mnist-mini").unwrap();
    assert_eq!(full.train().unwrap().len(), 60_000);
    assert_eq!(full.test().unwrap().len(), 10_000);
    for (full, mini, per_class) in [
        (full.train().unwrap(), mini.train().unwrap(), 400),
        (full.test().unwrap(), mini.test().unwrap(), 100),
    ] {
        let mut taken = [0; 10];
        let mut at = 0;
        for (i, &label) in full.labels().unwrap().iter().enumerate() {
            if taken[label as usize] < per_class {
                taken[label as usize] += 1;
                assert_eq!(mini.labels().unwrap()[at], label);
                assert_eq!(bytes(mini)[at * 1024..][..1024], bytes(full)[i * 1024..][..1024]);
                at += 1;
            }
        }
        assert_eq!(at, mini.len());
    }
}
