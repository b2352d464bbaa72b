"""The peers of single kernels: what PyTorch and its libraries have for each row of kernels.py, with its check against float64."""

import sys
from types import SimpleNamespace

import numpy
import torch
import torch.nn.functional as F

from gpu import sets_of
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
#: small: sizes at which times mean nothing; compile: torch.compile of convolutions too.
SETTINGS = SimpleNamespace(device="cuda", small=False, compile=False)


def device():
    return torch.device(SETTINGS.device)


def sets_for(size):
    return 3 if SETTINGS.small else sets_of(size)


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
    if SETTINGS.compile:
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
    part = 8 if SETTINGS.small else 1
    shapes = [(-(-k // part), -(-c // part), 3, 3) for k, c in CONVOLUTIONS]
    return [torch.rand(shape, device=device()) - 0.5 for shape in shapes]


def noise_peers():
    alpha, weights = 0.25, layers()
    masks = [(torch.rand_like(w) < 0.05).float() for w in weights]
    total = sum(w.numel() for w in weights)
    count = sets_for(12 * total)
    sets = [(copies(w, count), copies(m, count)) for w, m in zip(weights, masks)]

    def noisy(w, m):
        return torch.randn_like(w).mul_(alpha * w.std()).add_(w).mul_(m).to(torch.bfloat16)

    def check(results):
        """The noise is another: its mean square is what can be compared."""
        for y, w, m in zip(results, weights, masks):
            eta = ((y.float() - w).double() * m).flatten()[m.flatten() > 0]
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
        if SETTINGS.small:
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
        return pgd_peers(3 if SETTINGS.small else int(parts[0]))
    return {"noise": noise_peers, "prune": prune_peers, "sgd": lambda: sgd_peers(False), "sgd_masked": lambda: sgd_peers(True)}[kind]()
