"""The commands and functions of nnU-Net with the trainers of scse. The commands are those of docs/nnunet.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scse
from scse.nnunet import folder

DOCS = (Path(__file__).parents[2] / "docs" / "nnunet.md").read_text()
BLOCKS = {"CSE": scse.ChannelSE, "SSE": scse.SpatialSE, "SCSE": scse.ConcurrentSE, "PE": scse.ProjectExcite}
TRAINERS = sorted(BLOCKS)

DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 20,
    "file_ending": ".nii.gz",
}

# trains for two epochs; exits before epoch UNTIL, as if interrupted
SHORT = """
import os
from scse.nnunet.trainers.scse_trainers import nnUNetTrainerSCSE

class nnUNetTrainerSCSEShort(nnUNetTrainerSCSE):
    def initialize(self):
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1
        self.save_every = 1
        super().initialize()

    def on_epoch_start(self):
        if self.current_epoch == int(os.environ["UNTIL"]):
            raise SystemExit
        super().on_epoch_start()
"""

# additional options of the commands of the page, so that they are fast on a small CPU
FOR_CPU = {
    "nnUNetv2_plan_and_preprocess": "-npfp 1 -np 1",
    "nnUNetv2_train": "-device cpu",
    "nnUNetv2_predict": "-device cpu --disable_tta -npp 1 -nps 1",
    "nnUNetv2_evaluate_folder": "-np 1",
}


def blocks_of_page(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.DOTALL)


def make_plans(spatial_dims: int, *, strides: list[list[int]], network: str = "PlainConvUNet") -> dict[str, Any]:
    """Return plans in the form of nnU-Net, with a small network."""
    stages = len(strides)
    convolutions = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    options = {
        "n_stages": stages,
        "features_per_stage": [4 * min(stage + 1, 3) for stage in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{spatial_dims}d",
        "kernel_sizes": [[3] * spatial_dims] * stages,
        "strides": strides,
        convolutions: [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{spatial_dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans",
        "batch_size": 2,
        "patch_size": [32] * spatial_dims,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": options,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset004_Hippocampus",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }


def halvings(spatial_dims: int, times: int) -> list[list[int]]:
    return [[1] * spatial_dims] + [[2] * spatial_dims] * times


def build(trainer: type, plans: dict[str, Any], *, deep_supervision: bool = True) -> nn.Module:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = trainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, 3, deep_supervision
    )
    assert isinstance(network, nn.Module)
    return network


@pytest.fixture(scope="module")
def trainers() -> ModuleType:
    from scse.nnunet.trainers import scse_trainers

    return scse_trainers


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.parametrize("variant", TRAINERS)
def test_nnunet_finds_the_trainer_in_the_printed_folder(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    command = [sys.executable, "-m", "scse.nnunet"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == str(folder())
    monkeypatch.setenv("nnUNet_extTrainer", printed)
    assert recursive_find_trainer_class_by_name(f"nnUNetTrainer{variant}").recalibration == variant.lower()


def test_the_folder_can_be_named_without_nnunet() -> None:
    code = "import sys; import scse.nnunet; print(scse.nnunet.folder(), 'nnunetv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder()} False\n"


@pytest.mark.parametrize("network", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("variant", TRAINERS)
def test_an_untrained_network_computes_what_nnunets_own_does(
    variant: str, spatial_dims: int, network: str, trainers: ModuleType
) -> None:
    plans = make_plans(spatial_dims, strides=halvings(spatial_dims, 3), network=network)
    plain = build(trainers.nnUNetTrainer, plans)
    ours = build(getattr(trainers, f"nnUNetTrainer{variant}"), plans)
    weights = ours.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    assert [type(place.block) for place in scse.placements(ours)] == [BLOCKS[variant]] * 6
    assert scse.placements(ours).names == (
        *(f"encoder.stages.{stage}" for stage in range(3)),
        *(f"decoder.stages.{stage}" for stage in range(3)),
    )
    x = torch.randn(2, 1, *[16] * spatial_dims)
    outputs, expected = ours(x), plain(x)
    assert len(outputs) == 3
    assert all(torch.equal(output, wanted) for output, wanted in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(
    ("spatial_dims", "strides"),
    [(2, halvings(2, 7)), (3, [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]])],
    ids=["deep", "anisotropic"],
)
def test_networks_with_more_halvings_than_64_voxels_allow_get_blocks(
    spatial_dims: int, strides: list[list[int]], trainers: ModuleType
) -> None:
    ours = build(trainers.nnUNetTrainerSCSE, make_plans(spatial_dims, strides=strides))
    assert len(scse.placements(ours)) == 2 * (len(strides) - 1)


def test_weights_of_training_load_into_the_network_for_prediction(trainers: ModuleType) -> None:
    plans = make_plans(2, strides=halvings(2, 3))
    trained = build(trainers.nnUNetTrainerSCSE, plans)
    for parameter in scse.placements(trained).parameters():
        nn.init.normal_(parameter)
    predicting = build(trainers.nnUNetTrainerSCSE, plans, deep_supervision=False)
    predicting.load_state_dict(trained.state_dict())
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(predicting(x), trained(x)[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_deep_supervision_is_switched_by_nnunet(compiled: bool, trainers: ModuleType, nnunet_folders: Path) -> None:
    plans = make_plans(2, strides=halvings(2, 3))
    network = build(trainers.nnUNetTrainerSCSE, plans)
    trainer = trainers.nnUNetTrainerSCSE(plans, "3d_fullres", 0, DATASET, torch.device("cpu"))
    trainer.network = torch.compile(network, backend="eager") if compiled else network
    x = torch.randn(1, 1, 16, 16)
    assert len(trainer.network(x)) == 3
    trainer.set_deep_supervision_enabled(False)
    assert isinstance(trainer.network(x), Tensor)


def test_the_pages_trainer_joins_ours_with_one_of_nnunets(trainers: ModuleType, nnunet_folders: Path) -> None:
    example: dict[str, Any] = {}
    exec(blocks_of_page("python")[0], example)
    kind, plans = example["nnUNetTrainerSCSE_100epochs"], make_plans(2, strides=halvings(2, 3))
    assert kind(plans, "3d_fullres", 0, DATASET, torch.device("cpu")).num_epochs == 100
    assert len(scse.placements(build(kind, plans))) == 6


def test_the_pages_way_from_a_trained_nnunet(
    trainers: ModuleType, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    plans = make_plans(3, strides=halvings(3, 3))
    plain = build(trainers.nnUNetTrainer, plans)
    model = nnunet_folders / "nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(DATASET))
    checkpoint = {
        "network_weights": plain.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    monkeypatch.chdir(nnunet_folders)
    exec(blocks_of_page("python")[1], {})

    network = build(trainers.nnUNetTrainerSCSE, plans)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(AssertionError, match=r"recalibration\S* is missing in the pretrained model"):
        load_pretrained_weights(network, model / "fold_0" / "checkpoint_final.pth")
    load_pretrained_weights(network, "with_scse.pth")
    x = torch.randn(1, 1, 16, 16, 16)
    for mine, theirs in zip(network.encoder(x), plain.encoder(x), strict=True):
        assert torch.equal(mine, theirs)


def write_raw(folder: Path, source: Path, *, training: int, testing: int) -> None:
    """Write cases of the Medical Segmentation Decathlon in the layout of nnU-Net."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))
    for part, chosen in {"Tr": names[:training], "Ts": names[training : training + testing]}.items():
        (folder / f"images{part}").mkdir(parents=True)
        (folder / f"labels{part}").mkdir()
        for name in chosen:
            shutil.copy(source / "imagesTr" / f"{name}.nii.gz", folder / f"images{part}" / f"{name}_0000.nii.gz")
            shutil.copy(source / "labelsTr" / f"{name}.nii.gz", folder / f"labels{part}")
    (folder / "dataset.json").write_text(json.dumps(DATASET | {"numTraining": training}))


class Shell:
    """Runs the commands of the page in a folder, with the short trainer instead of that of scse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "short").mkdir()
        (folder / "short" / "short_trainers.py").write_text(SHORT)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            # nnU-Net always starts one thread per core, and on a busy machine active waiting wastes their time
            "OMP_WAIT_POLICY": "passive",
        }

    def run(self, program: str, *, configuration: str = "3d_fullres", until: int = 2, more: str = "") -> str:
        """Run the line of the page for a program, after the lines that set the environment."""
        setup, commands = blocks_of_page("bash")
        (line,) = [line for line in commands.splitlines() if line.startswith(program)]
        line = line.replace("nnUNetTrainerSCSE", "nnUNetTrainerSCSEShort").replace("3d_fullres", configuration)
        script = f"{setup}\nexport nnUNet_extTrainer=$nnUNet_extTrainer:$PWD/short\n{line} {FOR_CPU[program]} {more}"
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.folder,
            env=self.environment | {"UNTIL": str(until)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """8 planned and preprocessed cases of the hippocampus."""
    shell = Shell(tmp_path_factory.mktemp("nnunet"))
    write_raw(shell.folder / "nnUNet_raw" / "Dataset004_Hippocampus", real_data("hippocampus"), training=8, testing=2)
    shell.run("nnUNetv2_plan_and_preprocess")
    preprocessed = shell.folder / "nnUNet_preprocessed" / "Dataset004_Hippocampus"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (preprocessed / "gt_segmentations").iterdir())
    # the default split of nnU-Net would validate on 4 cases
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": names[:-1], "val": names[-1:]}]))
    return shell


def check_weights(shell: Shell, configuration: str, *, stages: int) -> None:
    model = (
        shell.folder / "nnUNet_results/Dataset004_Hippocampus" / f"nnUNetTrainerSCSEShort__nnUNetPlans__{configuration}"
    )
    # not weights_only, because nnU-Net, which has just written the file, stores more than weights in it
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == 2
    weights = {name: value for name, value in checkpoint["network_weights"].items() if ".recalibration." in name}
    assert len({name.split(".recalibration.")[0] for name in weights if "decoder.encoder" not in name}) == 2 * (
        stages - 1
    )
    started_at_zero = [value for name, value in weights.items() if ".excite." in name or ".project." in name]
    assert started_at_zero
    assert all(value.isfinite().all() and value.any() for value in started_at_zero)


def check_predictions(shell: Shell, configuration: str) -> None:
    output = shell.folder / "predicted"
    shell.run("nnUNetv2_predict", configuration=configuration)
    references = sorted((shell.folder / "nnUNet_raw" / "Dataset004_Hippocampus" / "labelsTs").iterdir())
    assert len(references) == 2
    for reference in references:
        predicted, wanted = nib.load(output / reference.name), nib.load(reference)
        assert predicted.shape == wanted.shape
        assert np.allclose(predicted.affine, wanted.affine)
        assert set(np.unique(predicted.dataobj)) <= {0, 1, 2}
    shell.run("nnUNetv2_evaluate_folder")
    scores = json.loads((output / "summary.json").read_text())
    assert len(scores["metric_per_case"]) == 2
    assert 0 < scores["foreground_mean"]["Dice"] < 1


@pytest.mark.slow
@pytest.mark.real_data
def test_nnunet_trains_and_goes_on_in_2d(shell: Shell) -> None:
    log = shell.run("nnUNetv2_train", configuration="2d", until=1)
    assert "Using trainer 'nnUNetTrainerSCSEShort'" in log
    assert log.count("ConcurrentSE") == 6
    assert re.findall(r"Epoch \d", log) == ["Epoch 0"]
    log = shell.run("nnUNetv2_train", configuration="2d", more="--c")
    assert re.findall(r"Epoch \d", log) == ["Epoch 1"]
    check_weights(shell, "2d", stages=4)


@pytest.mark.slow
@pytest.mark.real_data
def test_nnunet_trains_predicts_and_evaluates_in_3d(shell: Shell) -> None:
    log = shell.run("nnUNetv2_train")
    assert log.count("ConcurrentSE") == 6
    assert re.findall(r"Epoch \d", log) == ["Epoch 0", "Epoch 1"]
    check_weights(shell, "3d_fullres", stages=4)
    check_predictions(shell, "3d_fullres")
