"""Times single kernels of rewire and of PyTorch's libraries on one GPU, in turn.

    python3 benches/peers/kernels.py --binary BENCHES --json kernels.json        BENCHES: what cargo bench --no-run makes
    python3 benches/peers/kernels.py --rows conv/c4 pgd_step                      rows whose name has one of these parts
    python3 benches/peers/kernels.py --small --rounds 1                           whether everything runs
    python3 benches/peers/kernels.py --check                                      the peers' results alone, small, on the CPU

Rows are those of `benches rows --list`: convolutions of VGG16 with bias and ReLU (`conv/LAYER/MODE/IMAGES`), the same with 10, 5 or
3 % of the weights (`sparse/LAYER/keepPERCENT/MODE/IMAGES`, drawn uniformly, `skewed`: channels keep log-normal shares; both sides
have the same weights), a PGD step on 3x32x32 images, noise on the
weights of each layer, the threshold at 5 % over 14.7 M weights with its mask, SGD over them. Every result is compared with float64
before anything is timed. One process a side; in each round rewire, every peer and rewire again take a turn: a CUDA graph of many launches
that rotate over at least three sets of buffers, larger together than 180 MB; `hot` is one set. A ratio is the median over
the rounds of (peer's time / rewire's). `noise` is rewire against itself within a round.

Peers: `cudnn` is the convolution with bias and ReLU as three kernels, `cudnn fused` cudnn_convolution_relu, `cudnn product` the convolution
alone; `cusparselt` and `cusparse` are im2col and the product, `… product` the product alone; `compiled` is torch.compile
(max-autotune) of what eager runs, for convolutions with --compile only.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy
import torch

from gpu import COPY, PEAK, Timed, document, need_gpu, print_header, print_row, save, summary
from libraries import LAYERS, SETTINGS, kept_percent, peers_of, tried

#: For computed floors: dense-equivalent operations a second of bf16 products over 10, 5 and 3 % of the weights, as shared memory
#: allows a gather of single columns into 2:4 operands on 132 multiprocessors.
GATHERED = {10: 865e12, 5: 1036e12, 3: 1342e12}


class Rewire:
    """The other process: one line in, one line of JSON out."""

    def __init__(self):
        environment = os.environ | {"REWIRE_BENCH_DEVICE": OPTIONS.device}
        command = [OPTIONS.binary, "turns", *(["--small"] if OPTIONS.small else [])]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            sys.exit(f"{OPTIONS.binary}: no answer to `{line}`")
        answer = json.loads(answer)
        if "failed" in answer:
            raise RuntimeError(f"rewire: {answer['failed']}")
        return answer


def floor_microseconds(row, own):
    """Computed, not measured: the longer of operations over the ceiling and bytes over a copy's speed."""
    kind, *parts = row.split("/")
    seconds = 0.0
    if kind == "conv":
        seconds = own["flop"] / PEAK[parts[1]]
    elif kind == "sparse" and parts[2] == "bf16":
        # For masks without a structure of channels; others may need fewer columns.
        seconds = 0.0 if "skewed" in row else own["flop"] / GATHERED[kept_percent(parts[1])]
    elif kind == "sparse":
        seconds = own["kept_flop"] / PEAK["f32"]
    if seconds:
        # Taps in the padding need not be multiplied.
        side = LAYERS[parts[0]][0]
        seconds *= ((3 * side - 2) / (3 * side)) ** 2
    return 1e6 * max(seconds, own["bytes"] / COPY)


def measure(row, rewire, folder):
    file = f"{folder}/weight.npy"
    own = rewire.ask(f"prepare {row} {file}")
    weight = numpy.load(file) if own["shape"] else None
    peers, left_out = peers_of(row, weight)
    timed = {}
    for name, peer in peers.items():
        tried(timed, left_out, name, lambda peer=peer: Timed(peer.call, peer.sets))
    rounds, hot = [], []
    for _ in range(OPTIONS.rounds):
        turns = {"rewire": [rewire.ask(f"time {OPTIONS.seconds}")]}
        peer_turns = {name: peer.turn(OPTIONS.seconds) for name, peer in timed.items()}
        turns["rewire"].append(rewire.ask(f"time {OPTIONS.seconds}"))
        rounds.append({"rewire": [turn["us"] for turn in turns["rewire"]], "peers": {name: turn[0] for name, turn in peer_turns.items()}})
        hot.append({"rewire": turns["rewire"][0]["hot_us"]} | {name: turn[1] for name, turn in peer_turns.items()})
    result = {"row": row} | summary(rounds, floor_microseconds(row, own))
    median = {name: float(numpy.median([turn[name] for turn in hot])) for name in hot[0]}
    result |= {"hot": median["rewire"], "error": own["error"], "how": own["how"], "sets": own["sets"], "left_out": left_out}
    result |= {"flop": own["flop"], "kept_flop": own["kept_flop"], "bytes": own["bytes"], "launches": own["launches"]}
    for name, peer in result["peers"].items():
        peer |= {"hot": median[name], "error": peers[name].error, "way": timed[name].way}
    return result


def check(names):
    """Peers against float64 on the CPU, small."""
    for row in names:
        peers, left_out = peers_of(row, None)
        errors = ", ".join(f"{name} {peer.error if peer.error is not None else 0:.0e}" for name, peer in peers.items())
        print(f"{row}: {errors}" + "".join(f"; left out: {name}: {why}" for name, why in left_out.items()))


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="./benches")
    parser.add_argument("--device", default="cuda", help="rewire's")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn")
    parser.add_argument("--limit", type=float, default=1e9, metavar="S", help="no row is begun after so many seconds")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of convolutions: takes long")
    parser.add_argument("--small", action="store_true", help="sizes at which times mean nothing")
    parser.add_argument("--check", action="store_true", help="peers' results alone, small, on the CPU")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    OPTIONS = parser.parse_args()
    OPTIONS.small |= OPTIONS.check
    SETTINGS.device, SETTINGS.small, SETTINGS.compile = "cpu" if OPTIONS.check else "cuda", OPTIONS.small, OPTIONS.compile
    listed = subprocess.run([OPTIONS.binary, "rows", "--list"], capture_output=True, text=True, check=True).stdout.split()
    names = [row for row in listed if any(part in row for part in OPTIONS.rows)]
    if not names:
        sys.exit(f"no row of {OPTIONS.binary} has {' or '.join(OPTIONS.rows)} in its name")
    if OPTIONS.check:
        return check(names)
    need_gpu()
    results, rewire, start = document("Kernels", "us"), Rewire(), time.monotonic()
    results["not_begun"], failed = [], 0
    print(f"{results['gpu']}, PyTorch {results['torch']}, clocks {results['clocks']['before']}")
    print_header("us")
    with tempfile.TemporaryDirectory() as folder:
        for row in names:
            if time.monotonic() - start > OPTIONS.limit:
                results["not_begun"].append(row)
                continue
            try:
                found = measure(row, rewire, folder)
            except (AssertionError, RuntimeError) as error:
                print(f"{row:<32}FAILED: {error}", flush=True)
                results.setdefault("failed", {})[row], failed = str(error), 1
                continue
            finally:
                gc.collect()
                torch.cuda.empty_cache()
            results["rows"].append(found)
            print_row(found)
            save(results, OPTIONS.json)
    if results["not_begun"]:
        print(f"not begun within {OPTIONS.limit:.0f} s: {' '.join(results['not_begun'])}")
    save(results, OPTIONS.json)
    print(f"clocks {results['clocks']['after']}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
