//! What publishers offer for download, and the folders where it is looked for.

use std::ffi::OsString;
use std::path::PathBuf;

/// A file of a data set as its publisher offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name in the folder of the data set.
    pub name: &'static str,
    /// Where it lies; the first that works is taken.
    pub urls: &'static [&'static str],
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes in hexadecimal digits.
    pub sha256: &'static str,
    /// The folder that an archive unpacks to; `None` for a file that is read as it is.
    pub unpacks_to: Option<&'static str>,
}

/// The folder that a data set is fetched to and that its name without a folder stands for: `$REWIRE_DATA/NAME`, else
/// `$XDG_DATA_HOME/rewire/NAME`, else `~/.local/share/rewire/NAME`; `None` where no variable is set.
pub fn default_folder(name: &str) -> Option<PathBuf> {
    places(name).into_iter().next()
}

/// Everywhere that `name` without a folder is looked for.
pub(super) fn places(name: &str) -> Vec<PathBuf> {
    places_of(name, |variable| std::env::var_os(variable))
}

/// [`places`], given the environment.
pub(super) fn places_of(name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(set("HOME")?.join(".local/share"));
    let user = set("XDG_DATA_HOME").or_else(home).map(|data| data.join("rewire"));
    [set("REWIRE_DATA"), user].into_iter().flatten().map(|root| root.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewire_data_comes_first() {
        let with = |variables: &'static [(&str, &str)]| {
            places_of("mnist", |name| {
                let value = variables.iter().find(|(known, _)| *known == name)?.1;
                Some(value.into())
            })
        };
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(with(&[]), paths(&[]));
        assert_eq!(with(&[("REWIRE_DATA", ""), ("HOME", "")]), paths(&[]));
        let home = "/h/.local/share/rewire/mnist";
        assert_eq!(with(&[("HOME", "/h")]), paths(&[home]));
        assert_eq!(with(&[("HOME", "/h"), ("REWIRE_DATA", "/d")]), paths(&["/d/mnist", home]));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]), paths(&["/x/rewire/mnist"]));
    }
}
