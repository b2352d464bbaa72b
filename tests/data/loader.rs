//! Order, augmentation and layout of batches; normalisation constants.

use rewire::data::{Augmentation, Batch, Loader};
use rewire::nn::{NORMALIZATIONS, Normalization};

use super::*;

fn set(n: usize, [c, h, w]: [usize; 3]) -> Split {
    Split {
        shape: [n, c, h, w],
        pixels: Pixels::U8(noise(n as u64, n * c * h * w)),
        labels: Some((0..n as i32).collect()),
        source: "test".into(),
    }
}

fn epoch(loader: &Loader, epoch: u64) -> Vec<Batch> {
    loader.epoch(epoch).batches().collect()
}

fn order(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.index.clone()).collect()
}

#[test]
fn batches_are_nhwc_in_order_and_the_last_is_partial() {
    let split = set(7, [3, 4, 5]);
    let loader = Loader::new(&split, 3).unwrap();
    let batches = epoch(&loader, 0);
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!((loader.steps(), order(&batches)), (3, (0..7).collect()));
    let nchw = split.images_nchw(0..7);
    for (b, batch) in batches.iter().enumerate() {
        assert_eq!(batch.labels, batch.index.iter().map(|&i| i as i32).collect::<Vec<_>>());
        for (i, v) in batch.images.iter().enumerate() {
            let (n, y, x, c) = (b * 3 + i / 60, i % 60 / 15, i % 15 / 3, i % 3);
            assert_eq!(*v, nchw[((n * 3 + c) * 4 + y) * 5 + x]);
        }
    }
    assert!(loader.epoch(0).batch(3).is_none());
    let message = Loader::new(&split, 0).err().unwrap().to_string();
    assert!(message.contains("batch_size"), "{message}");
    assert_eq!(epoch(&Loader::new(&split, 100).unwrap(), 0).len(), 1);
}

#[test]
fn a_shuffled_epoch_holds_every_image_once_and_depends_on_seed_and_epoch_alone() {
    let split = set(100, [1, 4, 4]);
    let orders = |size: usize, seed: u64, e: u64| {
        order(&epoch(&Loader::new(&split, size).unwrap().shuffle(Seed(seed)), e))
    };
    let first = orders(7, 1, 0);
    let mut sorted = first.clone();
    sorted.sort();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    assert_ne!(first, sorted);
    assert_eq!(first, orders(64, 1, 0));
    assert_ne!(first, orders(7, 1, 1));
    assert_ne!(first, orders(7, 2, 0));
}

/// Each image alone, whatever it is batched with, in every thread pool, in every order of steps.
#[test]
fn augmentation_depends_on_seed_epoch_and_image_alone() {
    let split = set(64, [3, 9, 8]);
    let names = ["pad-crop-4-reflect", "flip"];
    let loader = |size| Loader::new(&split, size).unwrap().augment(Seed(5), &names).unwrap();
    let image = |batches: &[Batch], i: usize| {
        let batch = batches.iter().find(|batch| batch.index.contains(&i)).unwrap();
        let at = batch.index.iter().position(|&j| j == i).unwrap();
        batch.images[at * 216..][..216].to_vec()
    };
    let reference = epoch(&loader(64), 3);
    let shuffled = epoch(&loader(5).shuffle(Seed(9)), 3);
    (0..64).for_each(|i| assert_eq!(image(&reference, i), image(&shuffled, i)));
    for threads in [1, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| epoch(&loader(64), 3)), reference);
    }
    let five = loader(5);
    let resumed = five.epoch(3);
    let all: Vec<_> = resumed.batches().collect();
    assert_eq!(resumed.batch(12).unwrap(), all[12]);
    assert_ne!(epoch(&loader(64), 4), reference);
}

/// One image with distinct pixels shows which of the 9 × 9 crops and 2 flips it got.
fn placement(names: &[&str], n: usize) -> Vec<(isize, isize, bool)> {
    let (h, w) = (16, 16);
    let pixels = (0..n).flat_map(|_| 0..=255).collect();
    let split = Split {
        shape: [n, 1, h, w],
        pixels: Pixels::U8(pixels),
        labels: None,
        source: "test".into(),
    };
    let batch =
        epoch(&Loader::new(&split, n).unwrap().augment(Seed(2), names).unwrap(), 0).remove(0);
    batch
        .images
        .chunks_exact(h * w)
        .map(|image| {
            // Far from every border, so that no padding shows.
            let at = |y: usize, x: usize| (image[y * w + x] * 255.0).round() as isize;
            let flipped = at(8, 9) < at(8, 8);
            let (y, x) = (at(8, 8) / w as isize, at(8, 8) % w as isize);
            (y - 8, x - if flipped { 7 } else { 8 }, flipped)
        })
        .collect()
}

#[test]
fn crops_and_flips_are_uniform_and_independent() {
    let n = 20_000;
    let drawn = placement(&["pad-crop-4", "flip"], n);
    let mut counts = std::collections::BTreeMap::new();
    drawn.iter().for_each(|p| *counts.entry(*p).or_insert(0usize) += 1);
    assert_eq!(counts.len(), 9 * 9 * 2);
    let expected = n as f64 / 162.0;
    let chi2: f64 = counts.values().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
    // 161 degrees of freedom: mean 161, standard deviation 17.9.
    assert!((161.0 - 5.0 * 17.9..161.0 + 5.0 * 17.9).contains(&chi2), "chi² = {chi2}");
    // Switching the flip off does not move the crops.
    let crops = placement(&["pad-crop-4"], n);
    assert!(drawn.iter().zip(&crops).all(|(a, b)| (a.0, a.1) == (b.0, b.1)));
}

#[test]
fn borders_are_zeros_or_reflections() {
    let split = set(200, [2, 6, 7]);
    let nchw = split.images_nchw(0..200);
    for (name, reflect) in [("pad-crop-4", false), ("pad-crop-4-reflect", true)] {
        let loader = Loader::new(&split, 200).unwrap().augment(Seed(1), &[name]).unwrap();
        let batch = epoch(&loader, 0).remove(0);
        let pixel = |n: usize, c: usize, y: isize, x: isize| {
            let fold = |i: isize, len: isize| match i {
                i if i < 0 => -i,
                i if i >= len => 2 * (len - 1) - i,
                i => i,
            };
            let inside = (0..6).contains(&y) && (0..7).contains(&x);
            match reflect || inside {
                true => nchw[((n * 2 + c) * 6 + fold(y, 6) as usize) * 7 + fold(x, 7) as usize],
                false => 0.0,
            }
        };
        for n in 0..200 {
            let image = &batch.images[n * 84..][..84];
            let same = |dy: isize, dx: isize| {
                (0..84).all(|i| {
                    let (y, x, c) = ((i / 14) as isize, (i % 14 / 2) as isize, i % 2);
                    image[i] == pixel(n, c, y + dy, x + dx)
                })
            };
            let shifts = (-4..=4).flat_map(|dy| (-4..=4).map(move |dx| (dy, dx)));
            assert_eq!(shifts.filter(|&(dy, dx)| same(dy, dx)).count(), 1, "{name}, image {n}");
        }
    }
}

#[test]
fn unknown_doubled_and_impossible_augmentations_are_refused() {
    for (names, size, says) in [
        (&["flipp"][..], 32, "pad-crop-4-reflect"),
        (&["flip", "flip"], 32, "once"),
        (&["pad-crop-4-reflect"], 4, "at least 5×5"),
    ] {
        let message = Augmentation::parse(names, size, size).unwrap_err().to_string();
        assert!(message.contains("data.augment") && message.contains(says), "{message}");
    }
    let all: Vec<_> = AUGMENTATIONS.iter().map(|a| a.name).collect();
    assert_eq!(Augmentation::parse(&all, 5, 5).unwrap().len(), all.len());
}

#[test]
fn synthetic_images_are_learnable_and_always_the_same() {
    let spec = "synthetic:classes=5,size=12,channels=2,train=300,test=100";
    let (a, b) = (Dataset::load(spec).unwrap(), Dataset::load(spec).unwrap());
    let (train, test) = (a.train().unwrap(), a.test().unwrap());
    assert_eq!((train, test), (b.train().unwrap(), b.test().unwrap()));
    assert_eq!((train.shape, a.classes), ([300, 2, 12, 12], Some(5)));
    // The nearest mean of a class already tells most classes apart.
    let image = 2 * 12 * 12;
    let mut means = vec![0.0f64; 5 * image];
    let values = train.images_nchw(0..300);
    for (i, v) in values.iter().enumerate() {
        let class = train.labels().unwrap()[i / image] as usize;
        means[class * image + i % image] += f64::from(*v) / 60.0;
    }
    let right = (0..100).filter(|&i| {
        let x = test.images_nchw(i..i + 1);
        let distance = |class: usize| -> f64 {
            x.iter().zip(&means[class * image..]).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum()
        };
        let best = (0..5).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
        best as i32 == test.labels().unwrap()[i]
    });
    assert!(right.count() >= 90);
    for wrong in [
        "classes=1",
        "size=0",
        "size=x",
        "size",
        "colour=3",
        "train=-1",
        "train=1000000,size=1024",
        "test=0",
    ] {
        refused(Dataset::load(&format!("synthetic:{wrong}")), &["synthetic"]);
    }
    let defaults = Dataset::load("synthetic").unwrap();
    assert_eq!(defaults.train().unwrap().shape, [2048, 3, 32, 32]);
    assert_eq!((defaults.test().unwrap().len(), defaults.classes), (512, Some(10)));
}

#[test]
fn truncated_splits_keep_the_first_images() {
    let mut split = set(7, [1, 4, 5]);
    let want = split.images_nchw(0..3);
    split.truncate(3);
    assert_eq!((split.len(), split.images_nchw(0..3), split.labels().unwrap().len()), (3, want, 3));
    split.truncate(100);
    assert_eq!(split.len(), 3);
    assert!(split.check_labels(3).is_ok());
    let message = split.check_labels(2).unwrap_err().to_string();
    assert!(message.contains("label 2 of image 2"), "{message}");
}

#[test]
fn normalisations_are_names_or_lists_of_numbers() {
    let read = |text: &str| Normalization::parse(text).unwrap();
    let cifar = read("cifar10").unwrap();
    assert_eq!(cifar.mean, [125.3f64 / 255.0, 123.0 / 255.0, 113.9 / 255.0].map(|v| v as f32));
    let own = read("mean=0.1:0.2,std=1:2.5").unwrap();
    assert_eq!((own.mean.as_slice(), own.std.as_slice()), (&[0.1, 0.2][..], &[1.0, 2.5][..]));
    assert_eq!(read("none"), None);
    for entry in NORMALIZATIONS {
        let parsed = read(entry.name);
        let written = parsed.as_ref().map_or("none".into(), Normalization::to_string);
        assert_eq!(read(&written), parsed);
        assert_eq!(parsed.is_none(), entry.name == "none");
        assert_eq!(entry.mean.len(), entry.std.len());
    }
    assert!(cifar.check(3).is_ok() && cifar.check(1).is_err());
    for wrong in [
        "",
        "cifar",
        "mean=0.1",
        "mean=0.1,std=0",
        "mean=0.1,std=-1",
        "mean=nan,std=1",
        "mean=0,std=inf",
        "mean=0:0,std=1",
        "mean=,std=",
        "std=1,mean=0",
        "mean=0,std=1,std=1",
        "mean=0,std=1e-60",
    ] {
        let message = Normalization::parse(wrong).unwrap_err().to_string();
        assert!(message.contains("--normalize") && message.contains("cifar100"), "{message}");
    }
}
