//! `data.validation`: held-out training images choose the best epoch.

use super::*;
use rewire::run::{Recipe, RunResult, Session};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

#[test]
fn every_class_gives_its_share_and_nothing_is_lost() {
    let whole = Dataset::load("fashion-mnist-mini").unwrap();
    let held = |count, seed| {
        let mut set = whole.clone();
        set.hold_out(count, Seed(seed)).unwrap();
        set
    };
    let set = held(400, 1);
    let (train, validation) = (set.train().unwrap(), set.validation.as_ref().unwrap());
    assert_eq!((train.len(), validation.len()), (3600, 400));
    assert_eq!(validation.class_counts(10).unwrap(), [40; 10]);
    // Of 405 images five classes give one more.
    let odd = held(405, 1).validation.unwrap().class_counts(10).unwrap();
    assert!(odd.iter().all(|&n| n == 40 || n == 41) && odd.iter().sum::<usize>() == 405, "{odd:?}");
    // Each image with its label is in one of the two parts, in the order that it had.
    let images = |split: &Split| -> Vec<(Vec<u8>, i32)> {
        let labels = split.labels().unwrap().iter().copied();
        bytes(split).chunks(1024).map(<[u8]>::to_vec).zip(labels).collect()
    };
    let all = images(whole.train().unwrap());
    let mut parts = [images(train), images(validation)].map(|part| part.into_iter().peekable());
    for image in &all {
        let from = parts.iter_mut().position(|part| part.peek() == Some(image));
        parts[from.expect("an image of the training set")].next();
    }
    assert!(parts.iter_mut().all(|part| part.next().is_none()));
    let chosen = |seed| bytes(held(400, seed).validation.as_ref().unwrap()).to_vec();
    assert!(chosen(1) == bytes(validation) && chosen(2) != bytes(validation));
    for count in [0, 4000, 5000] {
        let error = whole.clone().hold_out(count, Seed(1)).unwrap_err().to_string();
        assert!(error.contains("data.validation") && error.contains("4000 training"), "{error}");
    }
}

const RECIPE: &str = r#"
schema = 1
name = "held-out"
data = { set = "synthetic:classes=4,size=32,channels=1,train=48,test=12" }
model = { arch = "vgg16:width=0.0625" }
train = { epochs = 4, batch_size = 8, optimizer = { lr = 0.05 } }
"#;

fn run(dir: &Path, assignments: &[&str]) -> RunResult {
    let assignments: Vec<String> = assignments.iter().map(|text| text.to_string()).collect();
    let recipe = Recipe::parse(Path::new("held-out.toml"), RECIPE, &assignments).unwrap();
    let session = Session::start(dir, recipe, true, &rewire::Device::Cpu).unwrap();
    session.run(&AtomicBool::new(false), &mut |_| {}).unwrap()
}

/// The columns of `epochs.csv`.
fn epochs(dir: &Path) -> BTreeMap<String, Vec<f64>> {
    let text = fs::read_to_string(dir.join("epochs.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let column = |i: usize| rows[1..].iter().map(|row| row[i].parse().unwrap()).collect();
    rows[0].iter().enumerate().map(|(i, name)| (name.to_string(), column(i))).collect()
}

#[test]
fn the_best_epoch_is_chosen_on_the_held_out_images() {
    let dir = tempfile::tempdir().unwrap();
    let best = |values: &[f64]| {
        let first = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
        1 + (1..values.len()).fold(0, first)
    };
    // A seed whose two splits disagree: then the epoch tells which of them chose.
    let mut disagreed = false;
    for seed in 1..20 {
        let result = run(dir.path(), &["data.validation=12", &format!("seed={seed}")]);
        let epochs = epochs(dir.path());
        let (validation, test) = (&epochs["validation_accuracy"], &epochs["test_accuracy"]);
        assert_eq!((result.selected_by.as_str(), result.epoch), ("validation", best(validation)));
        disagreed |= best(validation) != best(test);
        if disagreed {
            break;
        }
    }
    assert!(disagreed, "no seed whose validation and test accuracies choose different epochs");
    // 36 images are left for training: 5 batches of 8 instead of 6.
    let steps = fs::read_to_string(dir.path().join("steps.csv")).unwrap();
    assert_eq!(steps.lines().count(), 1 + 4 * 5);
    let result = run(dir.path(), &[]);
    let epochs = epochs(dir.path());
    assert_eq!(
        (result.selected_by.as_str(), result.epoch),
        ("test", best(&epochs["test_accuracy"]))
    );
    assert!(!epochs.contains_key("validation_accuracy"));
}
