"""What a masked residual block costs, position by position in plain Python: the oracle of the counters.

Written from the publications: Figure 3 of the paper (masks before each convolution, shared or not), DynConv's and
LASNet's mask at the block's output (the last convolutions at its positions, the first where those read), gates over
channels. Nothing here knows how the project describes a block.
"""

from math import prod

from benchmark.nn import interpolation
from benchmark.nn.blocks import BasicBlock
from benchmark.nn.masks import CarriedMask


def every(size):
    return [(i, j) for i in range(size[0]) for j in range(size[1])]


def size_after(size, conv):
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    )


def sampled(mask):
    return {(i, j) for i, row in enumerate(mask) for j, value in enumerate(row) if value > 0}


def missing(mask):
    return {(i, j) for i, row in enumerate(mask) for j, value in enumerate(row) if value != 1}


def read_by(positions, conv, size):
    """Positions of its input that a convolution reads at positions of its output."""
    touched = set()
    for i, j in positions:
        for k in range(conv.kernel_size[0]):
            for m in range(conv.kernel_size[1]):
                row = i * conv.stride[0] - conv.padding[0] + k * conv.dilation[0]
                column = j * conv.stride[1] - conv.padding[1] + m * conv.dilation[1]
                if 0 <= row < size[0] and 0 <= column < size[1]:
                    touched.add((row, column))
    return touched


def pairs(mask, positions, window):
    """Pairs of a missing position among some and a sampled neighbour in its window."""
    if not window:
        return 0
    neighbours, radius = sampled(mask), window // 2
    return sum(
        (i + di, j + dj) in neighbours
        for i, j in positions & missing(mask)
        for di in range(-radius, radius + 1)
        for dj in range(-radius, radius + 1)
    )


def predictors(block, size):
    """What the masks and gates of `tests/flops` cost: a 3x3 convolution and a linear layer, or a linear layer."""
    macs = 0
    for i in (1, 2, 3):
        mask = getattr(block, f"mask{i}")
        if mask is not None and not isinstance(mask, CarriedMask):
            positions = -(-size[0] // mask.stride) * -(-size[1] // mask.stride)
            macs += 9 * block.in_channels * positions + block.in_channels
        if i < 3 and getattr(block, f"gate{i}") is not None:
            macs += block.in_channels * block.planes
    return macs


def block_macs(block, size, masks, gates):
    """Count a block for one image.

    Masks are lists of rows and gates lists of values, by number; `size` is that of the block's input.
    """
    basic = isinstance(block, BasicBlock)
    deformable = getattr(block, "offset", None) is not None
    first = size_after(size, block.conv1)
    second = size_after(first, block.conv2)
    inputs, planes, outputs = block.in_channels, block.planes, block.planes * block.expansion
    open1, open2 = (sum(value != 0 for value in gates[i]) if i in gates else planes for i in (1, 2))
    reuses = any(isinstance(getattr(block, f"interpolation{i}"), interpolation.Reuse) for i in (1, 2, 3))
    # A closed channel is zero and not read, unless what is copied into the map fills it.
    read1 = planes if reuses and block.interpolation1 is not None else open1
    read2 = planes if reuses and block.interpolation2 is not None else open2
    window = next((fill.window for i in (1, 2, 3) if (fill := getattr(block, f"interpolation{i}")) is not None), 0)
    masks = dict(masks)
    if block.placement == "one":
        masks[2] = [row[:: block.stride] for row in masks[1][:: block.stride]]
    last = 2 if basic else 3
    if not masks:
        computed = {1: set(every(first)), 2: set(every(second)), 3: set(every(second))}
    elif block.placement == "output":
        at_output = sampled(masks[last])
        read = set(every(first)) if deformable else read_by(at_output, block.conv2, first)
        computed = {1: read, 2: at_output, 3: at_output}
        if reuses:  # what the last convolution reads is copied to all other positions, and so is needed everywhere
            computed = {1: set(every(first)), 2: at_output if basic else set(every(second)), 3: at_output}
    else:
        computed = {1: sampled(masks[1]), 2: sampled(masks[2]), 3: sampled(masks[3]) if 3 in masks else set()}

    macs = predictors(block, size)
    macs += len(computed[1]) * prod(block.conv1.kernel_size) * inputs * open1
    if block.placement != "output" and masks:
        needed = set(every(first)) if deformable else read_by(computed[2], block.conv2, first)
        macs += pairs(masks[1], needed, window) * open1
    macs += len(computed[2]) * 9 * read1 * (planes if basic else open2)
    if deformable:
        macs += len(computed[2]) * (9 * inputs * 18 + 4 * 9 * read1)
    if block.downsample is not None:
        macs += len(every(second)) * inputs * outputs
    everywhere = set(every(second))
    if basic:
        return macs + (pairs(masks[2], everywhere, window) * planes if masks else 0)
    if block.placement == "output" or not masks:
        filled = pairs(masks[3], everywhere, window) * outputs if masks else 0
        return macs + len(computed[3]) * read2 * outputs + filled
    if 3 in masks:
        macs += pairs(masks[2], computed[3], window) * open2
        return macs + len(computed[3]) * read2 * outputs + pairs(masks[3], everywhere, window) * outputs
    filled = pairs(masks[2], everywhere, window)
    densely = len(everywhere) * read2 * outputs + filled * open2
    if reuses or 2 in gates:
        return macs + densely  # conv3 cannot trade places with the fill
    return macs + min(len(computed[2]) * planes * outputs + filled * outputs, densely)
