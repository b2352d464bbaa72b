//! Imagenette (version 2): ten easy classes of ImageNet, `train` and `val`, resized to 224×224.
//!
//! Bilinear without regard to the aspect; `DIR,size=N` for another size. Source: Howard 2019.

use super::dataset::{Dataset, Need};
use super::entry::{DatasetEntry, folder};
use super::image_folder;
use super::remote::RemoteFile;
use crate::error::Result;

pub(super) const IMAGENETTE: DatasetEntry = DatasetEntry {
    name: "imagenette",
    summary: "9,469 + 3,925 photographs, 10 classes of ImageNet, resized to 224×224; DIR,size=N to N×N",
    form: "imagenette[:DIR]",
    files: &[RemoteFile {
        name: "imagenette2-320.tgz",
        urls: &["https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"],
        size: 341_663_724,
        sha256: "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
        unpacks_to: Some("imagenette2-320"),
    }],
    load,
};

const SIZE: usize = 224;

const NAMES: [(&str, &str); 10] = [
    ("n01440764", "tench"),
    ("n02102040", "English springer"),
    ("n02979186", "cassette player"),
    ("n03000684", "chain saw"),
    ("n03028079", "church"),
    ("n03394916", "French horn"),
    ("n03417042", "garbage truck"),
    ("n03425413", "gas pump"),
    ("n03445777", "golf ball"),
    ("n03888257", "parachute"),
];

fn load(argument: Option<&str>, need: Need) -> Result<Dataset> {
    let (dir, size) = image_folder::split_size(argument)?;
    let dir = folder(&IMAGENETTE, dir)?;
    let unpacked = ["imagenette2", "imagenette2-320", "imagenette2-160"].map(|name| dir.join(name));
    let dir = unpacked.into_iter().find(|path| path.is_dir()).unwrap_or(dir);
    let mut set =
        image_folder::load_folders(IMAGENETTE.name, &dir, Some(size.unwrap_or(SIZE)), need)?;
    for class in &mut set.class_names {
        if let Some((_, name)) = NAMES.iter().find(|(folder, _)| folder == class) {
            *class = name.to_string();
        }
    }
    Ok(set)
}
