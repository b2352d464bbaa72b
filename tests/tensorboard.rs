//! TensorBoard's event file of a run, read by a small reader of its own and compared with the CSV files.

use crate::fixture;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const RECIPE: &str = r#"
schema = 1
name = "curves"
data = { set = "synthetic:classes=4,size=32,channels=1,train=24,test=8" }
model = { arch = "vgg16:width=0.0625" }
[train]
epochs = 2
batch_size = 8
adversary = { attack = "fgsm", eps = "8/255" }
[prune]
method = "dnr"
density = 0.2
rho = 1e-4
"#;

/// CRC32C bit by bit, masked as in records.
fn masked(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The messages of a file; every checksum is compared.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(
            (word(8), word(12 + length)),
            (masked(&bytes[..8]), masked(&bytes[12..12 + length]))
        );
        records.push(&bytes[12..12 + length]);
        bytes = &bytes[16 + length..];
    }
    records
}

/// A field of a protobuf message: its number, and its bytes or its number as bits.
enum Field<'a> {
    Bits(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let mut take = |n: usize| {
            let (head, rest) = bytes.split_at(n);
            bytes = rest;
            head
        };
        let field = match key & 7 {
            1 => Field::Bits(u64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Field::Bits(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
            0 => Field::Bits(varint(&mut bytes)),
            2 => {
                let n = varint(&mut bytes) as usize;
                let (head, rest) = bytes.split_at(n);
                bytes = rest;
                Field::Bytes(head)
            }
            wire => panic!("wire type {wire}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

type Curves = BTreeMap<String, Vec<(u64, f32)>>;

/// Curves by tag: (step, value) in the order of the file.
fn curves(path: &Path) -> Curves {
    let bytes = fs::read(path).unwrap();
    let mut curves = Curves::new();
    for (i, record) in records(&bytes).into_iter().enumerate() {
        let (mut step, mut wall) = (0, 0.0);
        let mut values = Vec::new();
        for (number, field) in fields(record) {
            match (number, field) {
                (1, Field::Bits(bits)) => wall = f64::from_bits(bits),
                (2, Field::Bits(bits)) => step = bits,
                (3, Field::Bytes(text)) => assert_eq!((i, text), (0, &b"brain.Event:2"[..])),
                (5, Field::Bytes(summary)) => {
                    for (number, value) in fields(summary) {
                        let (1, Field::Bytes(value)) = (number, value) else { panic!("{number}") };
                        let parts = fields(value);
                        let [(1, Field::Bytes(tag)), (2, Field::Bits(bits))] = parts[..] else {
                            panic!("a value is a tag and a float")
                        };
                        let tag = String::from_utf8(tag.to_vec()).unwrap();
                        values.push((tag, f32::from_bits(bits as u32)));
                    }
                }
                (number, _) => panic!("field {number}"),
            }
        }
        assert_eq!((wall, i == 0), (step as f64, values.is_empty()));
        for (tag, value) in values {
            curves.entry(tag).or_default().push((step, value));
        }
    }
    curves
}

fn train(folder: &Path, args: &[&str]) {
    let mut command = fixture::program(folder);
    let output = command.arg("train").args(args).args(["--device", "cpu"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The columns of a CSV file by name; empty cells are left out.
fn columns(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let rows: Vec<_> = lines.collect();
    let column = |i: usize| rows.iter().filter_map(move |row| row[i].parse::<f64>().ok()).collect();
    names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), column(i))).collect()
}

const FILE: &str = "events.out.tfevents.rewire";

#[test]
fn curves_are_the_columns_of_the_csv_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("r.toml"), RECIPE).unwrap();
    train(folder, &["r.toml", "--out", "run"]);
    let curves = curves(&folder.join("run").join(FILE));
    let names = [
        "epoch/active",
        "epoch/density",
        "epoch/nonzero",
        "epoch/number",
        "epoch/test_accuracy",
        "epoch/test_loss",
        "epoch/train_loss",
        "step/adversarial_loss",
        "step/clean_loss",
        "step/dynamic_l2",
        "step/loss",
        "step/lr",
    ];
    assert!(curves.keys().eq(names), "{:?}", curves.keys());
    let (steps, epochs) = ("run/steps.csv", "run/epochs.csv");
    let (steps, epochs) = (columns(&folder.join(steps)), columns(&folder.join(epochs)));
    assert_eq!((steps["step"].len(), epochs["epoch"].len()), (6, 2));
    for (tag, points) in &curves {
        let (table, column) = match tag.split_once('/').unwrap() {
            ("step", column) => (&steps, column),
            (_, "number") => (&epochs, "epoch"),
            (_, column) => (&epochs, column),
        };
        let want: Vec<_> = table["step"]
            .iter()
            .zip(&table[column])
            .map(|(&step, &value)| (step as u64, value as f32))
            .collect();
        assert_eq!(*points, want, "{tag}");
    }
}
