"""Training networks that are not scse's own: listed ones, and a factory in a file, stopped, resumed and loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scse.attachment.placements import placements
from scse.inference.segmenter import Segmenter
from scse.support.errors import DataError
from scse.support.events import StoppedError
from scse.training.record import RECORD
from scse.training.run import CHECKPOINT, resume, train, train_on
from scse.training.settings import Settings
from scse.training.setup import new_state
from scse.training.task import Task

BASIC = "monai:BasicUNet[features=(4,4,4,4,4,4)]"
DYNAMIC = "monai:DynUNet[kernel_size=(3,3,3),strides=(1,2,2),upsample_kernel_size=(2,2),filters=(4,8,8)]"
QUICK = {"epochs": 2, "slices_per_epoch": 10, "batch_size": 5, "precision": "32"}


def settings(network: str, **others: Any) -> Settings:
    return Settings.model_validate({**QUICK, "network": network, "variant": "scse", **others})


def stopped(task: Task, chosen: Settings, folder: Path) -> None:
    steps = iter([False, False, True])
    with pytest.raises(StoppedError):
        train(task, chosen, folder, stop=lambda: next(steps))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "segmenter" / "weights.safetensors")


@pytest.mark.parametrize("network", [BASIC, DYNAMIC, "smp:Unet[encoder_name=resnet18,decoder_channels=(16,8,8,4,4)]"])
def test_stopped_and_resumed_it_gives_the_same_weights(task: Task, cache: Path, tmp_path: Path, network: str) -> None:
    segmenter = train(task, settings(network), tmp_path / "whole")
    stopped(task, settings(network), tmp_path / "parts")
    resume(tmp_path / "parts", cache=cache)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert segmenter.name == network
    assert segmenter.arguments == {"in_channels": 1, "classes": 3}
    loaded = Segmenter.load(tmp_path / "whole")
    assert placements(loaded.network).names == placements(segmenter.network).names


SUPERVISED = [
    "monai:DynUNet[filters=(2,4,4,4),strides=(1,2,2,2)]",
    "monai:SegResNetDS[init_filters=2,blocks_down=(1,1,1,1)]",
    "nnunet:PlainConvUNet[features_per_stage=(2,4,4,4),strides=(1,2,2,2)]",
    "nnunet:ResidualEncoderUNet[features_per_stage=(2,4,4,4),strides=(1,2,2,2),n_blocks_per_stage=1]",
]


@pytest.mark.parametrize("network", SUPERVISED)
def test_deep_supervision_changes_the_training_and_leaves_nothing_in_the_segmenter(
    task: Task, cache: Path, tmp_path: Path, network: str
) -> None:
    chosen = settings(network, deep_supervision=True)
    segmenter = train(task, chosen, tmp_path / "whole")
    stopped(task, chosen, tmp_path / "parts")
    resume(tmp_path / "parts", cache=cache)
    train(task, settings(network, deep_supervision=False), tmp_path / "other")
    whole, parts, other = (weights(tmp_path / name) for name in ("whole", "parts", "other"))
    assert whole.keys() == parts.keys() == other.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not all(torch.equal(whole[key], other[key]) for key in whole)
    with pytest.raises(DataError, match="settings deep_supervision=True; you requested deep_supervision=False"):
        train(task, settings(network), tmp_path / "whole")
    image = task.held_out[0].images()[:, 0].astype("float32")
    loaded = Segmenter.load(tmp_path / "whole")
    labels = loaded.predict(image)
    assert (labels == segmenter.predict(image)).all()
    assert (labels == loaded.with_engine("onnxruntime").predict(image)).mean() > 0.99


def test_a_run_of_an_earlier_version_goes_on_with_its_network(task: Task, cache: Path, tmp_path: Path) -> None:
    chosen = settings("monai:DynUNet[filters=(2,2,2,2,2)]")
    stopped(task, chosen, tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    assert content.pop("fitted")
    assert len(new_state(task, chosen, steps=1).network.network.strides) == 3
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        resume(tmp_path, cache=cache)
    (tmp_path / CHECKPOINT).unlink()
    segmenter = train(task, chosen, tmp_path)
    assert segmenter.network.network.strides == (1, 2, 2, 2, 2)
    assert Segmenter.load(tmp_path).network.network.strides == (1, 2, 2, 2, 2)


def test_for_one_seed_variants_start_from_the_same_weights(task: Task) -> None:
    plain, other = (new_state(task, settings(BASIC, variant=v), steps=1).network.state_dict() for v in ("none", "scse"))
    assert plain.keys() < other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)
    seeds = [new_state(task, settings(BASIC, seed=seed), steps=1).network.state_dict() for seed in (0, 1)]
    assert not all(torch.equal(seeds[0][key], seeds[1][key]) for key in seeds[0])


def test_where_blocks_go_is_part_of_the_run(task: Task, tmp_path: Path) -> None:
    segmenter = train(task, settings(BASIC, attach_to="upcat_1"), tmp_path)
    assert placements(segmenter.network).names == ("network.upcat_1",)
    with pytest.raises(DataError, match="settings attach_to='upcat_1'; you requested attach_to='auto'"):
        train(task, settings(BASIC), tmp_path)


def test_a_factory_in_a_file_is_resumed_only_when_named(task: Task, cache: Path, tmp_path: Path, mine: Path) -> None:
    chosen = settings(f"{mine}:make", attach_to="first")
    stopped(task, chosen, tmp_path / "run")
    before = mine.read_text()
    mine.write_text(f"{before}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"run: its network is a factory in a file, .* name it yourself"):
        resume(tmp_path / "run", cache=cache)
    with pytest.raises(ValueError, match="name the same one"):
        resume(tmp_path / "run", network=BASIC, cache=cache)
    with pytest.raises(DataError, match=r"code mine.py='.*'; you requested mine.py='.*'; request the same as before"):
        resume(tmp_path / "run", network=f"{mine}:make", cache=cache)
    assert not (tmp_path / "ran").exists()
    mine.write_text(before)
    segmenter = resume(tmp_path / "run", network=f"{mine}:make", cache=cache)
    assert segmenter.name == f"{mine}:make"


def test_a_run_that_asks_for_weights_fetches_none_unless_named(task: Task, cache: Path, tmp_path: Path) -> None:
    train(task, settings(BASIC, epochs=1), tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    content["settings"]["network"] = "smp:Unet[encoder_name=resnet18,encoder_weights=imagenet]"
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(DataError, match="is no checkpoint of this run"):  # of BasicUNet, and nothing was fetched
        resume(tmp_path, cache=cache)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="would fetch weights; name it again"):
        resume(tmp_path, cache=cache)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"network": "unet", "attach_to": "encoder.*"}, "attach_to has no effect on unet"),
        ({"network": BASIC, "width": 4}, "width have no effect on monai:BasicUNet"),
        ({"network": "nowhere.py:make"}, "there is no file nowhere.py"),
        ({"network": "smp:Unet[wide=3]"}, "an option of smp:Unet must be one of"),
        ({"network": BASIC, "deep_supervision": "true"}, "deep_supervision has no effect on monai:BasicUNet.*DynUNet"),
        ({"deep_supervision": True}, "deep_supervision has no effect on unet, .*nnunet:ResidualEncoderUNet"),
    ],
)
def test_what_makes_no_sense_is_told_before_a_file_is_read(
    tmp_path: Path, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_on(tmp_path / "nowhere", out=tmp_path / "run", settings=chosen)
