"""The part of train_step.py for GPUs.

A step of PyTorch: a PGD attack of K steps in eval mode from a random start (K may be 0), then forward, backward and SGD with Nesterov
momentum and weight decay in train mode. Peers:

naive            the usual script: NCHW, loss.backward() in the attack, which computes the weights' gradients too, default SGD
eager            channels_last, gradients of the pixels alone in the attack, in bf16 over weights that are rounded once a step, fused SGD
graph            the same, the whole step as one CUDA graph
compiled graph   with --compile: the network compiled (max-autotune) in it

bf16 is autocast, tf32 TensorFloat-32 in cuDNN and cuBLAS. Networks with 5 % of the weights multiply them by their masks after each step.
rewire times its own steps, each with the wait for the device; PyTorch's are queued. Checked first: the loss of PyTorch's step against
float64, and that the attack stays in its ball and raises the loss. rewire's kernels and training are checked by `run.sh check`.
"""

import copy
import json
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from gpu import PEAK, document, elapsed, need_gpu, print_header, print_row, save, summary

WIDE = (64, 128, 256, 512)
#: name: (network, widths, rewire's --arch, share of the convolutions' weights that are kept)
NETS = {
    "vgg16": ("vgg16", WIDE, "vgg16", 1.0),
    "resnet18": ("resnet18", WIDE, "resnet18", 1.0),
    "vgg16-5%": ("vgg16", WIDE, "vgg16", 0.05),
    "resnet18-5%": ("resnet18", WIDE, "resnet18", 0.05),
    "vgg16-channels": ("vgg16", (16, 40, 72, 144), "vgg16:width=0.2816,divisor=8", 1.0),
    "resnet18-channels": ("resnet18", (24, 56, 104, 216), "resnet18:width=0.42,divisor=8", 1.0),
}
EPS = 8 / 255


class Step:
    """One network with its optimiser, its images and its way to compute a step."""

    def __init__(self, net, batch, mode, attack_steps, kept, device, naive=False, compiled=False):
        self.form = torch.contiguous_format if naive else torch.channels_last
        self.model = copy.deepcopy(net).to(device, memory_format=self.form)
        self.mode, self.attack_steps, self.naive, self.device = mode, attack_steps, naive, device
        torch.manual_seed(2)
        self.images = torch.rand(batch, 3, 32, 32).to(device).contiguous(memory_format=self.form)
        self.labels = (torch.arange(batch) % 10).to(device)
        fused = {} if naive or device == "cpu" else {"fused": True}
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, **fused
        )
        self.pruned = [module.weight for module in self.model.modules() if isinstance(module, nn.Conv2d)] if kept < 1 else []
        self.masks = [(weight != 0).to(weight.dtype) for weight in self.pruned]
        # What the tuned attack reads: without gradients of its own, in bf16 where the mode is.
        self.frozen = None
        if not naive and attack_steps:
            self.frozen = copy.deepcopy(self.model).eval().requires_grad_(False)
            if mode == "bf16":
                for module in self.frozen.modules():
                    if isinstance(module, (nn.Conv2d, nn.Linear)):
                        module.to(torch.bfloat16)
            self.pairs = [[*net.parameters(), *net.buffers()] for net in (self.frozen, self.model)]
        self.train, self.attacked = self.model, self.frozen
        if compiled:
            self.train = torch.compile(self.model, mode="max-autotune-no-cudagraphs", dynamic=False)
            if self.frozen is not None:
                self.attacked = torch.compile(self.frozen, mode="max-autotune-no-cudagraphs", dynamic=False)

    def autocast(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.mode == "bf16", cache_enabled=False)

    def adversary(self):
        x, x0, size = self.images, self.images, 2.5 * EPS / self.attack_steps
        x = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        if self.naive:
            self.model.eval()
            for _ in range(self.attack_steps):
                x = x.detach().requires_grad_()
                with self.autocast():
                    loss = F.cross_entropy(self.model(x), self.labels)
                loss.backward()
                x = x + size * x.grad.sign()
                x = torch.min(torch.max(x, x0 - EPS), x0 + EPS).clamp(0, 1)
            return x.detach()
        into, of = self.pairs
        with torch.no_grad():
            torch._foreach_copy_(into, of)
        for _ in range(self.attack_steps):
            x.requires_grad_()
            loss = F.cross_entropy(self.attacked(x.to(self.dtype())).float(), self.labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = x.detach()
            x.add_(gradient.sign_(), alpha=size).sub_(x0).clamp_(-EPS, EPS).add_(x0).clamp_(0, 1)
        return x

    def dtype(self):
        return torch.bfloat16 if self.mode == "bf16" else torch.float32

    def __call__(self):
        x = self.adversary() if self.attack_steps else self.images
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = F.cross_entropy(self.train(x), self.labels)
        loss.backward()
        self.optimizer.step()
        if self.masks:
            with torch.no_grad():
                torch._foreach_mul_(self.pruned, self.masks)
        return loss

    def check(self, net):
        """Against float64 on four images, before the first step; `net` as it was."""
        own, clean, labels = copy.deepcopy(net).double().eval(), self.images[:4].cpu().double(), self.labels[:4].cpu()
        with torch.no_grad():
            truth = own(clean)
            reader = self.model.eval()
            with self.autocast():
                got = reader(self.images[:4]).double().cpu()
        error = float((got - truth).norm() / truth.norm())
        if not error <= {"bf16": 5e-2, "tf32": 5e-3}[self.mode]:
            raise AssertionError(f"logits are {error:.1e} away from float64")
        if self.attack_steps:
            x = self.adversary()
            if not (float((x - self.images).abs().max()) <= EPS + 1e-6 and 0 <= float(x.min()) and float(x.max()) <= 1):
                raise AssertionError("the attack left its ball")
            with torch.no_grad():
                before, after = (F.cross_entropy(own(images), labels) for images in (clean, x[:4].cpu().double()))
            if not float(after) > float(before):
                raise AssertionError(f"the attack moved the loss from {before:.4f} to {after:.4f}")
        weights = [p.detach().clone() for p in self.model.parameters()]
        if not bool(torch.isfinite(self())):
            raise AssertionError("the loss is not finite")
        if all(bool((p == before).all()) for p, before in zip(self.model.parameters(), weights)):
            raise AssertionError("the step changed nothing")
        return error


def graphed(step):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds(run, seconds):
    """A step's mean over about so many seconds of queued steps, at least five."""
    elapsed(run, 2)
    count = max(5, int(1e3 * seconds / elapsed(run, 1)))
    return elapsed(run, count) / count


def rewire_milliseconds(options, name, batch, attack_steps):
    _, _, arch, kept = NETS[name]
    command = [options.binary, "bench", "--train-step", "--arch", arch, "--batch", str(batch), "--seconds", str(options.seconds)]
    command += ["--device", "cuda", "--mode", options.mode, "--json"]
    if attack_steps:
        command += ["--attack-steps", str(attack_steps)]
    if kept < 1:
        command += ["--density", str(kept), "--granularity", "irregular"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)["steps"][0]["median_ms"]


def network(name, builds):
    kind, widths, _, kept = NETS[name]
    torch.manual_seed(1)
    net = builds[kind](widths)
    if kept < 1:
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight *= (torch.rand_like(module.weight) < kept) / kept**0.5
    return net


def multiplications(net):
    """Multiply-accumulates of the convolutions for one image."""
    count = []
    hooks = [
        module.register_forward_hook(lambda module, _, y: count.append(module.weight.numel() * y.shape[2] * y.shape[3]))
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return sum(count)


def floor_milliseconds(net, batch, attack_steps, mode):
    """Computed: forward and gradient of the pixels K times, then forward and both gradients, at the peak of the matrix units."""
    return 1e3 * (2 * attack_steps + 3) * 2 * multiplications(net) * batch / PEAK[mode]


def compare(name, batch, attack_steps, options, builds):
    net, kept = network(name, builds), NETS[name][3]
    kinds = {"naive": {"naive": True}, "eager": {}, "graph": {}}
    if options.compile:
        kinds["compiled graph"] = {"compiled": True}
    peers, errors, left_out = {}, {}, {}
    for kind, how in kinds.items():
        try:
            step = Step(net, batch, options.mode, attack_steps, kept, "cuda", **how)
            errors[kind] = step.check(net)
            peers[kind] = graphed(step) if "graph" in kind else step
        except Exception as error:
            left_out[kind] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
            torch.cuda.synchronize()
    rounds = []
    for _ in range(options.rounds):
        first = rewire_milliseconds(options, name, batch, attack_steps)
        times = {kind: milliseconds(run, options.seconds / 2) for kind, run in peers.items()}
        rounds.append({"rewire": [first, rewire_milliseconds(options, name, batch, attack_steps)], "peers": times})
    floor = floor_milliseconds(net, batch, attack_steps, options.mode) if kept == 1 else None
    attack = f"pgd-{attack_steps}" if attack_steps else "plain"
    row = {"row": f"{name} {attack} {options.mode} @{batch}"} | summary(rounds, floor) | {"left_out": left_out}
    for kind, peer in row["peers"].items():
        peer["error"] = errors[kind]
    return row


def check(names, options, builds):
    for name in names:
        net = network(name, builds)
        for how in ({"naive": True}, {}):
            for attack_steps in (0, 2):
                step = Step(net, 4, options.mode, attack_steps, NETS[name][3], "cpu", **how)
                error = step.check(net)
                step()
                print(f"{name}, {'naive' if how else 'eager'}, pgd-{attack_steps}: logits {error:.0e} away from float64")


def run(options, builds):
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    names = list(NETS) if options.nets == ["all"] else options.nets
    unknown = [name for name in names if name not in NETS]
    if unknown:
        sys.exit(f"--nets {' '.join(unknown)}: must be of {', '.join(NETS)}, or all")
    if options.check:
        return check(names, options, builds)
    need_gpu()
    results, start, failed = document("Training steps", "ms") | {"mode": options.mode, "not_begun": []}, time.monotonic(), 0
    print(f"{results['gpu']}, PyTorch {results['torch']}, clocks {results['clocks']['before']}")
    print_header("ms")
    for attack_steps in options.attack_steps:
        for batch in options.batch:
            for name in names:
                if time.monotonic() - start > options.limit:
                    results["not_begun"].append(f"{name} pgd-{attack_steps} @{batch}")
                    continue
                try:
                    row = compare(name, batch, attack_steps, options, builds)
                except RuntimeError as error:
                    print(f"{name} pgd-{attack_steps} @{batch}: FAILED: {error}", flush=True)
                    failed = 1
                    continue
                finally:
                    torch.cuda.empty_cache()
                results["rows"].append(row)
                print_row(row)
                save(results, options.json)
    if results["not_begun"]:
        print(f"not begun within {options.limit:.0f} s: {', '.join(results['not_begun'])}")
    save(results, options.json)
    print(f"clocks {results['clocks']['after']}")
    sys.exit(failed)
