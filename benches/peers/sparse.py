"""An irregularly sparse convolution as a product of matrices, for libraries that have no convolution: columns of the input
(im2col), and the weight with its columns in an order in which it is 2:4 sparse.

    python3 benches/peers/sparse.py      checks both on the CPU
"""

import numpy
import torch
import torch.nn.functional as F

#: Quads with room that a column is tried in.
OPEN_QUADS = 256


def permuted_for_two_four(kept, multiple=64):
    """An order of the columns of `kept` [rows, columns] (bool) with at most two kept values of a row in each four
    neighbours; -1 is a column of zeros. First fit, fullest columns first; columns that keep nothing are left out."""
    counts = kept.sum(0)
    order = [column for column in numpy.argsort(-counts, kind="stable") if counts[column]]
    done, members = [], []
    full = numpy.zeros((OPEN_QUADS, kept.shape[0]), numpy.float32)  # 1 where a row has its two
    seen = numpy.zeros((OPEN_QUADS, kept.shape[0]), numpy.int8)
    for column in order:
        mine = kept[:, column]
        fits = numpy.flatnonzero(full[: len(members)] @ mine.astype(numpy.float32) == 0)
        if len(fits):
            quad = int(fits[0])
        elif len(members) < OPEN_QUADS:
            members.append([])
            quad = len(members) - 1
        else:  # The fullest makes room.
            quad = max(range(len(members)), key=lambda quad: len(members[quad]))
            done.append(members[quad])
            members[quad] = []
            full[quad] = seen[quad] = 0
        members[quad].append(int(column))
        seen[quad] += mine
        full[quad] = seen[quad] >= 2
        if len(members[quad]) == 4:
            done.append(members[quad])
            last = len(members) - 1
            members[quad], full[quad], seen[quad] = members[last], full[last], seen[last]
            members.pop()
            full[last] = seen[last] = 0
    quads = [quad + [-1] * (4 - len(quad)) for quad in done + members]
    flat = [column for quad in quads for column in quad]
    return numpy.array(flat + [-1] * (-len(flat) % multiple))


def is_two_four(kept):
    return bool((kept.reshape(kept.shape[0], -1, 4).sum(2) <= 2).all())


class Columns:
    """Columns of NHWC images for 3x3 filters with a border of zeros, as [pixels, columns]: one gather, whose index holds the
    order. Column (r * 3 + s) * C + c is the weight's in KRSC order."""

    def __init__(self, order, channels, side):
        # One channel more, which is 0: where a column of zeros points to.
        self.stride, self.side = channels + 1, side
        tap, channel = order // channels, order % channels
        offset = (tap // 3 * (side + 2) + tap % 3) * self.stride + channel
        self.index = torch.from_numpy(numpy.where(order < 0, channels, offset).astype(numpy.int64))

    def to(self, device):
        self.index = self.index.to(device)
        return self

    def __call__(self, x):
        n, side, wide = len(x), self.side, self.side + 2
        padded = F.pad(x, (0, 1, 1, 1, 1, 1))
        # All that a window touches is one run of the padded images.
        run = (2 * wide + 3) * self.stride
        strides = (wide * wide * self.stride, wide * self.stride, self.stride, 1)
        windows = padded.as_strided((n, side, side, run), strides)
        return windows.index_select(3, self.index).reshape(n * side * side, -1)


def columns_first(x):
    """The columns of [C, N, H, W] images as [C * 9, pixels], in (c, r, s) order: the weight's in KCRS order."""
    c, n, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    strides = padded.stride()
    windows = padded.as_strided((c, 3, 3, n, h, w), (strides[0], *strides[2:], *strides[1:]))
    return windows.reshape(c * 9, n * h * w)


def check():
    torch.manual_seed(0)
    for (filters, channels, side), share in [((32, 16, 4), 0.1), ((128, 128, 4), 0.1), ((512, 64, 2), 0.05), ((16, 8, 3), 1.0)]:
        weight = torch.randn(filters, channels, 3, 3, dtype=torch.float64)
        weight *= torch.rand_like(weight) < share
        x = torch.randn(3, channels, side, side, dtype=torch.float64)
        want = F.conv2d(x, weight, padding=1).permute(0, 2, 3, 1).reshape(-1, filters)
        matrix = weight.permute(0, 2, 3, 1).reshape(filters, -1)
        order = permuted_for_two_four((matrix != 0).numpy())
        used = order[order >= 0]
        assert len(set(used)) == len(used) and len(order) % 64 == 0
        permuted = torch.cat([matrix, torch.zeros(filters, 1, dtype=matrix.dtype)], 1)[:, order]
        assert is_two_four((permuted != 0).numpy())
        if share < 1:
            assert not is_two_four((matrix != 0).numpy())
        got = Columns(order, channels, side)(x.permute(0, 2, 3, 1).contiguous()) @ permuted.T
        assert (got - want).norm() <= 1e-12 * want.norm()
        product = weight.reshape(filters, -1) @ columns_first(x.transpose(0, 1).contiguous())
        assert (product.T - want).norm() <= 1e-12 * want.norm()
        padding = 1 - len(used) / len(order)
        print(f"{filters}x{channels}x3x3, {share:.0%} kept: {len(order)} columns of {matrix.shape[1]}, {padding:.1%} empty")


if __name__ == "__main__":
    check()
