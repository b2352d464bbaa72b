"""What kernels.py and train_step.py share on a GPU: the clock, rounds in which all sides take turns, and the JSON."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

#: Of an H200, for computed floors: operations a second of matrix products in a mode, and bytes a second of a copy.
PEAK = {"bf16": 790e12, "tf32": 415e12, "f32": 66.9e12}
COPY = 4.3e12

#: Bytes that the sets of buffers have together at least: three times the L2 cache of a large GPU.
ROTATED_BYTES = 180_000_000
FEWEST_SETS = 3
#: Launches of a graph, and its seconds between these numbers.
FEWEST_LAUNCHES, MOST_LAUNCHES, GRAPH_SECONDS = 20, 400, 0.01


def sets_of(size):
    """How many sets of so many bytes."""
    return max(FEWEST_SETS, -(-ROTATED_BYTES // max(size, 1)))


def elapsed(run, count):
    """Milliseconds of so many calls, queued."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


class Timed:
    """Calls `call(set)` as a CUDA graph of many, or queued one by one where it cannot be captured; results live until
    the next call on their set, so that those of different sets lie apart."""

    def __init__(self, call, sets):
        self.call, self.sets, self.results = call, sets, [None] * sets
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._calls(sets, sets)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        start = time.perf_counter()
        self._calls(5, sets)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / 5
        launches = min(MOST_LAUNCHES, max(FEWEST_LAUNCHES, int(GRAPH_SECONDS / seconds)))
        self.launches = -(-launches // sets) * sets
        self.way = "graph"
        try:
            self.graphs = [self._captured(sets), self._captured(1)]
        except RuntimeError as error:
            torch.cuda.synchronize()
            self.graphs, self.way = None, f"queued calls: {str(error).splitlines()[0]}"

    def _calls(self, count, sets):
        for i in range(count):
            self.results[i % sets] = self.call(i % sets)

    def _captured(self, sets):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._calls(self.launches, sets)
        return graph

    def _microseconds(self, run, seconds):
        count = max(2, int(1e3 * seconds / max(elapsed(run, 1), 1e-3)))
        return 1e3 * elapsed(run, count) / (count * self.launches)

    def turn(self, seconds):
        """Microseconds a call: rotating over the sets, and of the first set alone."""
        if self.graphs:
            return [self._microseconds(graph.replay, seconds) for graph in self.graphs]
        return [self._microseconds(lambda s=s: self._calls(self.launches, s), seconds) for s in (self.sets, 1)]


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def summary(rounds, floor=None):
    """A row of the JSON. A round is {"rewire": [first, second], "peers": {name: time}}; rewire's time in it is the mean."""
    own = [statistics.mean(turn["rewire"]) for turn in rounds]
    peers = {}
    for name in rounds[0]["peers"]:
        times = [turn["peers"][name] for turn in rounds]
        ratios = [time / mine for time, mine in zip(times, own)]
        peers[name] = {"time": statistics.median(times), "ratio": statistics.median(ratios), "spread": spread(ratios)}
    return {
        "time": statistics.median(own),
        "spread": spread(own),
        "noise": statistics.median(abs(turn["rewire"][0] / turn["rewire"][1] - 1) for turn in rounds),
        "floor": floor,
        "peers": peers,
        "rounds": rounds,
    }


def print_header(unit):
    print(f"{'row':<32}{'rewire ' + unit:>12}{'spread':>8}{'noise':>7}{'floor':>7}   peer's time / rewire's (peer's {unit})")


def print_row(row):
    floor = f"{100 * row['floor'] / row['time']:.0f}%" if row["floor"] else "-"
    ratios = "  ".join(f"{name} {peer['ratio']:.2f} ({peer['time']:.2f})" for name, peer in row["peers"].items())
    own = f"{row['time']:>12.2f}{100 * row['spread']:>7.1f}%{100 * row['noise']:>6.1f}%{floor:>7}"
    print(f"{row['row']:<32}{own}   {ratios}", flush=True)
    for name, why in row.get("left_out", {}).items():
        print(f"{'':<32}left out: {name}: {why}", flush=True)


def need_gpu():
    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU")


def commit():
    """Of the bundle, or of the checkout."""
    stored = Path(__file__).parent / "commit"
    if stored.exists():
        return stored.read_text().strip()
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def asked(query):
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError as error:
        return str(error)


def clocks():
    return asked("clocks.sm,clocks.mem,temperature.gpu,power.draw")


def document(what, unit):
    return {
        "what": what,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "gpu": asked("name,driver_version"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "unit": unit,
        "clocks": {"before": clocks()},
        "rows": [],
    }


def save(results, path):
    results["clocks"]["after"] = clocks()
    if path:
        Path(path).write_text(json.dumps(results, indent=1) + "\n")
