//! MNIST and Fashion-MNIST, zero-padded from 28×28 to 32×32.
//!
//! Source: LeCun et al. 1998; Xiao, Rasul, Vollgraf 2017 (arXiv:1708.07747).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::dataset::{Dataset, KEY, Need};
use super::entry::{DatasetEntry, folder, missing, not_fetched};
use super::idx;
use super::remote;
use super::remote::RemoteFile;
use super::split::{Pixels, Split, check_labels};

pub(super) const FASHION_MNIST_MINI: DatasetEntry = DatasetEntry {
    name: "fashion-mnist-mini",
    summary: "embedded: the first 400 training and 100 test images of each class of Fashion-MNIST",
    form: "fashion-mnist-mini",
    files: &[],
    load: load_mini,
};

pub(super) const FASHION_MNIST: DatasetEntry = DatasetEntry {
    name: "fashion-mnist",
    summary: "60,000 + 10,000 grey images of clothes; Debian's dataset-fashion-mnist is found too",
    form: "fashion-mnist[:DIR]",
    files: &[
        RemoteFile {
            name: "train-images-idx3-ubyte.gz",
            urls: &[
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/train-images-idx3-ubyte.gz",
            ],
            size: 26_421_880,
            sha256: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            unpacks_to: None,
        },
        RemoteFile {
            name: "train-labels-idx1-ubyte.gz",
            urls: &[
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/train-labels-idx1-ubyte.gz",
            ],
            size: 29_515,
            sha256: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            unpacks_to: None,
        },
        RemoteFile {
            name: "t10k-images-idx3-ubyte.gz",
            urls: &[
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/t10k-images-idx3-ubyte.gz",
            ],
            size: 4_422_102,
            sha256: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            unpacks_to: None,
        },
        RemoteFile {
            name: "t10k-labels-idx1-ubyte.gz",
            urls: &[
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/t10k-labels-idx1-ubyte.gz",
            ],
            size: 5_148,
            sha256: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            unpacks_to: None,
        },
    ],
    load: load_fashion_mnist,
};

pub(super) const MNIST: DatasetEntry = DatasetEntry {
    name: "mnist",
    summary: "60,000 + 10,000 grey images of digits: the four idx files, plain or gzipped",
    form: "mnist[:DIR]",
    files: &[
        RemoteFile {
            name: "train-images-idx3-ubyte.gz",
            urls: &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
            ],
            size: 9_912_422,
            sha256: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            unpacks_to: None,
        },
        RemoteFile {
            name: "train-labels-idx1-ubyte.gz",
            urls: &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
            ],
            size: 28_881,
            sha256: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            unpacks_to: None,
        },
        RemoteFile {
            name: "t10k-images-idx3-ubyte.gz",
            urls: &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz",
            ],
            size: 1_648_877,
            sha256: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            unpacks_to: None,
        },
        RemoteFile {
            name: "t10k-labels-idx1-ubyte.gz",
            urls: &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
            ],
            size: 4_542,
            sha256: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            unpacks_to: None,
        },
    ],
    load: |argument, need| load(&MNIST, &folder(&MNIST, argument)?, &DIGITS, need),
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
        return load(&FASHION_MNIST, &folder(&FASHION_MNIST, argument)?, &CLOTHES, need);
    }
    let places = places(remote::places("fashion-mnist"), std::env::var_os("REWIRE_DATA"));
    let there =
        |dir: &&PathBuf| [TRAIN, TEST].iter().any(|stem| find(&dir.join(images(stem))).is_some());
    match places.iter().find(there) {
        Some(dir) => load(&FASHION_MNIST, dir, &CLOTHES, need),
        None => {
            let debian = ", apt-get install dataset-fashion-mnist";
            Err(not_fetched(&FASHION_MNIST, &places, debian))
        }
    }
}

/// Where the files are looked for, given where every set is and the value of `$REWIRE_DATA`, which may be their folder.
fn places(mut places: Vec<PathBuf>, root: Option<OsString>) -> Vec<PathBuf> {
    if let Some(root) = root.filter(|root| !root.is_empty()) {
        places.insert(places.len().min(1), root.into());
    }
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
        let all = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(places(all(&[]), None), all(&[DEBIAN]));
        assert_eq!(places(all(&["/h"]), Some("".into())), all(&["/h", DEBIAN]));
        let common = all(&["/d/fashion-mnist", "/h"]);
        let want = all(&["/d/fashion-mnist", "/d", "/h", DEBIAN]);
        assert_eq!(places(common, Some("/d".into())), want);
    }
}
