//! MNIST and Fashion-MNIST, zero-padded from 28×28 to 32×32.
//!
//! Source: LeCun et al. 1998; Xiao, Rasul, Vollgraf 2017 (arXiv:1708.07747).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::{Dataset, DatasetEntry, KEY, Need, Pixels, Split, check_labels, folder, idx, missing};

pub(super) const FASHION_MNIST_MINI: DatasetEntry = DatasetEntry {
    name: "fashion-mnist-mini",
    summary: "embedded: the first 400 training and 100 test images of each class of Fashion-MNIST",
    form: "fashion-mnist-mini",
    load: load_mini,
};

pub(super) const FASHION_MNIST: DatasetEntry = DatasetEntry {
    name: "fashion-mnist",
    summary: "60,000 + 10,000 grey images of clothes; default folders: $REWIRE_DATA, Debian's dataset-fashion-mnist",
    form: "fashion-mnist[:DIR]",
    load: load_fashion_mnist,
};

pub(super) const MNIST: DatasetEntry = DatasetEntry {
    name: "mnist",
    summary: "60,000 + 10,000 grey images of digits: the four idx files, plain or gzipped",
    form: "mnist:DIR",
    load: |argument, need| load(&MNIST, folder(&MNIST, argument)?, &DIGITS, need),
};

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const CLOTHES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Where Debian's package dataset-fashion-mnist puts the files.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

/// Rows and columns of a stored image, and of the zeros on each side of it.
const SIDE: usize = 28;
const PAD: usize = 2;

const TRAIN: &str = "train";
const TEST: &str = "t10k";

fn load_fashion_mnist(argument: Option<&str>, need: Need) -> Result<Dataset> {
    if argument.is_some() {
        return load(&FASHION_MNIST, folder(&FASHION_MNIST, argument)?, &CLOTHES, need);
    }
    let places = places(std::env::var_os("REWIRE_DATA"));
    let there =
        |dir: &&PathBuf| [TRAIN, TEST].iter().any(|stem| find(&dir.join(images(stem))).is_some());
    match places.iter().find(there) {
        Some(dir) => load(&FASHION_MNIST, dir, &CLOTHES, need),
        None => {
            let places: Vec<_> = places.iter().map(|dir| dir.display().to_string()).collect();
            Err(Error::param(
                KEY,
                "fashion-mnist",
                format!(
                    "fashion-mnist:DIR, for no idx files are in {} (apt-get install dataset-fashion-mnist)",
                    places.join(", ")
                ),
            ))
        }
    }
}

/// Where the files are looked for, given the value of `$REWIRE_DATA`.
fn places(root: Option<OsString>) -> Vec<PathBuf> {
    let root = root.filter(|root| !root.is_empty()).map(PathBuf::from);
    let mut places: Vec<_> =
        root.into_iter().flat_map(|root| [root.join("fashion-mnist"), root]).collect();
    places.push(DEBIAN.into());
    places
}

fn load(entry: &DatasetEntry, dir: &Path, names: &[&str; 10], need: Need) -> Result<Dataset> {
    let train = read_split(dir, TRAIN, need.train, need.labels)?;
    let test = read_split(dir, TEST, need.test, need.labels)?;
    if train.is_none() && test.is_none() {
        return Err(missing(&dir.join(images(TEST)), "images"));
    }
    let names = names.iter().map(|name| name.to_string()).collect();
    Dataset::join(entry.name, Some(10), names, train, test)
}

fn images(stem: &str) -> String {
    format!("{stem}-images-idx3-ubyte")
}

fn labels(stem: &str) -> String {
    format!("{stem}-labels-idx1-ubyte")
}

/// `path`, or `path.gz`.
fn find(path: &Path) -> Option<PathBuf> {
    let gz = PathBuf::from(format!("{}.gz", path.display()));
    [path.to_owned(), gz].into_iter().find(|path| path.exists())
}

fn read_split(dir: &Path, stem: &str, needed: bool, with_labels: bool) -> Result<Option<Split>> {
    let (images, labels) = (dir.join(images(stem)), dir.join(labels(stem)));
    let found = (find(&images), find(&labels));
    if needed && found.0.is_none() {
        return Err(missing(&images, "images (or the same file gzipped, .gz)"));
    }
    if needed && with_labels && found.1.is_none() {
        return Err(missing(&labels, "labels (or the same file gzipped, .gz)"));
    }
    let classes = match &found.1 {
        Some(path) => Some((path.clone(), idx::read(path, 1)?)),
        None => None,
    };
    match found.0 {
        Some(path) => {
            let data = idx::read(&path, 3)?;
            split(path, data, classes).map(Some)
        }
        None => Ok(None),
    }
}

type Idx = (Vec<usize>, Vec<u8>);

/// Checks and pads the images, checks the labels.
fn split(source: PathBuf, (shape, data): Idx, labels: Option<(PathBuf, Idx)>) -> Result<Split> {
    if shape[0] == 0 || shape[1..] != [SIDE, SIDE] {
        return Err(Error::file(&source, format!("shape {shape:?}; must be [N, 28, 28], N > 0")));
    }
    let labels = match labels {
        None => None,
        Some((path, (count, labels))) => {
            if count[0] != shape[0] {
                return Err(Error::file(
                    &path,
                    format!(
                        "{} labels for the {} images of {}",
                        count[0],
                        shape[0],
                        source.display()
                    ),
                ));
            }
            check_labels(&path, labels.iter().map(|&label| i128::from(label)), 10)?;
            Some(labels.into_iter().map(i32::from).collect())
        }
    };
    let side = SIDE + 2 * PAD;
    let mut pixels = vec![0u8; shape[0] * side * side];
    for (to, from) in pixels.chunks_exact_mut(side * side).zip(data.chunks_exact(SIDE * SIDE)) {
        for (y, row) in from.chunks_exact(SIDE).enumerate() {
            to[(y + PAD) * side + PAD..][..SIDE].copy_from_slice(row);
        }
    }
    Ok(Split { shape: [shape[0], 1, side, side], pixels: Pixels::U8(pixels), labels, source })
}

fn load_mini(argument: Option<&str>, _need: Need) -> Result<Dataset> {
    if let Some(argument) = argument {
        let got = format!("fashion-mnist-mini:{argument}");
        return Err(Error::param(KEY, got, "fashion-mnist-mini, which takes no argument"));
    }
    let read = |stem: &str, image_bytes: &[u8], label_bytes: &[u8]| {
        let path = |name: String| Path::new("fashion-mnist-mini").join(name);
        let (images, labels) = (path(images(stem)), path(labels(stem)));
        let data = idx::parse(&images, image_bytes, 3)?;
        let classes = idx::parse(&labels, label_bytes, 1)?;
        split(images, data, Some((labels, classes)))
    };
    let train = read(
        TRAIN,
        include_bytes!("fashion_mnist_mini/train-images-idx3-ubyte.gz"),
        include_bytes!("fashion_mnist_mini/train-labels-idx1-ubyte.gz"),
    )?;
    let test = read(
        TEST,
        include_bytes!("fashion_mnist_mini/t10k-images-idx3-ubyte.gz"),
        include_bytes!("fashion_mnist_mini/t10k-labels-idx1-ubyte.gz"),
    )?;
    let names = CLOTHES.iter().map(|name| name.to_string()).collect();
    Dataset::join("fashion-mnist-mini", Some(10), names, Some(train), Some(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewire_data_comes_before_debians_folder() {
        assert_eq!(places(None), [Path::new(DEBIAN)]);
        assert_eq!(places(Some("".into())), [Path::new(DEBIAN)]);
        let want = ["/d/fashion-mnist", "/d", DEBIAN].map(PathBuf::from);
        assert_eq!(places(Some("/d".into())), want);
    }
}
