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
import torch.nn.functional as F

from gpu import COPY, PEAK, Timed, document, need_gpu, print_header, print_row, save, sets_of, summary
from sparse import Columns, columns_first, permuted_for_two_four

#: Side, channels and filters of VGG16's layers.
LAYERS = {
    "c2": (32, 64, 64),
    "c4": (16, 128, 128),
    "c5": (8, 128, 256),
    "c7": (8, 256, 256),
    "c8": (4, 256, 512),
    "c10": (4, 512, 512),
    "c13": (2, 512, 512),
}
CONVOLUTIONS = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256)] + 5 * [(512, 512)]
TOLERANCE = {"bf16": 1e-2, "tf32": 1e-3, "f32": 1e-5}
#: For computed floors: dense-equivalent operations a second of bf16 products over 10, 5 and 3 % of the weights, as shared memory
#: allows a gather of single columns into 2:4 operands on 132 multiprocessors.
GATHERED = {10: 865e12, 5: 1036e12, 3: 1342e12}


def device():
    return torch.device("cpu" if OPTIONS.check else "cuda")


def sets_for(size):
    return 3 if OPTIONS.small else sets_of(size)


def rounded(x, mode):
    return x.to(torch.bfloat16) if mode == "bf16" else x.float()


def set_precision(mode):
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"


class Peer:
    """`call(set)` gives a result for one of `sets`; `error` is that of the result for set 0."""

    def __init__(self, sets, call, check):
        self.sets, self.call, self.error = sets, call, check(call(0))


def copies(x, count):
    return [x.clone() for _ in range(count)]


def relative(got, want, tolerance, what):
    got, want = got.double(), want.double()
    error = float((got - want).norm() / want.norm())
    if not error <= tolerance:
        raise AssertionError(f"{what} is {error:.1e} away from float64, at most {tolerance:.0e}")
    return error


def tried(found, left_out, name, make):
    """Adds what `make` gives, or why there is nothing."""
    try:
        found[name] = make()
    except Exception as error:
        text = str(error).splitlines() or [""]
        left_out[name] = f"{type(error).__name__}: {text[0][:160]}"
        if device().type == "cuda":
            torch.cuda.synchronize()


def sampled(x, weight, bias):
    """Positions of relu(conv) and their values in float64. x is NCHW, weight KCRS."""
    n, channels, side, _ = x.shape
    draw = torch.Generator().manual_seed(3)
    at = [torch.randint(extent, (4000,), generator=draw) for extent in (n, len(weight), side, side)]
    image, filters, row, column = (index.to(x.device) for index in at)
    padded = F.pad(x, (1, 1, 1, 1))
    total = bias.double()[filters]
    for r in range(3):
        for s in range(3):
            total += (padded[image, :, row + r, column + s].double() * weight[filters, :, r, s].double()).sum(1)
    return (image, filters, row, column), total.relu()


def convolution_peers(weight, side, images, mode, share):
    """weight KCRS in f32; a share below 1 adds libraries for sparse matrices."""
    filters, channels = weight.shape[:2]
    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    size = torch.empty((), dtype=dtype).element_size()
    sets = sets_for(size * (images * side * side * (channels + filters) + weight.numel()))
    torch.manual_seed(2)
    x = rounded(torch.rand(images, channels, side, side, device=device()) - 0.5, mode)
    x = x.contiguous(memory_format=torch.channels_last)
    bias = rounded(torch.rand(filters, device=device()) - 0.5, mode)
    own = rounded(weight, mode)
    at, want = sampled(x, own, bias)
    xs = copies(x, sets)
    ws = copies(own.contiguous(memory_format=torch.channels_last), sets)
    tolerance = TOLERANCE[mode]

    def check(y):
        """NCHW."""
        if not bool(torch.isfinite(y).all()):
            raise AssertionError("a result is not finite")
        return relative(y[at], want, tolerance, "a convolution")

    def bare(y):
        return relative((y[at].double() + bias[at[1]].double()).relu(), want, tolerance, "a convolution")

    peers, left_out = {}, {}

    def eager(i):
        return F.conv2d(xs[i], ws[i], bias, padding=1).relu_()

    def fused(i):
        return torch.cudnn_convolution_relu(xs[i], ws[i], bias, (1, 1), (1, 1), (1, 1), 1)

    tried(peers, left_out, "cudnn", lambda: Peer(sets, eager, check))
    tried(peers, left_out, "cudnn fused", lambda: Peer(sets, fused, check))
    tried(peers, left_out, "cudnn product", lambda: Peer(sets, lambda i: F.conv2d(xs[i], ws[i], padding=1), bare))
    if OPTIONS.compile:
        compiled = torch.compile(lambda x, w: F.conv2d(x, w, bias, padding=1).relu(), mode="max-autotune-no-cudagraphs", dynamic=False)
        tried(peers, left_out, "cudnn compiled", lambda: Peer(sets, lambda i: compiled(xs[i], ws[i]), check))
    if share == 1:
        return peers, left_out

    def nhwc(y):
        return y.reshape(images, side, side, filters).permute(0, 3, 1, 2)

    # cuSPARSELt: columns of the filter permuted until it is 2:4, the gather of im2col permuted alike.
    matrix = own.permute(0, 2, 3, 1).reshape(filters, -1)
    if mode == "bf16":
        order = permuted_for_two_four((matrix != 0).cpu().numpy())
        permuted = torch.cat([matrix, torch.zeros(filters, 1, dtype=dtype, device=device())], 1)
        permuted = permuted[:, torch.from_numpy(order).to(device())].contiguous()
        columns = Columns(order, channels, side).to(device())
        rows = [x.permute(0, 2, 3, 1) for x in xs]
        ready = {}

        def structured():
            if device().type == "cpu":  # No library there: the same operands as a dense product.
                return copies(permuted, sets)
            torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = False
            all = [torch.sparse.to_sparse_semi_structured(copy) for copy in copies(permuted, sets)]
            if "CUSPARSELT" not in type(all[0]).__name__:
                raise RuntimeError(f"this PyTorch takes {type(all[0]).__name__}")
            try:
                best = torch._cslt_sparse_mm_search(all[0].packed, columns(rows[0]).t())
                for sparse in all:
                    sparse.alg_id_cusparselt = best
            except Exception as error:
                print(f"cusparselt: the default algorithm: {error}", file=sys.stderr)
            return all

        def with_gather(i):
            return F.linear(columns(rows[i]), ready["ws"][i], bias).relu_()

        def alone(i):
            return F.linear(ready["columns"][i % len(ready["columns"])], ready["ws"][i], bias).relu_()

        def first():
            ready["ws"] = structured()
            return Peer(sets, with_gather, lambda y: check(nhwc(y)))

        def second():
            if "ws" not in ready:
                raise RuntimeError("as cusparselt")
            ready["columns"] = [columns(rows[i]) for i in range(3)]
            return Peer(sets, alone, lambda y: check(nhwc(y)))

        tried(peers, left_out, "cusparselt", first)
        tried(peers, left_out, "cusparselt product", second)
    else:
        left_out["cusparselt"] = f"its 2:4 products have no {mode}"

    # cuSPARSE: rows of pixels behind each other, so that the product's right side and result are row-major.
    planes = [x.transpose(0, 1).contiguous() for x in xs]
    lists = {}

    def first():
        lists["ws"] = [own.contiguous().reshape(filters, -1).clone().to_sparse_csr() for _ in range(sets)]
        return Peer(sets, lambda i: torch.relu_(torch.mm(lists["ws"][i], columns_first(planes[i])).add_(bias[:, None])), back)

    def second():
        if "ws" not in lists:
            raise RuntimeError("as cusparse")
        lists["columns"] = [columns_first(planes[i]) for i in range(3)]
        return Peer(
            sets, lambda i: torch.mm(lists["ws"][i], lists["columns"][i % 3]), lambda y: back(torch.relu(y + bias[:, None]))
        )

    def back(y):
        return check(y.reshape(filters, images, side, side).transpose(0, 1))

    tried(peers, left_out, "cusparse", first)
    tried(peers, left_out, "cusparse product", second)
    return peers, left_out


def pgd_peers(images):
    shape, eps, size = (images, 32, 32, 3), 8 / 255, 2 / 255
    count = sets_for(12 * images * 3072)
    x0 = torch.rand(shape, device=device())
    start = x0 + 2 * eps * (torch.rand(shape, device=device()) - 0.5)
    gradient = torch.rand(shape, device=device()) - 0.5
    want = torch.clamp(torch.clamp(start.double() + size * gradient.sign().double(), x0.double() - eps, x0.double() + eps), 0, 1)

    def seven(x, x0, g):
        return torch.clamp(x0 + torch.clamp(x + size * g.sign() - x0, -eps, eps), 0, 1)

    def in_place(x, x0, g):
        return x.add_(g.sign(), alpha=size).sub_(x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)

    def of(function):
        operands = [copies(start, count), copies(x0, count), copies(gradient, count)]
        return Peer(count, lambda i: function(*(operand[i] for operand in operands)), lambda y: relative(y, want, 1e-6, "a PGD step"))

    peers, left_out = {}, {}
    tried(peers, left_out, "eager 7 ops", lambda: of(seven))
    tried(peers, left_out, "eager 6 ops in place", lambda: of(in_place))
    if device().type == "cuda":
        tried(peers, left_out, "compiled", lambda: of(torch.compile(seven, mode="max-autotune-no-cudagraphs", dynamic=False)))
    return peers, left_out


def layers():
    part = 8 if OPTIONS.small else 1
    shapes = [(-(-k // part), -(-c // part), 3, 3) for k, c in CONVOLUTIONS]
    return [torch.rand(shape, device=device()) - 0.5 for shape in shapes]


def noise_peers():
    alpha, weights = 0.25, layers()
    masks = [(torch.rand_like(w) < 0.05).float() for w in weights]
    total = sum(w.numel() for w in weights)
    count = sets_for(12 * total)
    sets = [(copies(w, count), copies(m, count)) for w, m in zip(weights, masks)]

    def noisy(w, m):
        return torch.randn_like(w).mul_(alpha * w.std()).add_(w).mul_(m)

    def check(results):
        """The noise is another: its mean square is what can be compared."""
        for y, w, m in zip(results, weights, masks):
            eta = ((y - w).double() * m).flatten()[m.flatten() > 0]
            if len(eta) > 1000 and not abs(float(eta.std() / (alpha * w.double().std())) - 1) < 0.1:
                raise AssertionError("noise of another deviation")
            if bool((y[m == 0] != 0).any()):
                raise AssertionError("a pruned weight is not 0")
        return None

    def of(function):
        return Peer(count, lambda i: [function(w[i], m[i]) for w, m in sets], check)

    peers, left_out = {}, {}
    tried(peers, left_out, "eager", lambda: of(noisy))
    if device().type == "cuda":
        tried(peers, left_out, "compiled", lambda: of(torch.compile(noisy, mode="max-autotune-no-cudagraphs", dynamic=False)))
    return peers, left_out


def prune_peers():
    flat = torch.cat([w.flatten() for w in layers()])
    kept = int(0.05 * len(flat))
    sets = copies(flat, sets_for(5 * len(flat)))
    least = flat.abs().cpu().double().sort(descending=True).values[kept - 1]
    want = (flat.abs().cpu().double() >= least).to(flat.device)

    def check(mask):
        if not bool((mask == want).all()):
            raise AssertionError("another mask than a full sort gives")
        return 0.0

    def topk(i):
        magnitude = sets[i].abs()
        return magnitude >= torch.topk(magnitude, kept, sorted=False).values.min()

    def kthvalue(i):
        magnitude = sets[i].abs()
        return magnitude > torch.kthvalue(magnitude, len(flat) - kept).values

    def sort(i):
        magnitude = sets[i].abs()
        return magnitude >= magnitude.sort(descending=True).values[kept - 1]

    peers, left_out = {}, {}
    for name, call in (("topk", topk), ("kthvalue", kthvalue), ("sort", sort)):
        tried(peers, left_out, name, lambda call=call: Peer(len(sets), call, check))
    return peers, left_out


def sgd_peers(masked):
    start = layers()
    masks = [(torch.rand_like(w) < 0.05).float() for w in start] if masked else [torch.ones_like(w) for w in start]
    start = [w * m for w, m in zip(start, masks)]
    gradients = [torch.rand_like(w) - 0.5 for w in start]
    total = sum(w.numel() for w in start)
    count = sets_for((16 if masked else 12) * total)
    lr, momentum, decay = 1e-3, 0.9, 5e-4

    def of(**how):
        sets, optimizers = [], []
        for _ in range(count):
            weights = [w.clone().requires_grad_() for w in start]
            for w, g in zip(weights, gradients):
                w.grad = g.clone()
            optimizer = torch.optim.SGD(weights, lr=lr, momentum=momentum, nesterov=True, weight_decay=decay, **how)
            optimizers.append(optimizer)
            sets.append((weights, [mask.clone() for mask in masks]))
            # The momentum exists from here on.
            optimizer.step()
            with torch.no_grad():
                for w, first, g in zip(weights, start, gradients):
                    w.copy_(first)
                    optimizer.state[w]["momentum_buffer"].copy_(g)

        def call(i):
            weights, own = sets[i]
            optimizers[i].step()
            if masked:
                torch._foreach_mul_([w.detach() for w in weights], own)
            return weights

        def check(weights):
            worst = 0.0
            for w, first, g, m in zip(weights, start, gradients, masks):
                step = g.double() + decay * first.double()
                want = (first.double() - lr * (step + momentum * (momentum * g.double() + step))) * m
                worst = max(worst, relative(w.detach(), want, 1e-6, "SGD"))
            return worst

        return Peer(count, call, check)

    peers, left_out = {}, {}
    tried(peers, left_out, "foreach", lambda: of(foreach=True))
    tried(peers, left_out, "fused", lambda: of(fused=True))
    return peers, left_out


def kept_percent(part):
    return int(part.removeprefix("keep").removesuffix("skewed"))


def peers_of(row, weight):
    """Peers of a row by name, and what is left out and why. weight: KRSC, as rewire has it, or None."""
    kind, *parts = row.split("/")
    if kind in ("conv", "sparse"):
        layer, mode, images = parts[0], parts[-2], int(parts[-1])
        share = kept_percent(parts[1]) / 100 if kind == "sparse" else 1
        side, channels, filters = LAYERS[layer]
        if OPTIONS.small:
            channels, filters, images = channels // 8, filters // 8, 3
        if weight is None:
            weight = numpy.random.default_rng(1).random((filters, 3, 3, channels), numpy.float32) - 0.5
            weight *= numpy.random.default_rng(2).random(weight.shape) < share
        weight = torch.from_numpy(weight).permute(0, 3, 1, 2).contiguous().to(device())
        set_precision(mode)
        return convolution_peers(weight, side, images, mode, share)
    torch.manual_seed(4)
    set_precision("f32")
    if kind == "pgd_step":
        return pgd_peers(3 if OPTIONS.small else int(parts[0]))
    return {"noise": noise_peers, "prune": prune_peers, "sgd": lambda: sgd_peers(False), "sgd_masked": lambda: sgd_peers(True)}[kind]()


class Rewire:
    """The other process: one line in, one line of JSON out."""

    def __init__(self):
        environment = os.environ | {"REWIRE_BENCH_DEVICE": OPTIONS.device}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([OPTIONS.binary, "turns", *(["--small"] if OPTIONS.small else [])], stdin=pipe, stdout=pipe, text=True, env=environment)

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
