//! The host's memory: how much of it is free, and that of freed tensors, kept for the next ones.
//!
//! A training step asks for the same sizes again and again. Large blocks that were freed come back from the system page by
//! page, filled with zeros, which costs as much as the arithmetic on them.

use crate::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Floats from which a block is worth keeping.
const SMALLEST: usize = 1 << 14;
/// Floats that are kept at most: 1 GiB.
const MOST: usize = 1 << 28;

#[derive(Default)]
struct Kept {
    by_len: HashMap<usize, Vec<Vec<f32>>>,
    floats: usize,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// `len` floats that hold anything.
///
/// Errors: [`crate::ErrorKind::Device`] where the system has no memory for them.
pub(crate) fn take(len: usize) -> Result<Vec<f32>> {
    let found = (len >= SMALLEST).then(|| {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_mut()?;
        let block = kept.by_len.get_mut(&len)?.pop()?;
        kept.floats -= len;
        Some(block)
    });
    found.flatten().map_or_else(|| zeros(len), Ok)
}

/// `len` zeros of a type, or of zero bytes.
///
/// Errors: [`crate::ErrorKind::Device`] where the system has no memory for them.
pub(crate) fn zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len)
        .map_err(|()| refused(len.saturating_mul(size_of::<T>())))
}

/// The error of an allocation that the system refuses.
pub(crate) fn refused(bytes: usize) -> Error {
    let message = format!(
        "the system has no memory for a block of {}: take a smaller batch or fewer images",
        words(bytes)
    );
    Error::device("cpu", message)
}

/// Bytes as a person reads them: `34.4 GB`.
pub(crate) fn words(bytes: usize) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

/// Bytes that a process can still take: the least of what the system has and what the limits of its control groups
/// leave. `None` where the system does not say.
pub(crate) fn free() -> Option<usize> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = group_folders(&own).into_iter().filter_map(|[folder, limit, used]| {
        let read = |name: &str| fs::read_to_string(Path::new(&folder).join(name)).ok();
        let stat = read("memory.stat").unwrap_or_default();
        left(&read(&limit)?, &read(&used)?, &stat)
    });
    system.into_iter().chain(left).min()
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}

/// The folders whose limits hold for a process with this `/proc/self/cgroup`, innermost first, with the names of the files of limit and
/// use. Inside a container the groups' root is the container's own.
fn group_folders(own: &str) -> Vec<[String; 3]> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, limit, used) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = Path::new(root).join(folder).to_string_lossy().into_owned();
            found.push([folder, limit.to_owned(), used.to_owned()]);
        }
    }
    found
}

/// Bytes that a group's limit leaves, from its files; caches of files that nobody uses do not count as used. `None` without a limit.
fn left(limit: &str, used: &str, stat: &str) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let cache = ["inactive_file ", "total_inactive_file "];
    let cached = cache
        .iter()
        .filter_map(|key| stat.lines().find_map(|line| line.strip_prefix(key)).and_then(number));
    let used = number(used)?.saturating_sub(cached.max().unwrap_or(0));
    Some(number(limit)?.saturating_sub(used))
}

/// Keeps a block for [`take`]; where there is no room, what was kept for other sizes goes first.
pub(crate) fn give(block: Vec<f32>) {
    let len = block.len();
    if !(SMALLEST..=MOST).contains(&len) {
        return;
    }
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if kept.floats + len > MOST {
        *kept = Kept::default();
    }
    kept.floats += len;
    kept.by_len.entry(len).or_default().push(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_for_its_length_only() {
        let len = SMALLEST + 12_345;
        let block = vec![7.0; len];
        let place = block.as_ptr();
        give(block);
        assert_eq!(take(len + 1).unwrap().len(), len + 1);
        let again = take(len).unwrap();
        assert!(again.as_ptr() == place && again[0] == 7.0);
        let fresh = take(len).unwrap();
        assert!(fresh.as_ptr() != place);
    }

    #[test]
    fn what_the_system_cannot_give_is_an_error() {
        let error = take(1 << 58).unwrap_err().to_string();
        assert!(error.contains("1152921504.6 GB") && error.contains("smaller batch"), "{error}");
        assert!(zeros::<u8>(usize::MAX).is_err());
    }

    #[test]
    fn free_memory_is_the_least_that_system_and_groups_leave() {
        let text = "MemTotal: 100 kB\nMemFree: 20 kB\nMemAvailable:   30 kB\n";
        assert_eq!(available(text), Some(30 * 1024));
        assert_eq!(available("MemTotal: 100 kB"), None);
        assert_eq!(left("1000\n", "700\n", "anon 5\ninactive_file 200\n"), Some(500));
        assert_eq!(left("1000", "1700", ""), Some(0));
        assert_eq!(left("max\n", "700", ""), None);
        let folders = |own: &str| -> Vec<String> {
            group_folders(own).into_iter().map(|[folder, limit, _]| folder + "/" + &limit).collect()
        };
        let two = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"];
        assert_eq!(folders("0::/a/b\n"), two.map(|folder| format!("{folder}/memory.max")));
        let old = folders("4:cpu:/x\n3:hugetlb,memory:/y\n");
        assert_eq!(old[0], "/sys/fs/cgroup/memory/y/memory.limit_in_bytes");
        assert_eq!(old.len(), 2);
        assert!(free().is_none_or(|bytes| bytes > 0));
    }
}
