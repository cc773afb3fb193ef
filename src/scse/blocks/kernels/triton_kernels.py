"""The GPU kernels of the blocks in Triton: one launch for the forward pass and one for the backward pass.

A launch works through items. The first items of a sample sum up parts of its map; the program that finishes the last
of them computes the channel gates, or their gradients, and sets the sample's flag; the other items of the sample wait
for this flag and read the map again, from the L2 cache if the sample is small enough. Programs take their items by an
atomic counter, and every item waits only for items with lower numbers, so that it does not matter how many programs
run at a time. Sums are added in a fixed order: which program adds them changes no bit.

Maps are (samples, channels, positions) with three strides. All arithmetic is in float32. The layout of `excitation` is
that of cpp/recalibrate.hpp: means, hidden layer before its activation, channel gates before their scale.
"""

import triton
import triton.language as tl

# In Triton's language, parameters in capitals are constants of the compiled kernel, an argument of None is one too, and
# branches on constants are taken while the kernel is compiled.


@triton.jit
def _activated(hidden, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        value = hidden * tl.sigmoid(hidden)
    elif ACTIVATION == "leaky-relu":
        value = tl.where(hidden > 0, hidden, 0.01 * hidden)
    else:
        value = tl.maximum(hidden, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def _activation_slope(hidden, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        share = tl.sigmoid(hidden)
        slope = share * (1 + hidden * (1 - share))
    elif ACTIVATION == "leaky-relu":
        slope = tl.where(hidden > 0, 1.0, 0.01)
    else:
        slope = tl.where(hidden > 0, 1.0, 0.0)
    return slope


@triton.jit
def _gated(excitation, GATE: tl.constexpr):
    if GATE == "hard-sigmoid":
        value = tl.clamp(excitation / 6 + 0.5, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    elif GATE == "relu":
        value = tl.maximum(excitation, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        value = tl.sigmoid(excitation)
    return value


@triton.jit
def _gate_slope(gate, GATE: tl.constexpr):
    """Slope of the gate function, from its value."""
    if GATE == "hard-sigmoid":
        slope = tl.where((gate > 0) & (gate < 1), 1.0 / 6, 0.0)
    elif GATE == "relu":
        slope = tl.where(gate > 0, 1.0, 0.0)
    else:
        slope = gate * (1 - gate)
    return slope


@triton.jit
def _join(value, channel, spatial, KIND: tl.constexpr):
    """The recalibrated map, from gates that broadcast over it."""
    if KIND == "cse":
        joined = value * channel
    elif KIND == "sse":
        joined = value * spatial
    elif KIND == "add":
        joined = value * (channel + spatial)
    elif KIND == "max":
        joined = tl.maximum(value * channel, value * spatial, propagate_nan=tl.PropagateNan.ALL)
    else:
        joined = value * channel * (value * spatial)
    return joined


@triton.jit
def _share_of_channel(value, channel, spatial):
    """Share of the gradient of a maximum that goes to U*c: torch gives both halves where the two are equal."""
    by_channel, by_position = value * channel, value * spatial
    return tl.where(by_channel > by_position, 1.0, tl.where(by_channel == by_position, 0.5, 0.0))


@triton.jit
def _gate_grads(value, grad, channel, spatial, KIND: tl.constexpr):
    """What every element of the map adds to the gradients of the channel gate and of the spatial gate."""
    product = grad * value
    if KIND == "max":
        share = _share_of_channel(value, channel, spatial)
        of_channel = product * share
        of_position = product * (1 - share)
    elif KIND == "multiply":
        of_channel = product * value * spatial
        of_position = product * value * channel
    else:
        of_channel = product
        of_position = product
    return of_channel, of_position


@triton.jit
def _direct_grad(value, grad, channel, spatial, KIND: tl.constexpr):
    """Gradient of the map with both gates held."""
    if KIND == "cse":
        direct = grad * channel
    elif KIND == "sse":
        direct = grad * spatial
    elif KIND == "add":
        direct = grad * (channel + spatial)
    elif KIND == "max":
        share = _share_of_channel(value, channel, spatial)
        direct = grad * (share * channel + (1 - share) * spatial)
    else:
        direct = 2 * grad * value * channel * spatial
    return direct


@triton.jit
def _take(state, samples, first_items, second_items, lag):
    """Take the next item: its phase (0, 1 or, after all samples, 2), sample, and number within the phase.

    First items of a sample are `lag` samples ahead of second items, so that these seldom wait.
    """
    item = tl.atomic_add(state, 1, sem="relaxed")
    phase = tl.full((), 0, tl.int32)
    sample, number = phase, phase
    together = first_items + second_items
    ahead = lag * first_items
    between = (samples - lag) * together
    if item < ahead:
        sample = item // first_items
        number = item % first_items
    elif item < ahead + between:
        rest = item - ahead
        sample = rest // together
        number = rest % together
        if number < first_items:
            sample += lag
        else:
            phase = 1
            number -= first_items
    else:
        rest = item - ahead - between
        if rest < lag * second_items:
            phase = 1
            sample = samples - lag + rest // tl.maximum(second_items, 1)
            number = rest % tl.maximum(second_items, 1)
        else:
            phase = 2
            number = rest - lag * second_items
    return phase, sample.to(tl.int64), number


@triton.jit
def _wait(counter, value):
    """Wait until a counter has a value, and see all that was written before it got it."""
    while tl.atomic_add(counter, 0, sem="acquire") != value:
        pass


@triton.jit
def _count(counter):
    """Count one more and return how many there were, after all that this program has written is seen by others."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
def _load(pointer, channel, position, channels, positions, channel_stride, position_stride, POLICY: tl.constexpr):
    """A tile of a map in float32, (channels, positions); zeros outside of the map."""
    place = pointer + channel[:, None] * channel_stride + position[None, :] * position_stride
    inside = (channel[:, None] < channels) & (position[None, :] < positions)
    return tl.load(place, inside, other=0.0, eviction_policy=POLICY).to(tl.float32)


@triton.jit
def _store(
    pointer, value, channel, position, channels, positions, channel_stride, position_stride, POLICY: tl.constexpr
):
    place = pointer + channel[:, None] * channel_stride + position[None, :] * position_stride
    inside = (channel[:, None] < channels) & (position[None, :] < positions)
    tl.store(place, value.to(pointer.dtype.element_ty), inside, eviction_policy=POLICY)


@triton.jit
def _vector(pointer, place, size):
    return tl.load(pointer + place, place < size, other=0.0).to(tl.float32)


@triton.jit
def _matrix(pointer, row, column, rows, columns):
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    return tl.load(pointer + row[:, None] * columns + column[None, :], inside, other=0.0).to(tl.float32)


@triton.jit
def _summed(parts, place, size, count, stride, SIZE: tl.constexpr, PARTS: tl.constexpr):
    """Sum of `count` vectors of `size` values that lie `stride` apart."""
    total = tl.zeros([PARTS, SIZE], tl.float32)
    for first in range(0, count, PARTS):
        row = first + tl.arange(0, PARTS)
        inside = (row[:, None] < count) & (place[None, :] < size)
        total += tl.load(parts + row[:, None] * stride + place[None, :], inside, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _channel_gates(
    means,
    partial,
    squeeze_weight,
    squeeze_bias,
    excite_weight,
    excite_bias,
    channels,
    hidden,
    positions,
    parts,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute the means, the hidden layer and the gates of cSE of a sample from parts of the sums of its channels."""
    before, gates = means + channels, means + channels + hidden
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        total = _summed(partial, channel, channels, parts, channels, CHANNELS, PARTS)
        tl.store(means + channel, total / positions, channel < channels)
    tl.debug_barrier()
    for first in range(0, hidden, HIDDEN):
        unit = first + tl.arange(0, HIDDEN)
        value = tl.zeros([HIDDEN], tl.float32)
        for start in range(0, channels, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            weight = _matrix(squeeze_weight, unit, channel, hidden, channels)
            value += tl.sum(weight * _vector(means, channel, channels)[None, :], 1)
        if squeeze_bias is not None:
            value += _vector(squeeze_bias, unit, hidden)
        tl.store(before + unit, value, unit < hidden)
    tl.debug_barrier()
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        value = tl.zeros([CHANNELS], tl.float32)
        for start in range(0, hidden, HIDDEN):
            unit = start + tl.arange(0, HIDDEN)
            weight = _matrix(excite_weight, channel, unit, channels, hidden)
            value += tl.sum(weight * _activated(_vector(before, unit, hidden), ACTIVATION)[None, :], 1)
        if excite_bias is not None:
            value += _vector(excite_bias, channel, channels)
        tl.store(gates + channel, _gated(value, GATE), channel < channels)


@triton.jit
def _channel_gate_grads(
    grads,
    means,
    partial,
    squeeze_weight,
    excite_weight,
    channels,
    hidden,
    positions,
    parts,
    scale,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute what `excitation_grads` of `backward` has of the layers of cSE, for a sample."""
    before, gates = means + channels, means + channels + hidden
    of_hidden, of_means = grads + channels, grads + channels + hidden
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        total = _summed(partial, channel, channels, parts, 2 * channels, CHANNELS, PARTS)
        slope = _gate_slope(_vector(gates, channel, channels), GATE)
        tl.store(grads + channel, total * scale * slope, channel < channels)
    tl.debug_barrier()
    for first in range(0, hidden, HIDDEN):
        unit = first + tl.arange(0, HIDDEN)
        value = tl.zeros([HIDDEN], tl.float32)
        for start in range(0, channels, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            weight = _matrix(excite_weight, channel, unit, channels, hidden)
            value += tl.sum(weight * _vector(grads, channel, channels)[:, None], 0)
        value *= _activation_slope(_vector(before, unit, hidden), ACTIVATION)
        tl.store(of_hidden + unit, value, unit < hidden)
    tl.debug_barrier()
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        value = tl.zeros([CHANNELS], tl.float32)
        for start in range(0, hidden, HIDDEN):
            unit = start + tl.arange(0, HIDDEN)
            weight = _matrix(squeeze_weight, unit, channel, hidden, channels)
            value += tl.sum(weight * _vector(of_hidden, unit, hidden)[:, None], 0)
        tl.store(of_means + channel, value / positions, channel < channels)


@triton.jit
def _store_sums(pointer, parts, place, size, count, stride, SIZE: tl.constexpr, PARTS: tl.constexpr):
    total = _summed(parts, place, size, count, stride, SIZE, PARTS)
    tl.store(pointer + place, total.to(pointer.dtype.element_ty), place < size)


@triton.jit
def _layer_grads(
    weight_grad,
    outputs,
    output_stride,
    inputs,
    input_stride,
    row,
    samples,
    rows,
    columns,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of some rows of the weight of a dense layer: sum over the samples of output gradient times input."""
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for first in range(0, samples, 16):
            sample = first + tl.arange(0, 16)
            known = sample[:, None] < samples
            output = tl.load(
                outputs + sample[:, None] * output_stride + row[None, :], known & (row[None, :] < rows), other=0.0
            )
            value = tl.load(
                inputs + sample[:, None] * input_stride + column[None, :],
                known & (column[None, :] < columns),
                other=0.0,
            )
            if ACTIVATION is not None:
                value = _activated(value, ACTIVATION)
            total = tl.dot(tl.trans(output), value, total, input_precision="ieee")
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        place = weight_grad + row[:, None] * columns + column[None, :]
        tl.store(place, total.to(weight_grad.dtype.element_ty), inside)


@triton.jit
def _weight_grads(
    number,
    squeeze_weight_grad,
    squeeze_bias_grad,
    excite_weight_grad,
    excite_bias_grad,
    project_weight_grad,
    project_bias_grad,
    excitation,
    grads,
    samples,
    channels,
    hidden,
    KIND: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Sum what the samples add to some rows of the weights: those of the channels first, then those of W1."""
    width, stride = 2 * channels + hidden, 3 * channels + hidden + 1
    blocks = tl.cdiv(channels, ROWS)
    if number < blocks:
        row = number * ROWS + tl.arange(0, ROWS)
        if KIND != "sse":
            before = excitation + channels
            weight_grad = excite_weight_grad
            _layer_grads(
                weight_grad, grads, stride, before, width, row, samples, channels, hidden, ACTIVATION, ROWS, COLUMNS
            )
            if excite_bias_grad is not None:
                _store_sums(excite_bias_grad, grads, row, channels, samples, stride, ROWS, PARTS)
        if KIND != "cse":
            of_projection = grads + 2 * channels + hidden
            _store_sums(project_weight_grad, of_projection, row, channels, samples, stride, ROWS, PARTS)
            if project_bias_grad is not None:
                if number == 0:
                    one = tl.arange(0, 1)
                    _store_sums(project_bias_grad, of_projection + channels, one, 1, samples, stride, 1, PARTS)
    elif KIND != "sse":
        row = (number - blocks) * ROWS + tl.arange(0, ROWS)
        of_hidden = grads + channels
        weight_grad = squeeze_weight_grad
        _layer_grads(
            weight_grad, of_hidden, stride, excitation, width, row, samples, hidden, channels, None, ROWS, COLUMNS
        )
        if squeeze_bias_grad is not None:
            _store_sums(squeeze_bias_grad, of_hidden, row, hidden, samples, stride, ROWS, PARTS)


@triton.jit
def _squeeze(
    x,
    project_weight,
    project_bias,
    spatial,
    part,
    number,
    channels,
    positions,
    channel_stride,
    position_stride,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the sums over some positions of a sample, and their spatial gates."""
    total = tl.zeros([CHANNELS], tl.float32)
    for step in tl.range(STEPS, num_stages=STAGES):
        position = (number * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        project = tl.zeros([POSITIONS], tl.float32)
        for block in tl.static_range(BLOCKS):
            channel = block * CHANNELS + tl.arange(0, CHANNELS)
            value = _load(x, channel, position, channels, positions, channel_stride, position_stride, "evict_last")
            if KIND != "sse":
                if BLOCKS == 1:
                    total += tl.sum(value, 1)
                else:
                    tl.store(part + channel, tl.sum(value, 1), channel < channels)
            if KIND != "cse":
                project += tl.sum(value * _vector(project_weight, channel, channels)[:, None], 0)
        if KIND != "cse":
            if project_bias is not None:
                project += tl.load(project_bias).to(tl.float32)
            tl.store(spatial + position, tl.sigmoid(project), position < positions)
    if KIND != "sse" and BLOCKS == 1:
        place = tl.arange(0, CHANNELS)
        tl.store(part + place, total, place < channels)


@triton.jit
def _excite(
    x,
    output,
    gates,
    spatial,
    number,
    channels,
    positions,
    channel_stride,
    position_stride,
    scale,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the output at some positions of a sample."""
    for step in tl.range(STEPS, num_stages=STAGES):
        position = (number * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        by_position = tl.zeros([POSITIONS], tl.float32)
        if KIND != "cse":
            by_position = scale * _vector(spatial, position, positions)
        for block in tl.static_range(BLOCKS):
            channel = block * CHANNELS + tl.arange(0, CHANNELS)
            value = _load(x, channel, position, channels, positions, channel_stride, position_stride, "evict_first")
            by_channel = tl.zeros([CHANNELS], tl.float32)
            if KIND != "sse":
                by_channel = scale * _vector(gates, channel, channels)
            joined = _join(value, by_channel[:, None], by_position[None, :], KIND)
            _store(
                output, joined, channel, position, channels, positions, channel_stride, position_stride, "evict_first"
            )


@triton.jit
def forward(
    x,
    output,
    squeeze_weight,
    squeeze_bias,
    excite_weight,
    excite_bias,
    project_weight,
    project_bias,
    excitation,
    spatial,
    partial,
    state,
    samples,
    channels,
    hidden,
    positions,
    first_items,
    second_items,
    lag,
    sample_stride,
    channel_stride,
    position_stride,
    scale,
    KIND: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute `output`, `excitation` and `spatial`. `partial` is (samples, first_items, channels)."""
    phase, sample, number = _take(state, samples, first_items, second_items, lag)
    x += sample * sample_stride
    excitation += sample * (2 * channels + hidden)
    spatial += sample * positions
    counter = state + 1 + sample
    if phase == 0:
        parts = partial + sample * first_items * channels
        _squeeze(
            x,
            project_weight,
            project_bias,
            spatial,
            parts + number * channels,
            number,
            channels,
            positions,
            channel_stride,
            position_stride,
            KIND,
            CHANNELS,
            BLOCKS,
            POSITIONS,
            STEPS,
            STAGES,
        )
        if _count(counter) == first_items - 1:
            if KIND != "sse":
                _channel_gates(
                    excitation,
                    parts,
                    squeeze_weight,
                    squeeze_bias,
                    excite_weight,
                    excite_bias,
                    channels,
                    hidden,
                    positions,
                    first_items,
                    ACTIVATION,
                    GATE,
                    CHANNELS,
                    HIDDEN,
                    PARTS,
                )
            _count(counter)
    else:
        _wait(counter, first_items + 1)
        _excite(
            x,
            output + sample * sample_stride,
            excitation + channels + hidden,
            spatial,
            number,
            channels,
            positions,
            channel_stride,
            position_stride,
            scale,
            KIND,
            CHANNELS,
            BLOCKS,
            POSITIONS,
            STEPS,
            STAGES,
        )


@triton.jit
def _gate_grad_parts(
    x,
    grad,
    gates,
    spatial,
    spatial_grad,
    part,
    bias_part,
    number,
    channels,
    positions,
    channel_stride,
    position_stride,
    scale,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute what some positions of a sample add to the gradients of the gates, see `partial` of `backward`."""
    of_channels = tl.zeros([CHANNELS], tl.float32)
    of_weights = tl.zeros([CHANNELS], tl.float32)
    of_bias = tl.zeros([POSITIONS], tl.float32)
    for step in tl.range(STEPS, num_stages=STAGES):
        position = (number * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        gate = tl.zeros([POSITIONS], tl.float32)
        if KIND != "cse":
            gate = _vector(spatial, position, positions)
        by_position = scale * gate
        of_gate = tl.zeros([POSITIONS], tl.float32)
        for block in tl.static_range(BLOCKS):
            channel = block * CHANNELS + tl.arange(0, CHANNELS)
            value = _load(x, channel, position, channels, positions, channel_stride, position_stride, "evict_first")
            slope = _load(grad, channel, position, channels, positions, channel_stride, position_stride, "evict_last")
            by_channel = tl.zeros([CHANNELS], tl.float32)
            if KIND != "sse":
                by_channel = scale * _vector(gates, channel, channels)
            of_channel, of_position = _gate_grads(value, slope, by_channel[:, None], by_position[None, :], KIND)
            if KIND != "sse":
                if BLOCKS == 1:
                    of_channels += tl.sum(of_channel, 1)
                else:
                    tl.store(part + channel, tl.sum(of_channel, 1), channel < channels)
            if KIND != "cse":
                of_gate += tl.sum(of_position, 0)
        if KIND != "cse":
            of_projection = of_gate * scale * gate * (1 - gate)
            of_bias += of_projection
            tl.store(spatial_grad + position, of_projection, position < positions)
            if BLOCKS == 1:
                of_weights += tl.sum(value * of_projection[None, :], 1)
            else:
                for block in tl.static_range(BLOCKS):
                    channel = block * CHANNELS + tl.arange(0, CHANNELS)
                    value = _load(
                        x, channel, position, channels, positions, channel_stride, position_stride, "evict_first"
                    )
                    of_weight = tl.sum(value * of_projection[None, :], 1)
                    tl.store(part + channels + channel, of_weight, channel < channels)
    place = tl.arange(0, CHANNELS)
    if KIND != "sse" and BLOCKS == 1:
        tl.store(part + place, of_channels, place < channels)
    if KIND != "cse":
        tl.store(bias_part, tl.sum(of_bias, 0))
        if BLOCKS == 1:
            tl.store(part + channels + place, of_weights, place < channels)


@triton.jit
def _map_grad(
    x,
    grad,
    map_grad,
    project_weight,
    gates,
    of_means,
    spatial,
    spatial_grad,
    number,
    channels,
    positions,
    channel_stride,
    position_stride,
    scale,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the gradient of the map at some positions of a sample."""
    for step in tl.range(STEPS, num_stages=STAGES):
        position = (number * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        by_position = tl.zeros([POSITIONS], tl.float32)
        of_projection = tl.zeros([POSITIONS], tl.float32)
        if KIND != "cse":
            by_position = scale * _vector(spatial, position, positions)
            of_projection = _vector(spatial_grad, position, positions)
        for block in tl.static_range(BLOCKS):
            channel = block * CHANNELS + tl.arange(0, CHANNELS)
            slope = _load(grad, channel, position, channels, positions, channel_stride, position_stride, "evict_first")
            value = slope
            if KIND == "max" or KIND == "multiply":
                value = _load(x, channel, position, channels, positions, channel_stride, position_stride, "evict_first")
            by_channel = tl.zeros([CHANNELS], tl.float32)
            of_mean = tl.zeros([CHANNELS], tl.float32)
            if KIND != "sse":
                by_channel = scale * _vector(gates, channel, channels)
                of_mean = _vector(of_means, channel, channels)
            total = _direct_grad(value, slope, by_channel[:, None], by_position[None, :], KIND) + of_mean[:, None]
            if KIND != "cse":
                total += _vector(project_weight, channel, channels)[:, None] * of_projection[None, :]
            _store(
                map_grad, total, channel, position, channels, positions, channel_stride, position_stride, "evict_first"
            )


@triton.jit
def backward(
    x,
    grad,
    map_grad,
    squeeze_weight,
    excite_weight,
    project_weight,
    squeeze_weight_grad,
    squeeze_bias_grad,
    excite_weight_grad,
    excite_bias_grad,
    project_weight_grad,
    project_bias_grad,
    excitation,
    spatial,
    excitation_grads,
    spatial_grad,
    partial,
    bias_partial,
    state,
    samples,
    channels,
    hidden,
    positions,
    first_items,
    second_items,
    lag,
    sample_stride,
    channel_stride,
    position_stride,
    scale,
    KIND: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    POSITIONS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the gradients of the map, unless it is None, and of the weights.

    Buffers: `excitation_grads` (samples, 3 channels + hidden + 1) for the gradients of the excitation before the gate
    function, of the hidden layer before its activation, and of the means divided by the positions, and for the
    sample's part of the gradients of the projection's weight and bias; `spatial_grad` (samples, positions) for the
    gradient of the projection; `partial` (samples, first_items, 2, channels) for parts of the gradients of the channel
    gates and of the projection's weight, and `bias_partial` (samples, first_items) for those of its bias.
    """
    phase, sample, number = _take(state, samples, first_items, second_items, lag)
    all_samples = state + 1 + samples
    if phase == 2:
        _wait(all_samples, samples)
        _weight_grads(
            number,
            squeeze_weight_grad,
            squeeze_bias_grad,
            excite_weight_grad,
            excite_bias_grad,
            project_weight_grad,
            project_bias_grad,
            excitation,
            excitation_grads,
            samples,
            channels,
            hidden,
            KIND,
            ACTIVATION,
            ROWS,
            COLUMNS,
            PARTS,
        )
    else:
        x += sample * sample_stride
        grad += sample * sample_stride
        excitation += sample * (2 * channels + hidden)
        excitation_grads += sample * (3 * channels + hidden + 1)
        spatial += sample * positions
        spatial_grad += sample * positions
        gates = excitation + channels + hidden
        counter = state + 1 + sample
        if phase == 0:
            parts = partial + sample * first_items * 2 * channels
            bias_parts = bias_partial + sample * first_items
            _gate_grad_parts(
                x,
                grad,
                gates,
                spatial,
                spatial_grad,
                parts + number * 2 * channels,
                bias_parts + number,
                number,
                channels,
                positions,
                channel_stride,
                position_stride,
                scale,
                KIND,
                CHANNELS,
                BLOCKS,
                POSITIONS,
                STEPS,
                STAGES,
            )
            if _count(counter) == first_items - 1:
                if KIND != "sse":
                    _channel_gate_grads(
                        excitation_grads,
                        excitation,
                        parts,
                        squeeze_weight,
                        excite_weight,
                        channels,
                        hidden,
                        positions,
                        first_items,
                        scale,
                        ACTIVATION,
                        GATE,
                        CHANNELS,
                        HIDDEN,
                        PARTS,
                    )
                if KIND != "cse":
                    sums, weight_parts = excitation_grads + 2 * channels + hidden, parts + channels
                    for first in range(0, channels, CHANNELS):
                        place = first + tl.arange(0, CHANNELS)
                        _store_sums(sums, weight_parts, place, channels, first_items, 2 * channels, CHANNELS, PARTS)
                    _store_sums(sums + channels, bias_parts, tl.arange(0, 1), 1, first_items, 1, 1, PARTS)
                _count(counter)
                _count(all_samples)
        elif map_grad is not None:
            _wait(counter, first_items + 1)
            of_means = excitation_grads + channels + hidden
            _map_grad(
                x,
                grad,
                map_grad + sample * sample_stride,
                project_weight,
                gates,
                of_means,
                spatial,
                spatial_grad,
                number,
                channels,
                positions,
                channel_stride,
                position_stride,
                scale,
                KIND,
                CHANNELS,
                BLOCKS,
                POSITIONS,
                STEPS,
                STAGES,
            )
