"""DNR, irregular 10 %, against a dense network trained the same way, on Fashion-MNIST: VGG16 at width 0.25, three seeds.

    cargo build --release
    python3 benches/experiments/fashion_mnist.py --images 20000 --epochs 15 --out runs/fashion-mnist --json results.json

Needs Debian's package dataset-fashion-mnist, or the files of Fashion-MNIST and `--data fashion-mnist:DIR`. All 10,000 test
images count. Training attacks with two steps of 5/255, which costs a third of seven; the evaluation has seven steps of 0.01;
eps is 8/255 in both. A run that was interrupted goes on where it was; `--jobs` run at a time, one thread each. Prints the
accuracies in percent and exits with 1 where the means differ by more than `--tolerance` points or the twin is below
80 % clean or 73 % under PGD.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RECIPES = {"dense": "small-adversarial", "irregular": "small-dnr-irregular"}


def settings(arguments, seed):
    adversary = '{ attack = "pgd", eps = "8/255", steps = 2, step_size = "5/255" }'
    pgd = '{ attack = "pgd", eps = "8/255", steps = 7, step_size = 0.01 }'
    return [
        f'data.set="{arguments.data}"',
        f"data.train_limit={arguments.images}",
        'model.arch="vgg16:width=0.25"',
        f"train.epochs={arguments.epochs}",
        "train.warmup_epochs=1",
        "train.batch_size=128",
        f"train.adversary={adversary}",
        f'eval=[{{ attack = "fgsm", eps = "8/255" }}, {pgd}]',
        f"seed={seed}",
    ]


def train(arguments, name, seed):
    """The `result.json` of one run, trained, resumed or found finished."""
    folder = Path(arguments.out) / f"{name}-{seed}"
    if not (folder / "result.json").exists():
        if (folder / "recipe.toml").exists():
            command = [arguments.rewire, "train", "--resume", str(folder)]
        else:
            command = [arguments.rewire, "train", RECIPES[name], "--out", str(folder)]
            if name == "irregular":
                command += ["--set", "prune.density=0.1"]
            for assignment in settings(arguments, seed):
                command += ["--set", assignment]
        subprocess.run([*command, "--threads", "1"], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewire", default="target/release/rewire", help="the program")
    parser.add_argument("--data", default="fashion-mnist", help="as `rewire --data`")
    parser.add_argument("--images", type=int, default=20000, help="training images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--tolerance", type=float, default=2.0, help="points between the means")
    parser.add_argument("--out", default="runs/fashion-mnist", help="folder of the runs")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()

    with ThreadPoolExecutor(arguments.jobs) as pool:
        pairs = [(name, seed) for seed in arguments.seeds for name in RECIPES]
        done = dict(zip(pairs, pool.map(lambda pair: train(arguments, *pair), pairs)))
    runs = {name: [done[name, seed] for seed in arguments.seeds] for name in RECIPES}
    means = {}
    for name, results in runs.items():
        means[name] = {}
        for kind in ("clean", "fgsm", "pgd"):
            values = [result["accuracy"][kind] for result in results]
            means[name][kind] = statistics.mean(values)
            print(f"{name:<10}{kind:<6}{means[name][kind]:7.2f}  {values}")
    if arguments.json:
        rows = {name: [result | {"layers": None} for result in results] for name, results in runs.items()}
        document = {"images": arguments.images, "epochs": arguments.epochs, "means": means, "runs": rows}
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    gaps = {kind: means["irregular"][kind] - means["dense"][kind] for kind in ("clean", "pgd")}
    print("irregular minus dense:", {kind: round(gap, 2) for kind, gap in gaps.items()})
    twin = means["dense"]
    good = twin["clean"] >= 80 and twin["pgd"] >= 73 and all(abs(gap) <= arguments.tolerance for gap in gaps.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
