//! Arguments that many commands share: a network and a data set.

use super::{Context, note};
use crate::data::{Dataset, Need, Split};
use crate::infer::{Algorithm, Choice, Plan};
use crate::io::{self, Hints};
use crate::nn::{ArchSpec, Model, Normalization};
use crate::{Error, Result, Seed, models};
use std::path::PathBuf;

/// A network's file.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// The network: a safetensors file
    pub(super) model: PathBuf,
    #[command(flatten)]
    described: DescribedArgs,
}

/// What a file without metadata does not say of its network.
#[derive(clap::Args)]
struct DescribedArgs {
    /// Architecture of a file without metadata: NAME[:key=value,…]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Normalisation of a file without metadata: none, a name, or mean=a:b:c,std=a:b:c
    #[arg(long, value_name = "NORM")]
    normalize: Option<String>,
}

/// A network's file, or an architecture whose values do not matter.
#[derive(clap::Args)]
pub(super) struct OptionalModelArgs {
    /// The network: a safetensors file [default: `--arch` with initial values]
    model: Option<PathBuf>,
    #[command(flatten)]
    described: DescribedArgs,
}

/// A data set.
#[derive(clap::Args)]
pub(super) struct DataArgs {
    /// Data set [default: fashion-mnist-mini]
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
}

/// How convolutions are computed.
#[derive(clap::Args)]
pub(super) struct PlanArgs {
    /// How convolutions are computed: dense, sparse, or measured: the fastest on this machine
    #[arg(long, value_name = "NAME", default_value = "measured")]
    algorithm: AlgorithmArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum AlgorithmArg {
    Dense,
    Sparse,
    Measured,
}

impl PlanArgs {
    /// Compiles `model` for the images of `split`, `batch_size` at once.
    ///
    /// Errors: [`crate::ErrorKind::File`] where the model reads other images, [`crate::ErrorKind::Param`] for a batch of 0.
    pub(super) fn build(
        &self,
        model: &Model,
        split: &Split,
        batch_size: usize,
        context: &Context,
    ) -> Result<Plan> {
        models::check_images(model, split)?;
        if batch_size == 0 {
            return Err(Error::param("batch_size", 0, "at least 1"));
        }
        let choice = match self.algorithm {
            AlgorithmArg::Dense => Choice::Forced(Algorithm::Dense),
            AlgorithmArg::Sparse => Choice::Forced(Algorithm::Sparse),
            AlgorithmArg::Measured => Choice::Measured,
        };
        Plan::build(model, batch_size.min(split.len()).max(1), context.mode, choice)
    }
}

/// What a user should know of the images before the results, on standard error. Names of files and classes may hold
/// anything: control characters are escaped.
pub(super) fn warn(warnings: &[String]) {
    warnings.iter().for_each(|line| note(&format!("warning: {line}")));
}

impl DataArgs {
    /// Reads what `need` says; the embedded subset where no other set is named.
    pub(super) fn load(&self, need: Need) -> Result<Dataset> {
        Dataset::load_for(self.data.as_deref().unwrap_or("fashion-mnist-mini"), need)
    }

    /// Whether a data set was named.
    pub(super) fn is_explicit(&self) -> bool {
        self.data.is_some()
    }
}

impl OptionalModelArgs {
    /// The network's file as it was given.
    pub(super) fn file(&self) -> Option<String> {
        self.model.as_ref().map(|path| path.display().to_string())
    }

    /// Reads the network, or draws its initial values.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where neither a file nor an architecture is given.
    pub(super) fn load(self, context: &Context) -> Result<Model> {
        let Self { model, described } = self;
        if let Some(model) = model {
            return ModelArgs { model, described }.load(None, context);
        }
        let Some(arch) = &described.arch else {
            return Err(Error::param("MODEL", "nothing", "a file, or --arch NAME"));
        };
        let mut arch = ArchSpec::parse(arch)?.resolve();
        if let Some(text) = &described.normalize {
            arch.normalize = Normalization::parse(text)?;
        }
        models::initialised(arch, context.seed.unwrap_or(Seed(1)), &context.device()?)
    }
}

impl ModelArgs {
    /// Whether the caller says what a file without metadata is.
    pub(super) fn is_described(&self) -> bool {
        self.described.arch.is_some()
    }

    /// Reads the network; `data` is the data set if the caller named one.
    pub(super) fn load(&self, data: Option<&Dataset>, context: &Context) -> Result<Model> {
        let DescribedArgs { arch, normalize } = &self.described;
        let hints = Hints {
            arch: arch.as_deref().map(ArchSpec::parse).transpose()?,
            normalize: normalize.as_deref().map(Normalization::parse).transpose()?,
            in_channels: data.map(|data| data.channels),
            classes: data.and_then(|data| data.classes),
            size: data.map(|data| data.height),
            note: Some(note),
        };
        io::load_model(&self.model, &hints, &context.device()?)
    }

    /// Reads the network and the images it is to be tried on.
    ///
    /// Errors: [`crate::ErrorKind::File`] for labels outside the network's classes; where labels are needed as
    /// [`models::check_class_names`].
    pub(super) fn load_with(
        &self,
        data: &DataArgs,
        need: Need,
        context: &Context,
    ) -> Result<(Model, Dataset)> {
        let set = data.load(need)?;
        let model = self.load(data.is_explicit().then_some(&set), context)?;
        // Labels are checked also where the command reads none.
        for split in [&set.train, &set.test].into_iter().flatten() {
            split.check_labels(model.arch().classes)?;
        }
        if need.labels {
            models::check_class_names(&model, &set)?;
        }
        Ok((model, set))
    }
}
