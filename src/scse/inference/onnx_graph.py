"""A trained segmenter as one ONNX graph, from the voxels of an image to the label values on its own grid.

The graph computes what `Segmenter.predict_image` does before the clean-up, in float32. It cannot refuse an image: if
all voxels are equal, or some are not finite, the labels have no meaning.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnxscript import GraphBuilder, ir

from scse.data.choices import SLICE_AXIS
from scse.data.prepared import class_values
from scse.inference.engines import export_network
from scse.inference.segmenter import Segmenter
from scse.inference.windows import OVERLAP, importance_of

IMAGE, SPACING, LABELS = "image", "spacing", "labels"
"""Names of the inputs and of the output."""

SLICES = 4
"""Number of slices that run through the network at a time; of volumes and pictures, it is one window at a time."""

IR_VERSION = 10
"""Version of the file format; ONNX Runtime reads it from version 1.20 on."""

Op = Any
"""What adds nodes to a graph: `op.Add(a, b)`, see `onnxscript.GraphBuilder`. It has no types."""

Value = Any
"""Result of a node or input of a graph, an `onnxscript.ir.Value`."""


def onnx_model(segmenter: Segmenter) -> onnx.ModelProto:
    """The graph of a segmenter, without its clean-up.

    Its inputs are `image` (C, *spatial) float32, with the axes of a volume to the right, anterior and superior; and for
    volumes that are resampled, `spacing` (3) float64, the millimetres per voxel along each axis. Its output is `labels`
    (*spatial), the label values.
    """
    recipe = segmenter.recipe
    network = ir.from_proto(onnx.load_model_from_string(export_network(segmenter.network, segmenter.windows(1))))
    axes = ("rows", "columns") if recipe.view == "picture" else ("x", "y", "z")
    inputs = [ir.val(IMAGE, ir.DataType.FLOAT, (recipe.channels, *axes))]
    if recipe.view != "picture" and recipe.spacing is not None:
        inputs.append(ir.val(SPACING, ir.DataType.DOUBLE, (3,)))
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=network.opset_imports, name="segmenter")
    labels = _Prediction(segmenter, network.graph).label(GraphBuilder(graph).op, *inputs)
    labels.name, labels.shape = LABELS, ir.Shape(axes)
    graph.outputs.append(labels)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="scse")
    ir.passes.common.NameFixPass()(model)  # names of the network are used in the graph around it, too
    return ir.to_proto(model)


class _Prediction:
    """The steps of a prediction as nodes of a graph.

    Args:
        segmenter: Segmenter.
        network: Its network, from images (N, C, *patch) to logits (N, outputs, *patch), which is moved into the graph.
    """

    def __init__(self, segmenter: Segmenter, network: ir.Graph) -> None:
        self.recipe, self.scheme, self.network = segmenter.recipe, segmenter.scheme, network
        self.at_a_time = SLICES if self.recipe.view in SLICE_AXIS else 1
        values = class_values(segmenter.structures)
        self.values = values.astype(np.min_scalar_type(int(values.max())))
        self.importance = importance_of(self.recipe.patch).numpy()

    def label(self, op: Op, image: Value, spacing: Value | None = None) -> Value:
        """Label values (*spatial) of an image (C, *spatial)."""
        scaled = standardised(op, image, self.recipe.clip)
        if self.recipe.view not in SLICE_AXIS:
            labels = self._label_all(op, op.Unsqueeze(scaled, [0]), spacing)
            return op.Squeeze(labels, [0])
        axis = SLICE_AXIS[self.recipe.view]
        others = [other for other in range(3) if other != axis]
        slices = op.Transpose(scaled, perm=[axis + 1, 0, *(other + 1 for other in others)])
        labels = self._label_all(op, slices, None if spacing is None else op.Gather(spacing, others))
        return op.Transpose(labels, perm=[int(place) for place in np.argsort([axis, *others])])

    def _label_all(self, op: Op, stack: Value, spacing: Value | None) -> Value:
        """Label values (N, *plane) of slices or a volume (N, C, *plane) with intensities of the network."""
        plane = size = op.Shape(stack, start=2)
        if self.recipe.spacing is not None:
            own = [1.0] * self.recipe.dims if spacing is None else spacing
            extent = op.Mul(op.Cast(plane, to=ir.DataType.DOUBLE), own)
            size = op.Max(op.Cast(op.Round(op.Div(extent, list(self.recipe.spacing))), to=ir.DataType.INT64), 1)
            stack = resized(op, stack, size, dims=self.recipe.dims)
        fill = op.ReduceMin(stack, keepdims=0)
        if self.at_a_time == 1:
            return self._label(op, stack, size, plane, fill)
        count, at_a_time = op.Shape(stack, end=1), self.at_a_time
        last = op.Sub(count, 1)

        def batch(op: Op, number: Value) -> Value:
            chosen = op.Min(op.Add(op.Mul(number, at_a_time), [*range(at_a_time)]), last)  # repeats the last slice
            return self._label(op, op.Gather(stack, chosen), size, plane, fill)

        batches = loop(op, op.Div(op.Add(last, at_a_time), at_a_time), batch)
        return op.Slice(op.Reshape(batches, op.Concat([-1], plane, axis=0)), [0], count)

    def _label(self, op: Op, stack: Value, size: Value, plane: Value, fill: Value) -> Value:
        """Label values (N, *plane) of resampled slices or a volume (N, C, *size)."""
        dims, outputs = self.recipe.dims, self.scheme.outputs
        near, spatial = [0] * dims, list(range(2, dims + 2))
        missing = op.Max(op.Sub(list(self.recipe.patch), size), 0)
        sums = self._blended(op, op.Pad(stack, op.Concat(near, missing, axis=0), fill, spatial))

        def channels(first: int, end: int) -> Value:
            return op.Slice(sums, [first, *near], op.Concat([end], size, axis=0), [1, *spatial])

        scores = channels(0, outputs)  # not divided by the weights, which change no order of classes
        if self.recipe.spacing is not None or self.scheme.regions:
            scores = op.Div(scores, channels(outputs, outputs + 1))
            scores = op.Sigmoid(scores) if self.scheme.regions else op.Softmax(scores, axis=1)
        if self.recipe.spacing is not None:
            scores = resized(op, scores, plane, dims=dims)
        values = op.Constant(value=ir.tensor(self.values))
        if not self.scheme.regions:
            return op.Gather(values, op.ArgMax(scores, axis=1, keepdims=0))
        # the last region that contains a voxel has the greatest number
        numbers = op.Unsqueeze(list(range(1, outputs + 1)), list(range(1, dims + 1)))
        inside = op.Cast(op.Greater(scores, 0.5), to=ir.DataType.INT64)
        return op.Gather(values, op.ReduceMax(op.Mul(inside, numbers), [1], keepdims=0))

    def _blended(self, op: Op, part: Value, axis: int = 0) -> Value:
        """Weighted sums of the logits of all windows (N, outputs + 1, *size); the last channel is that of the weights.

        Windows are cut and their results are added along one axis after the other, so that only sums of whole rows of
        windows are added to those of the whole size.

        Args:
            op: What adds nodes.
            part: Images (N, C, *size), of the size of a window along the axes before `axis`.
            axis: The first spatial axis along which no windows are cut yet.
        """
        patch, outputs = self.recipe.patch, self.scheme.outputs
        if axis == len(patch):
            return op.Mul(op.Pad(self._run(op, part), [0, 1], 1.0, [1]), op.Constant(value=ir.tensor(self.importance)))
        free = op.Sub(op.Shape(part, start=axis + 2, end=axis + 3), patch[axis])
        step = max(1, int(patch[axis] * (1 - OVERLAP)))

        def window(op: Op, number: Value, sums: Value) -> Value:
            start = op.Min(op.Mul(number, step), free)
            cut = op.Slice(part, start, op.Add(start, patch[axis]), [axis + 2])
            found = self._blended(op, cut, axis + 1)
            around = op.Concat(start, op.Sub(free, start), axis=0)
            return op.Add(sums, op.Pad(found, around, 0.0, [axis + 2]))

        windows = op.Add(op.Div(op.Add(free, step - 1), step), 1)
        shape = op.Concat([self.at_a_time, outputs + 1, *patch[:axis]], op.Shape(part, start=axis + 2), axis=0)
        return loop(op, windows, window, op.Expand(0.0, shape))

    def _run(self, op: Op, images: Value) -> Value:
        """Move the network here: images (N, C, *patch) -> logits (N, outputs, *patch)."""
        [source], [logits] = self.network.inputs, self.network.outputs
        ir.convenience.replace_all_uses_with(source, images)
        nodes, weights = list(self.network), list(self.network.initializers.values())
        self.network.outputs.clear()
        self.network.initializers.clear()
        self.network.remove(nodes)
        for value in weights:
            op.builder.graph.register_initializer(value)
        op.builder.graph.extend(nodes)
        return logits


def standardised(op: Op, image: Value, clip: tuple[float, float]) -> Value:
    """Clip each channel of an image (C, *spatial) to its percentiles, and bring it to mean 0 and deviation 1.

    All of these are measured on the voxels above the channel's minimum; a channel without any becomes 0.
    """
    spatial = list(range(1, len(image.shape)))
    above = op.Greater(image, op.ReduceMin(image, spatial))
    found = op.ReduceSum(op.Cast(above, to=ir.DataType.INT64), spatial)
    count = op.Max(found, 1)
    low = percentile(op, op.Where(above, image, float("inf")), count, clip[0], largest=0)
    high = percentile(op, image, count, 100 - clip[1], largest=1)
    clipped = op.Min(op.Max(image, low), high)

    def mean(values: Value) -> Value:
        total = op.Where(above, values, 0.0)
        for axis in reversed(spatial):  # one by one, because sums of few values are more exact
            total = op.ReduceSum(total, [axis])
        return op.Div(total, op.Cast(count, to=ir.DataType.FLOAT))

    centred = op.Sub(clipped, mean(clipped))
    # the deviation of equal values counts as 1; their rounding errors must not be divided by one another
    deviation = op.Where(op.Greater(high, low), op.Sqrt(mean(op.Mul(centred, centred))), 1.0)
    return op.Where(op.Greater(found, 0), op.Div(centred, deviation), 0.0)


def percentile(op: Op, image: Value, count: Value, percent: float, *, largest: int) -> Value:
    """Percentile of each channel of an image (C, *spatial), from its end, linear between two values as in NumPy.

    Args:
        op: What adds nodes.
        image: Image, in which only the `count` values at this end count.
        count: Number of values of each channel, of shape (C, 1, ...).
        percent: Percent of the values that lie towards the end.
        largest: Whether the end is that of the largest values.
    """
    last = op.Sub(op.Flatten(count), 1)
    place = op.Mul(op.Cast(last, to=ir.DataType.DOUBLE), percent / 100)
    first = op.Cast(op.Floor(place), to=ir.DataType.INT64)
    second = op.Min(op.Add(first, 1), last)
    most = op.Add(op.ReduceMax(second, keepdims=0), [1])
    ordered, _ = op.TopK(op.Flatten(image), most, largest=largest, _outputs=2)
    share = op.Cast(op.Sub(place, op.Cast(first, to=ir.DataType.DOUBLE)), to=ir.DataType.FLOAT)
    here, there = (op.GatherElements(ordered, rank, axis=1) for rank in (first, second))
    return op.Reshape(op.Add(here, op.Mul(op.Sub(there, here), share)), op.Shape(count))


def resized(op: Op, maps: Value, size: Value, *, dims: int) -> Value:
    """Resample maps (N, C, *spatial) with `dims` spatial axes to another size, as `scse.data.resampling.resized`."""
    last = dims + 1
    for axis in range(2, last + 1):
        here, there = op.Shape(maps, start=axis, end=axis + 1), op.Slice(size, [axis - 2], [axis - 1])
        swap = [*range(last + 1)]
        swap[axis], swap[last] = last, axis
        maps = op.Transpose(op.MatMul(op.Transpose(maps, perm=swap), linear_weights(op, here, there)), perm=swap)
    return maps


def linear_weights(op: Op, size: Value, target: Value) -> Value:
    """Weights (size, target) of linear resampling, the transpose of `scse.data.resampling.linear_weights`."""

    def centres(count: Value) -> Value:
        return op.Add(op.Cast(op.Range(0, op.Squeeze(count), 1), to=ir.DataType.DOUBLE), 0.5)

    scale = op.Div(op.Cast(size, to=ir.DataType.DOUBLE), op.Cast(target, to=ir.DataType.DOUBLE))
    distances = op.Abs(op.Sub(op.Unsqueeze(centres(size), [1]), op.Mul(centres(target), scale)))
    weights = op.Max(op.Sub(1.0, op.Div(distances, op.Max(scale, 1.0))), 0.0)
    return op.Cast(op.Div(weights, op.ReduceSum(weights, [0])), to=ir.DataType.FLOAT)


def loop(op: Op, count: Value, body: Callable[..., Value], start: Value | None = None) -> Value:
    """Run a body several times.

    Args:
        op: What adds nodes.
        count: Number of times (1).
        body: Function of what adds nodes, the number of the pass and, if there is a start, the value of the last pass.
        start: Value before the first pass.

    Returns:
        The value of the last pass; without a start, the stack of all.
    """

    def whole(op: Op, number: Value, going: Value, *before: Value) -> list[Value]:
        op.builder.push_module("loop")  # a prefix, because no name may be used again in a loop within this one
        return [op.Identity(going), body(op, number, *before)]

    inputs = [ir.val("number", ir.DataType.INT64, ()), ir.val("going", ir.DataType.BOOL, ())]
    inputs += [] if start is None else [ir.val("before", start.dtype)]
    graph = op.builder.subgraph(whole, inputs, [ir.val("on", ir.DataType.BOOL, ()), ir.val("after")])
    return op.Loop(op.Squeeze(count), True, *([] if start is None else [start]), body=graph)
