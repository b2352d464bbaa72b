"""Compiles every kernels/*.cu to machine code and fails on what must not be in it.

    python .ci/kernels.py            in an environment with the wheels that .ci/run installs
    python .ci/kernels.py --write    the same, and writes the table to docs/kernels.txt

For each entry point and architecture: registers, spilled bytes, stack frame, static shared memory, tensor-core
instructions; the table stands in docs/kernels.txt, and a difference to it fails. A spill or a stack frame fails. `// mma: NAME NAME` in a file's header lists the entry points that
use tensor cores: each must have such an instruction, and no other may; `// mma-sp: NAME` those that use them with a
2:4 sparse operand. The sources are linted too: PTX and `__shared__` only in kernels/common, includes of "common/..."
alone.
"""

import ctypes
import difflib
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent / "kernels"
TABLE = ROOT.parent / "docs" / "kernels.txt"
ARCHITECTURES = ["sm_80", "sm_90a"]
TENSOR_CORE = re.compile(r"\b(?:HMMA|HGMMA|IMMA)\b(\.SP\b)?")


def cuda_root():
    """The folder of the wheels: lib/libnvrtc.so.13 and bin/nvdisasm."""
    for folder in sys.path:
        for found in sorted(pathlib.Path(folder).glob("nvidia/cu*/lib/libnvrtc.so.*")):
            return found.parent.parent
    sys.exit("the NVRTC wheel is not installed in this Python environment")


class Nvrtc:
    def __init__(self, root):
        for builtins in sorted((root / "lib").glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins))
        self.lib = ctypes.CDLL(str(sorted((root / "lib").glob("libnvrtc.so.*"))[0]))

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        getattr(self.lib, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw

    def compile(self, name, source, headers, options):
        """(machine code, log); exits with the log if the source does not compile."""
        strings = lambda items: (ctypes.c_char_p * len(items))(*[s.encode() for s in items])
        program = ctypes.c_void_p()
        status = self.lib.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), name.encode(), len(headers),
            strings(list(headers.values())), strings(list(headers)),
        )
        if status:
            sys.exit(f"{name}: nvrtcCreateProgram gave status {status}")
        status = self.lib.nvrtcCompileProgram(program, len(options), strings(options))
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            sys.exit(f"{name} {options[0]}: does not compile\n{log}")
        code = self.text(program, "CUBIN")
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return code, log


def header_words(source, key):
    words = []
    for line in source.splitlines():
        if not line.startswith("//"):
            break
        line = line[2:].lstrip()
        if line.startswith(key + ":"):
            words += re.split(r"[ ,]+", line[len(key) + 1:].strip())
    return words


def lint(path, source):
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.S)
    problems = [
        f"includes {name}; kernels include \"common/...\" alone"
        for name in re.findall(r"#\s*include\s+(\S+)", code)
        if not name.startswith('"common/')
    ]
    if re.search(r"\basm\b", code):
        problems.append("PTX outside kernels/common")
    if re.search(r"\b__shared__\b", code):
        problems.append("plain __shared__; use SHARED or DYN_SHARED of common/types.cuh")
    return [f"{path.name}: {problem}" for problem in problems]


def resources(log):
    """{entry point: (registers, spilled bytes, stack frame, shared memory)} from ptxas' report."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        number = lambda pattern: sum(int(n) for n in re.findall(pattern, part))
        found[part.split("'")[0]] = (
            number(r"Used (\d+) registers"),
            number(r"(\d+) bytes spill"),
            number(r"(\d+) bytes stack frame"),
            number(r"(\d+) bytes smem"),
        )
    return found


def tensor_core_counts(root, code):
    """{entry point: (dense, sparse) tensor-core instructions} in the disassembled machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [root / "bin" / "nvdisasm", "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+)", listing, flags=re.M)
    counts = {}
    for name, text in zip(parts[1::2], parts[2::2]):
        sparse = [bool(suffix) for suffix in TENSOR_CORE.findall(text)]
        counts[name] = (sparse.count(False), sparse.count(True))
    return counts


def check(nvrtc, root, path, headers, arch):
    """(rows, problems) of one file for one architecture."""
    source = path.read_text()
    fmad = "true" if "fmad" in header_words(source, "nvrtc") else "false"
    options = [f"--gpu-architecture={arch}", "-std=c++17", f"--fmad={fmad}", "--ptxas-options=-v"]
    code, log = nvrtc.compile(path.name, source, headers, options)
    listed = {"mma": header_words(source, "mma"), "mma-sp": header_words(source, "mma-sp")}
    counts = tensor_core_counts(root, code)
    rows, problems = [], []
    used = resources(log)
    for key, names in listed.items():
        for name in names:
            if name not in used:
                problems.append(f"{path.name} {arch}: the header's {key} line names {name}, which is not there")
    for name, (registers, spill, stack, shared) in sorted(used.items()):
        found = dict(zip(listed, counts.get(name, (0, 0))))
        rows.append(
            f"{name:<44} {arch:<7} {registers:>9} {spill:>6} {stack:>6} {shared:>7} {found['mma']:>5} {found['mma-sp']:>6}"
        )
        where = f"{path.name} {arch}: {name}"
        if spill or stack:
            problems.append(f"{where}: {spill} bytes spilled, {stack} bytes of stack")
        for key, count in found.items():
            if name in listed[key] and not count:
                problems.append(f"{where}: no {key} instruction in its machine code")
            if count and name not in listed[key]:
                problems.append(f"{where}: has {key} instructions; name it in the header's {key} line")
    if not used:
        problems.append(f"{path.name} {arch}: no entry point")
    return rows, problems


def main():
    root = cuda_root()
    nvrtc = Nvrtc(root)
    headers = {f"common/{p.name}": p.read_text() for p in sorted((ROOT / "common").glob("*.cuh"))}
    files = sorted(ROOT.glob("*.cu"))
    if not files:
        sys.exit(f"no kernels in {ROOT}")
    problems = [problem for path in files for problem in lint(path, path.read_text())]
    jobs = [(path, arch) for path in files for arch in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: check(nvrtc, root, job[0], headers, job[1]), jobs))
    lines = [f"{'entry point':<44} {'arch':<7} registers  spill  stack  shared   mma mma-sp"]
    for rows, found in results:
        lines += rows
        problems += found
    print(*lines, sep="\n")
    if "--write" in sys.argv:
        TABLE.write_text("\n".join(lines) + "\n")
    stored = TABLE.read_text().splitlines() if TABLE.exists() else []
    changed = list(difflib.unified_diff(stored, lines, str(TABLE.name), "now", lineterm="", n=0))
    if changed:
        problems.append("\n".join(["docs/kernels.txt is not up to date (--write writes it):", *changed]))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(files)} files, {sum(len(rows) for rows, _ in results)} machine codes, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
