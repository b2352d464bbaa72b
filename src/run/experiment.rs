//! From a recipe to what is trained.

use super::recipe::Recipe;
use crate::attack::AttackSettings;
use crate::data::{Augmentation, Dataset, Split};
use crate::io::{self, Hints};
use crate::nn::{ArchSpec, Model, Normalization};
use crate::prune::Pruner;
use crate::train::Trainer;
use crate::{Device, Error, Result, Seed, models};
use std::path::Path;

/// A recipe with the objects that it names: the data are read, network and masks are built, everything is checked.
pub struct Experiment {
    /// The recipe with every default, name and path written out.
    pub recipe: Recipe,
    /// The images.
    pub data: Dataset,
    /// The training before its first step.
    pub trainer: Trainer,
}

impl Experiment {
    /// Reads the data, and builds network and masks.
    ///
    /// Errors: those of the recipe's parts; each names a key or a file.
    pub fn new(mut recipe: Recipe, device: &Device) -> Result<Self> {
        recipe.check()?;
        recipe.data.set = absolute_set(&recipe.data.set)?;
        let data = load_data(&recipe)?;
        Augmentation::parse(&recipe.data.augment, data.height, data.width)?;
        let seed = Seed(recipe.seed);
        let mut model = load_model(&mut recipe, &data, device)?;
        if !data.class_names.is_empty() {
            model = model.with_class_names(data.class_names.clone());
        }
        data.train()?.check_labels(model.arch().classes)?;
        data.test()?.check_labels(model.arch().classes)?;
        recipe.model.arch = model.arch().to_string();
        let pruner = match &mut recipe.prune {
            None => None,
            Some(settings) => {
                let pruner = Pruner::new(settings, &model, seed)?;
                settings.keys = pruner.keys()?;
                Some(pruner)
            }
        };
        let adversary = recipe.train.adversary.as_ref();
        recipe.train.adversary = adversary.map(AttackSettings::resolved).transpose()?;
        recipe.eval =
            recipe.eval.iter().map(AttackSettings::resolved).collect::<Result<Vec<_>>>()?;
        let mode = recipe.mode()?;
        let trainer = Trainer::new(recipe.train.clone(), model, pruner, seed, mode)?;
        Ok(Self { recipe, data, trainer })
    }
}

/// Folders in a data set's name become absolute, so that a run can be resumed from anywhere.
fn absolute_set(set: &str) -> Result<String> {
    match set.split_once(':') {
        Some((name, dir)) if name != "synthetic" && !dir.is_empty() => {
            Ok(format!("{name}:{}", absolute(Path::new(dir))?.display()))
        }
        _ => Ok(set.to_owned()),
    }
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path, error))
}

fn load_data(recipe: &Recipe) -> Result<Dataset> {
    let mut data = Dataset::load(&recipe.data.set)?;
    let limit = |split: &mut Option<Split>, limit: Option<usize>, key: &str| match (split, limit) {
        (Some(split), Some(limit)) if limit > split.len() => {
            Err(Error::param(key, limit, format!("at most {}", split.len())))
        }
        (Some(split), Some(limit)) => {
            split.truncate(limit);
            Ok(())
        }
        _ => Ok(()),
    };
    limit(&mut data.train, recipe.data.train_limit, "data.train_limit")?;
    limit(&mut data.test, recipe.data.test_limit, "data.test_limit")?;
    if let Some(count) = recipe.data.validation {
        data.hold_out(count, Seed(recipe.seed))?;
    }
    Ok(data)
}

/// What `model.arch` names to take the architecture that the file of `model.init` records.
const STORED: &str = "stored";

/// The network: from `model.init`, or with initial values; what the architecture leaves open follows the data.
fn load_model(recipe: &mut Recipe, data: &Dataset, device: &Device) -> Result<Model> {
    let spec = ArchSpec::parse(&recipe.model.arch)?;
    let normalize = Normalization::parse(&recipe.model.normalize)?;
    let model = match &mut recipe.model.init {
        Some(path) => {
            *path = absolute(path)?;
            let whatever = spec.name == STORED;
            let stored =
                io::stored_arch(path)?.filter(|arch| whatever || !models::is_known(&arch.name));
            if whatever && stored.is_none() {
                let want = "name one with --arch, or model.arch in the recipe";
                return Err(Error::file(&*path, format!("records no architecture; {want}")));
            }
            if let Some(arch) = &stored {
                // Its graph is its own: what a recipe says of architectures does not describe it.
                recipe.model.arch = arch.to_string();
                let own = arch.normalize.as_ref();
                recipe.model.normalize = own.map_or("none".into(), ToString::to_string);
            }
            let known = stored.is_none();
            let hints = Hints {
                arch: known.then_some(spec),
                normalize: known.then_some(normalize),
                in_channels: Some(data.channels),
                classes: data.classes,
                size: Some(data.height),
                ..Hints::default()
            };
            io::load_model(path, &hints, device)?
        }
        None if spec.name == STORED => {
            let want = "the file of a network (--init FILE), whose architecture is taken";
            return Err(Error::param("model.init", "absent", want));
        }
        None => {
            let (channels, size) = (Some(data.channels), Some(data.height));
            let mut arch = spec.or(channels, data.classes, size).resolve();
            arch.normalize = normalize;
            models::initialised(arch, Seed(recipe.seed), device)?
        }
    };
    let arch = model.arch();
    let image = [data.channels, data.height, data.width];
    if image != [arch.in_channels, arch.size, arch.size] {
        let want =
            format!("one that reads {image:?} (channels, height, width) as {} has", data.name);
        return Err(Error::param("model.arch", arch, want));
    }
    Ok(model)
}
