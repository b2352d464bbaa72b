//! Source lines of machine addresses, for the messages of the checks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The message with each `{pc hex|otherwise}` replaced by file and line, as the debug information has it.
pub(super) fn resolve(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some((before, (pc, after))) =
        rest.split_once("{pc ").and_then(|(b, r)| Some((b, r.split_once('}')?)))
    {
        out += before;
        let (pc, otherwise) = pc.split_once('|').unwrap_or((pc, pc));
        let place = u64::from_str_radix(pc, 16).ok().and_then(source_line);
        out += place.as_deref().unwrap_or(otherwise);
        rest = after;
    }
    out + rest
}

/// `file.cu:12`. A line of `kernels/common` also names the kernel's line that it was inlined into.
fn source_line(pc: u64) -> Option<String> {
    static READER: Mutex<Option<Addr2line>> = Mutex::new(None);
    let mut reader = READER.lock().unwrap_or_else(PoisonError::into_inner);
    if reader.is_none() {
        *reader = Addr2line::start();
    }
    // SAFETY: reads a number.
    let offset = pc - unsafe { rewire_host_image() };
    let answer = reader.as_mut()?.ask(offset);
    if answer.is_none() {
        *reader = None;
    }
    let answer = answer?;
    let mut places = answer.iter().map_while(|line| {
        let place = line.split(" (").next()?.rsplit("kernels/").next()?;
        (!place.starts_with('?') && !place.ends_with('?')).then_some(place)
    });
    let first = places.next()?;
    let is_kernel = |p: &&str| !p.starts_with("common/") && !p.starts_with("host/");
    if !is_kernel(&first)
        && let Some(kernel) = places.find(is_kernel)
    {
        return Some(format!("{first} in {kernel}"));
    }
    Some(first.to_owned())
}

/// `addr2line`, which comes with every linker. It reads a large program for a second, so it stays until this
/// process ends and closes its input.
struct Addr2line {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Addr2line {
    fn start() -> Option<Self> {
        let mut command = Command::new("addr2line");
        command.args(["-i", "-a", "-e"]).arg(std::env::current_exe().ok()?);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = pipes.spawn().ok()?;
        let (input, output) = (process.stdin.take()?, BufReader::new(process.stdout.take()?));
        Some(Self { process, input, output })
    }

    /// The lines for an address, the innermost first.
    fn ask(&mut self, offset: u64) -> Option<Vec<String>> {
        // Each answer begins with its address: that of a second question ends the first answer.
        writeln!(self.input, "{offset:#x}\n0x0").ok()?;
        self.input.flush().ok()?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.strip_prefix("0x").is_some_and(|a| a.bytes().all(|b| b == b'0')) {
                break;
            }
            lines.push(line.to_owned());
        }
        // The place of the second address.
        self.output.read_line(&mut String::new()).ok()?;
        Some(lines.into_iter().skip(1).collect())
    }
}

impl Drop for Addr2line {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

unsafe extern "C" {
    fn rewire_host_image() -> u64;
}
