//! Temporary files of atomic writing: what killed writers leave.

use super::*;
use rewire::file;
use std::fs::File;

fn names(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_temporary_file_of_a_killed_writer_is_used_by_the_next() {
    let dir = folder(&[(".out.rewire-tmp", vec![7; 1000])]);
    file::write_bytes(&dir.path().join("out"), b"new").unwrap();
    assert_eq!(names(&dir), ["out"]);
    assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"new");
}

#[test]
fn the_temporary_file_of_a_writer_that_is_alive_stays_its_own() {
    let dir = folder(&[]);
    let path = dir.path().join("out");
    let other = ".out.rewire-tmp";
    file::write(&path, |_| {
        assert_eq!(names(&dir), [other]);
        // Neither another writer of the same file takes it, nor somebody who clears up.
        file::write_bytes(&path, b"second").unwrap();
        file::remove_temporaries(dir.path()).unwrap();
        assert_eq!(names(&dir), [other, "out"]);
        assert_eq!(fs::read(&path).unwrap(), b"second");
        Ok(())
    })
    .unwrap();
    assert_eq!((names(&dir), fs::read(&path).unwrap()), (vec!["out".to_owned()], Vec::new()));
    let lock = File::create(dir.path().join(other)).unwrap();
    lock.lock().unwrap();
    file::remove_temporaries(dir.path()).unwrap();
    assert_eq!(names(&dir), [other, "out"]);
    drop(lock);
    file::remove_temporaries(dir.path()).unwrap();
    assert_eq!(names(&dir), ["out"]);
}

#[test]
#[cfg(unix)]
fn a_pipe_or_a_link_under_the_temporary_name_is_left_alone() {
    let dir = folder(&[("victim", b"mine".to_vec())]);
    let link = dir.path().join(".out.rewire-tmp");
    std::os::unix::fs::symlink(dir.path().join("victim"), &link).unwrap();
    let pipe = dir.path().join(".out.1.rewire-tmp");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    file::write_bytes(&dir.path().join("out"), b"new").unwrap();
    assert_eq!(fs::read(dir.path().join("victim")).unwrap(), b"mine");
    assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"new");
    file::remove_temporaries(dir.path()).unwrap();
    assert_eq!(names(&dir), [".out.1.rewire-tmp", ".out.rewire-tmp", "out", "victim"]);
}
