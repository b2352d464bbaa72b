"""Times one training step (forward, backward, SGD) of PyTorch and of rewire on the same machine, in turn.

    cargo build --release
    python3 benches/peers/train_step.py --json train_step.json
    python3 benches/peers/train_step.py --device cuda --mode bf16 --batch 128 1024 --attack-steps 0 7 --json training.json

Both take VGG16 (convolutions with bias, batch norm) and ResNet18 for 32x32 images of 10 classes, random images,
cross-entropy, SGD with Nesterov momentum 0.9 and weight decay 5e-4, float32. Rounds alternate between the two, so
that both see the same machine; a round's time is its median step. The ratio is PyTorch's median round over rewire's,
PyTorch in the faster of its two memory formats. Needs PyTorch 2.

On a GPU (train_step_cuda.py) the step may begin with a PGD attack, and there are networks with 5 % of the weights and with narrow
layers. PyTorch is shown as a plain script, tuned, and tuned as one CUDA graph.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def vgg16(widths=(64, 128, 256, 512)):
    layers, channels = [], 3
    for width in VGG16:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        width = dict(zip((64, 128, 256, 512), widths))[width]
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


class BasicBlock(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet18(widths=(64, 128, 256, 512)):
    channels = widths[0]
    layers = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    for width, stride in zip(widths, (1, 2, 2, 2)):
        layers += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class PyTorch:
    """One model with its optimiser and one batch."""

    def __init__(self, build, batch, memory_format):
        torch.manual_seed(1)
        self.model = build().to(memory_format=memory_format)
        self.images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=memory_format)
        self.labels = torch.arange(batch) % 10
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def step(self):
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def milliseconds(self, seconds):
        """Median over `seconds`, at least three steps; three before them are not counted."""
        times, begin = [], time.perf_counter()
        while len(times) < 6 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self.step()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times[3:])


def rewire_milliseconds(binary, arch, batch, seconds, threads):
    """The median that one run of the binary reports."""
    command = [binary, "bench", "--train-step", "--arch", arch, "--batch", str(batch), "--seconds", str(seconds)]
    command += ["--device", "cpu", "--threads", str(threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)["steps"][0]["median_ms"]


def compare(arch, build, batch, options):
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    peers = {name: PyTorch(build, batch, form) for name, form in formats.items()}
    times = {name: [] for name in [*peers, "rewire"]}
    for _ in range(options.rounds):
        for name, peer in peers.items():
            times[name].append(peer.milliseconds(options.seconds))
        times["rewire"].append(
            rewire_milliseconds(options.binary, arch, batch, options.seconds, options.threads)
        )
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(peers, key=medians.get)
    return {
        "arch": arch,
        "batch": batch,
        "median_ms": medians,
        "min_ms": {name: min(values) for name, values in times.items()},
        "pytorch_format": best,
        "pytorch_over_rewire": medians[best] / medians["rewire"],
    }


def cpu_name():
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/rewire")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    cuda = parser.add_argument_group("with --device cuda")
    cuda.add_argument("--mode", default="bf16", choices=["bf16", "tf32"])
    cuda.add_argument("--attack-steps", type=int, nargs="+", default=[7], metavar="K", help="of PGD in each step; 0: none")
    cuda.add_argument("--nets", nargs="+", default=["vgg16", "resnet18"], metavar="NET", help="all: every one there is")
    cuda.add_argument("--compile", action="store_true", help="also torch.compile (max-autotune) as one graph: takes long")
    cuda.add_argument("--limit", type=float, default=1e9, metavar="S", help="no row is begun after so many seconds")
    cuda.add_argument("--check", action="store_true", help="PyTorch's steps alone, small, on the CPU, against float64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cuda" or options.check:
        import train_step_cuda

        return train_step_cuda.run(options, {"vgg16": vgg16, "resnet18": resnet18})
    results = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "nets": [
            compare(arch, build, batch, options)
            for batch in options.batch
            for arch, build in (("vgg16", vgg16), ("resnet18", resnet18))
        ],
    }
    print(f"{'net':<10}{'nchw ms':>10}{'channels_last ms':>18}{'rewire ms':>11}{'ratio':>7}")
    for net in results["nets"]:
        ms = net["median_ms"]
        row = f"{ms['nchw']:>10.1f}{ms['channels_last']:>18.1f}{ms['rewire']:>11.1f}"
        print(f"{net['arch']:<10}{row}{net['pytorch_over_rewire']:>7.2f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
