//! What a kernel's source says about how it wants to be compiled.
//!
//! `build.rs` includes this file too, so it needs nothing of the crate.

/// The architecture that every kernel is compiled for: Ampere, and by the driver everything newer.
pub const BASE_ARCH: &str = "compute_80";

/// The words behind `// KEY:` in the comment that opens the file, e.g. `fmad sm_90a` for `nvrtc`.
pub fn header_words<'a>(source: &'a str, key: &str) -> Vec<&'a str> {
    source
        .lines()
        .map_while(|line| line.strip_prefix("//"))
        .filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'))
        .flat_map(|words| words.split([' ', ',']).filter(|w| !w.is_empty()))
        .collect()
}

/// The architectures to compile this file for, the most specific first.
pub fn architectures(source: &str) -> Vec<&str> {
    let mut all: Vec<_> =
        header_words(source, "nvrtc").into_iter().filter(|w| w.starts_with("sm_")).collect();
    all.push(BASE_ARCH);
    all
}

/// NVRTC's options for this file. Products and sums are not contracted unless the header says
/// `// nvrtc: fmad`, so that a kernel gives the bits of its host twin.
pub fn options(source: &str, arch: &str) -> Vec<String> {
    let fmad = header_words(source, "nvrtc").contains(&"fmad");
    vec![format!("--gpu-architecture={arch}"), "-std=c++17".to_owned(), format!("--fmad={fmad}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_from_the_header_alone() {
        let source = "// a.cu -- a kernel.\n//\n// nvrtc: fmad, sm_90a\n// mma: a_bf16\n\n// nvrtc: sm_100a\n";
        assert_eq!(header_words(source, "nvrtc"), ["fmad", "sm_90a"]);
        assert_eq!(architectures(source), ["sm_90a", BASE_ARCH]);
        assert_eq!(options(source, "sm_90a")[2], "--fmad=true");
        assert_eq!(architectures("int x;"), [BASE_ARCH]);
        assert_eq!(options("// fmad\n", BASE_ARCH)[2], "--fmad=false");
    }
}
