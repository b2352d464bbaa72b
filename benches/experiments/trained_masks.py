"""Trains the masks that the comparisons of inference use beside uniform ones: VGG16, pruned by DNR while it trains.

    cargo build --release
    python3 benches/experiments/trained_masks.py --out runs/trained-masks

Writes benches/peers/masks/vgg16-irregular.npz (a 34.57th of the weights) and vgg16-channel.npz (a 12.61th): for each
convolution its shape [K, C, 3, 3] and the bits of the weights that are not 0. In the second, filters that nothing reads have become
0 as well, so that fewer are left than the mask allows (`kept` in the results of inference.py). Speed depends on where the zeros are, not on the weights, so only the
masks are kept. The training is short, 4 epochs of 6,000 images with FGSM from a random start at 8/255; what matters here is that
DNR has moved the weights between and inside the layers. Images: Fashion-MNIST (Debian's package
dataset-fashion-mnist, or `--data FOLDER` with its four files), padded to 32 x 32 pixels, three equal channels. Needs numpy, safetensors.
"""

import argparse
import gzip
import subprocess
from pathlib import Path

import numpy
from safetensors.numpy import load_file

#: Kept share by granularity: the compression that the DNR paper reports for VGG16 on CIFAR-10.
DENSITIES = {"irregular": 1 / 34.57, "channel": 1 / 12.61}
MASKS = Path(__file__).parent.parent / "peers" / "masks"


def images(source, folder):
    """Fashion-MNIST as a data set `npy:folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, split in (("train", "train"), ("t10k", "test")):
        pixels = gzip.open(f"{source}/{file}-images-idx3-ubyte.gz").read()
        pixels = numpy.frombuffer(pixels, dtype=numpy.uint8, offset=16).reshape(-1, 1, 28, 28)
        pixels = numpy.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2))).repeat(3, axis=1)
        labels = gzip.open(f"{source}/{file}-labels-idx1-ubyte.gz").read()
        numpy.save(folder / f"{split}_images.npy", pixels)
        numpy.save(folder / f"{split}_labels.npy", numpy.frombuffer(labels, dtype=numpy.uint8, offset=8))


def train(options, granularity, data):
    """The weights of the best epoch; a finished run is not done again."""
    out = Path(options.out) / granularity
    if not (out / "result.json").exists():
        settings = [
            f'data.set="npy:{data}"',
            "data.train_limit=6000",
            "data.test_limit=1000",
            'data.augment=["flip"]',
            'model.normalize="none"',
            "train.epochs=4",
            "train.warmup_epochs=1",
            "train.batch_size=64",
            'train.optimizer={ kind = "sgd", lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }',
            'train.schedule={ kind = "cosine" }',
            'train.adversary={ attack = "fgsm-rs", eps = "8/255", step_size = "10/255" }',
            f'prune.granularity="{granularity}"',
            f"prune.density={DENSITIES[granularity]:.6f}",
            "eval=[]",
        ]
        command = [options.binary, "train", "vgg16-cifar10-dnr-irregular-d5", "--out", str(out), "--force"]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, check=True)
    return load_file(out / "checkpoints" / "best.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/rewire")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", metavar="FOLDER")
    parser.add_argument("--out", default="runs/trained-masks", metavar="FOLDER", help="of the training runs")
    options = parser.parse_args()
    data = Path(options.out) / "data"
    images(options.data, data)
    MASKS.mkdir(exist_ok=True)
    for granularity in DENSITIES:
        masks = {}
        for name, weight in train(options, granularity, data.resolve()).items():
            if weight.ndim == 4:
                masks[f"{name}.shape"] = numpy.array(weight.shape)
                masks[name] = numpy.packbits(weight != 0)
        file = MASKS / f"vgg16-{granularity}.npz"
        numpy.savez_compressed(file, **masks)
        print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
