//! Downloaded archives: the first byte says whether the rest is a zip or a tar.
#![no_main]

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use rewire::data::fetch::unpack;
use rewire_fuzz::put;
use std::fs;
use std::io::Write;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let [kind, bytes @ ..] = bytes else { return };
    let path = match kind % 2 {
        0 => put("outer/inner/f.zip", bytes),
        _ => {
            // Stored, with a checksum that is right: what is to be tried is what lies inside.
            let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
            gzip.write_all(bytes).unwrap();
            put("outer/inner/f.tgz", &gzip.finish().unwrap())
        }
    };
    let (inner, outer) = (path.parent().unwrap(), path.ancestors().nth(2).unwrap());
    let result = unpack(&path, inner, "d", &mut |_, _| Ok(()));
    fs::remove_file(&path).unwrap();
    // Nothing lies outside, and nothing is left of what was refused.
    assert_eq!(names(outer), ["inner"]);
    let unpacked: &[&str] = if result.is_ok() { &["d"] } else { &[] };
    assert_eq!(names(inner), unpacked);
    if result.is_ok() {
        fs::remove_dir_all(inner.join("d")).unwrap();
    }
});

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}
