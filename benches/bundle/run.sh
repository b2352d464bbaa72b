#!/usr/bin/env bash
# Checks and measures the kernels on this machine's GPU. Parts, all by default, in this order:
#   ./run.sh [check] [sanitize] [kernels] [networks]
# Writes logs and JSON to $OUT (default: results beside this file). A part that fails stops what stands on it: nothing
# is timed before every kernel has agreed with float64. `networks` takes long where PyTorch compiles each network: MODES, BATCHES and
# CASES (separated by commas) choose, so that it can be done in pieces.
set -uo pipefail
cd "$(dirname "$0")"
out=${OUT:-$PWD/results}
mkdir -p "$out"
parts=${*:-check sanitize kernels networks}
IFS=, read -r -a modes <<<"${MODES:-bf16,tf32}"
IFS=, read -r -a batches <<<"${BATCHES:-128,1,1024}"
IFS=, read -r -a cases <<<"${CASES:-}"
export REWIRE_TEST_DEVICES=cuda REWIRE_BENCH_DEVICE=cuda PYTHONUNBUFFERED=1

# Runs a command, its output to the terminal and to $out/NAME.log.
part() {
    local name=$1 from=$SECONDS
    shift
    echo "=== $name: $*"
    "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    echo "=== $name: status $status, $((SECONDS - from)) s" | tee -a "$out/summary.log"
    return "$status"
}

machine() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit --format=csv
    ./rewire doctor
    echo "commit $(cat commit), $(date -u +%F)"
}

# Every operation on fresh random inputs against float64, the compiled plans, and a training run from end to end.
check() {
    local folder
    folder=$(mktemp -d)
    ./tests ops:: plan:: --skip pytorch_ops --test-threads=1 &&
        ./rewire train small-dnr-irregular --device cuda --mode bf16 --out "$folder" --force --set train.epochs=1
}

sanitize() {
    local status=0
    for tool in memcheck racecheck synccheck initcheck; do
        echo "--- $tool"
        timeout "${SANITIZER_SECONDS:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            ./tests ops:: --skip pytorch_ops --test-threads=1 || status=1
    done
    return $status
}

kernels() {
    ./benches --bench --warm-up-time 1 --measurement-time 2 --sample-size 20
}

networks() {
    local mode options=()
    ((${#cases[@]})) && options=(--cases "${cases[@]}")
    for mode in "${modes[@]}"; do
        python3 inference.py --binary ./rewire --device cuda --mode "$mode" --batch "${batches[@]}" --rounds 3 --seconds 1 \
            --json "$out/inference-cuda-$mode.json" "${options[@]}" || return
    done
}

part machine machine
if [[ $parts == *check* ]] && ! part check check; then
    echo "error: kernels disagree with float64; nothing is timed" >&2
    exit 1
fi
status=0
for name in sanitize kernels networks; do
    [[ $parts != *$name* ]] || part "$name" "$name" || status=1
done
exit $status
