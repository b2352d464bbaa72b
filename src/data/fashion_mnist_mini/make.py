#!/usr/bin/env python3
"""Writes the four idx files of this folder: a class-balanced subset of Fashion-MNIST.

Of each of the ten classes the first 400 training and the first 100 test images, in the order of the
full set. The input is Debian's package dataset-fashion-mnist (apt-get install dataset-fashion-mnist).
Needs nothing but Python. With --statistics it prints the mean and the standard deviation of the
60,000 training images instead (the constants of src/nn/normalization.rs).
"""

import argparse
import gzip
import math
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
PIXELS = 28 * 28


def read(folder, stem):
    images = gzip.decompress((folder / f"{stem}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{stem}-labels-idx1-ubyte.gz").read_bytes())
    magic, count, height, width = struct.unpack(">4I", images[:16])
    assert (magic, height, width) == (0x803, 28, 28) and len(images) == 16 + count * PIXELS
    assert struct.unpack(">2I", labels[:8]) == (0x801, count) and len(labels) == 8 + count
    return images[16:], labels[8:]


def balanced(labels, per_class):
    taken = [0] * 10
    chosen = []
    for i, label in enumerate(labels):
        if taken[label] < per_class:
            taken[label] += 1
            chosen.append(i)
    assert taken == [per_class] * 10
    return chosen


def write(name, content):
    # No file name and no time in the gzip header: the same bytes on every run.
    (HERE / name).write_bytes(gzip.compress(content, 9, mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=pathlib.Path, default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--statistics", action="store_true")
    args = parser.parse_args()
    if args.statistics:
        images, _ = read(args.source, "train")
        counts = [images.count(v) for v in range(256)]
        mean = sum(v * n for v, n in enumerate(counts)) / len(images)
        var = sum((v - mean) ** 2 * n for v, n in enumerate(counts)) / len(images)
        print(f"mean {mean / 255:.6f} std {math.sqrt(var) / 255:.6f}")
        return
    for stem, per_class in [("train", 400), ("t10k", 100)]:
        images, labels = read(args.source, stem)
        chosen = balanced(labels, per_class)
        write(
            f"{stem}-images-idx3-ubyte.gz",
            struct.pack(">4I", 0x803, len(chosen), 28, 28)
            + b"".join(images[i * PIXELS : (i + 1) * PIXELS] for i in chosen),
        )
        write(
            f"{stem}-labels-idx1-ubyte.gz",
            struct.pack(">2I", 0x801, len(chosen)) + bytes(labels[i] for i in chosen),
        )


if __name__ == "__main__":
    main()
