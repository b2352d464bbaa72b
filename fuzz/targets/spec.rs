//! What flags and recipes name in one word: `--arch`, `--data`, `--normalize`, `eps`, granularities, modes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::attack::Epsilon;
use rewire::data::{Dataset, Need};
use rewire::nn::{ArchSpec, Normalization};
use rewire::prune::Granularity;
use rewire::{Mode, models};

fuzz_target!(|text: &str| {
    if let Ok(spec) = ArchSpec::parse(text) {
        let arch = spec.resolve();
        assert_eq!(ArchSpec::parse(&arch.to_string()).unwrap().resolve(), arch);
        let _ = models::blueprint(&arch);
    }
    if let Ok(Some(normalization)) = Normalization::parse(text) {
        let _ = normalization.check(3);
    }
    if let Ok(eps) = text.parse::<Epsilon>() {
        assert_eq!(eps.to_string().parse::<Epsilon>().unwrap(), eps);
    }
    let _ = (text.parse::<Granularity>(), text.parse::<Mode>());
    // Files are for the other targets. Made-up images are for this one where all counts have one digit: the defaults are
    // thousands of images, which take seconds under the sanitizer.
    let given = ["size=", "channels=", "train=", "test="].iter().all(|key| text.contains(key));
    let small = text.split(|c: char| !c.is_ascii_digit()).all(|number| number.len() < 2);
    let made_up = text.starts_with("synthetic");
    if (made_up && given && small)
        || !(made_up || text.contains(':') || text.starts_with("fashion"))
    {
        let _ = Dataset::load_for(text, Need::ANY);
    }
});
