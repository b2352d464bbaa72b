//! What the targets share: readers take paths, so an input becomes a file of a folder that lies in memory where it can.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of this process.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        parent.join(format!("rewire-fuzz-{}", std::process::id()))
    })
}

/// Writes `bytes` to the file `name` of this process's folder.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = root().join(name);
    // The folder is there from the second input on.
    if fs::write(&path, bytes).is_err() {
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    path
}

/// `NAME:DIR` of a folder that [`put`] filled.
pub fn spec(name: &str, folder: &str) -> String {
    format!("{name}:{}", root().join(folder).display())
}
