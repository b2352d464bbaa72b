//! Folders of images: `image-folder`, Imagenette, Tiny-ImageNet.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

use super::*;

fn picture(seed: u64, width: u32, height: u32) -> RgbImage {
    RgbImage::from_raw(width, height, noise(seed, (3 * width * height) as usize)).unwrap()
}

/// Smooth, so that JPEG changes it little.
fn slope(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(4 * x) as u8, (3 * y) as u8, (x + y) as u8])
    })
}

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn png(seed: u64, width: u32, height: u32) -> Vec<u8> {
    encode(&picture(seed, width, height), ImageFormat::Png)
}

fn planes(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|c| image.pixels().map(move |pixel| pixel.0[c])).collect()
}

fn complete() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train/cat/b.png", png(1, 5, 4)),
        ("train/cat/a.PNG", png(2, 5, 4)),
        ("train/ant/x.png", png(3, 5, 4)),
        ("train/ant/notes.txt", b"no image".to_vec()),
        ("test/cat/y.png", png(4, 5, 4)),
    ]
}

#[test]
fn classes_are_the_sorted_names_of_the_training_folders() {
    let set = load("image-folder", &folder(&complete()), Need::TRAIN).unwrap();
    assert_eq!((set.class_names.join(" ").as_str(), set.classes), ("ant cat", Some(2)));
    let train = set.train().unwrap();
    assert_eq!((train.shape, train.labels().unwrap()), ([3, 3, 4, 5], &[0, 1, 1][..]));
    let want: Vec<u8> = [3, 2, 1].iter().flat_map(|&seed| planes(&picture(seed, 5, 4))).collect();
    assert_eq!(bytes(train), want);
    assert_eq!(set.test().unwrap().labels().unwrap(), [1]);
}

#[test]
fn val_stands_in_for_test_and_what_is_not_needed_may_be_missing() {
    let val = folder(&[("val/a/1.png", png(1, 5, 4)), ("val/b/1.png", png(2, 5, 4))]);
    let set = load("image-folder", &val, Need::EVAL).unwrap();
    assert_eq!((set.train.is_none(), set.test().unwrap().labels().unwrap()), (true, &[0, 1][..]));
    refused(load("image-folder", &val, Need::TRAIN), &["train", "missing"]);
    let train = folder(&complete()[..4]);
    refused(load("image-folder", &train, Need::EVAL), &["test", "missing"]);
    assert!(load("image-folder", &train, Need::ANY).unwrap().test.is_none());
}

#[test]
fn grey_alpha_and_jpeg_become_rgb() {
    let image = DynamicImage::ImageRgb8(slope(24, 20));
    let grey = image.to_luma8();
    let mut grey_png = Cursor::new(Vec::new());
    grey.write_to(&mut grey_png, ImageFormat::Png).unwrap();
    let mut alpha_png = Cursor::new(Vec::new());
    image.to_rgba8().write_to(&mut alpha_png, ImageFormat::Png).unwrap();
    let dir = folder(&[
        ("test/a/1.png", grey_png.into_inner()),
        ("test/a/2.png", alpha_png.into_inner()),
        ("test/a/3.JPEG", encode(&slope(24, 20), ImageFormat::Jpeg)),
    ]);
    let set = load("image-folder", &dir, Need::EVAL).unwrap();
    let images: Vec<_> = bytes(set.test().unwrap()).chunks(3 * 480).collect();
    assert_eq!(images[0], [grey.as_raw().as_slice(); 3].concat());
    assert_eq!(images[1], planes(&slope(24, 20)));
    let error: u32 = images[2].iter().zip(images[1]).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
    assert!(error < 3 * 1440, "mean error of the JPEG {}", f64::from(error) / 1440.0);
}

#[test]
fn resizing_is_bilinear_with_centres_at_half_integers() {
    let (h, w, size) = (7, 13, 10);
    let from = picture(1, w, h);
    let dir = folder(&[
        ("test/a/1.png", encode(&from, ImageFormat::Png)),
        ("test/a/2.png", png(2, 10, 10)),
    ]);
    let spec = format!("image-folder:{},size={size}", dir.path().display());
    let set = Dataset::load_for(&spec, Need::EVAL).unwrap();
    let got = bytes(set.test().unwrap());
    for (i, &v) in got[..300].iter().enumerate() {
        let (c, y, x) = (i / 100, i / 10 % 10, i % 10);
        let mut want = 0.0;
        // The tent of each old pixel around the new pixel's place.
        let place = |i: usize, old: u32| {
            ((i as f64 + 0.5) * f64::from(old) / f64::from(size) - 0.5)
                .clamp(0.0, f64::from(old) - 1.0)
        };
        for (xx, yy, pixel) in from.enumerate_pixels() {
            let tent = |a: f64, b: u32| (1.0 - (a - f64::from(b)).abs()).max(0.0);
            want += f64::from(pixel.0[c]) * tent(place(y, h), yy) * tent(place(x, w), xx);
        }
        assert!((f64::from(v) - want).abs() < 0.501, "{c} {y} {x}: {v}, {want}");
    }
    assert_eq!(got[300..], planes(&picture(2, 10, 10)));
    refused(load("image-folder", &dir, Need::EVAL), &["2.png", "10×10", "7×13", "size=N"]);
    for wrong in ["0", "x", "5000", ""] {
        let spec = format!("image-folder:{},size={wrong}", dir.path().display());
        refused(Dataset::load(&spec), &["size", "1..=1024"]);
    }
}

#[test]
fn wrong_folders_and_files_are_refused() {
    // The header of a PNG that claims 60,000 × 60,000 pixels, with its checksum.
    let mut huge = png(1, 5, 4);
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("test/cat/y.png", png(1, 4, 5), "must agree"),
        ("test/cat/z.png", png(1, 4, 4), "must agree"),
        ("test/dog/y.png", png(1, 5, 4), "not a class"),
        ("test/cat/y.png", b"no image".to_vec(), "is not a PNG, JPEG"),
        ("test/cat/y.png", Vec::new(), "empty (0 bytes)"),
        ("test/cat/y.png", png(4, 5, 4)[..60].to_vec(), "y.png"),
        ("test/cat/y.png", huge, "y.png"),
        ("train/dog/readme", Vec::new(), "has no images"),
    ];
    for (name, content, says) in cases {
        let dir = folder(&complete());
        put(dir.path(), name, &content);
        refused(load("image-folder", &dir, Need::EVAL), &[says]);
    }
    let dir = folder(&complete());
    put(dir.path(), "train/cat/b.png", b"no image");
    refused(load("image-folder", &dir, Need::EVAL), &["b.png", "is not a PNG, JPEG"]);
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn images_cut_anywhere_are_refused_and_changed_ones_never_panic() {
    for (format, name) in [(ImageFormat::Jpeg, "test/a/1.jpg"), (ImageFormat::Png, "test/a/1.png")]
    {
        let good = encode(&picture(1, 20, 17), format);
        let dir = folder(&[(name, good.clone())]);
        load("image-folder", &dir, Need::EVAL).unwrap();
        for at in (0..good.len() - 1).step_by(7) {
            put(dir.path(), name, &good[..at]);
            refused(load("image-folder", &dir, Need::EVAL), &[name]);
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            put(dir.path(), name, &bytes);
            let _ = load("image-folder", &dir, Need::EVAL);
        }
    }
}

#[test]
fn imagenette_is_resized_to_224_and_knows_its_names() {
    let dir = folder(&[
        ("imagenette2/train/n01440764/a.JPEG", encode(&slope(30, 20), ImageFormat::Jpeg)),
        ("imagenette2/train/n03888257/a.JPEG", encode(&slope(50, 60), ImageFormat::Jpeg)),
        ("imagenette2/val/n03888257/b.JPEG", encode(&slope(9, 9), ImageFormat::Jpeg)),
    ]);
    let set = load("imagenette", &dir, Need::TRAIN).unwrap();
    assert_eq!(set.class_names, ["tench", "parachute"]);
    assert_eq!(set.train().unwrap().shape, [2, 3, 224, 224]);
    assert_eq!(set.test().unwrap().labels().unwrap(), [1]);
    let spec = format!("imagenette:{},size=32", dir.path().display());
    assert_eq!(Dataset::load_for(&spec, Need::EVAL).unwrap().test().unwrap().shape, [1, 3, 32, 32]);
}

fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("wnids.txt", b"n02\nn01\n".to_vec()),
        ("words.txt", b"n01\tgoldfish, Carassius auratus\nn03\tother\n".to_vec()),
        ("train/n01/images/n01_0.JPEG", png(1, 64, 64)),
        ("train/n02/images/n02_0.JPEG", png(2, 64, 64)),
        ("train/n02/n02_boxes.txt", b"n02_0.JPEG\t0\t0\t62\t62\n".to_vec()),
        ("val/images/val_0.JPEG", png(3, 64, 64)),
        ("val/images/val_1.JPEG", png(4, 64, 64)),
        (
            "val/val_annotations.txt",
            b"val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\n".to_vec(),
        ),
    ]
}

#[test]
fn tiny_imagenet_takes_its_test_images_from_val() {
    let set = load("tiny-imagenet", &folder(&tiny()), Need::TRAIN).unwrap();
    assert_eq!(set.class_names, ["goldfish", "n02"]);
    let (train, test) = (set.train().unwrap(), set.test().unwrap());
    assert_eq!((train.shape, train.labels().unwrap()), ([2, 3, 64, 64], &[0, 1][..]));
    assert_eq!(test.labels().unwrap(), [0, 1]);
    assert_eq!(bytes(test)[..3 * 4096], planes(&picture(4, 64, 64)));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("val/val_annotations.txt", b"val_1.JPEG\tn09\n".to_vec(), "line 1"),
        ("val/val_annotations.txt", b"val_1.JPEG\tn01\nval_0.JPEG n01\n".to_vec(), "line 2"),
        ("val/val_annotations.txt", b"../../x.JPEG\tn01\n".to_vec(), "without a folder"),
        ("val/val_annotations.txt", b"val_7.JPEG\tn01\n".to_vec(), "val_7.JPEG"),
        ("val/val_annotations.txt", vec![0xff, 0xfe], "not text"),
        ("wnids.txt", Vec::new(), "empty"),
        ("wnids.txt", b"n01\nn02\nn05".to_vec(), "n05"),
        ("train/n01/images/n01_0.JPEG", png(1, 32, 64), "must agree"),
    ];
    for (name, content, says) in cases {
        let dir = folder(&tiny());
        put(dir.path(), name, &content);
        refused(load("tiny-imagenet", &dir, Need::EVAL), &[says]);
    }
    let small = folder(&tiny()[..3]);
    put(small.path(), "wnids.txt", b"n01");
    put(small.path(), "train/n01/images/n01_0.JPEG", &png(1, 32, 32));
    refused(load("tiny-imagenet", &small, Need::ANY), &["train", "32×32", "64×64"]);
}
