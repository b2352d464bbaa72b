#!/usr/bin/env bash
# Makes target/bundle: everything that a machine with an NVIDIA GPU, but without Rust and network, needs to check and
# measure the kernels. Needs the NVRTC of CUDA 12.5 to 13.0 here (CUDA_PATH, or a Python environment with
# nvidia-cuda-nvrtc==13.0.88): the binaries carry the kernels compiled to PTX, and driver 580 takes no newer one.
# On that machine run ./run.sh, which unpacks the binaries first.
set -euo pipefail
cd "$(dirname "$0")/../.."
bundle=target/bundle
most_mib=60

# The executable that a cargo command makes.
built() {
    "$@" --message-format=json | python3 -c '
import json, sys
found = [json.loads(line).get("executable") for line in sys.stdin if line.startswith("{")]
print([path for path in found if path and "/deps/main-" in path][-1])'
}

cargo build --release
tests=$(built cargo test --release --no-run --test main)
benches=$(built cargo bench --no-run --bench main)

benches/bundle/ptx.sh target/release/rewire "$tests" "$benches"

rm -rf "$bundle"
mkdir -p "$bundle"
strip -o "$bundle/rewire" target/release/rewire
strip -o "$bundle/tests" "$tests"
strip -o "$bundle/benches" "$benches"
cp -r benches/peers/*.py benches/peers/masks benches/bundle/run.sh "$bundle/"
git rev-parse HEAD >"$bundle/commit"
"$bundle/rewire" doctor --json | python3 -c '
import json, sys
kernels = json.load(sys.stdin)["kernels"]
if kernels["embedded_as_ptx"] != kernels["files"]:
    sys.exit("error: no NVRTC at build time: the kernels are embedded as sources only")
print("kernels:", kernels)'
gzip --best "$bundle"/{rewire,tests,benches}
mib=$(du -sm "$bundle" | cut -f1)
du -h "$bundle"/*
((mib <= most_mib)) || { echo "error: $bundle has $mib MiB, must be at most $most_mib" >&2; exit 1; }
echo "$bundle: $mib MiB"
