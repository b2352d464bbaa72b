//! Bank conflicts: what is counted where the count is known by hand, and the table of the kernels.

use super::Buffer;
use rewire::device::Launch;
use rewire::device::host::{Host, HostOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Requests and extra cycles by kernel and kind.
type Counts = BTreeMap<(String, String), [u64; 2]>;

/// Strides, and the extra cycles of each.
type ByStride<'a> = &'a [(u32, u64)];

/// The sums of what launches have appended.
fn read(file: &Path) -> Counts {
    let mut counts = Counts::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        let key = (word(), word());
        let [requests, extra] = [word(), word()].map(|number| number.parse::<u64>().unwrap());
        let place = words.next();
        assert_eq!(extra > 0, place.is_some(), "{line}");
        let total = counts.entry(key).or_default();
        *total = [total[0] + requests, total[1] + extra];
    }
    counts
}

/// One warp with this stride: requests and extra cycles of `kind`.
fn count(kernel: &'static str, kind: &str, stride: u32) -> [u64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("banks");
    let gpu =
        Host::new(HostOptions { banks: Some(file.clone()), ..HostOptions::default() }).unwrap();
    let memory = Buffer::of(&gpu, &[0u32; 128]);
    let mut launch = Launch::new(kernel).block(32, 1, 1);
    if !["conflicts_store2", "conflicts_atomic"].contains(&kernel) {
        launch = launch.arg(&memory);
    }
    if kernel == "conflicts_two_warps" {
        launch = launch.grid(2, 1, 1).block(64, 1, 1);
    }
    launch.arg(&stride).run(&gpu).unwrap();
    read(&file)[&(kernel.to_owned(), kind.to_owned())]
}

#[test]
fn conflicts_are_counted_as_by_hand() {
    // Kernel, kind, requests; then for each stride the cycles beyond those that the bytes need.
    let fill = 128;
    let want: [(&str, &str, u64, ByStride<'_>); 11] = [
        // Stride 2: words 0 and 32 meet in bank 0, and so on. Equal words do not.
        (
            "conflicts_load4",
            "load",
            1,
            &[(0, 0), (1, 0), (2, 1), (3, 0), (4, 3), (32, 31), (33, 0), (127, 0)],
        ),
        // Two phases of 16 lanes.
        ("conflicts_load8", "load", 1, &[(0, 0), (1, 0), (2, 2), (3, 0), (16, 30), (17, 0)]),
        // Four phases of 8 lanes.
        (
            "conflicts_load16",
            "load",
            1,
            &[(0, 0), (1, 0), (2, 4), (3, 0), (4, 12), (8, 28), (9, 0)],
        ),
        // Two lanes in a word are one; at stride 4 a lane has every other bank.
        ("conflicts_store2", "store", fill + 1, &[(1, 0), (2, 0), (4, 1), (64, 31), (66, 0)]),
        ("conflicts_ldmatrix_x4", "ldmatrix", 1, &[(1, 0), (2, 4), (4, 12), (5, 0), (8, 28)]),
        // The addresses of lanes 16 to 31 count for nothing.
        ("conflicts_ldmatrix_x2", "ldmatrix", 1, &[(1, 0), (2, 2), (4, 6), (5, 0), (8, 14)]),
        ("conflicts_cp_async16", "cp.async", 1, &[(1, 0), (2, 4), (5, 0), (8, 28)]),
        ("conflicts_cp_async4", "cp.async", 1, &[(1, 0), (2, 1), (32, 31)]),
        // Atomics on one word take turns.
        ("conflicts_atomic", "atomic", 1, &[(0, 31), (1, 0), (2, 1)]),
        // 32 lanes, then 16, then 16 of which none meet.
        ("conflicts_apart", "load", 3, &[(32, 31 + 15), (33, 0), (64, 31 + 15)]),
        ("conflicts_two_warps", "load", 4, &[(1, 0), (2, 4)]),
    ];
    for (kernel, kind, requests, strides) in want {
        for &(stride, extra) in strides {
            assert_eq!(count(kernel, kind, stride), [requests, extra], "{kernel}, stride {stride}");
        }
    }
}

/// Name and version of the compiler of the hosted kernels: another may split an access of several words.
fn compiler() -> String {
    let command = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let says = |argument: &str| {
        let output = Command::new(&command).arg(argument).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let name = if says("--version").contains("clang") { "clang" } else { "gcc" };
    format!("{name} {}", says("-dumpversion"))
}

/// Extra cycles a request, by entry point and kind.
fn table(counts: &Counts) -> String {
    const KINDS: [&str; 5] = ["load", "store", "atomic", "ldmatrix", "cp.async"];
    let mut text = format!("made with {}\n{:<44}", compiler(), "entry point");
    KINDS.iter().for_each(|kind| _ = write!(text, " {kind:>8}"));
    for name in counts.keys().map(|(name, _)| name).collect::<BTreeSet<_>>() {
        let _ = write!(text, "\n{name:<44}");
        for kind in KINDS {
            let share = match counts.get(&(name.clone(), kind.to_owned())) {
                Some(&[requests, extra]) => format!("{:.2}", extra as f64 / requests as f64),
                None => "-".to_owned(),
            };
            let _ = write!(text, " {share:>8}");
        }
    }
    text + "\n"
}

/// `docs/banks.txt`, made from the launches of the operations' tests with one seed;
/// REWIRE_TEST_WRITE=1 writes it. Where `CI` is set, another compiler than the table's is an error: the table is written anew
/// then.
#[test]
fn the_table_of_bank_conflicts_is_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("banks");
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["ops::", "--skip", "pytorch"]).env("REWIRE_HOST_BANKS", &file);
    tests.env("REWIRE_TEST_SEED", "1").env("REWIRE_TEST_DEVICES", "cuda-host");
    let output = tests.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let counts = read(&file);

    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let machine_code = std::fs::read_to_string(docs.join("kernels.txt")).unwrap();
    for line in machine_code.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let counted = counts.keys().any(|(name, _)| name == words[0]);
        assert!(
            words[5] == "0" || counted,
            "{} has shared memory, but no test launches it",
            words[0]
        );
    }
    let (now, stored) = (table(&counts), docs.join("banks.txt"));
    if std::env::var_os("REWIRE_TEST_WRITE").is_some() {
        std::fs::write(&stored, &now).unwrap();
    }
    let stored = std::fs::read_to_string(stored).unwrap_or_default();
    if stored.lines().next() != now.lines().next() {
        use std::io::Write;
        // Past the capture of a passing test.
        let made = stored.lines().next().unwrap_or_default();
        assert!(std::env::var_os("CI").is_none(), "docs/banks.txt was {made}, not {}", compiler());
        writeln!(std::io::stderr(), "skipped: docs/banks.txt was {made}, not {}", compiler())
            .unwrap();
        return;
    }
    let [now, stored] = [&now, &stored].map(|text| text.lines().collect::<BTreeSet<_>>());
    let added: Vec<_> = now.difference(&stored).collect();
    let gone: Vec<_> = stored.difference(&now).collect();
    assert!(added.is_empty() && gone.is_empty(), "docs/banks.txt has {gone:#?}, now {added:#?}");
}
