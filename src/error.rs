//! The error type of the library.

use std::path::{Path, PathBuf};

/// An error of this crate: opaque and one pointer wide; ask [`Error::kind`].
#[derive(Debug)]
pub struct Error(Box<ErrorKind>);

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. More kinds may come in a minor release.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// Operands do not fit. Shapes are printed as in PyTorch, e.g. `[128, 3, 32, 32]`.
    #[error("{op}: {what} must be {want}, got {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// What was expected of it.
        want: String,
        /// Its shape.
        got: Vec<usize>,
    },
    /// A key of a recipe, a flag or an argument is unknown or out of range.
    #[error("{key} = {got}: must be {want}")]
    Param {
        /// Dotted path in the recipe, or the flag.
        key: String,
        /// The value as it was given.
        got: String,
        /// What was expected.
        want: String,
    },
    /// A file is there, but its content is not what it must be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// A file cannot be read or written; the cause is in `source()`.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The device is not there or does not answer. Never a panic: `cpu` stays usable.
    #[error("device {device}: {message}")]
    Device {
        /// As the user named it.
        device: String,
        /// What is missing.
        message: String,
    },
    /// A kernel failed to compile, load or launch, or did something undefined on `cuda-host`.
    #[error("kernel {name}: {message}")]
    Kernel {
        /// Entry point.
        name: String,
        /// The compiler's, the driver's or the checker's words.
        message: String,
    },
    /// Training has diverged: a loss, a weight or a running statistic has left the range that training comes back from.
    #[error("training diverged: {0}")]
    Diverged(String),
    /// The work was interrupted and stopped at a resumable point.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// [`ErrorKind::Shape`].
    pub fn shape(
        op: &'static str,
        what: &'static str,
        want: impl Into<String>,
        got: &[usize],
    ) -> Self {
        ErrorKind::Shape { op, what, want: want.into(), got: got.to_vec() }.into()
    }

    /// [`ErrorKind::Param`].
    pub fn param(
        key: impl Into<String>,
        got: impl std::fmt::Display,
        want: impl Into<String>,
    ) -> Self {
        ErrorKind::Param { key: key.into(), got: got.to_string(), want: want.into() }.into()
    }

    /// [`ErrorKind::File`].
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        ErrorKind::File { path: path.as_ref().to_owned(), message: message.into() }.into()
    }

    /// [`ErrorKind::Io`].
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        ErrorKind::Io { path: path.as_ref().to_owned(), source }.into()
    }

    /// [`ErrorKind::Device`].
    pub fn device(device: impl Into<String>, message: impl Into<String>) -> Self {
        ErrorKind::Device { device: device.into(), message: message.into() }.into()
    }

    /// [`ErrorKind::Kernel`].
    pub fn kernel(name: impl Into<String>, message: impl Into<String>) -> Self {
        ErrorKind::Kernel { name: name.into(), message: message.into() }.into()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(kind))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
