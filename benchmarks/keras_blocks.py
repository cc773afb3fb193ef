"""Keras blocks against the article's composition, put right, on one backend.

    for backend in tensorflow jax torch  # 4 minutes in all
    do KERAS_BACKEND=$backend uv run python benchmarks/keras_blocks.py; done

The article composes a block of Keras layers: GlobalAveragePooling, Dense, Dense, Reshape and Multiply for cSE,
Conv of one filter and Multiply for sSE, and Add of the two for scSE. Both are functional models of the block alone,
take turns in the same run, and are called as Keras calls them: eagerly, as a graph (TensorFlow), and compiled by XLA
or torch.compile. A step is the forward pass and the gradients of the input and of all weights. Times are medians over
rounds, of ours; "x" is the median of how many times as long the article's takes.
"""

import argparse
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from measuring import interleaved, machine, markdown, milliseconds, ratio

import scse.keras

BACKEND = keras.config.backend()
FRAMEWORK: Any = importlib.import_module(BACKEND)
SHAPES = ((4, 32, 32, 64), (4, 128, 128, 64), (2, 32, 32, 32, 16))
COMPILED_SHAPE = SHAPES[0]
"""The one that torch.compile runs on: it takes 10 seconds for each model and way of calling."""
ROUND_SECONDS = 0.02
Action = Callable[[], object]


def article_cse(x: Any) -> Any:
    channels, dims = x.shape[-1], x.ndim - 2
    z = getattr(layers, f"GlobalAveragePooling{dims}D")()(x)
    gates = layers.Dense(channels, activation="sigmoid")(layers.Dense(channels // 2, activation="relu")(z))
    return layers.Multiply()([x, layers.Reshape((*(1,) * dims, channels))(gates)])


def article_sse(x: Any) -> Any:
    return layers.Multiply()([x, getattr(layers, f"Conv{x.ndim - 2}D")(1, 1, activation="sigmoid")(x)])


def article_scse(x: Any) -> Any:
    return layers.Add()([article_cse(x), article_sse(x)])


BLOCKS = {
    "cSE": (scse.keras.ChannelSE, article_cse),
    "sSE": (scse.keras.SpatialSE, article_sse),
    "scSE": (scse.keras.ConcurrentSE, article_scse),
}


def tensorflow_actions(model: keras.Model, x: Any) -> Iterator[tuple[str, Action]]:
    def forward() -> Any:
        return model(x)

    def step() -> Any:
        with FRAMEWORK.GradientTape() as tape:
            tape.watch(x)
            output = model(x)
        return tape.gradient(output, [x, *(weight.value for weight in model.trainable_variables)], x)

    for what, function in (("forward", forward), ("step", step)):
        yield f"{what}, eager", function
        yield f"{what}, graph", FRAMEWORK.function(function)
        yield f"{what}, XLA", FRAMEWORK.function(function, jit_compile=True)


def jax_actions(model: keras.Model, x: Any) -> Iterator[tuple[str, Action]]:
    weights = [weight.value for weight in model.trainable_variables]

    def forward(weights: Any, x: Any) -> Any:
        return model.stateless_call(weights, [], x)[0]

    def step(weights: Any, x: Any) -> Any:
        output, pull = FRAMEWORK.vjp(forward, weights, x)
        return output, pull(x)

    def finished(function: Callable[..., Any]) -> object:
        return FRAMEWORK.block_until_ready(function(weights, x))

    for what, function in (("forward", forward), ("step", step)):
        yield f"{what}, eager", partial(finished, function)
        yield f"{what}, XLA", partial(finished, FRAMEWORK.jit(function))


def torch_actions(model: keras.Model, x: Any) -> Iterator[tuple[str, Action]]:
    FRAMEWORK.compiler.reset()
    leaf = x.clone().requires_grad_()
    inputs = [leaf, *(weight.value for weight in model.trainable_variables)]

    def forward(call: Callable[[Any], Any]) -> Any:
        with FRAMEWORK.no_grad():
            return call(x)

    def step(call: Callable[[Any], Any]) -> Any:
        return FRAMEWORK.autograd.grad(call(leaf), inputs, x)

    for what, function in (("forward", forward), ("step", step)):
        yield f"{what}, eager", partial(function, model)
        if tuple(x.shape) == COMPILED_SHAPE:
            yield f"{what}, torch.compile", partial(function, FRAMEWORK.compile(model))


ACTIONS = {"tensorflow": tensorflow_actions, "jax": jax_actions, "torch": torch_actions}


def measure(actions: dict[str, Action], rounds: int) -> str:
    """Milliseconds of ours, and how many times as long the article's takes."""
    for action in actions.values():
        _repeat(action, 3)  # compilers need more than one
    once = interleaved(actions, rounds=3)["ours"].min()
    times = max(1, round(ROUND_SECONDS / float(once)))
    repeated = {name: partial(_repeat, action, times) for name, action in actions.items()}
    seconds = interleaved(repeated, rounds=rounds)
    return f"{milliseconds(seconds['ours'] / times):.2f}, x {ratio(seconds, 'article', 'ours'):.2f}"


def _repeat(action: Action, times: int) -> None:
    for _ in range(times):
        action()


def measured(shape: tuple[int, ...], block: str, rounds: int) -> dict[str, str]:
    """What `measure` finds, by way of calling."""
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal(shape, "float32"))
    entry = keras.Input(shape[1:])
    ours, article = BLOCKS[block]
    models = {"ours": keras.Model(entry, ours()(entry)), "article": keras.Model(entry, article(entry))}
    ways: dict[str, dict[str, Action]] = {}
    for name, model in models.items():
        for way, action in ACTIONS[BACKEND](model, x):
            ways.setdefault(way, {})[name] = action
    return {way: measure(actions, rounds) for way, actions in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(machine())
    found = {(shape, block): measured(shape, block, arguments.rounds) for shape in SHAPES for block in BLOCKS}
    ways = next(iter(found.values()))
    rows = [
        [f"{block}, {' x '.join(map(str, shape))}", *(cells.get(way, "") for way in ways)]
        for (shape, block), cells in found.items()
    ]
    print(f"\n{BACKEND} {FRAMEWORK.__version__}, Keras {keras.__version__}: ms of ours, x of the article's\n")
    print(markdown(["block, map", *ways], rows), flush=True)


if __name__ == "__main__":
    main()
