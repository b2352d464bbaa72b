//! Recipes: one experiment in a TOML file.

use crate::attack::AttackSettings;
use crate::nn::ArchSpec;
use crate::prune::PruneSettings;
use crate::train::TrainSettings;
use crate::{Error, Mode, Result, file};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A recipe. `schema` and `name` are required. Every other key has a default that leaves its feature out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of this format: 1.
    pub schema: u32,
    /// Name of the run, and of its folder below `runs/`.
    pub name: String,
    /// The seed. Every random stream is derived from it by the name of the stream.
    #[serde(default = "one")]
    pub seed: u64,
    /// Arithmetic of matrix products: `f32`, `tf32` or `bf16`.
    #[serde(default = "f32_mode")]
    pub mode: String,
    /// The data set.
    #[serde(default)]
    pub data: DataSettings,
    /// The network.
    #[serde(default)]
    pub model: ModelSettings,
    /// The training.
    #[serde(default)]
    pub train: TrainSettings,
    /// The pruning; `None` means that nothing is pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneSettings>,
    /// The attacks under which the best checkpoint is measured at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eval: Vec<AttackSettings>,
    /// What the result must be; where it is not, the exit status is 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<Expectation>,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// As `--data`.
    pub set: String,
    /// A new order in every epoch.
    pub shuffle: bool,
    /// Augmentations of the training images, in this order.
    pub augment: Vec<String>,
    /// Only the first so many training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_limit: Option<usize>,
    /// Only the first so many test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_limit: Option<usize>,
    /// So many training images, chosen by the seed, are held out; the best epoch is chosen on them instead of on the test
    /// images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<usize>,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            set: "fashion-mnist-mini".into(),
            shuffle: true,
            augment: Vec::new(),
            train_limit: None,
            test_limit: None,
            validation: None,
        }
    }
}

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// The architecture, as `--arch` takes it.
    pub arch: String,
    /// The normalisation of the input, as `--normalize` takes it.
    pub normalize: String,
    /// A safetensors file with the weights to start from; `None` means random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { arch: "vgg16".into(), normalize: "none".into(), init: None }
    }
}

/// An entry of `[[expect]]`: `|result − value| <= tolerance`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// `accuracy.clean`, `accuracy.fgsm`, `accuracy.pgd` (percent), `density`.
    pub metric: String,
    /// The expected value.
    pub value: f64,
    /// The largest difference that is accepted.
    pub tolerance: f64,
    /// The source of the expected value, such as a table of a paper.
    #[serde(default)]
    pub source: String,
}

/// Metrics that an expectation can name.
pub const METRICS: [&str; 4] = ["accuracy.clean", "accuracy.fgsm", "accuracy.pgd", "density"];

fn one() -> u64 {
    1
}

fn f32_mode() -> String {
    Mode::F32.name().into()
}

impl Recipe {
    /// The embedded recipe of that name, or the TOML file at that path, with `--set` assignments.
    ///
    /// Errors: [`crate::ErrorKind::Io`] for a file that cannot be read, [`crate::ErrorKind::File`] or
    /// [`crate::ErrorKind::Param`] that names the key that is wrong.
    pub fn load(name_or_path: &str, assignments: &[String]) -> Result<Self> {
        let path = Path::new(name_or_path);
        let embedded = super::recipes::find(name_or_path);
        let text = match embedded {
            Some(text) => text.to_owned(),
            None if path.extension().is_some() || path.exists() => text_of(path)?,
            None => {
                let want =
                    "the name of an embedded recipe (see `rewire list recipes`) or a TOML file";
                return Err(Error::param("RECIPE", name_or_path, want));
            }
        };
        Self::parse(path, &text, assignments)
    }

    /// The recipe that a run folder records.
    pub fn recorded(path: &Path) -> Result<Self> {
        Self::parse(path, &text_of(path)?, &[])
    }

    /// Reads a recipe's text; `path` is for messages.
    pub fn parse(path: &Path, text: &str, assignments: &[String]) -> Result<Self> {
        let mut table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| Error::file(path, error.to_string()))?;
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        default_kind(&mut table, "optimizer", "sgd");
        default_kind(&mut table, "schedule", "constant");
        let recipe: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| Error::file(path, error.to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks the ranges and names that the types leave open.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        if self.schema != 1 {
            return Err(Error::param("schema", self.schema, "1"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(Error::param("name", &self.name, "letters, digits, `-`, `_` and `.`"));
        }
        // TOML's integers have a sign.
        if i64::try_from(self.seed).is_err() {
            return Err(Error::param("seed", self.seed, format!("at most {}", i64::MAX)));
        }
        self.mode()?;
        ArchSpec::parse(&self.model.arch)?;
        crate::nn::Normalization::parse(&self.model.normalize)?;
        for (key, limit) in [
            ("data.train_limit", self.data.train_limit),
            ("data.test_limit", self.data.test_limit),
            ("data.validation", self.data.validation),
        ] {
            if limit == Some(0) {
                return Err(Error::param(key, 0, "at least 1"));
            }
        }
        self.train.check()?;
        if let Some(prune) = &self.prune {
            prune.build()?;
        }
        self.eval.iter().try_for_each(AttackSettings::check)?;
        if self.eval.iter().any(|settings| settings.attack == "transfer") {
            let want = "an attack that needs no other network; `rewire attack --source` runs transfer attacks";
            return Err(Error::param("eval.attack", "transfer", want));
        }
        for expectation in &self.expect {
            let Expectation { metric, value, tolerance, .. } = expectation;
            if !METRICS.contains(&metric.as_str()) {
                let want = format!("one of {}", METRICS.join(", "));
                return Err(Error::param("expect.metric", metric, want));
            }
            if !value.is_finite() || !tolerance.is_finite() || *tolerance < 0.0 {
                let got = format!("{value} ± {tolerance}");
                return Err(Error::param("expect.tolerance", got, "finite, tolerance at least 0"));
            }
        }
        Ok(())
    }

    /// Arithmetic of matrix products.
    pub fn mode(&self) -> Result<Mode> {
        self.mode.parse().map_err(|_| Error::param("mode", &self.mode, "f32, tf32 or bf16"))
    }

    /// The text of the resolved recipe; [`Self::parse`] reads the same recipe from it.
    pub fn text(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| Error::param("recipe", error, "what TOML can express"))
    }
}

/// `N` of `--set train.epochs=N`, the one key of a run that has begun that can be set.
///
/// Errors: [`crate::ErrorKind::Param`] that names another key, or a value that is no number of epochs.
pub fn set_epochs(assignments: &[String]) -> Result<Option<usize>> {
    const KEY: &str = "train.epochs";
    let mut epochs = None;
    for assignment in assignments {
        let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        if key.trim() != KEY {
            let want = "train.epochs=N with --resume; the other keys of a run stay as they were when it began";
            return Err(Error::param("--set", assignment, want));
        }
        let value = value.trim();
        epochs =
            Some(value.parse().map_err(|_| Error::param(KEY, value, "a whole number of epochs"))?);
    }
    Ok(epochs)
}

fn text_of(path: &Path) -> Result<String> {
    String::from_utf8(file::read_bounded(path, 1 << 24)?)
        .map_err(|_| Error::file(path, "is not UTF-8 text; must be a TOML recipe"))
}

/// A table that is tagged by `kind` may leave the usual one out.
fn default_kind(table: &mut toml::Table, key: &str, kind: &str) {
    if let Some(toml::Value::Table(inner)) = table
        .get_mut("train")
        .and_then(toml::Value::as_table_mut)
        .and_then(|train| train.get_mut(key))
    {
        inner.entry("kind").or_insert_with(|| kind.into());
    }
}

/// Parts of a dotted key in `--set`.
const DEEPEST: usize = 16;

/// `--set a.b=v`: v in TOML syntax; a word that is none is taken as a string.
fn assign(table: &mut toml::Table, assignment: &str) -> Result<()> {
    let wrong = |want: &str| Error::param("--set", assignment, want);
    let (key, value) = assignment.split_once('=').ok_or_else(|| wrong("KEY=VALUE"))?;
    let value =
        parse_value(value.trim()).ok_or_else(|| wrong("KEY=VALUE with a value in TOML syntax"))?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty());
    let last = last.ok_or_else(|| wrong("KEY=VALUE with a dotted key"))?;
    // Tables are dropped and read recursively, and no recipe is that deep.
    if path.len() >= DEEPEST {
        let want = format!("KEY=VALUE with a key of at most {DEEPEST} parts");
        return Err(Error::param("--set", format!("{}.{}…", path[0], path[1]), want));
    }
    let mut here = table;
    for part in path {
        if part.is_empty() {
            return Err(wrong("KEY=VALUE with a dotted key"));
        }
        let next = here.entry(part).or_insert_with(|| toml::Table::new().into());
        here = next.as_table_mut().ok_or_else(|| wrong("a key below a table"))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

fn parse_value(text: &str) -> Option<toml::Value> {
    if let Ok(mut table) = format!("value = {text}").parse::<toml::Table>() {
        return table.remove("value").filter(|_| table.is_empty());
    }
    let word = |c: char| c.is_alphanumeric() || "-_.:/=,+~".contains(c);
    let string = !text.is_empty() && text.chars().all(word);
    string.then(|| toml::Value::String(text.to_owned()))
}
