"""Times inference of PyTorch, onnxruntime, OpenVINO and rewire on the same weights, masks and machine, in turn.

    cargo build --release
    python3 benches/peers/inference.py --json benches/results/inference-cpu.json
    python3 benches/peers/inference.py --mode bf16 --json benches/results/inference-cpu-bf16.json
    python3 benches/peers/inference.py --device cuda --mode bf16 --batch 1 128 1024 --json inference-cuda.json

Networks: VGG16 and ResNet18 for 32x32 images of 10 classes with random weights and batch norm statistics; dense,
with uniformly random zeros, and with the narrow layers that channel pruning leaves (VGG16 16/40/72/144: a 12.61th of
the multiply-accumulates; ResNet18 24/56/104/216: a 5.67th). The trained ones have the zeros that DNR has left in VGG16 (benches/peers/masks,
made by benches/experiments/trained_masks.py): a 34.57th of the weights, and a 12.61th in whole channels, without which
the peers get the network. The logits of every side for the same images are compared
with PyTorch in float64 before anything is timed. Rounds alternate between the sides; a round's time is the median of its calls, a
ratio the median over the rounds of (peer's time / rewire's time) in the same round.

On a CPU the peers have as many threads as rewire. In mode bf16 OpenVINO computes in bf16, its default where the
processor has it, from float32 images to float32 logits; PyTorch's weights and images are bf16; both multiply with AMX
where the processor has it. onnxruntime has no bf16 convolution there, and tf32 is asked of no peer: one that stays in
float32 says so in its name (`onnxruntime f32`) and is held to float32's tolerance; `precision` in the results has
each peer's.

On a GPU the peers are PyTorch with channels_last, cuDNN's autotuning, inference mode: eager, as one CUDA graph, and
compiled (max-autotune) as one CUDA graph; images lie on the device. Batch norms are folded everywhere. `rewire fastest`
runs the network without its dead channels, which the peers keep: with 5 % of the weights a quarter of the first layer's
filters is empty. Needs PyTorch 2, safetensors, numpy; onnx, onnxruntime and openvino on a CPU.
"""

import argparse
import copy
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from torch import nn

from gpu import commit

CASES = {
    # name: (network, widths, the same as --arch, share of the weights that are kept or file of their mask)
    "vgg16 dense": ("vgg16", (64, 128, 256, 512), "vgg16", 1.0),
    "resnet18 dense": ("resnet18", (64, 128, 256, 512), "resnet18", 1.0),
    "vgg16 5 %": ("vgg16", (64, 128, 256, 512), "vgg16", 0.05),
    "resnet18 5 %": ("resnet18", (64, 128, 256, 512), "resnet18", 0.05),
    "vgg16 2.9 %": ("vgg16", (64, 128, 256, 512), "vgg16", 0.029),
    "vgg16 2.9 % trained": ("vgg16", (64, 128, 256, 512), "vgg16", "vgg16-irregular"),
    "vgg16 channels": ("vgg16", (16, 40, 72, 144), "vgg16:width=0.2816,divisor=8", 1.0),
    "vgg16 channels trained": ("vgg16", (64, 128, 256, 512), "vgg16", "vgg16-channel"),
    "resnet18 channels": ("resnet18", (24, 56, 104, 216), "resnet18:width=0.42,divisor=8", 1.0),
}


class Vgg16(nn.Module):
    def __init__(self, widths):
        super().__init__()
        layers, channels = [], 3
        for width, count in zip((*widths, widths[3]), (2, 2, 3, 3, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        for stage, width in enumerate(widths, 1):
            blocks = [Block(channels, width, 1 if stage == 1 else 2), Block(width, width, 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            channels = width
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def stored_mask(file):
    """The masks of a file, by the names of the weights."""
    bits = numpy.load(Path(__file__).parent / "masks" / f"{file}.npz")
    masks = {}
    for name in bits.files:
        if not name.endswith(".shape"):
            shape = bits[f"{name}.shape"]
            mask = numpy.unpackbits(bits[name], count=shape.prod()).reshape(shape)
            masks[name] = torch.from_numpy(mask.astype(numpy.float32))
    return masks


def network(name, widths, kept):
    """Random values; of each convolution's weights those of the mask are not 0, or a share, uniformly."""
    torch.manual_seed(1)
    net = {"vgg16": Vgg16, "resnet18": ResNet18}[name](widths).eval()
    masks = stored_mask(kept) if isinstance(kept, str) else {}
    for path, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            mask = masks.get(f"{path}.weight")
            share = kept if mask is None else mask.mean().item()
            # As strong a signal after pruning as before it.
            nn.init.normal_(weight, 0, (2 / (share * weight[0].numel())) ** 0.5)
            weight *= torch.rand_like(weight) < kept if mask is None else mask
    return net


def without_dead_channels(net):
    """A VGG16 without the filters that the next convolution does not read; its outputs are the same."""
    net = copy.deepcopy(net)
    convs = [i for i, layer in enumerate(net.features) if isinstance(layer, nn.Conv2d)]
    for at, following in zip(convs, convs[1:]):
        conv, norm, after = net.features[at], net.features[at + 1], net.features[following]
        read = after.weight.detach().abs().amax((0, 2, 3)) > 0
        for owner, names in ((conv, ("weight", "bias")), (norm, ("weight", "bias", "running_mean", "running_var"))):
            for name in names:
                getattr(owner, name).data = getattr(owner, name).data[read]
        after.weight.data = after.weight.data[:, read]
        conv.out_channels = norm.num_features = after.in_channels = int(read.sum())
    return net


def folded(net):
    """The network with every batch norm folded into the convolution before it."""
    for module in net.modules():
        before = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                setattr(module, before, nn.utils.fusion.fuse_conv_bn_eval(getattr(module, before), child))
                setattr(module, name, nn.Identity())
            before = name if isinstance(child, nn.Conv2d) else None
    return net


def multiply_adds(net):
    """Of the convolutions for one 32x32 image: zeros and taps outside the image left out; and of dense ones with those of 3x3 and
    stride 1 by tiles of 4x4 results, 36 for a channel and filter, where that is fewer."""
    count, tiled = 0, 0

    def inside(size, out, tap, conv):
        """Outputs along one side whose tap is inside."""
        places = torch.arange(out) * conv.stride[0] + tap - conv.padding[0]
        return int(((places >= 0) & (places < size)).sum())

    def hook(conv, inputs, y):
        nonlocal count, tiled
        before, filters = count, conv.weight.shape[0] * conv.weight.shape[1]
        kept = (conv.weight != 0).sum((0, 1))
        for r, s in numpy.ndindex(*kept.shape):
            rows, columns = (inside(inputs[0].shape[d], y.shape[d], tap, conv) for d, tap in ((2, r), (3, s)))
            count += int(kept[r, s]) * rows * columns
        tiles = math.ceil(y.shape[2] / 4) * math.ceil(y.shape[3] / 4)
        given = tuple(kept.shape) == (3, 3) and conv.stride[0] == 1
        tiled += min(count - before, 36 * tiles * filters) if given else count - before

    hooks = [module.register_forward_hook(hook) for module in net.modules() if isinstance(module, nn.Conv2d)]
    net(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return count, tiled


def median_call(call, seconds, synchronize=lambda: None):
    """Median milliseconds over `seconds`, at least three calls; one before them is not counted."""
    call()
    synchronize()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def cpu_peers(net, images, threads, mode, folder):
    """Name -> (call that gives logits); a peer whose precision is not the mode has it behind its name."""
    import onnxruntime
    import openvino

    def named(peer, precision):
        return peer if precision == mode else f"{peer} {precision}"

    asked, dtype = ("bf16", torch.bfloat16) if mode == "bf16" else ("f32", torch.float32)
    path = f"{folder}/net-{len(images)}.onnx"
    torch.onnx.export(net, (images,), path, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, images.numpy()
    config = {
        "INFERENCE_PRECISION_HINT": asked,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", config)
    # A processor without bf16 gets f32.
    given = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    peers = {
        named("onnxruntime", "f32"): lambda: session.run(None, {name: array})[0],
        named("openvino", given): lambda: compiled(array)[0],
    }
    for form in (torch.contiguous_format, torch.channels_last):
        x = images.to(dtype).contiguous(memory_format=form)
        own = copy.deepcopy(net).to(dtype).to(memory_format=form)
        label = "pytorch" if form == torch.contiguous_format else "pytorch channels_last"
        peers[named(label, asked)] = lambda x=x, own=own: own(x).float().numpy()
    return peers


def cuda_peers(net, images, mode):
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode != "f32"
    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    x = images.cuda().to(dtype).contiguous(memory_format=torch.channels_last)
    own = net.cuda().to(dtype).to(memory_format=torch.channels_last)

    def graphed(function):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(5):
                function(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = function(x)

        def call():
            graph.replay()
            return y

        return call

    peers = {"pytorch": lambda: own(x), "pytorch graph": graphed(own)}
    # Else a new batch size makes shapes dynamic, and many of them end the compiling without a word.
    torch._dynamo.reset()
    try:
        compiled = torch.compile(own, mode="max-autotune-no-cudagraphs", dynamic=False)
        peers["pytorch compiled graph"] = graphed(compiled)
    except Exception as error:  # A machine without the compiler's tools still has the other peers.
        print(f"torch.compile: {error}", file=sys.stderr)
    return peers


def rewire(options, folder, *arguments):
    """The JSON that a command prints; status 1 is a check that failed, which the errors show."""
    command = [options.binary, *arguments, "--mode", options.mode, "--device", options.device, "--json"]
    if options.device == "cpu":
        command += ["--threads", str(options.threads)]
    # Choices are measured in this run, not remembered from another.
    environment = os.environ | ({"XDG_CACHE_HOME": folder} if options.device == "cpu" else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def rewire_logits(options, folder, file, arch, images):
    count = len(images)
    for split in ("train", "test"):
        numpy.save(f"{folder}/{split}_images.npy", images.numpy())
        numpy.save(f"{folder}/{split}_labels.npy", numpy.zeros(count, dtype=numpy.int64))
    out = f"{folder}/logits.npy"
    data = ["--data", f"npy:{folder}", "-o", out, "--batch-size", str(count)]
    rewire(options, folder, "predict", file, "--arch", arch, *data)
    return numpy.load(out)


def precision(side, mode):
    """What a side computes in, by its name."""
    last = side.split()[-1]
    return last if last in TOLERANCE else mode


#: Largest ‖logits - truth‖ / ‖truth‖ of a side that is timed.
TOLERANCE = {"f32": 1e-4, "tf32": 1e-2, "bf16": 1e-1}


def rewire_times(bench):
    times = {row["execution"]: row["median_ms"] for row in bench["rows"]}
    return times | {"fastest": bench["plans"][0]["median_ms"]}


def compare(name, batch, options, folder):
    kind, widths, arch, kept = CASES[name]
    net = network(kind, widths, kept)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    share = sum(int(conv.weight.count_nonzero()) for conv in convolutions) / sum(conv.weight.numel() for conv in convolutions)
    file = f"{folder}/net.safetensors"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
    images = torch.rand(batch, 3, 32, 32)
    truth = copy.deepcopy(net).double()(images[:4].double()).numpy()
    net = folded(without_dead_channels(net) if kept == "vgg16-channel" else net)
    if options.device == "cpu":
        peers, wait = cpu_peers(net, images, options.threads, options.mode, folder), lambda: None
    else:
        peers, wait = cuda_peers(net, images, options.mode), torch.cuda.synchronize
    logits = {"rewire": rewire_logits(options, folder, file, arch, images)}
    for peer, call in peers.items():
        got = call()
        logits[peer] = got.float().cpu().numpy() if isinstance(got, torch.Tensor) else got
    errors = {
        side: float(numpy.linalg.norm(got[:4] - truth) / numpy.linalg.norm(truth)) for side, got in logits.items()
    }
    for side, error in errors.items():
        if not error <= TOLERANCE[precision(side, options.mode)]:
            sys.exit(f"{name}, batch {batch}: {side} is {error:.1e} away from float64")
    rounds, build = [], None
    for _ in range(options.rounds):
        times = {peer: median_call(call, options.seconds / 4, wait) for peer, call in peers.items()}
        seconds = ["--batch", str(batch), "--seconds", str(options.seconds)]
        bench = rewire(options, folder, "bench", file, "--arch", arch, *seconds)
        build = build or bench["plans"][0]["build"]
        rounds.append({"peers": times, "rewire": rewire_times(bench)})
    last = bench["plans"][0]
    own = [turn["rewire"]["fastest"] for turn in rounds]
    ratio = {
        peer: statistics.median(turn["peers"][peer] / turn["rewire"]["fastest"] for turn in rounds) for peer in peers
    }
    median = {peer: statistics.median(turn["peers"][peer] for turn in rounds) for peer in peers}
    median |= {
        f"rewire {way}": statistics.median(turn["rewire"][way] for turn in rounds) for way in rounds[0]["rewire"]
    }
    return {
        "case": name,
        "arch": arch,
        "kept": share,
        "batch": batch,
        "median_ms": median,
        "ratio_of_rewire_fastest": ratio,
        "precision": {peer: precision(peer, options.mode) for peer in peers},
        "spread": (max(own) - min(own)) / statistics.median(own),
        "errors": errors,
        "build_ms": build,
        # Speed-up over rewire's own dense execution: projected, counted, and measured in two ways.
        "figures": {key: value for key, value in bench["figures"][0].items() if key != "batch"},
        "sparse_layers": sum(layer["algorithm"] == "sparse" for layer in last["layers"]),
        "rounds": rounds,
    }


def add_fastest_dense(case, dense):
    """To a pruned network: the fastest side, rewire or a peer, that has run the dense one at this batch size before, by
    medians of the whole run."""
    network = CASES[case["case"]][0]
    key = (network, case["batch"])
    if case["case"].endswith(" dense"):
        sides = [*case["ratio_of_rewire_fastest"], "rewire fastest"]
        dense[key] = min((case["median_ms"][side], side) for side in sides)
    elif key in dense:
        ms, side = dense[key]
        case["fastest_dense"] = {"side": side, "ms": ms, "ratio": ms / case["median_ms"]["rewire fastest"]}


def machine(options):
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": options.device,
        "mode": options.mode,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "cpu": platform.processor(),
        "torch": torch.__version__,
    }
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["cpu"] = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    if options.device == "cpu":
        import onnxruntime
        import openvino

        found |= {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    else:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        found |= {"gpu": subprocess.run(query, capture_output=True, text=True).stdout.strip()}
    return found


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/rewire")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--mode", default="f32", choices=["f32", "tf32", "bf16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of rewire's turn; a peer has a quarter")
    parser.add_argument("--limit", type=float, default=1e9, metavar="S", help="nothing is begun after so many seconds")
    parser.add_argument("--count", action="store_true", help="print the networks' multiply-adds and nothing else")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.count:
        for name in options.cases:
            kind, widths, _, kept = CASES[name]
            net = network(kind, widths, kept)
            net = without_dead_channels(net) if kept == "vgg16-channel" else net
            weights = sum(module.weight.numel() for module in net.modules() if isinstance(module, nn.Conv2d))
            count, tiled = multiply_adds(net)
            print(
                f"{name:<24}{count / 1e6:>9.2f} million multiply-adds{tiled / 1e6:>9.2f} by tiles"
                f"{weights / 1e6:>9.2f} million stored weights"
            )
        return
    results = machine(options) | {"cases": []}
    print(f"{'network':<24}{'batch':>6}{'rewire ms':>11}{'spread':>8}   peer's time / rewire's (peer's ms)")
    start, left, dense = time.monotonic(), [], {}
    for name in options.cases:
        for batch in options.batch:
            if time.monotonic() - start > options.limit:
                left.append(f"{name} @{batch}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                case = compare(name, batch, options, folder)
            add_fastest_dense(case, dense)
            results["cases"].append(case)
            ms, own = case["median_ms"], case["median_ms"]["rewire fastest"]
            ratios = "  ".join(
                f"{peer} {ratio:.2f} ({ms[peer]:.2f})" for peer, ratio in case["ratio_of_rewire_fastest"].items()
            )
            if "fastest_dense" in case:
                fastest = case["fastest_dense"]
                ratios += f"  fastest dense {fastest['ratio']:.2f} ({fastest['side']} {fastest['ms']:.2f})"
            print(f"{name:<24}{batch:>6}{own:>11.3f}{100 * case['spread']:>7.0f}%   {ratios}", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if left:
        print(f"not begun within {options.limit:.0f} s: {', '.join(left)}")


if __name__ == "__main__":
    main()
