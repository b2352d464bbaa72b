//! CIFAR-10 and CIFAR-100: binary and Python version, folders and archives.

use super::*;

/// Opcodes as Python 2's cPickle wrote them into the official archives.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    stored: u32,
}

impl Writer {
    fn op(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn store(&mut self) {
        self.stored += 1;
        match u8::try_from(self.stored) {
            Ok(n) => self.op(&[b'q', n]),
            Err(_) => {
                self.op(b"r");
                self.op(&self.stored.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.op(&[b'U', text.len() as u8]);
        self.op(text.as_bytes());
        self.store();
    }

    fn integer(&mut self, v: i64) {
        match v {
            0..256 => self.op(&[b'K', v as u8]),
            256..65536 => {
                self.op(b"M");
                self.op(&(v as u16).to_le_bytes());
            }
            _ => {
                self.op(b"J");
                self.op(&(v as i32).to_le_bytes());
            }
        }
    }

    fn integers(&mut self, values: &[i64]) {
        self.op(b"]");
        self.store();
        // Python writes at most 1000 items at once.
        for chunk in values.chunks(1000) {
            self.op(b"(");
            chunk.iter().for_each(|&v| self.integer(v));
            self.op(b"e");
        }
    }

    fn global(&mut self, name: &str) {
        self.op(format!("c{}\n", name.replace(' ', "\n")).as_bytes());
        self.store();
    }

    fn matrix(&mut self, rows: i64, columns: i64, dtype: &str, fortran: bool, data: &[u8]) {
        self.global("numpy.core.multiarray _reconstruct");
        self.global("numpy ndarray");
        self.op(b"K\x00\x85");
        self.store();
        self.text("b");
        self.op(b"\x87");
        self.store();
        self.op(b"R");
        self.store();
        self.op(b"(K\x01");
        self.integer(rows);
        self.integer(columns);
        self.op(b"\x86");
        self.store();
        self.global("numpy dtype");
        self.text(dtype);
        self.op(b"K\x00K\x01\x87");
        self.store();
        self.op(b"R");
        self.store();
        self.op(b"(K\x03");
        self.text("|");
        self.op(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
        self.op(if fortran { b"\x88" } else { b"\x89" });
        self.op(b"T");
        self.op(&(data.len() as u32).to_le_bytes());
        self.op(data);
        self.store();
        self.op(b"tb");
    }
}

struct Batch {
    key: &'static str,
    labels: Vec<i64>,
    shape: (i64, i64),
    dtype: &'static str,
    fortran: bool,
    data: Vec<u8>,
}

impl Batch {
    fn new(key: &'static str, labels: &[i64], seed: u64) -> Self {
        let data = noise(seed, labels.len() * 3072);
        let shape = (labels.len() as i64, 3072);
        Self { key, labels: labels.to_vec(), shape, dtype: "u1", fortran: false, data }
    }

    fn pickle(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.op(b"\x80\x02}");
        out.store();
        out.op(b"(");
        out.text("batch_label");
        out.text("training batch 1 of 5");
        out.text("coarse_labels");
        out.integers(&vec![0; self.labels.len()]);
        out.text(self.key);
        out.integers(&self.labels);
        out.text("data");
        out.matrix(self.shape.0, self.shape.1, self.dtype, self.fortran, &self.data);
        out.text("filenames");
        out.op(b"]");
        out.store();
        out.op(b"(");
        self.labels.iter().for_each(|v| out.text(&format!("image_{v}.png")));
        out.op(b"eu.");
        out.bytes
    }

    fn records(&self, before: &[u8]) -> Vec<u8> {
        let records = self.labels.iter().zip(self.data.chunks(3072));
        records.flat_map(|(&label, image)| [before, &[label as u8], image].concat()).collect()
    }
}

fn cifar10_names(suffix: &str) -> Vec<String> {
    let train = (1..=5).map(|i| format!("data_batch_{i}{suffix}"));
    train.chain([format!("test_batch{suffix}")]).collect()
}

fn cifar10_batches() -> Vec<Batch> {
    (0..6).map(|i| Batch::new("labels", &[i, 9 - i, (i + 3) % 10], i as u64)).collect()
}

/// The six files of one version, below `prefix`.
fn cifar10(prefix: &str, python: bool) -> Vec<(String, Vec<u8>)> {
    let names = cifar10_names(if python { "" } else { ".bin" });
    let content = |batch: &Batch| if python { batch.pickle() } else { batch.records(&[]) };
    let files = names.iter().zip(cifar10_batches());
    files.map(|(name, batch)| (format!("{prefix}{name}"), content(&batch))).collect()
}

fn put_all(dir: &TempDir, files: &[(String, Vec<u8>)]) {
    files.iter().for_each(|(name, bytes)| put(dir.path(), name, bytes));
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    out.into_inner().unwrap()
}

fn expect_cifar10(set: &Dataset) {
    let (train, test) = (set.train().unwrap(), set.test().unwrap());
    assert_eq!((train.shape, test.shape, set.classes), ([15, 3, 32, 32], [3, 3, 32, 32], Some(10)));
    let batches = cifar10_batches();
    let all = |batches: &[Batch]| -> (Vec<u8>, Vec<i32>) {
        let labels = batches.iter().flat_map(|b| b.labels.iter().map(|&v| v as i32)).collect();
        (batches.iter().flat_map(|b| b.data.clone()).collect(), labels)
    };
    for (split, (data, labels)) in [(train, all(&batches[..5])), (test, all(&batches[5..]))] {
        assert!(bytes(split) == data);
        assert_eq!(split.labels().unwrap(), labels);
    }
}

#[test]
fn both_versions_are_read_from_folders_and_archives() {
    for (python, unpacked, archive) in [
        (false, "cifar-10-batches-bin/", "cifar-10-binary.tar.gz"),
        (true, "cifar-10-batches-py/", "cifar-10-python.tar.gz"),
    ] {
        for prefix in ["", unpacked] {
            let dir = tempfile::tempdir().unwrap();
            put_all(&dir, &cifar10(prefix, python));
            expect_cifar10(&load("cifar10", &dir, Need::TRAIN).unwrap());
        }
        let mut files = cifar10(unpacked, python);
        files.insert(2, (format!("{unpacked}readme.html"), b"<html>".to_vec()));
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), archive, &gzip(&tar(&files)));
        expect_cifar10(&load("cifar10", &dir, Need::TRAIN).unwrap());
        let path = dir.path().join(archive);
        expect_cifar10(&Dataset::load(&format!("cifar10:{}", path.display())).unwrap());
    }
}

#[test]
fn cifar100_takes_the_fine_labels() {
    let (train, test) =
        (Batch::new("fine_labels", &[99, 3], 1), Batch::new("fine_labels", &[42], 2));
    let binary = [("train.bin", train.records(&[19])), ("test.bin", test.records(&[0]))];
    let python =
        [("cifar-100-python/train", train.pickle()), ("cifar-100-python/test", test.pickle())];
    for files in [binary, python] {
        let set = load("cifar100", &folder(&files), Need::TRAIN).unwrap();
        assert_eq!((set.classes, set.class_names.len()), (Some(100), 100));
        assert_eq!(
            (set.class_names[42].as_str(), set.class_names[99].as_str()),
            ("leopard", "worm")
        );
        assert_eq!(set.train().unwrap().labels().unwrap(), [99, 3]);
        assert_eq!(set.test().unwrap().labels().unwrap(), [42]);
        assert!(
            bytes(set.train().unwrap()) == train.data && bytes(set.test().unwrap()) == test.data
        );
    }
}

/// A folder with the test file of the given version replaced.
fn with_test_file(python: bool, content: Vec<u8>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = cifar10("", python);
    files[5].1 = content;
    put_all(&dir, &files);
    dir
}

#[test]
fn wrong_binary_files_are_refused() {
    let good = cifar10("", false).remove(5).1;
    let mut label = good.clone();
    label[3073] = 10;
    for (content, says) in [
        (good[..good.len() - 1].to_vec(), "multiple of 3073"),
        (Vec::new(), "multiple of 3073"),
        (label, "label 10 of image 1"),
    ] {
        for need in [Need::TRAIN, Need::ANY] {
            refused(
                load("cifar10", &with_test_file(false, content.clone()), need),
                &["test_batch.bin", says],
            );
        }
    }
    let dir = with_test_file(false, good);
    fs::remove_file(dir.path().join("data_batch_4.bin")).unwrap();
    refused(load("cifar10", &dir, Need::EVAL), &["data_batch_4.bin", "missing"]);
    (1..=5).for_each(|i| drop(fs::remove_file(dir.path().join(format!("data_batch_{i}.bin")))));
    assert!(load("cifar10", &dir, Need::EVAL).unwrap().train.is_none());
    refused(load("cifar10", &dir, Need::TRAIN), &["data_batch_1.bin", "missing"]);
}

#[test]
fn wrong_pickles_are_refused_and_nothing_is_run() {
    let good = || Batch::new("labels", &[1, 2, 3], 5);
    let other = |change: fn(&mut Batch)| {
        let mut batch = good();
        change(&mut batch);
        batch.pickle()
    };
    let replaced = |from: &[u8], to: &[u8]| {
        let bytes = good().pickle();
        let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (other(|b| b.labels[1] = 10), "label 10 of image 1"),
        (other(|b| b.labels[1] = -1), "label -1 of image 1"),
        (other(|b| b.labels.push(4)), "4 labels for 3 images"),
        (other(|b| b.key = "label"), "no key \"labels\""),
        (other(|b| b.dtype = "f4"), "u1"),
        (other(|b| b.fortran = true), "C order"),
        (other(|b| b.shape.0 = 4), "NumPy array"),
        (other(|b| b.shape = (i64::from(i32::MAX), i64::from(i32::MAX))), "NumPy array"),
        (other(|b| b.shape = (-3, -3072)), "NumPy array"),
        (other(|b| b.shape = (3 * 3072, 1)), "must be [N, 3072]"),
        (other(|b| (b.shape, b.data, b.labels) = ((0, 3072), Vec::new(), Vec::new())), "N > 0"),
        (replaced(b"numpy.core.multiarray\n_reconstruct", b"posix\nsystem"), "posix.system"),
        (replaced(b"\x80\x02", b"\x80\x06"), "protocol 6"),
        (replaced(b"T\x00\x24\x00\x00", b"T\xff\xff\xff\xff"), "cut short"),
        (b"\x80\x02K\x01.".to_vec(), "dictionary"),
        (b"\x80\x02.".to_vec(), "more than it has"),
        (b"\x80\x02(.".to_vec(), "more than it has"),
        (b"\x80\x02e.".to_vec(), "no mark"),
        (b"\x80\x02h\x05.".to_vec(), "never stored"),
        (b"\x80\x02Nr\xff\xff\xff\xff.".to_vec(), "memo"),
        (b"\x80\x02NK\x01R.".to_vec(), "no function"),
        (b"\x80\x02NNb.".to_vec(), "no object"),
        (b"\x80\x02NNa.".to_vec(), "no list"),
        (b"\x80\x02}(Nu.".to_vec(), "no dictionary"),
        (b"\x80\x02\xee".to_vec(), "opcode 0xee"),
        (b"(dp0\n.".to_vec(), "opcode"),
        ([b"\x80\x02".to_vec(), vec![b']'; 5_000_000]].concat(), "more than"),
        (Vec::new(), "cut short"),
    ];
    for (content, says) in cases {
        refused(load("cifar10", &with_test_file(true, content), Need::EVAL), &["test_batch", says]);
    }
}

#[test]
fn pickles_cut_or_changed_anywhere_never_panic() {
    let good = Batch::new("labels", &[1], 5).pickle();
    let head = good.windows(4).position(|part| part == [b'T', 0, 12, 0]).unwrap();
    let interesting = (0..head + 8).chain(good.len() - 30..good.len());
    let dir = with_test_file(true, good.clone());
    let path = dir.path().join("test_batch");
    for at in interesting {
        fs::write(&path, &good[..at]).unwrap();
        refused(load("cifar10", &dir, Need::PREDICT), &["test_batch"]);
        for value in [0, b'.', b'(', b'T', b'b', b'R', 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            fs::write(&path, bytes).unwrap();
            let _ = load("cifar10", &dir, Need::PREDICT);
        }
    }
}

#[test]
fn broken_archives_are_refused() {
    let files = cifar10("cifar-10-batches-bin/", false);
    let good = gzip(&tar(&files));
    let mut flipped = good.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    let mut lying = tar(&files[..1]);
    let mut header = tar::Header::from_byte_slice(&lying[..512]).clone();
    header.set_size(1 << 40);
    header.set_cksum();
    lying[..512].copy_from_slice(header.as_bytes());
    for (content, says) in [
        (good[..good.len() / 2].to_vec(), "cut short or corrupt"),
        (good[..good.len() - 4].to_vec(), "cut short or corrupt"),
        (flipped, "corrupt"),
        (b"not an archive".to_vec(), "corrupt"),
        (gzip(&[7; 2000]), "corrupt"),
        (gzip(&lying), "claims 1099511627776 bytes"),
        (gzip(&tar(&files[1..])), "data_batch_1.bin"),
        (gzip(&tar(&[("other".to_string(), vec![1])])), "holds no cifar10 files"),
    ] {
        let dir = folder(&[("cifar-10-binary.tar.gz", content)]);
        refused(load("cifar10", &dir, Need::EVAL), &["cifar", says]);
    }
}

/// Files of `tests/fixtures/make_cifar_pickles.py`.
#[test]
fn pickles_saved_again_by_python_3_are_read() {
    let data: Vec<u8> = (0..2 * 3072u32).map(|i| (7 * i + 13 * (i / 256)) as u8).collect();
    for protocol in 2..=5 {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let content = fs::read(root.join(format!("cifar_protocol_{protocol}.pickle"))).unwrap();
        let set = load("cifar10", &with_test_file(true, content.clone()), Need::EVAL).unwrap();
        let test = set.test().unwrap();
        assert_eq!(test.labels().unwrap(), [7, 2], "protocol {protocol}");
        assert!(bytes(test) == data, "protocol {protocol}");
        for cut in [content.len() - 1, content.len() / 2, 20] {
            refused(
                load("cifar10", &with_test_file(true, content[..cut].to_vec()), Need::EVAL),
                &["test_batch"],
            );
        }
    }
}
