//! Test images beside their adversarial examples and the difference between the two.

use super::input::Report;
use super::load::Run;
use super::marker::marker;
use super::networks::Networks;
use super::section::{Part, Section};
use super::text::escape;
use crate::run::{Sample, Samples};
use crate::{Error, Result};
use base64::Engine;
use std::fmt::Write;

const NOTE: &str = "One test image of each class that the file of samples holds. From left to right: the image, its \
    adversarial example, and the difference of the two, amplified (grey: no change). Below: the true class, then what the \
    network says of the image → of its adversarial example.";

/// The section.
///
/// Errors: [`crate::ErrorKind::File`] for images of another size than the file says.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut parts = Vec::new();
    for (&network, run) in networks.runs.iter().zip(&report.runs) {
        if let Some(samples) = &run.samples {
            let title = format!("{}{}", marker(network), escape(networks.name(network)));
            parts.push(Part::Html(gallery(&title, run, samples)?));
        }
    }
    if !parts.is_empty() {
        parts.insert(0, Part::Html(format!("<p class=note>{NOTE}</p>\n")));
    }
    Ok(Section::new("samples", "Images and their adversarial examples", parts))
}

/// The first image of each class, in the order of the classes.
fn one_a_class(samples: &Samples) -> Vec<&Sample> {
    let mut images: Vec<&Sample> = samples.images.iter().collect();
    images.sort_by_key(|image| image.label);
    images.dedup_by_key(|image| image.label);
    images
}

fn gallery(title: &str, run: &Run, samples: &Samples) -> Result<String> {
    let images = one_a_class(samples);
    let factor = amplification(&images);
    let mut text = format!(
        "<h3>{title}</h3>\n<p class=note>Attack: {}. Difference: ×{factor}.</p>\n<div class=samples>\n",
        escape(&samples.attack)
    );
    let class = |index: usize| match samples.classes.get(index) {
        Some(name) => escape(name),
        None if index == usize::MAX => "nothing".to_owned(),
        None => index.to_string(),
    };
    for image in images {
        let says = |predicted: usize| {
            let (kind, sign) = match predicted == image.label {
                true => ("right", "✓"),
                false => ("wrong", "✗"),
            };
            format!("<span class={kind}>{sign} {}</span>", class(predicted))
        };
        let difference: Vec<u8> = image
            .clean
            .iter()
            .zip(&image.adversarial)
            .map(|(&clean, &adversarial)| {
                let change = i32::from(adversarial) - i32::from(clean);
                (128 + change * factor).clamp(0, 255) as u8
            })
            .collect();
        let label = class(image.label);
        text += "<figure>";
        for (what, pixels) in [
            ("image", &image.clean),
            ("adversarial example", &image.adversarial),
            ("difference", &difference),
        ] {
            let uri = png(run, samples, pixels)?;
            _ = write!(text, "<img alt=\"{what}: {label}\" title=\"{what}\" src=\"{uri}\">");
        }
        _ = writeln!(
            text,
            "<figcaption>{label}<br>{} → {}</figcaption></figure>",
            says(image.predicted),
            says(image.predicted_adversarial)
        );
    }
    Ok(text + "</div>\n")
}

/// The whole factor that brings the largest difference near the ends of 0..255.
fn amplification(images: &[&Sample]) -> i32 {
    let pixels = images.iter().flat_map(|image| image.clean.iter().zip(&image.adversarial));
    let largest = pixels.map(|(&clean, &adversarial)| clean.abs_diff(adversarial)).max();
    127 / i32::from(largest.unwrap_or(0).clamp(1, 127))
}

/// A PNG inside its address.
fn png(run: &Run, samples: &Samples, pixels: &[u8]) -> Result<String> {
    let [height, width, channels] = samples.shape;
    let wrong = |what: String| Error::file(run.dir.join("samples.json"), what);
    let size = height.checked_mul(width).and_then(|size| size.checked_mul(channels));
    if size != Some(pixels.len()) || !matches!(channels, 1 | 3) {
        return Err(wrong(format!(
            "an image of {} bytes, expected {height}×{width}×{channels} with 1 or 3 channels",
            pixels.len()
        )));
    }
    let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    let (width, height) = (width as u32, height as u32);
    image::ImageEncoder::write_image(encoder, pixels, width, height, colour.into())
        .map_err(|error| wrong(error.to_string()))?;
    let data = base64::engine::general_purpose::STANDARD.encode(png);
    Ok(format!("data:image/png;base64,{data}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_of_each_class_is_shown_and_the_difference_reaches_the_ends() {
        let image = |label, clean: u8, adversarial: u8| Sample {
            label,
            predicted: label,
            predicted_adversarial: 0,
            clean: vec![clean],
            adversarial: vec![adversarial],
        };
        let samples = Samples {
            attack: "pgd".into(),
            classes: vec!["cat".into()],
            shape: [1, 1, 1],
            images: vec![image(2, 10, 18), image(0, 9, 5), image(2, 11, 11), image(1, 0, 0)],
        };
        let images = one_a_class(&samples);
        let shown: Vec<_> = images.iter().map(|image| (image.label, image.clean[0])).collect();
        assert_eq!(shown, [(0, 9), (1, 0), (2, 10)]);
        assert_eq!(amplification(&images), 15);
        assert_eq!(amplification(&images[1..2]), 127);
        assert_eq!(amplification(&[&image(0, 0, 255)]), 1);
    }
}
