"""Engines: agreement with torch, choice of the fastest engine, and one clear message for missing packages."""

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from named import build
from scse.inference import engines
from scse.inference.engines import ENGINES, EXTRAS, FEWEST_VOLUMES, Engine, make_engine
from scse.networks import NETWORKS, UNet

SIZE = (24, 32)


def images(count: int, channels: int = 1) -> Tensor:
    made = torch.randn(count, channels, *SIZE, generator=torch.Generator().manual_seed(0))
    return made.contiguous(memory_format=torch.channels_last)


def ours(name: str, variant: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name](classes=4, width=6, depth=2, kernel_size=3, recalibration=variant)
    return network.to(memory_format=torch.channels_last).eval()


def of_others(spec: str) -> nn.Module:
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    arguments = {"in_channels": 2, "classes": 4}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # raised by imports of the libraries
        return build(spec, arguments, variant="scse", size=SIZE, pretrained=False).eval()


@pytest.fixture
def one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all engines of a test share the export of its network, which takes most of the time."""
    export, found = torch.onnx.export, {}

    def once(network: nn.Module, *arguments: Any, **options: Any) -> Any:
        if network not in found:
            found[network] = export(network, *arguments, **options)
        return found[network]

    monkeypatch.setattr(torch.onnx, "export", once)


def assert_agreement(network: nn.Module, channels: int = 1) -> None:
    """Assert that every engine predicts the labels that torch does, for batches of several sizes."""
    for engine in ENGINES:
        pytest.importorskip(engine)
        pytest.importorskip("onnxscript")
        assert_same_labels(make_engine(engine, network, images(1, channels)).run, network, channels)


def assert_same_labels(run: Callable[[Tensor], Tensor], network: nn.Module, channels: int) -> None:
    for count in (3, 1, 4):
        x = images(count, channels)
        with torch.inference_mode():
            expected, found = network(x), run(x)
        assert found.shape == expected.shape
        # an untrained network predicts one class everywhere, unless the mean logits are subtracted
        mean = expected.mean((0, 2, 3), keepdim=True)
        wanted = (expected - mean).argmax(1)
        assert len(wanted.unique()) > 1
        assert ((found - mean).argmax(1) == wanted).float().mean() > 0.999


@pytest.mark.usefixtures("one_export")
@pytest.mark.parametrize("variant", ["none", "scse"])
def test_the_labels_of_a_unet_are_torchs(variant: str) -> None:
    assert_agreement(ours("unet", variant))


@pytest.mark.slow
@pytest.mark.usefixtures("one_export")
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        # the blocks are the same in every network
        *(("unet", variant) for variant in ("cse", "sse", "pe")),
        *((name, variant) for name in ("sdnet", "densenet") for variant in ("none", "scse")),
    ],
)
def test_the_labels_of_the_papers_networks_are_torchs(name: str, variant: str) -> None:
    assert_agreement(ours(name, variant))


@pytest.mark.slow
@pytest.mark.usefixtures("one_export")
@pytest.mark.parametrize("spec", ["smp:Unet[encoder_name=resnet18]", "monai:BasicUNet[features=(4,4,4,4,4,4)]"])
def test_the_labels_of_other_libraries_networks_are_torchs(spec: str) -> None:
    assert_agreement(of_others(spec), channels=2)


def test_torch_is_the_network_itself() -> None:
    network = ours("unet", "none")
    assert make_engine("torch", network, images(1)) == Engine("torch", "the default", network)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_leaves_the_network_as_it_was(engine: str) -> None:
    pytest.importorskip(engine)
    network = ours("unet", "scse")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(images(2))
    make_engine(engine, network, images(1))
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(images(2)), expected)
    assert all(parameter.requires_grad for parameter in network.parameters())


# Choice of the engine


def timed_network(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> nn.Module:
    """Return a network that takes this long in each engine, on a replaced clock and without a real export."""
    now = [0.0]

    def engine(name: str) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            now[0] += seconds[name]
            return x

        return run

    def load(name: str, exported: bytes) -> Callable[[Tensor], Tensor]:
        assert exported == b"exported"
        return engine(name)

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return engine("torch")(x)

    monkeypatch.setattr(engines.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if name not in ENGINES or name in seconds else None)
    program = SimpleNamespace(model_proto=SimpleNamespace(SerializeToString=lambda: b"exported"))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    monkeypatch.setattr(engines, "ENGINES", {name: partial(load, name) for name in ENGINES})
    return Net(1, 1)


@pytest.mark.parametrize(
    ("seconds", "name", "reason"),
    [
        (
            {"torch": 3, "onnxruntime": 2, "openvino": 1.5},
            "openvino",
            "onnxruntime: 1.50 times as fast as torch; openvino: 2.00 times as fast as torch",
        ),
        (
            {"torch": 3, "onnxruntime": 2},
            "onnxruntime",
            "openvino: openvino not installed: pip install 'scse[openvino]'; onnxruntime: 1.50 times as fast as torch",
        ),
        (
            {"torch": 3, "onnxruntime": 2.9, "openvino": 30},
            "torch",
            "onnxruntime: 1.03 times as fast as torch; openvino: 0.10 times as fast as torch",
        ),
        (
            {"torch": 3},
            "torch",
            "onnxruntime: onnxruntime not installed: pip install 'scse[export]'; "
            "openvino: openvino not installed: pip install 'scse[openvino]'",
        ),
    ],
)
def test_auto_takes_the_fastest_if_it_is_clearly_so(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], name: str, reason: str
) -> None:
    network = timed_network(monkeypatch, seconds)
    found = make_engine("auto", network, images(1), volumes=FEWEST_VOLUMES)
    assert (found.name, found.reason) == (name, reason)
    assert str(found) == f"{name} ({reason})"


def test_auto_is_torch_for_few_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported"))
    found = make_engine("auto", ours("unet", "none"), images(1), volumes=FEWEST_VOLUMES - 1)
    assert (found.name, found.reason) == ("torch", f"other engines save time from {FEWEST_VOLUMES} volumes")


@pytest.mark.parametrize("device", ["meta"])  # stands for a GPU
def test_engines_run_on_the_cpu_only(device: str) -> None:
    network = ours("unet", "none").to(device)
    assert make_engine("auto", network, images(1), volumes=1000).reason == "the network is on meta"
    with pytest.raises(ValueError, match="engine='onnxruntime' runs on the CPU, but the network is on meta; use eng"):
        make_engine("onnxruntime", network, images(1))


class Branching(UNet):
    """A network with control flow that depends on the values of its input, which cannot be exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.mean()) > 0 else -x)


def test_what_cannot_be_exported_is_run_by_torch_or_refused() -> None:
    pytest.importorskip("onnxruntime")
    network = Branching(classes=3, width=4, depth=1).eval()
    found = make_engine("auto", network, images(1), volumes=FEWEST_VOLUMES)
    assert (found.name, found.run) == ("torch", network)
    assert found.reason.startswith("the network cannot be exported: ")
    with pytest.raises(ValueError, match=r"engine='onnxruntime' cannot run this network \(.*\); use engine='torch'$"):
        make_engine("onnxruntime", network, images(1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("package", ["itself", "onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    package = engine if package == "itself" else package
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the message is compared as a whole)
        make_engine(engine, ours("unet", "none"), images(1))
    assert str(refused.value) == f"engine={engine!r}: {package} not installed: pip install 'scse[{EXTRAS[engine]}]'"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'torch', 'onnxruntime', 'openvino', got 'tpu'"):
        make_engine("tpu", ours("unet", "none"), images(1))
