//! Writes the inputs that fuzzing starts from to `corpus/`, one folder a target: small files that the readers take.

use flate2::{Compression, write::GzEncoder};
use rewire::nn::{ArchSpec, Graph, Model, Node, Op};
use rewire::ops::Window;
use rewire::run::recipes::RECIPES;
use rewire::{Device, Seed, Tensor, io, models, npy};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

fn main() {
    checkpoint();
    cifar();
    idx();
    arrays();
    onnx();
    recipe();
    spec();
    unpack();
}

fn folder(target: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder(target).join(name), bytes).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Both networks with metadata, and without it as PyTorch writes them.
fn checkpoint() {
    let arch = ArchSpec::parse("resnet18:width=0.0078125").unwrap().resolve();
    let resnet = models::initialised(arch, Seed(1), &Device::Cpu).unwrap();
    for (name, model) in [("resnet18", resnet), ("graph", graph())] {
        let mut bytes = io::model_bytes(Path::new(name), &model).unwrap();
        put("checkpoint", name, &bytes);
        let key = b"\"rewire\"";
        let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
        bytes[at + 1] = b'R';
        put("checkpoint", &format!("{name}-bare"), &bytes);
    }
}

/// What other programs exported, and what this one does.
fn onnx() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/onnx");
    for file in fs::read_dir(fixtures).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "onnx") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            put("onnx", &name, fs::read(&path).unwrap());
        }
    }
    for sparse in [false, true] {
        let bytes = io::onnx_bytes(&graph(), sparse).unwrap();
        put("onnx", &format!("graph-{sparse}"), bytes);
    }
}

/// One node of every kind, on an image of 4×4 pixels.
fn graph() -> Model {
    let node = |inputs: &[usize], op| Node { inputs: inputs.to_vec(), op };
    let conv = |name: &str, channels, bias, padding| {
        let stride = 1;
        Op::Conv { bias, channels, name: name.into(), padding, stride }
    };
    let norm = Op::BatchNorm { eps: 1e-5, momentum: 0.1, name: "n".into() };
    let nodes = vec![
        node(&[], Op::Input),
        node(&[0], Op::Normalize { mean: vec![0.5; 2], std: vec![0.25; 2] }),
        node(&[1], conv("a", None, true, 1)),
        node(&[2], norm),
        node(&[3], Op::Relu),
        node(&[4], conv("b", Some(vec![2, 0]), false, 0)),
        node(&[4, 5], Op::Add),
        node(&[6], Op::MaxPool(Window::HALVES)),
        node(&[7], Op::GlobalAvgPool),
        node(&[8], Op::Linear { bias: true, name: "fc".into() }),
    ];
    let parts = ["n.weight", "n.bias", "n.running_mean", "n.running_var"];
    let vectors = parts.into_iter().chain(["a.bias", "fc.bias"]).map(|name| (name, vec![3]));
    let shapes =
        [("a.weight", vec![3, 3, 3, 2]), ("b.weight", vec![3, 1, 1, 2]), ("fc.weight", vec![3, 3])];
    let tensor = |(name, shape): (&str, Vec<usize>)| {
        let values = vec![0.5f32; shape.iter().product()];
        (name.to_owned(), Tensor::from_vec(values, &shape, &Device::Cpu).unwrap())
    };
    let tensors: BTreeMap<String, Tensor> = vectors.chain(shapes).map(tensor).collect();
    let mut arch = ArchSpec::named("resnet18").resolve();
    (arch.in_channels, arch.classes, arch.size) = (2, 3, 4);
    Model::new(arch, Graph { nodes }, tensors, &Device::Cpu).unwrap()
}

/// The first byte is the target's choice of a reader.
fn cifar() {
    let image = [9u8; 3072];
    let two = |key: &str| {
        let mut pickle =
            format!("\x02}}q\x01(U{}{key}q\x02]q\x03(K\x04e", key.len() as u8 as char).into_bytes();
        pickle.insert(0, 0x80);
        pickle.extend(b"U\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01b\x87Rq\x08");
        pickle.extend(b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
        pickle.extend(b"\x89T\x00\x0c\x00\x00");
        pickle.extend(image);
        pickle.extend(b"tbu.");
        pickle
    };
    // As Python 3 writes it again: frames, texts, a memo that counts by itself, a byte array.
    let mut five = b"\x80\x05\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x06labels\x94]\x94K\x03a\x8c\x04data\x94\x8c\x12numpy.core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x00\x0c\0\0\0\0\0\0".to_vec();
    five.extend(image);
    five.extend(b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x01M\x00\x0c\x86\x94\x8c\x01C\x94t\x94R\x94u.");
    let record = [&[4], &image[..]].concat();
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["data_batch_1.bin", "test_batch.bin"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(record.len() as u64);
        archive
            .append_data(&mut header, format!("cifar-10-batches-bin/{name}"), &record[..])
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    for (name, kind, bytes) in [
        ("python10", 0, two("labels")),
        ("python10-5", 0, five),
        ("python100", 1, two("fine_labels")),
        ("binary", 2, record),
        ("archive", 3, archive),
    ] {
        put("cifar", name, [&[kind], &bytes[..]].concat());
    }
}

fn idx() {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28], &[7; 784][..]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 1, 3];
    for (name, bytes) in [("images", &images[..]), ("labels", &labels[..])] {
        put("idx", name, bytes);
        put("idx", &format!("{name}.gz"), gzip(bytes));
    }
}

fn arrays() {
    let at = |name: &str| folder("npy").join(name);
    npy::write(&at("u1"), &[2, 1, 2, 2], &[0u8, 1, 2, 3, 4, 5, 6, 255]).unwrap();
    npy::write(&at("f4"), &[1, 2, 1, 2], &[0.0f32, 0.25, 0.5, 1.0]).unwrap();
    npy::write(&at("i4"), &[1], &[7i32]).unwrap();
    // The last byte says how many images the labels are of.
    npy::write(&at("i8"), &[2], &[7i64, 2]).unwrap();
    let mut labels = fs::read(at("i8")).unwrap();
    labels.push(2);
    put("npy", "labels", &labels);
    for (from, to) in [("<i8", ">i2"), ("(2,)", "(8,)")] {
        let at = labels.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        labels[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    *labels.last_mut().unwrap() = 8;
    put("npy", "labels-big", &labels);
}

fn recipe() {
    for (name, text) in RECIPES {
        put("recipe", name, text);
    }
    let text = RECIPES[0].1;
    let set = "train.epochs=3\0train.optimizer.lr=nan\0prune={ method = \"dnr\", density = 0.1 }\0data.set=synthetic:classes=3";
    put("recipe", "set", format!("{text}\0{set}"));
}

fn spec() {
    let specs = "vgg16 resnet18:width=0.25,classes=100 resnet50:in_channels=1,size=64,divisor=8 8/255 0.03 1e-3 cifar10 \
        mean=0.5:0.25:1e-2,std=1:1:2 irregular tf32 synthetic:classes=2,size=8,channels=1,train=2,test=3 npy image-folder mnist:";
    for (i, spec) in specs.split_whitespace().enumerate() {
        put("spec", &format!("{i}"), spec);
    }
}

/// As [`cifar`], with the target's choice in the first byte.
fn unpack() {
    let files = [("d/x", "one"), ("d/e/y", "two")];
    let options = zip::write::SimpleFileOptions::default();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        zip.start_file(name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    zip.add_symlink("d/link", "x", options).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let plain = tar.get_ref().clone();
    tar.append_link(&mut link, "d/link", "x").unwrap();
    put("unpack", "zip", [&[0], &zip.finish().unwrap().into_inner()[..]].concat());
    put("unpack", "tar", [&[1], &plain[..], &[0; 1024]].concat());
    put("unpack", "tar-link", [&[1], &tar.into_inner().unwrap()[..]].concat());
}
