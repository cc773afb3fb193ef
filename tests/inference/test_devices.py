"""The choice of a device by name, and on an NVIDIA GPU: training, prediction and gates as on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets import write_nnunet
from scse.data.files import read_image
from scse.gates.explaining import explain
from scse.inference.averaging import averaged
from scse.inference.devices import choose_device, describe_device, devices, synchronize, to_device
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError
from scse.support.events import Event, Stage, StepDone, StoppedError
from scse.training.record import read_record
from scse.training.run import resume, train_on

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"width": 4, "depth": 2, "epochs": 4, "learning_rate": 0.02, "variant": "scse"}
on_a_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU, or torch is built without CUDA"),
]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, the second of which is current."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cpu_is_taken() -> None:
    assert devices() == [CPU]
    assert choose_device() == choose_device("auto") == choose_device("cpu") == CPU


@pytest.mark.usefixtures("gpus")
def test_with_gpus_the_first_one_is_taken() -> None:
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError) as caught:
        choose_device("cuda:2")
    assert str(caught.value) == (
        f"device='cuda:2' is not on this machine; torch finds cuda:0 (GPU 0), cuda:1 (GPU 1), cpu "
        f"({describe_device(CPU)}) here: choose one of these with --device, or leave it out, which takes a GPU if "
        "torch finds one"
    )


@pytest.mark.usefixtures("no_gpu")
def test_the_gpu_of_a_mac_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == torch.device("mps")
    assert describe_device(torch.device("mps")) == "Apple GPU"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps"])
def test_an_absent_device_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UserError, match=f"device='{name}' is not on this machine; torch finds cpu .CPU, .* choose"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU", "meta"])
def test_another_name_is_refused_with_those_that_are_allowed(name: str) -> None:
    with pytest.raises(UserError, match=f"device must be auto, cpu, cuda, cuda:N .* or mps, got '{name}'; torch finds"):
        choose_device(name)


def test_a_device_of_torch_is_taken_as_it_is() -> None:
    assert choose_device(torch.device("meta")) == torch.device("meta")
    assert describe_device(torch.device("meta")) == "meta"


def test_the_cpu_is_described_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads, name in ((1, "CPU, 1 thread"), (2, "CPU, 2 threads")):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        assert describe_device(CPU) == name


def test_nothing_is_copied_or_waited_for_on_the_cpu() -> None:
    images = torch.zeros(2, 3)
    assert to_device(images, CPU) is images
    synchronize(CPU)


# On an NVIDIA GPU


def cuda(function: Any) -> Any:
    for mark in on_a_gpu:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=3, tests=1, values=(300, 3))


def differing(first: Segmenter, second: Segmenter, path: Path) -> float:
    """Share of the voxels to which two segmenters give different labels."""
    image = read_image([path])
    return float((first.predict_image(image) != second.predict_image(image)).mean())


@cuda
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_gpu_learns_and_predicts_as_the_cpu(data: Path, tmp_path: Path, dims: int, precision: str) -> None:
    settings = {**SETTINGS, "precision": precision}
    trained = train_on(data, out=tmp_path, dims=dims, settings=settings, cache=tmp_path / "cache")
    name = torch.cuda.get_device_name(0)
    assert next(trained.network.parameters()).device == torch.device("cuda", 0)
    assert read_record(tmp_path).devices == [name]
    image = data / "imagesTs" / "t0_0000.nii.gz"
    on_cpu, on_gpu = (Segmenter.load(tmp_path, device=device) for device in ("cpu", "auto"))
    assert len(np.unique(on_cpu.predict(image).dataobj)) == 3
    assert differing(on_cpu, on_gpu, image) < 0.01
    assert differing(averaged([on_cpu], mirror=True), averaged([on_gpu], mirror=True), image) < 0.01
    for squeeze in ("local", "volume") if dims == 3 else ():
        assert differing(on_cpu.with_squeeze(squeeze), on_gpu.with_squeeze(squeeze), image) < 0.01
    gates = [explain(tmp_path, image, tmp_path / device, device=device).channels for device in ("cpu", "cuda")]
    np.testing.assert_allclose(gates[0]["mean"], gates[1]["mean"], atol=0.01)


@cuda
def test_a_run_of_a_gpu_continues_on_the_cpu(data: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def stop() -> bool:
        return any(isinstance(event, StepDone) for event in events)

    with pytest.raises(StoppedError):
        train_on(data, out=tmp_path, settings=SETTINGS, cache=tmp_path / "cache", on_event=events.append, stop=stop)
    found = resume(tmp_path, device="cpu", cache=tmp_path / "cache", on_event=events.append)
    names = [torch.cuda.get_device_name(0), describe_device(CPU)]
    assert read_record(tmp_path).devices == names
    assert Stage(f"the run in {tmp_path} was trained on {names[0]}, and continues on {names[1]}") in events
    assert next(found.network.parameters()).device == CPU


@cuda
def test_images_reach_a_gpu_unchanged() -> None:
    images = torch.randn(4, 1, 9, 7)
    assert torch.equal(to_device(images, torch.device("cuda")).cpu(), images)
