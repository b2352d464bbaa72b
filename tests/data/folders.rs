//! What folders of images may hold: every format that is read, and everything that is not.

use std::ffi::OsStr;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use image::{DynamicImage, ImageFormat, RgbImage};

use super::*;

const FORMATS: [(&str, ImageFormat); 6] = [
    ("png", ImageFormat::Png),
    ("webp", ImageFormat::WebP),
    ("bmp", ImageFormat::Bmp),
    ("tif", ImageFormat::Tiff),
    ("ppm", ImageFormat::Pnm),
    ("gif", ImageFormat::Gif),
];

/// Few colours, so that a GIF holds them exactly.
fn picture(seed: u64) -> RgbImage {
    let values = noise(seed, 6 * 5 * 3).into_iter().map(|v| v & 0xc0).collect();
    RgbImage::from_raw(6, 5, values).unwrap()
}

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgb8(image.clone());
    match format {
        ImageFormat::Gif => image.to_rgba8().write_to(&mut out, format),
        _ => image.write_to(&mut out, format),
    }
    .unwrap();
    out.into_inner()
}

fn png(seed: u64) -> Vec<u8> {
    encode(&picture(seed), ImageFormat::Png)
}

fn planes(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|c| image.pixels().map(move |pixel| pixel.0[c])).collect()
}

fn eval(dir: &TempDir) -> rewire::Result<Dataset> {
    load("image-folder", dir, Need::EVAL)
}

#[test]
fn every_format_is_read_whatever_its_name_ends_in() {
    for rename in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        for (i, (extension, format)) in FORMATS.iter().enumerate() {
            let extension = if rename { ["jpg", "png", "bin"][i % 3] } else { extension };
            let name = format!("test/a/{i}.{extension}");
            put(dir.path(), &name, &encode(&picture(i as u64), *format));
        }
        let set = eval(&dir).unwrap();
        let want: Vec<u8> = (0..6).flat_map(|i| planes(&picture(i))).collect();
        assert!(bytes(set.test().unwrap()) == want, "renamed: {rename}");
        assert!(set.notes.is_empty(), "{:?}", set.notes);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_by_its_name() {
    for (extension, format) in FORMATS {
        let whole = encode(&picture(1), format);
        for len in [1, 9, whole.len() / 2, whole.len() * 3 / 4] {
            let name = format!("test/a/cut.{extension}");
            refused(eval(&folder(&[(&name, whole[..len].to_vec())])), &[&name]);
        }
    }
    refused(eval(&folder(&[("test/a/x.webp", Vec::new())])), &["x.webp", "empty (0 bytes)"]);
}

#[test]
fn what_is_left_out_is_named_and_counted() {
    let mut files = vec![
        ("test/a/1.png", png(1)),
        ("test/a/.DS_Store", vec![0]),
        ("test/a/._1.png", vec![0]),
        ("test/a/README", b"BMP files of the first day".to_vec()),
        ("test/a/x.png/deep.png", png(2)),
        ("test/.ipynb_checkpoints/1.png", png(3)),
        ("test/beside.png", png(4)),
        ("test/labels.csv", b"P1,0".to_vec()),
        ("test/a/scan.heic", b"\0\0\0\x18ftypheic".to_vec()),
    ];
    let many: Vec<String> = (0..7).map(|i| format!("test/a/{i}.avif")).collect();
    files.extend(many.iter().map(|name| (name.as_str(), b"\0\0\0\x1cftypavif".to_vec())));
    let set = eval(&folder(&files)).unwrap();
    assert_eq!((set.test().unwrap().len(), set.class_names.join(" ").as_str()), (1, "a"));
    let want = [
        ["8 images are left out (not PNG, JPEG,", "a/0.avif, a/1.avif", "and 3 more"],
        ["1 folder is left out", "directly in the folder of their class", "a/x.png"],
        ["1 image is left out", "in the folder of their class", "beside.png"],
        ["5 files are left out (hidden, or no image)", "labels.csv", "README"],
    ];
    let notes = set.warnings(Need::EVAL);
    assert_eq!(notes.len(), want.len(), "{notes:?}");
    for (note, parts) in notes.iter().zip(want) {
        parts.iter().for_each(|part| assert!(note.contains(part), "{note:?}: {part:?}"));
    }
    refused(
        eval(&folder(&[("test/a/1.avif", b"\0\0\0\x1cftypavif".to_vec())])),
        &["test/a:", "1.avif", "PNG, JPEG"],
    );
}

#[test]
fn the_first_images_are_of_every_class() {
    let names: Vec<String> = ["cat", "ant", "bee"]
        .iter()
        .zip([3, 1, 2])
        .flat_map(|(class, count)| (0..count).map(move |i| format!("test/{class}/{i}.png")))
        .collect();
    let files: Vec<_> = names.iter().zip(0..).map(|(name, i)| (name.as_str(), png(i))).collect();
    let mut set = eval(&folder(&files)).unwrap();
    assert_eq!(set.test().unwrap().labels().unwrap(), [0, 1, 2, 1, 2, 2]);
    let want = ["ant/0", "bee/0", "cat/0", "bee/1", "cat/1", "cat/2"];
    for (file, want) in set.test_files.iter().zip(want) {
        assert!(file.ends_with(format!("{want}.png")), "{file:?}: {want}");
    }
    // The seeds of the files in that order.
    let pixels: Vec<u8> = [3, 4, 0, 5, 1, 2].iter().flat_map(|&i| planes(&picture(i))).collect();
    assert!(bytes(set.test().unwrap()) == pixels);
    assert!(set.warnings(Need::EVAL).is_empty());
    set.test.as_mut().unwrap().truncate(2);
    assert!(set.warnings(Need::PREDICT).is_empty(), "classes do not matter without labels");
    let warnings = set.warnings(Need::EVAL).join("\n");
    for part in ["2 test images are of 2 of the 3 classes: ant 1, bee 1", "no image of cat"] {
        assert!(warnings.contains(part), "{warnings}");
    }
}

#[test]
fn a_split_without_a_class_says_so() {
    let files = [("train/a/1.png", png(1)), ("train/b/1.png", png(2)), ("test/b/1.png", png(3))];
    let set = load("image-folder", &folder(&files), Need::TRAIN).unwrap();
    let warnings = set.warnings(Need::TRAIN);
    assert!(warnings.len() == 1 && warnings[0].contains("no image of a"), "{warnings:?}");
    let mut set = Dataset::load("fashion-mnist-mini").unwrap();
    assert!(set.warnings(Need::TRAIN).is_empty());
    set.train.as_mut().unwrap().truncate(1);
    let warnings = set.warnings(Need::TRAIN);
    assert!(warnings[0].contains("1 training images are of 1 of the 10 classes"), "{warnings:?}");
    // A test without the training images does not speak of them.
    assert!(set.warnings(Need::EVAL).is_empty());
}

#[test]
fn names_links_and_empty_folders_are_answered_by_their_paths() {
    let good = || folder(&[("train/a/1.png", png(1)), ("test/a/1.png", png(2))]);
    let dir = good();
    fs::create_dir(dir.path().join("train").join(OsStr::from_bytes(b"caf\xe9"))).unwrap();
    put(&dir.path().join("train").join(OsStr::from_bytes(b"caf\xe9")), "1.png", &png(3));
    refused(eval(&dir), &["train/caf", "not UTF-8", "caf\\xE9", "rename"]);
    let dir = good();
    fs::create_dir(dir.path().join("test/empty")).unwrap();
    refused(eval(&dir), &["test/empty", "has no images"]);
    for link in ["test/a/loop.png", "test/loop"] {
        let dir = good();
        symlink(dir.path().join(link), dir.path().join(link)).unwrap();
        refused(eval(&dir), &[link]);
    }
    let dir = good();
    symlink(dir.path(), dir.path().join("test/a/up")).unwrap();
    let set = eval(&dir).unwrap();
    assert!(set.notes[0].contains("a/up"), "{:?}", set.notes);
    let dir = good();
    fs::write(dir.path().join("test/a").join(OsStr::from_bytes(b"\xff.png")), png(5)).unwrap();
    assert_eq!(eval(&dir).unwrap().test().unwrap().len(), 2);
}

#[test]
fn images_without_class_folders_serve_where_no_labels_are_needed() {
    let files = [("b.png", png(1)), ("a.webp", encode(&picture(2), ImageFormat::WebP))];
    for prefix in ["", "test/", "val/"] {
        let named = files.clone().map(|(name, content)| (format!("{prefix}{name}"), content));
        let dir = folder(&named.each_ref().map(|(name, content)| (&**name, content.clone())));
        let set = load("image-folder", &dir, Need::PREDICT).unwrap();
        let test = set.test().unwrap();
        assert!(bytes(test) == [planes(&picture(2)), planes(&picture(1))].concat());
        assert_eq!((&test.labels, set.classes), (&None, None));
        let names: Vec<_> = set.test_files.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["a.webp", "b.png"]);
        refused(eval(&dir), &["labels are missing", "rewire predict"]);
        assert!(load("image-folder", &dir, Need::TRAIN).is_err());
    }
    let dir = folder(&[("cat/1.png", png(1)), ("dog/1.png", png(1))]);
    refused(eval(&dir), &["test", "missing", "if cat, dog are the classes"]);
}
