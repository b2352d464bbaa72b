//! Atomic writing.

use std::io::{self, Write};

use rewire::file;

use super::*;

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_failed_write_leaves_the_old_content_and_no_other_file() {
    let dir = folder(&[("out", b"old".to_vec())]);
    let path = dir.path().join("out");
    let error = file::write(&path, |out| {
        out.write_all(&[1; 100_000])?;
        Err(io::Error::other("no more"))
    });
    let message = error.unwrap_err().to_string();
    assert!(message.contains("no more") && message.contains("out"), "{message}");
    assert_eq!((fs::read(&path).unwrap(), names(&dir)), (b"old".to_vec(), vec!["out".to_string()]));
    let panicked = std::panic::catch_unwind(|| file::write(&path, |_| panic!("in the middle")));
    assert!(panicked.is_err());
    assert_eq!((fs::read(&path).unwrap(), names(&dir)), (b"old".to_vec(), vec!["out".to_string()]));
}

#[test]
fn readers_beside_a_writer_see_whole_files_only() {
    let dir = folder(&[("out", vec![0; 200_000])]);
    let path = dir.path().join("out");
    std::thread::scope(|scope| {
        for writer in 0..2u8 {
            let path = &path;
            scope.spawn(move || {
                for i in 0..20 {
                    file::write_bytes(path, &vec![writer * 20 + i; 200_000]).unwrap();
                }
            });
        }
        for _ in 0..200 {
            let content = fs::read(&path).unwrap();
            assert!(content.len() == 200_000 && content.iter().all(|&b| b == content[0]));
        }
    });
    assert_eq!(names(&dir), ["out"]);
}

#[test]
fn a_writer_makes_no_folder_and_replaces_none() {
    let dir = tempfile::tempdir().unwrap();
    let message = file::write_bytes(&dir.path().join("no/out"), b"x").unwrap_err().to_string();
    assert!(message.contains("no/out"), "{message}");
    let message = file::write_bytes(dir.path(), b"x").unwrap_err().to_string();
    assert!(message.contains("folder"), "{message}");
    assert!(names(&dir).is_empty());
}

#[test]
#[cfg(unix)]
fn a_link_stays_and_a_device_is_written_straight() {
    let dir = folder(&[("real", b"old".to_vec())]);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("real"), &link).unwrap();
    file::write_bytes(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(dir.path().join("real")).unwrap(), b"new");
    file::write_bytes(Path::new("/dev/null"), b"x").unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn what_killed_writers_left_is_removed_and_nothing_else() {
    let kept = ["keep.rewire-tmp.txt", ".hidden", "state"];
    let dir = folder(&kept.map(|name| (name, b"x".to_vec())));
    put(dir.path(), ".state.123.0.rewire-tmp", b"half");
    file::remove_temporaries(dir.path()).unwrap();
    assert_eq!(names(&dir), [".hidden", "keep.rewire-tmp.txt", "state"]);
}
