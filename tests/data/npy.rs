//! `npy:DIR`, and the reader and writer of `.npy` files.

use rewire::npy;

use super::*;

/// A file as NumPy writes it: version 1.0, header padded to a multiple of 64.
fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    raw(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
}

fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.to_string();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f4(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn complete() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train_images.npy", array("|u1", "(3, 2, 4, 5)", &noise(1, 120))),
        ("train_labels.npy", array("|u1", "(3,)", &[0, 6, 1])),
        ("test_images.npy", array("|u1", "(2, 2, 4, 5)", &noise(2, 80))),
        ("test_labels.npy", array("|u1", "(2,)", &[3, 2])),
    ]
}

fn with(name: &'static str, content: Option<Vec<u8>>) -> TempDir {
    let mut files = complete();
    files.retain(|(n, _)| *n != name);
    files.extend(content.map(|content| (name, content)));
    folder(&files)
}

#[test]
fn u1_images_are_v_over_255() {
    let set = load("npy", &folder(&complete()), Need::TRAIN).unwrap();
    assert_eq!((set.channels, set.height, set.width, set.classes), (2, 4, 5, Some(7)));
    let values = set.test().unwrap().images_nchw(0..2);
    for (v, raw) in values.iter().zip(noise(2, 80)) {
        assert_eq!(v.to_bits(), (f32::from(raw) / 255.0).to_bits());
    }
    assert_eq!(set.test().unwrap().images_nchw(1..2), values[40..]);
}

#[test]
fn f4_images_keep_their_bits_in_either_byte_order() {
    let values: Vec<f32> = (0..80).map(|i| i as f32 / 79.0).collect();
    let big: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    for (descr, data) in [("<f4", f4(&values)), (">f4", big)] {
        let dir = with("test_images.npy", Some(array(descr, "(2, 2, 4, 5)", &data)));
        let set = load("npy", &dir, Need::EVAL).unwrap();
        assert_eq!(set.test().unwrap().images_nchw(0..2), values);
    }
}

#[test]
fn labels_of_every_integer_type_are_read() {
    macro_rules! cases {
        ($($t:ty, $name:expr);*) => { [$(
            (format!("<{}", $name), [3 as $t, 2].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            (format!(">{}", $name), [3 as $t, 2].iter().flat_map(|v| v.to_be_bytes()).collect()),
        )*] };
    }
    for (descr, data) in
        cases!(i8, "i1"; u8, "u1"; i16, "i2"; u16, "u2"; i32, "i4"; u32, "u4"; i64, "i8"; u64, "u8")
    {
        let dir = with("test_labels.npy", Some(array(&descr, "(2,)", &data)));
        assert_eq!(
            load("npy", &dir, Need::EVAL).unwrap().test().unwrap().labels().unwrap(),
            [3, 2],
            "{descr}"
        );
    }
}

#[test]
fn headers_of_versions_2_and_3_and_any_order_of_keys_are_read() {
    let text = "{\"shape\": (2,), 'fortran_order': False, 'descr': '|u1'}\n";
    for version in [2, 3] {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([3, 2]);
        let dir = with("test_labels.npy", Some(bytes));
        assert_eq!(
            load("npy", &dir, Need::EVAL).unwrap().test().unwrap().labels().unwrap(),
            [3, 2]
        );
    }
}

#[test]
fn wrong_files_are_refused_even_where_they_are_not_needed() {
    let images = |descr, shape, data: &[u8]| ("test_images.npy", array(descr, shape, data));
    let labels = |descr, shape, data: &[u8]| ("test_labels.npy", array(descr, shape, data));
    let mut pixels = vec![0.5f32; 80];
    let mut pixel = |v| {
        pixels[41] = v;
        images("<f4", "(2, 2, 4, 5)", &f4(&pixels))
    };
    let header = |text: &str| ("test_labels.npy", raw(text, &[3, 2]));
    let cases: Vec<((&str, Vec<u8>), &str)> = vec![
        (pixel(f32::NAN), "pixel NaN of image 1"),
        (pixel(1.0 + f32::EPSILON), "of image 1 is outside [0, 1]"),
        (pixel(-1e-9), "outside [0, 1]"),
        (pixel(f32::INFINITY), "pixel inf"),
        (images("|u1", "(2, 2, 4, 5)", &[0; 79]), "needs 80 bytes of data, the file has 79"),
        (images("|u1", "(2, 2, 4, 5)", &[0; 81]), "the file has 81"),
        (images("|u1", "(2, 40)", &[0; 80]), "must be [N,C,H,W]"),
        (images("|u1", "(0, 2, 4, 5)", &[]), "none of them 0"),
        (images("|u1", "(2, 2, 4, 0)", &[]), "none of them 0"),
        (images("|u1", "(2, 2, 5, 4)", &[0; 80]), "must agree"),
        (images("<f8", "(2, 2, 4, 5)", &[0; 640]), "u1 or f4"),
        (images("|i1", "(2, 2, 4, 5)", &[0; 80]), "u1 or f4"),
        (images("|u1", "(4294967296, 4294967296, 4, 5)", &[0; 80]), "too many"),
        (images("|u1", "(1000000000000, 2, 4, 5)", &[0; 80]), "the file has 80"),
        (images("<c8", "(2, 2, 4, 5)", &[0; 640]), "integers or floats"),
        (images("|O", "(2, 2, 4, 5)", &[0; 640]), "integers or floats"),
        (labels("|u1", "(3,)", &[0; 3]), "3 labels for the 2 images"),
        (labels("|u1", "(2, 1)", &[0; 2]), "must be [N] of an integer type"),
        (labels("<f4", "(2,)", &[0; 8]), "must be [N] of an integer type"),
        (labels("<i4", "(2,)", &[0, 0, 0, 0, 255, 255, 255, 255]), "label -1 of image 1"),
        (labels("<u8", "(2,)", &[255; 16]), "label 18446744073709551615 of image 0"),
        (labels("<i4", "(2,)", &[0, 0, 0, 0, 0, 0, 1, 0]), "label 65536 of image 1"),
        (("test_labels.npy", b"PK\x03\x04 something else".to_vec()), "not an .npy file"),
        (("test_labels.npy", Vec::new()), "not an .npy file"),
        (("test_labels.npy", b"\x93NUMPY\x01".to_vec()), "cut short"),
        (("test_labels.npy", b"\x93NUMPY\x01\x00\xff\xffabc".to_vec()), "cut short"),
        (("test_labels.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xffabc".to_vec()), "cut short"),
        (("test_labels.npy", b"\x93NUMPY\x09\x00\x00\x00".to_vec()), "version 9.0"),
        (header("{'descr': '|u1', 'fortran_order': True, 'shape': (2,), }"), "Fortran order"),
        (header("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2,), }"), "structure"),
        (header("{'descr': '|u1', 'fortran_order': False, }"), "dictionary"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-2,), }"), "dictionary"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,"), "dictionary"),
        (header("{'descr': '', 'fortran_order': False, 'shape': (2,), }"), "element type"),
        (header("{'descr': 'é1', 'fortran_order': False, 'shape': (2,), }"), "element type"),
        (
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), 'more': 1}"),
            "dictionary",
        ),
        (header(""), "dictionary"),
    ];
    for ((name, content), says) in cases {
        let dir = with(name, Some(content));
        for need in [Need::TRAIN, Need::PREDICT, Need::ANY] {
            refused(load("npy", &dir, need), &[name, says]);
        }
    }
}

#[test]
fn what_is_missing_is_refused_only_where_it_is_needed() {
    let no_train = folder(&complete()[2..]);
    let set = load("npy", &no_train, Need::EVAL).unwrap();
    assert_eq!((set.train.is_none(), set.classes), (true, Some(4)));
    refused(load("npy", &no_train, Need::TRAIN), &["train_images.npy", "missing"]);
    refused(
        load("npy", &with("train_labels.npy", None), Need::TRAIN),
        &["train_labels.npy", "missing"],
    );
    assert!(load("npy", &with("train_labels.npy", None), Need::EVAL).is_ok());
    let images_only = folder(&complete()[2..3]);
    assert_eq!(load("npy", &images_only, Need::PREDICT).unwrap().classes, None);
    refused(load("npy", &images_only, Need::EVAL), &["test_labels.npy", "missing"]);
    refused(load("npy", &with("test_images.npy", None), Need::EVAL), &["test_images.npy"]);
}

#[test]
#[cfg(unix)]
fn what_is_not_a_regular_file_is_refused_and_never_waited_for() {
    let dir = with("test_images.npy", None);
    fs::create_dir(dir.path().join("test_images.npy")).unwrap();
    refused(load("npy", &dir, Need::EVAL), &["test_images.npy", "regular file"]);
    let dir = with("test_images.npy", None);
    let pipe = dir.path().join("test_images.npy");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(load("npy", &dir, Need::EVAL), &["test_images.npy", "regular file"]);
}

#[test]
fn a_header_with_any_byte_changed_never_panics() {
    let good = complete().remove(3).1;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    for at in 0..good.len() {
        for value in [0, 1, b'(', b'\'', b'9', 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            fs::write(&path, bytes).unwrap();
            let _ = npy::read(&path);
        }
        fs::write(&path, &good[..at]).unwrap();
        assert!(npy::read(&path).is_err(), "cut to {at} bytes");
    }
}

#[test]
fn written_files_are_numpys_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    npy::write(&path, &[2, 3], &[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let want = array("<f4", "(2, 3)", &f4(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(fs::read(&path).unwrap(), want);
    npy::write(&path, &[2], &[true, false]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), array("|b1", "(2,)", &[1, 0]));
    npy::write(&path, &[], &[7i64]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), array("<i8", "()", &7i64.to_le_bytes()));
    let message = npy::write(&path, &[3], &[1u8]).unwrap_err().to_string();
    assert!(message.contains("[3]"), "{message}");
    npy::write(&path, &[1, 2, 1], &[-3i32, 4]).unwrap();
    let array = npy::read(&path).unwrap();
    assert_eq!((array.dtype().as_str(), array.shape.as_slice()), ("i4", &[1, 2, 1][..]));
    assert_eq!(array.to_integers().unwrap().collect::<Vec<_>>(), [-3, 4]);
}
