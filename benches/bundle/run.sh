#!/usr/bin/env bash
# Checks and measures the kernels on this machine's GPU. Parts, in this order; the first six by default:
#   ./run.sh [check] [sanitize] [kernels] [sparse] [networks] [training] [families]
#   check      every operation against float64, plans, a training run; nothing is timed where it fails
#   sanitize   the operations under compute-sanitizer, where it is installed
#   kernels    single kernels beside PyTorch's libraries: dense convolutions, PGD step, noise, threshold, SGD
#   sparse     sparse convolutions beside cuDNN, cuSPARSELt and cuSPARSE
#   networks   inference beside PyTorch
#   training   training steps, with PGD-7 and without, beside PyTorch
#   families   every kernel family at small sizes, without peers
# Writes logs and JSON to $OUT (default: results beside this file). Each part of the four with peers begins nothing new after LIMIT
# seconds (default 480) and says what is left, so that it can be done in pieces, chosen by lists separated by commas:
#   ROWS (kernels), SPARSE_ROWS (sparse): parts of names of `./benches rows --list`
#   CASES (networks): cases of inference.py     NETS, STEPS (training): networks; steps of the attack, 0 for none
#   MODES, BATCHES (networks, training)         ROUNDS: turns that each side takes (default 5 for kernels, 3 for the others)
#   COMPILE=1: torch.compile of the peers too, which takes long; networks always have it
set -uo pipefail
cd "$(dirname "$0")"
out=${OUT:-$PWD/results}
mkdir -p "$out"
for name in rewire tests benches; do
    [[ -x $name ]] || gunzip --keep "$name.gz" || exit 2
done
read -r -a parts <<<"${*:-check sanitize kernels sparse networks training}"
known=" check sanitize kernels sparse networks training families "
for name in "${parts[@]}"; do
    [[ $known == *" $name "* ]] || { echo "error: $name: parts are$known" >&2; exit 2; }
done
limit=${LIMIT:-480}
IFS=, read -r -a modes <<<"${MODES:-bf16,tf32}"
IFS=, read -r -a batches <<<"${BATCHES:-128,1,1024}"
IFS=, read -r -a training_batches <<<"${BATCHES:-128,1024}"
IFS=, read -r -a cases <<<"${CASES:-}"
IFS=, read -r -a rows <<<"${ROWS:-conv/,pgd_step,noise,prune,sgd}"
IFS=, read -r -a sparse_rows <<<"${SPARSE_ROWS:-sparse/c4/,sparse/c7/,sparse/c10/}"
IFS=, read -r -a nets <<<"${NETS:-vgg16,resnet18}"
IFS=, read -r -a steps <<<"${STEPS:-7,0}"
compile=()
[[ -z ${COMPILE:-} ]] || compile=(--compile)
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

# Every operation on fresh random inputs against float64, the compiled plans, what is timed at small sizes, and a training
# run from end to end.
check() {
    local folder
    folder=$(mktemp -d)
    ./tests ops:: plan:: --skip pytorch_ops --test-threads=1 &&
        ./benches rows --small &&
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

# Rows whose names have one of some parts, into a JSON of that name.
rows_of() {
    local name=$1
    shift
    python3 kernels.py --binary ./benches --rows "$@" --rounds "${ROUNDS:-5}" --limit "$limit" --json "$out/$name.json" "${compile[@]}"
}

kernels() {
    rows_of kernels "${rows[@]}"
}

sparse() {
    rows_of sparse "${sparse_rows[@]}"
}

families() {
    ./benches --bench --warm-up-time 1 --measurement-time 2 --sample-size 20
}

training() {
    local mode status=0
    for mode in "${modes[@]}"; do
        python3 train_step.py --binary ./rewire --device cuda --mode "$mode" --batch "${training_batches[@]}" --nets "${nets[@]}" \
            --attack-steps "${steps[@]}" --rounds "${ROUNDS:-3}" --seconds 1 --limit "$((limit / ${#modes[@]}))" \
            --json "$out/training-cuda-$mode.json" "${compile[@]}" || status=1
    done
    return $status
}

networks() {
    local mode options=()
    ((${#cases[@]})) && options=(--cases "${cases[@]}")
    for mode in "${modes[@]}"; do
        python3 inference.py --binary ./rewire --device cuda --mode "$mode" --batch "${batches[@]}" --rounds "${ROUNDS:-3}" --seconds 1 \
            --limit "$((limit / ${#modes[@]}))" \
            --json "$out/inference-cuda-$mode.json" "${options[@]}" || return
    done
}

# Whether a part was asked for.
asked() {
    local name
    for name in "${parts[@]}"; do
        [[ $name != "$1" ]] || return 0
    done
    return 1
}

clocks() {
    nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv
}

part machine machine
if asked check && ! part check check; then
    echo "error: kernels disagree with float64; nothing is timed" >&2
    exit 1
fi
status=0
for name in sanitize kernels sparse networks training families; do
    asked "$name" || continue
    [[ $name == sanitize ]] || clocks | tee -a "$out/clocks.log"
    part "$name" "$name" || status=1
    [[ $name == sanitize ]] || clocks | tee -a "$out/clocks.log"
done
exit $status
