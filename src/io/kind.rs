//! What a file is by its first bytes, where a reader of networks expects another kind.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What a reader expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Safetensors,
    Onnx,
}

impl Expected {
    fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "a safetensors file",
            Self::Onnx => "an ONNX file",
        }
    }
}

/// Refuses a file that is of a known other kind, and says what to do with it. Bytes of no known kind pass: their decoder knows
/// better what is wrong with them.
///
/// Errors: [`crate::ErrorKind::File`].
pub(super) fn check(path: &Path, content: &[u8], expected: Expected) -> Result<()> {
    let Some((found, advice)) = other_kind(path, content, expected) else { return Ok(()) };
    Err(Error::file(path, format!("is {found}, not {}; {advice}", expected.name())))
}

/// Whether `content` is the small text that Git stores in the place of a large file.
pub(super) fn is_lfs_pointer(content: &[u8]) -> bool {
    content.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// What a pointer's reader has to do.
pub(super) const LFS_ADVICE: &str =
    "fetch the file itself with `git lfs pull`, or download it from the page of the repository";

/// What the file is and what to do, unless it is what is expected or nothing known.
fn other_kind(path: &Path, content: &[u8], expected: Expected) -> Option<(String, String)> {
    if content.is_empty() {
        return Some(("empty".into(), "copy or download the file again".into()));
    }
    if is_safetensors(content) {
        let advice = "no import is needed: `rewire eval FILE` and the other commands read safetensors files as they are, \
             state dicts from PyTorch with --arch NAME";
        return (expected != Expected::Safetensors)
            .then(|| ("a safetensors file".into(), advice.into()));
    }
    if is_onnx(content) {
        let to = beside(path, "safetensors");
        let advice = format!(
            "import it: rewire import {} -o {}; give the new file",
            quoted(path),
            quoted(&to)
        );
        return (expected != Expected::Onnx).then(|| ("an ONNX file".into(), advice));
    }
    if is_lfs_pointer(content) {
        return Some(("a Git LFS pointer".into(), LFS_ADVICE.into()));
    }
    for (magic, program) in [
        (&[0x1f, 0x8b][..], "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"BZh", "bzip2"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    ] {
        if content.starts_with(magic) {
            let (from, to) = (quoted(path), quoted(&unpacked(path)));
            return Some((
                format!("compressed with {program}"),
                format!("unpack it first: {program} -dc {from} > {to}"),
            ));
        }
    }
    if content.starts_with(b"\x93NUMPY") || is_zip_of_arrays(content) {
        return Some(("an array of NumPy".into(), "give a network, not images or labels".into()));
    }
    if content.starts_with(b"\x89HDF\r\n") {
        let advice = "export the network as ONNX (tf2onnx for Keras) and use `rewire import`";
        return Some(("an HDF5 file, as Keras writes it".into(), advice.into()));
    }
    // A pickle begins with the protocol 2 to 5; today's torch.save wraps it into a ZIP archive.
    let pickle = matches!(content, [0x80, 2..=5, ..]) || content.starts_with(b"PK\x03\x04");
    if pickle || path.extension().is_some_and(|e| e == "pt" || e == "pth") {
        return Some(("a pickle of torch.save".into(), conversion(path, expected)));
    }
    text_kind(content).map(|(found, advice)| (found.into(), advice.into()))
}

/// The length of a JSON object, and the object.
fn is_safetensors(content: &[u8]) -> bool {
    let Some((length, header)) = content.split_first_chunk::<8>() else { return false };
    header.first() == Some(&b'{') && u64::from_le_bytes(*length) < 1 << 32
}

/// A message of protocol buffers whose first field is `ir_version`, a small number, and whose second is another of `ModelProto`'s.
fn is_onnx(content: &[u8]) -> bool {
    let second = [0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72];
    matches!(content, [0x08, 1..=0x3f, tag, ..] if second.contains(tag))
}

/// A ZIP archive whose first member is an array.
fn is_zip_of_arrays(content: &[u8]) -> bool {
    let Some([low, high]) = content.get(26..28).filter(|_| content.starts_with(b"PK\x03\x04"))
    else {
        return false;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    content.get(30..30 + length).is_some_and(|name| name.ends_with(b".npy"))
}

fn text_kind(content: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &content[..content.len().min(512)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that the limit cuts in two.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    if text.is_empty() || text.chars().any(|c| c.is_control() && !"\t\n\r".contains(c)) {
        return None;
    }
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    Some(match start.chars().next() {
        Some('<') => (
            "a web page (HTML)",
            "the download fetched a page instead of the file: download the file itself",
        ),
        Some('{' | '[') => ("JSON text", "give the file that holds the weights"),
        _ => ("a text file", "give the file that holds the weights"),
    })
}

/// How the weights come out of a file of `torch.save`, which is code to be executed; this crate does not do that.
fn conversion(path: &Path, expected: Expected) -> String {
    if expected == Expected::Onnx {
        return "export the network in PyTorch with torch.onnx.export(model, images, 'model.onnx')"
            .into();
    }
    let (from, to) = (quoted(path), quoted(&beside(path, "safetensors")));
    // By its name, torch.load takes `x.safetensors` for what it says. Whole checkpoints keep the state dict under a key; clones share
    // no memory, which safetensors refuses.
    let convert = "import sys, torch, safetensors.torch as s; \
         d = torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True); \
         d = next((d[k] for k in ('state_dict', 'model_state_dict', 'model', 'net') if k in d), d); \
         s.save_file({k: v.detach().clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])";
    format!("convert it: python -c \"{convert}\" {from} {to}")
}

/// A file of another name in the same folder.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let other = path.with_extension(extension);
    if other != path && !other.exists() {
        return other;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-converted.{extension}"))
}

/// The name without that of the compression.
fn unpacked(path: &Path) -> PathBuf {
    match path.extension().is_some_and(|e| e == "gz" || e == "xz" || e == "bz2" || e == "zst") {
        true => path.with_extension(""),
        false => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("unpacked-{name}"))
        }
    }
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
