//! Downloads, against a server in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fixture::program;
use rewire::ErrorKind;
use rewire::data::RemoteFile;
use rewire::data::fetch::{FetchEvent, fetch};
use sha2::{Digest, Sha256};

use super::*;

/// How a path is answered.
#[derive(Clone)]
enum Reply {
    /// The file, from where it is asked for.
    File(Vec<u8>),
    /// The file, always whole.
    NoRange(Vec<u8>),
    /// 206 with the start of the file, whatever is asked for.
    WrongRange(Vec<u8>),
    /// So many bytes of the file an answer; its length says all of them.
    Cut(Vec<u8>, usize),
    /// The file without its length.
    Endless(Vec<u8>),
    /// A chunk every few milliseconds.
    Slow(Vec<u8>),
    Redirect(String),
    Status(u16),
}

/// Answers by path, and what was asked.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(replies: Vec<(&'static str, Reply)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away is part of the tests.
                let _ = answer(stream.unwrap(), &replies, &log);
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// `PATH` or `PATH FROM` of every request so far.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(
    stream: TcpStream,
    replies: &[(&'static str, Reply)],
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut from = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let entry = if from > 0 { format!("{path} {from}") } else { path.clone() };
    log.lock().unwrap().push(entry);
    let reply = replies.iter().find(|(known, _)| *known == path).map(|(_, reply)| reply.clone());
    let mut out = &stream;
    let head =
        |status: u16, more: &str| format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{more}\r\n");
    let whole = |bytes: &[u8]| head(200, &format!("content-length: {}\r\n", bytes.len()));
    let rest = |bytes: &[u8], from: usize| {
        let (len, last) = (bytes.len(), bytes.len() - 1);
        let range = format!("content-range: bytes {from}-{last}/{len}\r\n");
        head(206, &format!("{range}content-length: {}\r\n", len - from))
    };
    match reply.unwrap_or(Reply::Status(404)) {
        Reply::File(bytes) | Reply::Cut(bytes, _) | Reply::Slow(bytes) if from >= bytes.len() => {
            write!(out, "{}", head(416, &format!("content-range: bytes */{}\r\n", bytes.len())))
        }
        Reply::File(bytes) if from > 0 => {
            write!(out, "{}", rest(&bytes, from))?;
            out.write_all(&bytes[from..])
        }
        Reply::File(bytes) | Reply::NoRange(bytes) => {
            write!(out, "{}", whole(&bytes))?;
            out.write_all(&bytes)
        }
        Reply::WrongRange(bytes) if from > 0 => {
            write!(out, "{}", rest(&bytes, 0))?;
            out.write_all(&bytes)
        }
        Reply::WrongRange(bytes) => {
            write!(out, "{}", whole(&bytes))?;
            out.write_all(&bytes)
        }
        Reply::Cut(bytes, most) => {
            write!(out, "{}", if from > 0 { rest(&bytes, from) } else { whole(&bytes) })?;
            out.write_all(&bytes[from..bytes.len().min(from + most)])
        }
        Reply::Endless(bytes) => {
            write!(out, "{}", head(200, ""))?;
            out.write_all(&bytes)
        }
        Reply::Slow(bytes) => {
            write!(out, "{}", if from > 0 { rest(&bytes, from) } else { whole(&bytes) })?;
            for chunk in bytes[from..].chunks(1 << 14) {
                out.write_all(chunk)?;
                out.flush()?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
        Reply::Redirect(to) => write!(out, "{}", head(302, &format!("location: {to}\r\n"))),
        Reply::Status(status) => write!(out, "{}", head(status, "content-length: 0\r\n")),
    }
}

fn leak(text: String) -> &'static str {
    text.leak()
}

/// A file as a registry would name it.
fn remote(
    name: &str,
    urls: &[String],
    bytes: &[u8],
    unpacks_to: Option<&'static str>,
) -> RemoteFile {
    let digits = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let urls: Vec<&str> = urls.iter().map(|url| leak(url.clone())).collect();
    RemoteFile {
        name: leak(name.to_owned()),
        urls: urls.leak(),
        size: bytes.len() as u64,
        sha256: leak(digits),
        unpacks_to,
    }
}

fn fetched(file: RemoteFile, dir: &TempDir) -> rewire::Result<u64> {
    fetch(&[file], dir.path(), None, &AtomicBool::new(false), &mut |_| {})
}

/// Fetches, expects an error of one line, and expects each of `parts` in it.
#[track_caller]
fn fails(file: RemoteFile, dir: &TempDir, parts: &[&str]) {
    refused(fetched(file, dir).map(|_| Dataset::load("fashion-mnist-mini").unwrap()), parts);
}

#[track_caller]
fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const LENGTH: usize = 200_000;

#[test]
fn files_come_once_and_mirrors_are_asked_first() {
    let (a, b) = (noise(1, LENGTH), noise(2, 10));
    let server = Server::new(vec![
        ("a", Reply::File(a.clone())),
        ("b", Reply::File(b.clone())),
        ("near/a", Reply::File(a.clone())),
    ]);
    let files =
        [remote("a", &[server.url("a")], &a, None), remote("b", &[server.url("b")], &b, None)];
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("new/folder");
    let mut seen = Vec::new();
    let stop = AtomicBool::new(false);
    let received = fetch(&files, &dir, None, &stop, &mut |event| seen.push(event)).unwrap();
    assert_eq!((received, server.requests()), (a.len() as u64 + 10, vec!["a".into(), "b".into()]));
    assert!(fs::read(dir.join("a")).unwrap() == a && fs::read(dir.join("b")).unwrap() == b);
    let last = FetchEvent::Receiving { name: "b", done: 10, total: 10 };
    assert_eq!(seen.last(), Some(&last));
    assert_eq!(fetch(&files, &dir, None, &stop, &mut |_| {}).unwrap(), 0);
    assert_eq!((server.requests(), fs::read_dir(&dir).unwrap().count()), (vec![], 2));
    // The mirror has one of them.
    fs::remove_file(dir.join("a")).unwrap();
    fs::remove_file(dir.join("b")).unwrap();
    fetch(&files, &dir, Some(&server.url("near/")), &stop, &mut |_| {}).unwrap();
    assert_eq!(server.requests(), ["near/a", "near/b", "b"]);
    // Something else of that name is nobody's to overwrite.
    fs::write(dir.join("b"), b"0123456789").unwrap();
    let error = fetch(&files, &dir, None, &stop, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("not the file that was published"), "{error}");
    assert_eq!(fs::read(dir.join("b")).unwrap(), b"0123456789");
}

#[test]
fn what_is_there_is_not_sent_again() {
    let bytes = noise(3, LENGTH);
    let other = noise(4, LENGTH);
    // The reply, what was there, what is asked for.
    let whole = "f".to_owned();
    let cases: Vec<(Reply, Vec<u8>, Vec<String>)> = vec![
        (Reply::File(bytes.clone()), bytes[..77_777].to_vec(), vec!["f 77777".into()]),
        (Reply::NoRange(bytes.clone()), bytes[..77_777].to_vec(), vec!["f 77777".into()]),
        (Reply::WrongRange(bytes.clone()), bytes[..5].to_vec(), vec!["f 5".into(), whole.clone()]),
        // Complete, but not renamed.
        (Reply::Status(500), bytes.clone(), vec![]),
        // Of another file, and of a longer one.
        (Reply::File(bytes.clone()), other[..9].to_vec(), vec!["f 9".into(), whole.clone()]),
        (Reply::File(bytes.clone()), other.clone(), vec![whole.clone()]),
        (Reply::File(bytes.clone()), noise(5, LENGTH + 1), vec![whole.clone()]),
        // A server that breaks off.
        (
            Reply::Cut(bytes.clone(), 80_000),
            Vec::new(),
            vec![whole, "f 80000".into(), "f 160000".into()],
        ),
    ];
    for (i, (reply, there, asked)) in cases.into_iter().enumerate() {
        let server = Server::new(vec![("f", reply)]);
        let dir = folder(&[("f.part", there)]);
        fetched(remote("f", &[server.url("f")], &bytes, None), &dir).unwrap();
        assert!(fs::read(dir.path().join("f")).unwrap() == bytes, "case {i}");
        assert_eq!((server.requests(), names(&dir)), (asked, vec!["f".to_owned()]), "case {i}");
    }
}

#[test]
fn wrong_answers_are_refused_and_the_next_place_is_asked() {
    let bytes = noise(6, LENGTH);
    let mut corrupt = bytes.clone();
    corrupt[LENGTH / 2] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    let cases = [
        (Reply::Status(404), "HTTP 404"),
        (Reply::Status(503), "HTTP 503"),
        (Reply::File(corrupt), "SHA-256"),
        (Reply::File(longer.clone()), "offers 200001 bytes"),
        (Reply::Endless(longer), "more than 200000 bytes"),
        (Reply::Endless(bytes[..9].to_vec()), "unknown length"),
        (Reply::Cut(bytes.clone(), 0), "broke off after 0 of 200000"),
        (Reply::Redirect("f".into()), "redirects more than 8 times"),
        (Reply::Redirect("ftp://localhost/f".into()), "redirects to nowhere"),
        (Reply::Redirect(String::new()), "redirects to nowhere"),
    ];
    for (reply, says) in cases {
        let server = Server::new(vec![("f", reply), ("good", Reply::File(bytes.clone()))]);
        let dir = tempfile::tempdir().unwrap();
        fails(remote("f", &[server.url("f")], &bytes, None), &dir, &["f: no place", says]);
        assert!(!dir.path().join("f").exists());
        // The next place has it, and goes on where the first broke off.
        let both = [server.url("f"), server.url("good")];
        fetched(remote("f", &both, &bytes, None), &dir).unwrap();
        assert!(fs::read(dir.path().join("f")).unwrap() == bytes, "{says}");
        assert_eq!(names(&dir), ["f"], "{says}");
    }
    // A page of unknown length in the file's place leaves alone what is there.
    let server = Server::new(vec![("f", Reply::Endless(b"<html>please log in".to_vec()))]);
    let dir = folder(&[("f.part", bytes[..1000].to_vec())]);
    fails(remote("f", &[server.url("f")], &bytes, None), &dir, &["unknown length"]);
    assert!(fs::read(dir.path().join("f.part")).unwrap() == bytes[..1000]);
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails(remote("f", &[format!("http://{closed}/f")], &bytes, None), &dir, &["no place"]);
    fails(remote("f", &["nonsense".into()], &bytes, None), &dir, &["no place"]);
}

#[test]
fn redirects_are_followed() {
    let bytes = noise(7, LENGTH);
    let server = Server::new(vec![
        ("f", Reply::Redirect("/a/b".into())),
        ("a/b", Reply::Redirect("c".into())),
        ("a/c", Reply::File(bytes.clone())),
    ]);
    let dir = folder(&[("f.part", bytes[..100].to_vec())]);
    fetched(remote("f", &[server.url("f")], &bytes, None), &dir).unwrap();
    assert!(fs::read(dir.path().join("f")).unwrap() == bytes);
    assert_eq!(server.requests(), ["f 100", "a/b 100", "a/c 100"]);
}

/// A gzipped tar of `d/x`, `d/e/y` and what `more` adds.
fn tgz(more: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, bytes) in [("d/x", &b"one"[..]), ("d/e/y", b"two")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, name, bytes).unwrap();
    }
    more(&mut out);
    gzip(&out.into_inner().unwrap())
}

/// A member whose name is taken as it is.
fn member(out: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_size(0);
    header.set_cksum();
    out.append(&header, &[][..]).unwrap();
}

fn zipped(names: &[&str], link: Option<&str>) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for name in names {
        out.start_file(*name, options).unwrap();
        out.write_all(name.as_bytes()).unwrap();
    }
    if let Some(name) = link {
        out.add_symlink(name, "/etc", options).unwrap();
    }
    out.finish().unwrap().into_inner()
}

fn served(name: &str, archive: &[u8], dir: &TempDir) -> (Server, RemoteFile) {
    fs::create_dir_all(dir.path()).unwrap();
    let server = Server::new(vec![("f", Reply::File(archive.to_vec()))]);
    let file = remote(name, &[server.url("f")], archive, Some("d"));
    (server, file)
}

#[test]
fn archives_are_unpacked_and_removed() {
    let tar = tgz(|out| member(out, "d/empty/", tar::EntryType::Directory, ""));
    for (name, archive, content) in
        [("f.tar.gz", tar, "two"), ("f.zip", zipped(&["d/x", "d/e/y", "d/empty/"], None), "d/e/y")]
    {
        let dir = tempfile::tempdir().unwrap();
        let (server, file) = served(name, &archive, &dir);
        // What a killed unpacking left.
        put(dir.path(), ".d.rewire-tmp/d/junk", b"half");
        fetched(file, &dir).unwrap();
        assert_eq!(names(&dir), ["d"]);
        assert_eq!(fs::read_to_string(dir.path().join("d/e/y")).unwrap(), content);
        assert!(dir.path().join("d/x").is_file() && !dir.path().join("d/junk").exists());
        server.requests();
        assert_eq!((fetched(file, &dir).unwrap(), server.requests()), (0, vec![]));
        // Killed between download and unpacking.
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        put(dir.path(), name, &archive);
        assert_eq!((fetched(file, &dir).unwrap(), names(&dir)), (0, vec!["d".to_owned()]));
    }
}

#[test]
fn archives_that_reach_outside_are_refused() {
    use tar::EntryType;
    let with = |name: &'static str, kind, link: &'static str| {
        tgz(move |out| member(out, name, kind, link))
    };
    let whole = tgz(|_| {});
    let mut flipped = whole.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    let mut torn = zipped(&["d/x"], None);
    torn.truncate(torn.len() - 10);
    let cases = [
        ("f.tgz", with("../evil", EntryType::Regular, ""), "outside"),
        ("f.tgz", with("d/../../evil", EntryType::Regular, ""), "outside"),
        ("f.tgz", with("/tmp/rewire-evil", EntryType::Regular, ""), "outside"),
        ("f.tgz", with("../evil/", EntryType::Directory, ""), "outside"),
        ("f.tgz", with("d/link", EntryType::Symlink, "/etc"), "no file and no folder"),
        ("f.tgz", with("d/link", EntryType::Link, "d/x"), "no file and no folder"),
        ("f.tgz", with("d/pipe", EntryType::Fifo, ""), "no file and no folder"),
        ("f.tgz", with("d/x", EntryType::Regular, ""), "exists"),
        ("f.tgz", whole[..whole.len() / 2].to_vec(), "cut short or corrupt"),
        ("f.tgz", flipped, "cut short or corrupt"),
        ("f.tgz", gzip(&[]), "holds no folder d"),
        ("f.tgz", b"no archive".to_vec(), "cut short or corrupt"),
        ("f.zip", zipped(&["d/x", "../evil"], None), "outside"),
        ("f.zip", zipped(&["d/x", "/tmp/rewire-evil"], None), "outside"),
        ("f.zip", zipped(&["d/x", "d\\..\\evil"], None), "a path elsewhere"),
        ("f.zip", zipped(&["d/x"], Some("d/link")), "no file and no folder"),
        ("f.zip", zipped(&["x"], None), "holds no folder d"),
        ("f.zip", torn, "cut short or corrupt"),
    ];
    for (name, archive, says) in cases {
        let outer = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir_in(outer.path()).unwrap();
        let (_server, file) = served(name, &archive, &dir);
        fails(file, &dir, &[says]);
        assert_eq!(names(&dir), [name], "{says}: the archive alone stays");
        assert_eq!(names(&outer).len(), 1, "{says}");
        assert!(!Path::new("/tmp/rewire-evil").exists());
    }
}

#[test]
fn two_fetches_do_not_write_the_same_folder() {
    let bytes = noise(8, LENGTH);
    let server = Server::new(vec![("f", Reply::File(bytes.clone()))]);
    let dir = tempfile::tempdir().unwrap();
    let file = remote("f", &[server.url("f")], &bytes, None);
    let lock = fs::File::open(dir.path()).unwrap();
    lock.lock().unwrap();
    fails(file, &dir, &["another fetch"]);
    drop(lock);
    fetched(file, &dir).unwrap();
}

#[test]
fn an_interrupted_fetch_keeps_what_it_has() {
    let bytes = noise(9, LENGTH);
    let server = Server::new(vec![("f", Reply::Slow(bytes.clone()))]);
    let dir = tempfile::tempdir().unwrap();
    let file = remote("f", &[server.url("f")], &bytes, None);
    let stop = AtomicBool::new(false);
    let error = fetch(&[file], dir.path(), None, &stop, &mut |event| {
        let FetchEvent::Receiving { done, .. } = event else { return };
        stop.store(done > LENGTH as u64 / 2, Ordering::Relaxed);
    });
    assert!(matches!(error.unwrap_err().kind(), ErrorKind::Interrupted(_)));
    let there = fs::read(dir.path().join("f.part")).unwrap();
    assert!(there.len() > LENGTH / 2 && bytes.starts_with(&there));
    server.requests();
    fetched(file, &dir).unwrap();
    assert_eq!(server.requests(), [format!("f {}", there.len())]);
    assert!(fs::read(dir.path().join("f")).unwrap() == bytes);
}

/// MNIST's first file by name and length, with another content.
const FIRST: &str = "train-images-idx3-ubyte.gz";
const FIRST_LENGTH: usize = 9_912_422;

fn command(dir: &TempDir, mirror: &str) -> Command {
    let mut command = program(dir.path());
    command.args(["data", "fetch", "mnist", "--mirror", mirror, "--out"]).arg(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn part(dir: &TempDir) -> usize {
    fs::metadata(dir.path().join(format!("{FIRST}.part"))).map_or(0, |part| part.len() as usize)
}

#[cfg(unix)]
#[test]
fn killed_and_interrupted_processes_leave_what_the_next_goes_on_with() {
    let bytes = noise(10, FIRST_LENGTH);
    for signal in ["-KILL", "-INT"] {
        let slow = Server::new(vec![(FIRST, Reply::Slow(bytes.clone()))]);
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(&dir, &slow.url("")).arg("--json").spawn().unwrap();
        while part(&dir) < 100_000 {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it was stopped");
            std::thread::sleep(Duration::from_millis(2));
        }
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130));
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(json["error"].as_str().unwrap().contains("interrupted"), "{json}");
        }
        let there = part(&dir);
        assert!((100_000..FIRST_LENGTH).contains(&there), "{there}");
        drop(slow);
        let server = Server::new(vec![("f", Reply::File(bytes.clone()))]);
        fetched(remote(FIRST, &[server.url("f")], &bytes, None), &dir).unwrap();
        assert_eq!(server.requests(), [format!("f {there}")]);
        assert!(fs::read(dir.path().join(FIRST)).unwrap() == bytes);
    }
}

/// A file that may not grow is what a full disk is like.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let server = Server::new(vec![(FIRST, Reply::File(noise(11, FIRST_LENGTH)))]);
    let dir = tempfile::tempdir().unwrap();
    let fetch = command(&dir, &server.url(""));
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 500; exec \"$@\"", "sh"]);
    limited.arg(fetch.get_program()).args(fetch.get_args());
    let output = limited.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.starts_with("error: ") && error.contains(&format!("{FIRST}.part")), "{error}");
    assert!((100_000..1_000_000).contains(&part(&dir)), "{}", part(&dir));
}

#[test]
fn the_registry_is_whole() {
    for entry in DATASETS {
        assert_eq!(entry.files.is_empty(), !entry.form.contains("[:DIR]"), "{}", entry.name);
        for file in entry.files {
            let RemoteFile { name, urls, size, sha256, unpacks_to } = *file;
            assert!(!urls.is_empty() && size > 4000, "{name}");
            assert!(sha256.len() == 64 && sha256.bytes().all(|b| b"0123456789abcdef".contains(&b)));
            assert!(
                urls.iter().all(|url| url.starts_with("http") && url.ends_with(name)),
                "{name}"
            );
            let archive = [".zip", ".tgz", ".tar.gz"].iter().any(|end| name.ends_with(end));
            assert_eq!(unpacks_to.is_some(), archive, "{name}");
        }
    }
}

#[test]
fn a_set_without_its_folder_is_looked_for_where_fetch_puts_it() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str], variable: &str| {
        let mut command = program(home.path());
        command.args(args).env_remove("REWIRE_DATA").env_remove("XDG_DATA_HOME");
        command.env(variable, home.path()).output().unwrap()
    };
    for entry in DATASETS.iter().filter(|entry| !entry.files.is_empty()) {
        let output = run(&["data", "info", entry.name], "HOME");
        if entry.name == "fashion-mnist" && Path::new(DEBIAN).exists() {
            assert!(output.status.success(), "{output:?}");
            continue;
        }
        let error = String::from_utf8(output.stderr).unwrap();
        let place = home.path().join(".local/share/rewire").join(entry.name);
        for part in
            [entry.form, &format!("rewire data fetch {}", entry.name), place.to_str().unwrap()]
        {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
        assert_eq!((output.status.code(), error.trim_end().lines().count()), (Some(2), 1));
    }
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 1, 3][..]].concat();
    put(home.path(), "mnist/t10k-labels-idx1-ubyte.gz", &gzip(&labels));
    let image = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28], &[7; 784][..]].concat();
    put(home.path(), "mnist/t10k-images-idx3-ubyte.gz", &gzip(&image));
    let output = run(&["data", "info", "mnist", "--json"], "REWIRE_DATA");
    let mut text = String::new();
    output.stdout.as_slice().read_to_string(&mut text).unwrap();
    assert!(text.contains("\"test\": 1"), "{text}");
    let output = run(&["data", "fetch", "imagenet"], "HOME");
    assert!(String::from_utf8(output.stderr).unwrap().contains("tiny-imagenet"));
}

/// The table of `docs/data.md` is the registry's.
#[test]
fn the_documentation_lists_what_can_be_fetched() {
    let row = |entry: &rewire::data::DatasetEntry| {
        let (files, bytes) = (entry.files.len(), entry.files.iter().map(|f| f.size).sum::<u64>());
        let left = entry.files[0].unpacks_to.map_or(String::new(), |name| format!("`{name}` "));
        format!("| `{}` | {files} | {:.0} | {left}|\n", entry.name, bytes as f64 / 1e6)
    };
    let fetchable = DATASETS.iter().filter(|entry| !entry.files.is_empty());
    let table: String = fetchable.map(row).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data.md");
    assert!(fs::read_to_string(path).unwrap().contains(&format!("|\n{table}\n")), "{table}");
}
