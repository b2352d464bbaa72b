#!/usr/bin/env bash
# Makes target/bundle: everything that a machine with an NVIDIA GPU, but without Rust and network, needs to check and
# measure the kernels. Needs NVRTC here (CUDA_PATH, or a Python environment with nvidia-cuda-nvrtc), so that the
# binaries carry the kernels compiled. Then, there: ./run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
bundle=target/bundle
most_mib=60

# The executable of the newest build whose name begins with $1-.
built() {
    find target/release/deps -maxdepth 1 -name "$1-*" -type f -executable -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2
}

cargo build --release
cargo test --release --no-run --test main
tests=$(built main)
cargo bench --no-run --bench main
benches=$(built main)
[[ $tests != "$benches" ]] || { echo "error: tests and benches are one file: $tests" >&2; exit 1; }

rm -rf "$bundle"
mkdir -p "$bundle"
strip -o "$bundle/rewire" target/release/rewire
strip -o "$bundle/tests" "$tests"
strip -o "$bundle/benches" "$benches"
cp benches/peers/*.py benches/bundle/run.sh "$bundle/"
git rev-parse HEAD >"$bundle/commit"
"$bundle/rewire" doctor --json | python3 -c '
import json, sys
kernels = json.load(sys.stdin)["kernels"]
if kernels["embedded_as_ptx"] != kernels["files"]:
    sys.exit("error: no NVRTC at build time: the kernels are embedded as sources only")
print("kernels:", kernels)'
mib=$(du -sm "$bundle" | cut -f1)
du -h "$bundle"/*
((mib <= most_mib)) || { echo "error: $bundle has $mib MiB, must be at most $most_mib" >&2; exit 1; }
echo "$bundle: $mib MiB"
