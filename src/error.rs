//! The error type of the library.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// An error of this crate. [`Error::kind`] says what went wrong.
///
/// `Display` is the message. `Debug` is the message too, followed by the causes that the message does not hold, so that
/// `fn main() -> rewire::Result<()>` and `unwrap` print a sentence.
///
/// ```
/// let error = rewire::Device::new("tpu").unwrap_err();
/// assert_eq!(format!("{error:?}"), error.to_string());
/// ```
pub struct Error(Box<ErrorKind>);

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. More kinds may come in a minor release.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The shape or the element type of an operand does not fit. Shapes are printed as in PyTorch: `[128, 3, 32, 32]`.
    #[error("{op}: {what} must be {want}, got {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// What was expected of it.
        want: String,
        /// The operand's shape.
        got: Vec<usize>,
    },
    /// A key of a recipe, a flag or an argument is unknown or out of range.
    #[error("{key} = {got}: must be {want}")]
    Param {
        /// Dotted path in the recipe, the flag, or the name of the argument.
        key: String,
        /// The value that was given.
        got: String,
        /// What was expected.
        want: String,
    },
    /// A file exists, but its content is not valid.
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
    /// The device does not exist or does not answer. The device `cpu` stays usable.
    #[error("device {device}: {message}")]
    Device {
        /// The device's name as the user wrote it.
        device: String,
        /// What is missing.
        message: String,
    },
    /// A kernel failed to compile, load or launch, or did something undefined on `cuda-host`.
    #[error("kernel {name}: {message}")]
    Kernel {
        /// The kernel's entry point.
        name: String,
        /// What the compiler, the driver or the checker reported.
        message: String,
    },
    /// Training has diverged: a loss, a weight or a running statistic has left the range that training comes back from.
    #[error("training diverged: {0}")]
    Diverged(String),
    /// The work was interrupted. It stopped at a point from which it can be resumed.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// An [`ErrorKind::Shape`].
    pub fn shape(
        op: &'static str,
        what: &'static str,
        want: impl Into<String>,
        got: &[usize],
    ) -> Self {
        ErrorKind::Shape { op, what, want: want.into(), got: got.to_vec() }.into()
    }

    /// An [`ErrorKind::Param`].
    pub fn param(
        key: impl Into<String>,
        got: impl std::fmt::Display,
        want: impl Into<String>,
    ) -> Self {
        ErrorKind::Param { key: key.into(), got: got.to_string(), want: want.into() }.into()
    }

    /// An [`ErrorKind::File`].
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        ErrorKind::File { path: path.as_ref().to_owned(), message: message.into() }.into()
    }

    /// An [`ErrorKind::Io`].
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        ErrorKind::Io { path: path.as_ref().to_owned(), source }.into()
    }

    /// An [`ErrorKind::Device`].
    pub fn device(device: impl Into<String>, message: impl Into<String>) -> Self {
        ErrorKind::Device { device: device.into(), message: message.into() }.into()
    }

    /// An [`ErrorKind::Kernel`].
    pub fn kernel(name: impl Into<String>, message: impl Into<String>) -> Self {
        ErrorKind::Kernel { name: name.into(), message: message.into() }.into()
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            if !text.contains(&message) {
                text = format!("{text}\ncaused by: {message}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(kind))
    }
}

impl std::fmt::Display for Error {
    /// The message, with control characters escaped.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(&self.0.to_string()))
    }
}

/// `text` as a terminal may show it. Names that come from files can hold control characters, which would move the cursor, colour
/// the text or set the window's title, and characters that turn the direction of writing: each becomes its escape, `\u{1b}`.
/// Line ends and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && c != '\n' && c != '\t')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match harmful(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cause with a cause of its own.
    #[derive(Debug)]
    struct Refused(std::fmt::Error);

    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refused by the disk")
        }
    }

    impl std::error::Error for Refused {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn debug_is_the_message_and_the_causes_that_it_does_not_hold() {
        let param = Error::param("train.epochs", 0, "1 to 9");
        assert_eq!(format!("{param:?}"), "train.epochs = 0: must be 1 to 9");
        let io = Error::io("m.onnx", std::io::Error::other(Refused(std::fmt::Error)));
        let (message, cause) = ("m.onnx: refused by the disk", std::fmt::Error);
        assert_eq!(format!("{io:?}"), format!("{message}\ncaused by: {cause}"));
    }
}
