"""The command line from end to end: what it writes and says, and one clear message for every wrong input."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import PIL.Image
import pytest

import scse
from datasets import SHAPE, save_nifti, write_nnunet, write_pictures
from named import build
from other_process import Other
from scse.cli import console, doctor
from scse.cli.app import BUG, INTERRUPTED, main
from scse.data.files import write_label
from scse.data.recipe import Recipe
from scse.inference.devices import choose_device, describe_device
from scse.inference.segmenter import Segmenter
from scse.studies import runner, tracking
from scse.studies.request import StudyRequest
from scse.studies.tracking import MlflowTracker
from scse.support.errors import DataError, UserError
from scse.support.events import Planned, Progress, RunStarted, StepDone, StoppedError
from scse.training.run import LOCK, alone

TINY = ("--set", "width=4", "--set", "depth=2", "--set", "precision=32", "--variant", "none")
VERBS = (
    *("study", "train", "predict", "explain", "export", "places"),
    *("evaluate", "compare", "inspect", "simulate", "doctor", "bench"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Ended:
    """Run the command line in this process."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["scse", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def said(ended: Ended, kind: str) -> list[str]:
    """The messages of a kind ("error" or "problem"), after checking that nothing else is on stderr."""
    assert "Traceback" not in ended.err
    parts = ended.err.split(f"{kind}: ")
    assert parts[0] == "", ended.err
    return parts[1:]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        # what `export` sets for the process of a command must not reach those of other tests
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"))
        patch.setenv("TF_ENABLE_ONEDNN_OPTS", os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # rich would take [bold] for markup and :car: for an emoji
    return write_nnunet(tmp_path_factory.mktemp("data") / "two [bold] :car: boxes", cases=3, tests=2, shape=(12, 10, 8))


@dataclass(frozen=True)
class Trained:
    """A run that `scse train` made."""

    folder: Path
    ended: Ended


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("run") / "run [red] 1"
    return Trained(folder, call("train", data, "-o", folder, "--epochs", 1, *TINY))


def test_the_device_is_shown_and_recorded(trained):
    device = describe_device(choose_device())
    assert ["device", device] in [line.split(None, 1) for line in map(str.strip, trained.ended.out.splitlines())]
    assert json.loads((trained.folder / "run.json").read_text())["devices"] == [device]
    measured = call("bench", BASIC, "--size", 32, "--batch", 2, "--seconds", 0.1, "--device", "cpu")
    assert f"device: {describe_device(choose_device('cpu'))}" in measured.out.splitlines()


def test_a_stopped_run_continues_on_the_device_that_resume_names(data, tmp_path, monkeypatch):
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        # 5 inspected, 5 prepared, 1 step
        patch.setattr(console, "stop_on_signal", lambda *_, **__: nullcontext(lambda: next(asked) >= 11))
        stopped = call("train", data, "-o", tmp_path / "run", "--epochs", 2, *TINY, "--device", "cpu")
    command = f"scse train --resume {tmp_path / 'run'} --device cpu"
    assert stopped.out.splitlines()[-1] == f"to continue: {command}"
    resumed = call(*command.split()[1:])
    assert (resumed.code, resumed.err) == (0, "")


def test_another_way_of_tracking_is_refused_before_anything_is_done(data, tmp_path):
    (message,) = said(call("train", data, "-o", tmp_path / "run", "--track", "wandb"), "error")
    assert message.startswith("track must be tensorboard, mlflow, or mlflow:URI")
    assert not (tmp_path / "run").exists()


def test_the_tracker_is_told_everything_and_that_the_run_was_stopped(data, monkeypatch, tmp_path):
    told = []

    class Tracker(MlflowTracker):
        def __enter__(self):
            return self

        def __call__(self, event):
            self.on_event(event)
            told.append(type(event))
            if isinstance(event, StepDone):
                os.kill(os.getpid(), signal.SIGINT)

        def __exit__(self, kind, error, trace):
            told.append((self.uri, self.folder, kind))

    monkeypatch.setattr(tracking, "MlflowTracker", Tracker)
    run, track = tmp_path / "run", "mlflow:http://there"
    ended = call("train", data, "-o", run, "--epochs", 1, *TINY, "--track", track)
    assert ended.code == INTERRUPTED
    assert f"scse train --resume {run} --track {track}" in ended.out
    assert list(dict.fromkeys(told)) == [Progress, Planned, RunStarted, StepDone, ("http://there", run, StoppedError)]


def test_help_lists_the_verbs_and_loads_nothing_heavy():
    heavy = ("torch", "monai", "pandas", "numpy", "nibabel", "lightning_fabric", "plotly", "matplotlib", "scipy")
    code = (
        "import sys\nsys.argv = ['scse', '--help']\nfrom scse.cli.app import main\n"
        f"try:\n    main()\nfinally:\n    print('loaded:', *[name for name in {heavy} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert all(verb in ended.stdout for verb in VERBS)
    assert ended.stdout.rstrip().endswith("loaded:")


def test_the_command_line_is_a_module_too():
    command = [sys.executable, "-m", "scse", "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"{scse.__version__}\n"), ended.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    ended = call(*verb.split(), "--help")
    assert ended.code == 0
    assert f"Usage: scse {verb} " in ended.out


def test_what_stands_in_brackets_is_part_of_the_help():
    shown = " ".join(call("study", "--help").out.replace("│", " ").split())
    assert "separated by commas; options as smp:Unet[encoder_name=resnet18]." in shown
    assert "are compared with each other [from the preset]." in shown


def test_version_is_told_and_nothing_else():
    assert call("--version") == Ended(0, f"{scse.__version__}\n", "")
    assert call("--version", "inspect", "nowhere") == Ended(0, f"{scse.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("inspect",),
        ("train",),
        ("train", "data", "--epochs", "many"),
        ("train", "data", "--resume", "run"),
        ("train", "--resume", "run", "--epochs", "3"),
        ("train", "data", "--width", "3"),
        ("predict", "image.nii.gz"),
        ("evaluate", "one"),
        ("places",),
        ("places", "unet", "--size", "0"),
        ("places", "unet", "--explain", "--to", "encoder.*"),
        ("bench", "unet", "--batch", "0"),
        ("simulate",),
        ("simulate", "image.nii.gz", "-o", "out"),
        ("simulate", "-o", "out", "--contrast", "random"),
        ("data", "copy"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(arguments):
    ended = call(*arguments)
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert "Traceback" not in ended.err


def test_options_beside_resume_are_named():
    ended = call("train", "--resume", "run", "--epochs", "3", "--plane", "axial")
    assert ended.code == 2
    assert "leave out epochs, plane" in " ".join(ended.err.replace("│", " ").split())


WRONG = {
    ("train", "DATA", "--network", "vnet"): "network must be one of 'unet', 'sdnet', 'densenet', smp:CLASS,",
    ("train", "DATA", "--variant", "se"): "variant must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'se'",
    ("train", "DATA", "--preset", "slow"): "preset must be one of 'quick', 'paper', got 'slow'",
    ("train", "DATA", "--set", "width"): "settings must have the form NAME=VALUE, such as width=16, got 'width'",
    ("train", "DATA", "--set", "width=x"): "width: Input should be a valid integer",
    ("train", "DATA", "--set", "wide=1"): "wide: Extra inputs are not permitted",
    ("train", "DATA", "--seed", "1", "--set", "seed=1"): "settings must not contain seed: there are arguments of these",
    ("train", "DATA", "--epochs", "0"): "epochs: Input should be greater than or equal to 1, got 0",
    ("train", "DATA", "--seed", "-1"): "seed: Input should be greater than or equal to 0, got -1",
    (
        "train",
        "DATA",
        "--plane",
        "top",
    ): "plane: Input should be 'sagittal', 'coronal', 'axial' or 'picture', got 'top'",
    ("train", "DATA", "--plane", "picture"): "plane='picture' needs 2D images",
    ("train", "DATA", "--spacing", "0"): "spacing must be a positive number of mm, got 0",
    ("train", "DATA", "--fold", "9"): "fold must be from 0 to 0, got 9",
    ("train", "DATA", "--folds", "1"): "folds must be at least 2, got 1",
    ("train", "DATA", "--folds", "4"): "too few for 4 folds",
    ("train", "nowhere"): "nowhere: does not exist; give the folder of a data set",
    ("train", "--resume", "nowhere"): "nowhere: holds no run, run.json is missing",
    **{
        (*arguments, "--device", "cuda:99"): "device='cuda:99' is not on this machine; torch finds "
        for arguments in (
            ("train", "DATA"),
            ("train", "--resume", "nowhere"),
            ("study", "DATA"),
            ("predict", "nowhere", "-m", "nowhere", "-o", "out"),
            ("explain", "nowhere", "nowhere", "-o", "out"),
            ("bench",),
        )
    },
    (
        "train",
        "DATA",
        "--device",
        "gpu",
    ): "device must be auto, cpu, cuda, cuda:N",
    ("study", "DATA", "--networks", "unet,vnet"): "network must be one of",
    ("train", "DATA", "--network", "smp:Unet[wide=1]"): "an option of smp:Unet must be one of 'encoder_name'",
    ("train", "DATA", "--network", "no.py:make"): "no.py:make: there is no file no.py; give the path of a Python file",
    ("train", "DATA", "--attach-to", "encoder.*"): "attach_to has no effect on unet",
    ("train", "DATA", "--set", "attach_to=x"): "attach_to has no effect on unet",
    ("study", "DATA", "--networks", "smp:Unet[a=(1,unet"): "is missing",
    ("study", "DATA", "--networks", "monai:BasicUNet", "--set", "width=4"): "width have no effect on monai:BasicUNet",
    ("places", "vnet"): "network must be one of 'unet', 'sdnet', 'densenet', smp:CLASS,",
    ("places", "smp:Unet", "--spatial-dims", "3"): "smp has networks of 2 spatial axes only, got spatial_dims=3",
    ("places", "unet", "--to", "encoder.9"): "pattern 'encoder.9' matches no module of UNet",
    ("places", "unet", "--block", "se"): "recalibration must be one of 'cse', 'sse', 'scse', 'pe', got 'se'",
    ("places", "unet", "--size", "8"): "does not run through UNet",
    ("bench", "vnet"): "network must be one of 'unet', 'sdnet', 'densenet', smp:CLASS,",
    ("bench", "unet", "--size", "4"): "needs every spatial axis to be at least 8, got (4, 4)",
    ("bench", "unet", "--seconds", "0"): "seconds must be a positive number, got 0",
    ("study", "DATA", "--variants", "cse,scse"): "variants must include 'none'",
    ("study", "DATA", "--variants", "none,none"): "variants must be named once each",
    (
        "study",
        "DATA",
        "--variants",
        "none,scse[r=4]",
    ): "must be one of 'reduction', 'aggregation', 'placement', got 'r'",
    ("study", "DATA", "--reductions", "2,x"): "reductions must be whole numbers with commas, such as 3,6,12, got '2,x'",
    ("study", "DATA", "--epochs", "3,,6"): "epochs must be whole numbers with commas, such as 3,6,12",
    ("study", "DATA", "--train-cases", "9"): "train_cases: fold 0 has 3 training cases, asked for are 9; take fewer",
    ("study", "DATA", "--budget", "2 hours"): "budget must be a time such as 2h, 90m, 1h30m or 45s, got '2 hours'",
    (
        "study",
        "DATA",
        "--budget",
        "2h",
        "--epochs",
        "3",
    ): "epochs, budget each determine the number of epochs",
    ("study", "DATA", "--margin", "0"): "margin must be positive, in units of dice, got 0.0",
    ("study", "DATA", "--seeds", "0"): "seeds must be a whole number of at least 1, got 0",
    ("study", "DATA", "--set", "variant=cse"): "settings must not contain variant",
    ("study", "nowhere"): "nowhere: does not exist; give the folder of a data set",
    ("inspect", "nowhere"): "nowhere: does not exist; give the folder of a data set",
    ("inspect", "no[/]where"): "no[/]where: does not exist",
    ("inspect", "[red]x:car:"): "[red]x:car:: does not exist",
    ("predict", "nowhere", "-m", "DATA", "-o", "out"): "contains no segmenter, segmenter.json is missing",
    ("explain", "nowhere", "DATA", "-o", "out"): "contains no segmenter, segmenter.json is missing",
    ("export", "nowhere", "--to", "keras", "-o", "m.keras"): "contains no segmenter, segmenter.json is missing",
    ("export", "nowhere", "--to", "coreml", "-o", "m"): "'onnx', 'keras', 'saved_model', got 'coreml'",
    ("export", "nowhere", "--to", "onnx", "-o", "m"): "m: to='onnx' writes a file that ends in .onnx; choose",
    ("publish", "nowhere", "anna/lobes"): "nowhere: contains no segmenter, segmenter.json is missing",
    ("study", "nowhere", "--on", "slurm"): "on must be ray, or ray:HOST:PORT",
    ("train", "nowhere", "--devices", "3"): "batch_size=8 does not divide over 3 processes",
    ("export", "nowhere", "--to", "keras", "-o", "m.h5"): "writes a file that ends in .keras; choose another name",
    ("export", "nowhere", "--to", "saved_model", "-o", "DATA"): ":car: boxes: already exists; choose a new folder",
    ("evaluate", "nowhere", "DATA"): "nowhere: does not exist",
    ("simulate", "-o", "out", "--cases", "1"): "cases",
    ("simulate", "-o", "DATA"): "two [bold] :car: boxes",
    ("simulate", "-o", "out", "--contrast", "any"): "contrast must be one of 'source', 'random', got 'any'",
    (
        "train",
        "--from",
        "a.nii.gz",
        "b.nii.gz",
    ): "a.nii.gz: does not exist; give the files of an image and of its label",
    ("simulate", "a.nii.gz", "b.nii.gz", "-o", "made"): "a.nii.gz: does not exist; give the files of an image and of i",
    ("train", "DATA", "--from", "a.nii.gz", "b.nii.gz"): "dataset and source (--from) are both given",
    ("train", "--simulate", "0.5"): "simulate must be 1 without a data set",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_input_ends_in_one_message_and_exit_code_1(arguments, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call(*(data if argument == "DATA" else argument for argument in arguments))
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert WRONG[arguments] in message
    assert message.count("\n") == 1, "messages are not wrapped"
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(monkeypatch, capsys):
    for arguments in (["--debug", "inspect", "nowhere"], ["inspect", "nowhere", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["scse", *arguments])
        with pytest.raises(DataError, match="nowhere: does not exist"):
            main()


@pytest.mark.parametrize("kind", [ValueError, KeyError, EOFError, StopIteration, MemoryError, RecursionError])
def test_a_bug_shows_its_traceback_and_asks_for_a_report(kind, monkeypatch):
    def broken(*_):
        raise kind("math domain error")

    monkeypatch.setattr("scse.cli.doctor.diagnose", broken)
    monkeypatch.setattr("scse.simulation.writing.simulate_cohort", lambda *_, **__: broken())
    for arguments in (["doctor"], ["data", "simulate", "out"]):  # a verb, and one of a group
        monkeypatch.setattr(sys, "argv", ["scse", *arguments])
        with pytest.raises(kind, match="math domain error") as raised:
            main()
        assert raised.value.__notes__ == [BUG]
        assert raised.traceback[-1].name == "broken"


def test_attach_names_the_size_that_does_not_run():
    ended = call("places", "unet", "--size", 3)
    assert ended.code == 1
    assert ended.err.startswith("error: unet, --size 3, --in-channels 1: the given example")


def test_attach_takes_no_size_beyond_any_image():
    ended = call("places", "unet", "--size", 10**30)
    assert ended.code == 2
    assert "--size" in ended.err


def test_ctrl_c_ends_in_one_line_and_exit_code_130(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("scse.cli.doctor.diagnose", stop)
    ended = call("doctor")
    assert ended.code == INTERRUPTED == 130
    assert ended.out == ""
    assert ended.err.strip() == "interrupted: to continue, run the same command again"


def test_ctrl_c_before_the_verb_is_known_ends_in_one_line_too(monkeypatch):
    def stop(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", stop)
    ended = call("doctor")
    assert (ended.code, ended.err.strip()) == (INTERRUPTED, "interrupted: to continue, run the same command again")


def test_inspect_shows_what_is_in_a_sound_data_set(data):
    ended = call("inspect", data)
    assert (ended.code, ended.err) == (0, "")
    rows = dict(line.split("  ", 1) for line in ended.out.splitlines())
    found = {name: " ".join(text.split()) for name, text in rows.items()}
    assert found["cases"] == "3"
    assert found["test cases"] == "2, 2 with labels"
    assert found["size (voxels)"] == "12 x 10 x 8"
    assert found["spacing (mm)"] == "2 x 2 x 2"
    assert found["orientation"] == "LAS: 5"
    assert "voxels" in found["left (1)"]
    assert found["problems"] == "none"


def test_train_leaves_a_segmenter_and_says_where(trained, data):
    assert (trained.ended.code, trained.ended.err) == (0, "")
    assert trained.ended.out.endswith(f"segmenter: {trained.folder / 'segmenter'}\n")
    assert "epoch 1: loss" in trained.ended.out
    assert "3 for training, 2 for validation" in trained.ended.out
    segmenter = scse.Segmenter.load(trained.folder)
    assert segmenter.variant == "none"
    assert segmenter.structures == {"left": 1, "right": 2}
    assert len(list(trained.folder.glob("events.out.tfevents*"))) == 1


def test_train_again_finds_the_run_finished(trained, data):
    before = (trained.folder / "checkpoint.safetensors").stat().st_mtime_ns
    ended = call("train", data, "-o", trained.folder, "--epochs", 1, *TINY)
    assert (ended.code, ended.err) == (0, "")
    assert "epoch 1: loss" not in ended.out
    assert (trained.folder / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_train_into_the_folder_of_another_run_names_the_difference(trained, data):
    ended = call("train", data, "-o", trained.folder, "--epochs", 2, *TINY)
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert f"{trained.folder}: already contains a run with settings epochs=1; you requested epochs=2" in message


def test_one_label_map_is_not_several(trained, data, tmp_path):
    ended = call("predict", data / "imagesTr" / "c0_0000.nii.gz", "-m", trained.folder, "-o", tmp_path)
    assert ended.out.splitlines()[-1] == f"1 label map written to {tmp_path}"


def test_predict_writes_a_label_map_in_the_geometry_of_every_image(trained, data, tmp_path):
    single = data / "imagesTr" / "c0_0000.nii.gz"
    ended = call("predict", data / "imagesTs", single, "-m", trained.folder, "-o", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"3 label maps written to {tmp_path / 'out'}"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gz")) == ["c0.nii.gz", "t0.nii.gz", "t1.nii.gz"]
    written, image = nib.load(tmp_path / "out" / "c0.nii.gz"), nib.load(single)
    assert written.shape == image.shape
    np.testing.assert_array_equal(written.affine, image.affine)
    assert set(np.unique(written.dataobj)) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "engine: torch (the default)"),
        (("--engine", "torch", "--batch-size", 3), "engine: torch (the default)"),
        (("--engine", "auto"), "engine: torch (other engines save time from 50 volumes)"),
    ],
)
def test_predict_says_what_runs_the_network(trained, data, tmp_path, options, line):
    ended = call("predict", data / "imagesTs", "-m", trained.folder, "-o", tmp_path, *options)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == line


def test_explain_writes_the_gates_and_tells_them_in_a_table(data, tmp_path):
    recipe = Recipe(view="coronal", spacing=None, patch=(16, 16), channels=1)
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
    network = build("unet", arguments, variant="scse", size=recipe.patch)
    folder = Segmenter(network, "unet", arguments, "scse", recipe, {"left": 1, "right": 2}).save(tmp_path / "run")
    ended = call("explain", folder, data / "imagesTs" / "t0_0000.nii.gz", "-o", tmp_path / "[out]", "--batch-size", 5)
    assert (ended.code, ended.err) == (0, "")
    heading, *rows, last = ended.out.splitlines()
    assert heading.split() == ["block", "identity", "spatial", "min", "max", "channel", "shut"]
    assert [row.split()[:2] for row in rows] == [[f"{part}.0", "0.50"] for part in ("encoder", "decoder")]
    written = sorted(path.name for path in (tmp_path / "[out]").iterdir() if path.is_file())
    assert [name for name in written if name.endswith(".gz")] == [
        f"spatial_{row.split()[0]}.nii.gz" for row in rows[::-1]
    ]
    assert last == f"{len(written)} files written to {tmp_path / '[out]'}"


def test_a_plain_segmenter_has_no_gates_to_explain(trained, data, tmp_path):
    ended = call("explain", trained.folder, data / "imagesTs" / "t0_0000.nii.gz", "-o", tmp_path / "out")
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert f"{trained.folder}: its network has no blocks and so no gates; give a segmenter trained" in message
    assert not (tmp_path / "out").exists()


def test_predict_cleans_as_learned_or_as_asked(trained, data, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.folder / "segmenter", model)
    description = json.loads((model / "segmenter.json").read_text())
    (model / "segmenter.json").write_text(json.dumps({**description, "cleaning": {"fill_holes": ["left"]}}))
    for options, line in (
        ([], "clean-up: holes filled of left"),
        (["--cleaning", "none"], "clean-up: none"),
        (["--cleaning", "largest"], "clean-up: largest component of left, right"),
    ):
        ended = call("predict", data / "imagesTs", "-m", model, "-o", tmp_path / "out", *options)
        assert ended.code == 0
        assert line in ended.out.splitlines()
    for name in ("t0", "t1"):
        image = data / "imagesTs" / f"{name}_0000.nii.gz"
        expected = scse.Segmenter.load(model).with_cleaning("largest").predict(image)
        written = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.dataobj, expected.dataobj)
    (message,) = said(
        call("predict", data / "imagesTs", "-m", model, "-o", tmp_path / "out", "--cleaning", "all"), "error"
    )
    assert "cleaning must be one of 'learned', 'none', 'largest', got 'all'" in message


def test_train_reports_the_clean_up_that_it_chose(data, tmp_path):
    options = ("--folds", 3, "--cleaning", "learned", "--epochs", 1)
    ended = call("train", data, "-o", tmp_path / "run", *options, *TINY)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    epoch, choice = (
        next(n for n, line in enumerate(lines) if text in line)
        for text in ("Dice on held-out cases", "clean-up chosen on 1 held-out case: mean Dice")
    )
    assert epoch < choice < len(lines) - 1
    assert (tmp_path / "run" / "cleaning.json").is_file()


def test_predict_says_how_to_install_an_engine(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr("scse.inference.engines.find_spec", lambda name: None if name == "openvino" else object())
    ended = call("predict", data / "imagesTs", "-m", trained.folder, "-o", tmp_path, "--engine", "openvino")
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert message == "engine='openvino': openvino not installed: pip install 'scse[openvino]'\n"


def test_one_bad_file_does_not_keep_the_others_from_being_written(trained, data, tmp_path):
    images = shutil.copytree(data / "imagesTs", tmp_path / "images")
    (images / "broken.nii.gz").write_bytes(b"no image")
    save_nifti(images / "flat.nii.gz", np.zeros((8, 8), np.float32))
    ended = call("predict", images, "-m", trained.folder / "segmenter", "-o", tmp_path / "out")
    assert ended.code == 1
    assert "2 label maps written" in ended.out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gz")) == ["t0.nii.gz", "t1.nii.gz"]
    broken, flat = said(ended, "problem")
    assert f"{images / 'broken.nii.gz'}: cannot be read" in broken
    assert f"{images / 'flat.nii.gz'}: the model expects coronal slices of volumes" in flat


def test_an_image_is_never_replaced_by_its_label_map(trained, tmp_path):
    image = save_nifti(tmp_path / "brain.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    before = image.read_bytes()
    ended = call("predict", image, "-m", trained.folder, "-o", tmp_path)
    assert ended.code == 1
    assert "brain.nii.gz: would be replaced by its own output" in said(ended, "error")[0]
    assert call("predict", image, "-m", trained.folder, "-o", tmp_path, "--overwrite").code == 1
    assert image.read_bytes() == before


def test_label_maps_of_others_are_replaced_only_if_asked_for(trained, data, tmp_path):
    images, out = data / "imagesTs", shutil.copytree(data / "labelsTs", tmp_path / "labels")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ended = call("predict", images, "-m", trained.folder, "-o", out)
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert f"{out / 't0.nii.gz'}, {out / 't1.nii.gz'}: already there" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert call("predict", images, "-m", trained.folder, "-o", out, "--overwrite").code == 0
    assert (out / "t0.nii.gz").read_bytes() != before["t0.nii.gz"]
    assert call("predict", images, "-m", trained.folder, "-o", out).code == 0  # now they are scse's


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_evaluate_replaces_no_file_of_the_users(data, tmp_path, name):
    (tmp_path / name).write_text("mine")
    labels = data / "labelsTs"
    ended = call("evaluate", labels, labels, "-o", tmp_path)
    assert ended.code == 1
    assert f"{tmp_path / name}: already there" in said(ended, "error")[0]
    assert (tmp_path / name).read_text() == "mine"
    for options in (("--overwrite",), ()):
        assert call("evaluate", labels, labels, "-o", tmp_path, *options).code == 0


def test_compare_replaces_no_file_of_the_users(tmp_path):
    scores = tmp_path / "summary.csv"
    rows = [f"{v},{c},{s},{0.5 + 0.01 * c + 0.01 * s}" for v in ("none", "scse") for c in range(6) for s in range(3)]
    scores.write_text("\n".join(["variant,case,seed,value", *rows]))
    ended = call("compare", scores, "-o", tmp_path)
    assert ended.code == 1
    assert f"{scores}: already there" in said(ended, "error")[0]
    assert scores.read_text().startswith("variant,case,seed,value")
    for _ in range(2):
        assert call("compare", scores, "-o", tmp_path / "out").code == 0


@pytest.mark.parametrize(("verb", "name"), [("train", "log.jsonl"), ("study", "scores.csv")])
def test_trainings_start_in_no_folder_with_files_of_their_names(data, tmp_path, verb, name):
    (tmp_path / name).write_text("mine")
    ended = call(verb, data, "-o", tmp_path, "--epochs", 1)
    assert ended.code == 1
    assert f"{tmp_path / name}: already there" in said(ended, "error")[0]
    assert (tmp_path / name).read_text() == "mine"


def test_pictures_are_trained_on_predicted_and_evaluated(tmp_path):
    data = write_pictures(tmp_path / "data", cases=4, shape=(16, 18), values=(128, 255))
    run, out = tmp_path / "run", tmp_path / "out"
    assert call("train", data, "-o", run, "--epochs", 1, "--folds", 2, *TINY).code == 0
    assert call("predict", data / "images", "-m", run, "-o", out).code == 0
    array = np.asarray(PIL.Image.open(out / "p0.png"))
    assert array.shape == (16, 18)
    assert set(np.unique(array)) <= {0, 128, 255}
    ended = call("evaluate", out, data / "masks", "--dataset", data)
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["structure", "left", "right", "mean"]


def test_evaluate_scores_a_file_by_the_values_it_finds(data):
    reference = data / "labelsTs" / "t0.nii.gz"
    ended = call("evaluate", reference, reference)
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == ["structure", "Dice", "HD95", "(mm)", "MSD", "(mm)", "cases"]
    assert lines[1:3] == [[f"structure_{value}", "1.000", "0.000", "0.000", "1"] for value in (1, 2)]


def test_evaluate_scores_folders_by_names_and_writes_the_scores(data, tmp_path):
    ended = call("evaluate", data / "labelsTs", data / "labelsTs", "--dataset", data, "-o", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in ended.out.splitlines()[1:3]] == ["left", "right"]
    assert f"written: {tmp_path / 'out' / 'scores.csv'}" in ended.out
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(scores["case"]) == {"t0", "t1"}
    assert set(scores["structure"]) == {"left", "right"}


def test_evaluate_names_every_file_without_partner(data, tmp_path):
    write_label(tmp_path / "p" / "t0.nii.gz", np.ones((12, 10, 8), np.uint8))
    write_label(tmp_path / "p" / "other.nii.gz", np.ones((12, 10, 8), np.uint8))
    ended = call("evaluate", tmp_path / "p", data / "labelsTs")
    assert ended.code == 1
    (message,) = said(ended, "error")
    assert all(name in message for name in ("t1.nii.gz", "other.nii.gz", "2 files are unpaired"))


def test_study_prints_table_verdict_and_report(data, tmp_path):
    settings = ("--seeds", 1, "--epochs", 1, "--set", "width=4", "--set", "depth=2", "--set", "precision=32")
    ended = call("study", data, "--variants", "none,cse", "-o", tmp_path / "out", *settings, "--note", "Boxes only.")
    assert (ended.code, ended.err) == (0, "")
    assert all(text in ended.out for text in ("U-Net", "plain", "cSE", "run 2 of 2: unet-cse-seed0-fold0"))
    assert ended.out.endswith(f"report: {tmp_path / 'out' / 'report' / 'index.html'}\n")
    assert "two [bold] :car: boxes" in ended.out
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "Boxes only." in page
    again = call("study", data, "--variants", "none,cse", "-o", tmp_path / "out", *settings)
    assert again.code == 0
    assert "epoch 1" not in again.out


BASIC = "monai:BasicUNet[features=(4,4,4,4,4,4)]"
FAST = ("--epochs", 1, "--set", "precision=32", "--set", "slices_per_epoch=16")


def test_study_passes_on_what_is_varied(data, monkeypatch):
    requests = []

    def study(request: StudyRequest, _watch: object, *, command: str) -> None:
        requests.append((request, command))
        raise UserError("enough")

    monkeypatch.setattr(runner, "run_study", study)
    varied = ("--reductions", "2,4", "--aggregations", "add,max", "--placements", "encoder,+bottleneck")
    call("study", data, "--variants", "none,scse[reduction=4,aggregation=max]", *varied, "--train-cases", "3,6")
    request, command = requests.pop()
    assert [*map(str, request.variants)] == ["none", "scse[reduction=4,aggregation=max]"]
    assert (request.reductions, request.aggregations) == ((2, 4), ("add", "max"))
    assert request.placements == ("encoder", "+bottleneck")
    assert (request.epochs, request.train_cases, request.budget) == ((), (3, 6), None)
    assert (request.seeds, request.control, request.margin) == (3, False, None)
    arguments = ("--variants", "none,scse[reduction=4,aggregation=max]", *varied, "--train-cases", "3,6")
    assert shlex.split(command) == ["scse", "study", str(data), *arguments]
    call("study", data, "--seeds", "5", "--control", "--margin", "0.01", "--note", "a, b", "--note", "c")
    request, command = requests.pop()
    assert (request.seeds, request.control, request.margin, request.notes) == (5, True, 0.01, ("a, b", "c"))
    assert command.endswith("--seeds 5 --control --margin 0.01 --note 'a, b' --note c")
    call("study", data, "--epochs", "3,6", "--budget", "1h")
    request, _ = requests.pop()
    assert (request.epochs, request.train_cases, request.budget) == ((3, 6), (), "1h")
    assert request.reductions == request.aggregations == request.placements == ()


def test_former_names_are_accepted_with_a_notice(data, monkeypatch):
    planes = []
    monkeypatch.setattr(runner, "run_study", lambda request, *_, **__: planes.append(request.plane) or stop())

    def stop() -> None:
        raise UserError("enough")

    ended = call("study", data, "--view", "axial")
    assert planes == ["axial"]
    assert ended.err.startswith("notice: --view is now --plane; the next version no longer accepts --view\n")
    ended = call("attach", "unet", "--channels", 2, "--size", 32, "--block", "cse")
    assert ended.code == 0
    assert "notice: scse attach is now scse places" in ended.err
    assert "notice: --channels is now --in-channels" in ended.err
    assert "ChannelSE" in ended.out


def test_attach_shows_which_blocks_go_where():
    ended = call("places", BASIC, "--block", "cse", "--to", "upcat_*", "--size", 32)
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split("  ")[0].strip() for line in ended.out.splitlines()]
    assert rows == ["where", "upcat_4", "upcat_3", "upcat_2", "upcat_1", "all"]
    assert "32 x 32     ChannelSE" in ended.out


def test_attach_explains_what_there_is_to_attach_to(mine):
    ended = call("places", "--explain", f"{mine}:make[width=6]", "--in-channels", 2, "--size", 16)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("auto does not know Net\nstages, for an input (1, 2, 16, 16):\n")
    assert "first  Conv2d" in ended.out
    known = call("places", "--explain", BASIC, "--spatial-dims", 3, "--size", 32)
    assert known.out.startswith("auto attaches to conv_")
    assert "(1, 4, 32, 32, 32)" in known.out


def test_study_of_two_networks_shows_their_names_with_brackets(data, tmp_path):
    options = ("--networks", f"unet,{BASIC}", "--variants", "none,scse", "--seeds", 1, *FAST)
    options += ("--set", "width=4", "--set", "depth=2")
    ended = call("study", data, "-o", tmp_path / "out", *options)
    assert (ended.code, ended.err) == (0, "")
    table, _, rest = ended.out.partition("┡")[2].partition("└")
    assert BASIC in table
    assert f"\n{BASIC}: too few cases to decide.\n  scSE: too few cases" in rest
    assert (tmp_path / "out" / "report" / "index.html").is_file()


def test_a_network_of_ones_own_is_named_again_to_predict_and_resume(data, mine, tmp_path):
    run, out, network = tmp_path / "run", tmp_path / "out", f"{mine}:make"
    trained = call("train", data, "-o", run, "--network", network, "--attach-to", "first", "--variant", "cse", *FAST)
    assert (trained.code, trained.err) == (0, "")
    image = data / "imagesTs" / "t0_0000.nii.gz"
    (refused,) = said(call("predict", image, "-m", run, "-o", out), "error")
    assert "its network is a factory in a file" in refused
    assert not out.exists()
    (refused,) = said(call("train", "--resume", run), "error")
    assert "(--network on the command line)" in refused
    predicted = call("predict", image, "-m", run, "-o", out, "--network", network)
    assert (predicted.code, predicted.err) == (0, "")
    assert nib.load(out / "t0.nii.gz").shape == (12, 10, 8)
    resumed = call("train", "--resume", run, "--network", network)
    assert (resumed.code, resumed.err) == (0, "")


def test_stopped_with_a_network_of_ones_own_it_says_how_to_go_on(data, mine, tmp_path, monkeypatch):
    run, asked = tmp_path / "run", iter(range(1000))

    @contextmanager
    def stopping(*_: object, **__: object) -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked) >= 11  # 5 inspected, 5 prepared, 1 step

    monkeypatch.setattr(console, "stop_on_signal", stopping)
    network = f"{mine}:make"
    ended = call("train", data, "-o", run, "--network", network, "--variant", "none", *FAST)
    assert (ended.code, ended.err) == (130, "")
    assert ended.out.endswith(f"to continue: scse train --resume {run} --network '{network}'\n")


def test_simulate_passes_on_what_was_asked_and_says_where(tmp_path, monkeypatch):
    asked = {}

    def simulate(out: Path, *, cases: int, seed: int, progress: Callable[[int, int], None]) -> None:
        asked.update(out=out, cases=cases, seed=seed)
        progress(cases, cases)

    monkeypatch.setattr("scse.simulation.writing.simulate_cohort", simulate)
    ended = call("simulate", "-o", tmp_path / "[red]", "--cases", 4, "--seed", 7)
    assert (ended.code, ended.err) == (0, "")
    assert asked == {"out": tmp_path / "[red]", "cases": 4, "seed": 7}
    assert ended.out == f"4 simulated subjects written to {tmp_path / '[red]'}\n"
    old = call("data", "simulate", tmp_path / "[red]", "--cases", 4, "--seed", 7)
    assert (old.code, old.out) == (0, ended.out)
    assert said(old, "notice")[0].startswith("scse data simulate OUT is now scse simulate -o OUT")


def test_export_without_keras_says_how_to_install_it(trained, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr("scse.support.keras_backend.find_spec", lambda name: None)
    ended = call("export", trained.folder, "--to", "keras", "-o", tmp_path / "new" / "model.keras")
    assert (ended.code, said(ended, "error")) == (1, ["Keras is not installed; pip install 'scse[keras]'\n"])
    assert list(tmp_path.iterdir()) == []


def test_doctor_shows_how_to_install_what_is_missing(monkeypatch):
    find = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "onnx" else find(name))
    ended = call("doctor")
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split(maxsplit=1) for line in ended.out.splitlines()]
    assert ["onnx", "pip install 'scse[export]'"] in [[row[0], row[1].split("  ")[-1].strip()] for row in rows]


def test_bench_shows_blocks_and_network():
    ended = call("bench", BASIC, "--size", 32, "--batch", 2, "--seconds", 0.1)
    assert (ended.code, ended.err) == (0, "")
    assert "blocks run on " in ended.out
    assert BASIC in ended.out
    rows = [line.split("  ")[0].strip() for line in ended.out.splitlines()]
    sizes = [f"4 channels, {side} x {side}" for side in (32, 16, 8, 4)]
    assert [row for row in rows if "channels" in row and not row.endswith(":")] == sizes
    assert rows[-2:] == ["training step", "inference"]


def test_stopped_before_training_it_says_to_call_again(data, tmp_path, monkeypatch):
    @contextmanager
    def stopping(*_: object, **__: object) -> Iterator[Callable[[], bool]]:
        yield lambda: True

    monkeypatch.setattr(console, "stop_on_signal", stopping)
    for verb in ("train", "study"):
        ended = call(verb, data, "-o", tmp_path / verb)
        assert (ended.code, ended.err) == (130, "")
        assert ended.out == "stopped after 1 of 5 (inspect)\nto continue: run the same command again\n"


def test_a_full_disk_is_one_message_and_keeps_what_was_computed(data, trained, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    scan = data / "imagesTs" / "t0_0000.nii.gz"
    for verb in (
        ("train", data, "-o", tmp_path / "run", "--epochs", 1, *TINY),
        ("predict", scan, "-m", trained.folder, "-o", tmp_path / "labels"),
    ):
        (message,) = said(call(*verb), "error")
        assert message.startswith(f"{tmp_path}{os.sep}")
        assert "the disk is full" in message
        assert message.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_a_second_training_in_one_folder_is_refused_until_the_first_has_ended(data, tmp_path):
    folder = tmp_path / "run"
    command = ("train", data, "-o", folder, "--epochs", 1, *TINY)
    other = Other(folder / LOCK)
    try:
        (message,) = said(call(*command), "error")
        assert message.startswith(f"{folder}: another process is training in this folder; wait")
        assert [path.name for path in folder.iterdir()] == [LOCK]
    finally:
        other.die()  # killed, it leaves the file of the lock
    assert call(*command).code == 0
    with alone(folder):
        (message,) = said(call("train", "--resume", folder), "error")
    assert "another process is training" in message


INTERRUPTED_VERB = """
import os, signal, sys
from scse.cli import app as cli
number = getattr(signal, sys.argv[1])
cli.typer.echo = lambda _: os.kill(os.getpid(), number)
sys.argv = ["scse", "--version"]
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_verb_says_so_in_one_line(name):
    command = [sys.executable, "-c", INTERRUPTED_VERB, name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "interrupted: to continue, run the same command again\n"


def redirected(where: str) -> subprocess.CompletedProcess[str]:
    command = f"'{sys.executable}' -c 'from scse.cli.app import main; main()' --help {where}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def test_a_reader_that_has_had_enough_ends_a_command_quietly():
    assert redirected("| true").stderr == ""


def test_standard_output_may_be_closed():
    assert redirected(">&-").stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_standard_output_on_a_full_disk_is_one_message():
    ended = redirected("> /dev/full")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "the disk is full" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_terminal_without_the_letters_of_a_name_shows_the_others(tmp_path, monkeypatch):
    out, err = (TextIOWrapper(BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "argv", ["scse", "inspect", str(tmp_path / "Schädel ±")])
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main()
    err.seek(0)
    assert ended.value.code == 1
    assert "Sch?del ?" in err.read()


def test_without_a_home_the_variable_of_the_cache_is_named(data, tmp_path, monkeypatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SCSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    (message,) = said(call("train", data, "-o", tmp_path / "run", *TINY), "error")
    assert "set SCSE_CACHE" in message


def test_a_cache_that_cannot_be_made_names_its_variable(data, tmp_path, monkeypatch):
    (tmp_path / "file").touch()  # nobody makes a folder in it, root neither
    monkeypatch.setenv("SCSE_CACHE", str(tmp_path / "file" / "cache"))
    (message,) = said(call("train", data, "-o", tmp_path / "run", *TINY), "error")
    assert message.startswith(f"{tmp_path / 'file'}")
    assert "set SCSE_CACHE" in message


def test_ctrl_c_saves_and_resume_finishes(data, tmp_path):
    run, epochs = tmp_path / "my run", 30
    command = [sys.executable, "-c", "from scse.cli.app import main; main()"]
    command += ["train", str(data), "-o", str(run), "--epochs", str(epochs), *TINY]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "epoch 1: loss" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate()
    assert (process.returncode, err) == (130, ""), (lines, out, err)
    assert "stopping after this step" in out
    assert f"of {epochs}; its state is in {run / 'checkpoint.safetensors'}" in out
    assert out.endswith(f"to continue: scse train --resume '{run}'\n")
    assert not (run / "segmenter").exists()
    resumed = call("train", "--resume", run)
    assert (resumed.code, resumed.err) == (0, "")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == list(range(1, epochs + 1))
    assert scse.Segmenter.load(run).settings["epochs"] == epochs


@pytest.fixture(scope="module")
def hippocampus(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases of the real data set, in its own layout."""
    source, folder = real_data("hippocampus"), tmp_path_factory.mktemp("hippocampus")
    content = json.loads((source / "dataset.json").read_text())
    content["training"] = content["training"][:6]
    for entry in content["training"]:
        for kind in ("image", "label"):
            target = folder / entry[kind]
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / entry[kind], target)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@dataclass(frozen=True)
class Victim:
    """The case that is damaged."""

    folder: Path
    image: Path
    label: Path

    @property
    def description(self) -> Path:
        return self.folder / "dataset.json"


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray], *, shift: float = 0.0) -> Path:
    source = nib.load(path)
    affine = source.affine.copy()
    affine[0, 3] += shift
    return save_nifti(path, edit(np.asarray(source.dataobj)), affine)


def put(value: float, dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    def edit(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array[0, 0, 0] = value
        return array

    return edit


def truncate(victim: Victim) -> Path:
    content = victim.image.read_bytes()
    victim.image.write_bytes(content[: len(content) // 2])
    return victim.image


def no_gzip(victim: Victim) -> Path:
    victim.label.write_bytes(b"these are no voxels")
    return victim.label


def remove(path: Path) -> Path:
    path.unlink()
    return path


def entries(victim: Victim, edit: Callable[[list[dict[str, str]]], None]) -> None:
    content = json.loads(victim.description.read_text())
    edit(content["training"])
    victim.description.write_text(json.dumps(content))


def copy_case(victim: Victim) -> Path:
    for path in (victim.image, victim.label):
        shutil.copyfile(path, path.with_name("hippocampus_900.nii.gz"))
    names = {kind: f"./{kind}sTr/hippocampus_900.nii.gz" for kind in ("image", "label")}
    entries(victim, lambda training: training.append(names))
    return victim.image.with_name("hippocampus_900.nii.gz")


def list_twice(victim: Victim) -> Path:
    entries(victim, lambda training: training.append(training[1]))
    return victim.image


def no_json(victim: Victim) -> Path:
    victim.description.write_text(victim.description.read_text()[:-30])
    return victim.description


DAMAGES: dict[str, tuple[Callable[[Victim], Path], str, str]] = {
    "truncated": (truncate, "cannot be read", "copy or export it again"),
    "not gzip": (no_gzip, "cannot be read", "copy or export it again"),
    "wrong shape": (lambda v: change(v.label, lambda a: a[:-2]), "has shape", "resample one of them"),
    "wrong place": (
        lambda v: change(v.label, lambda a: a, shift=5),
        "its affine differs",
        "copy its affine if the voxels correspond",
    ),
    "value out of the list": (
        lambda v: change(v.label, put(7, np.uint8)),
        "contains 7 in 1 voxels, but dataset.json lists 0, 1, 2",
        "add them there, or relabel these voxels",
    ),
    "fractional label": (
        lambda v: change(v.label, put(1.5, np.float32)),
        "1 voxels are not whole numbers (such as 1.5; stored as float32)",
        "round them",
    ),
    "empty label": (
        lambda v: change(v.label, np.zeros_like),
        "contains only background (0)",
        "label it, or remove the case",
    ),
    "mask of 255": (
        lambda v: change(v.label, lambda a: (a > 0).astype(np.uint8) * 255),
        "is a mask with the values 0 and 255",
        "divide the mask by 255",
    ),
    "NaN": (lambda v: change(v.image, put(np.nan, np.float32)), "voxels are NaN or infinite", "replace them"),
    "infinite": (lambda v: change(v.image, put(np.inf, np.float32)), "voxels are NaN or infinite", "replace them"),
    "missing label": (lambda v: remove(v.label), "does not exist", "add it, or remove the case"),
    "missing image": (lambda v: remove(v.image), "does not exist", "add the image of case hippocampus_003"),
    "one channel too many": (
        lambda v: change(v.image, lambda a: np.stack([a, a], axis=-1)),
        "the case has 2 channels, but dataset.json lists 1",
        "add or remove channels, or correct dataset.json",
    ),
    "the same image twice": (copy_case, "contains the same image as case hippocampus_003", "remove one of them"),
    "the same case twice": (list_twice, "already exists as", "rename or remove one of them"),
    "dataset.json is no JSON": (no_json, "cannot be read as JSON", "correct it there"),
    "no dataset.json": (lambda v: remove(v.description).parent, "found imagesTr/, labelsTr/", "allowed: an nnU-Net v2"),
}


@pytest.mark.real_data
@pytest.mark.parametrize("kind", DAMAGES)
def test_each_kind_of_damage_to_real_data_is_answered_in_one_clear_message(kind, hippocampus, tmp_path):
    folder = shutil.copytree(hippocampus, tmp_path / "data")
    victim = Victim(folder, *(folder / part / "hippocampus_003.nii.gz" for part in ("imagesTr", "labelsTr")))
    damage, found, remedy = DAMAGES[kind]
    file = damage(victim)
    inspected = call("inspect", folder)
    (message,) = said(inspected, "error" if "dataset.json" in kind else "problem")
    assert inspected.code == 1
    assert all(text in message for text in (str(file), found, remedy))
    for verb in ("train", "study"):
        refused = call(verb, folder, "-o", tmp_path / "out")
        (told,) = said(refused, "error")
        assert refused.code == 1
        assert message.strip() in told
        assert told.count(found) == 1
        assert not (tmp_path / "out").exists(), "nothing is trained"


@pytest.mark.real_data
def test_sound_real_data_has_no_problem_and_bad_cases_can_be_skipped(hippocampus, tmp_path):
    sound = call("inspect", hippocampus)
    assert (sound.code, sound.err) == (0, "")
    folder = shutil.copytree(hippocampus, tmp_path / "data")
    (folder / "labelsTr" / "hippocampus_003.nii.gz").unlink()
    (folder / "imagesTr" / "hippocampus_006.nii.gz").write_bytes(b"damaged")
    both = call("inspect", folder)
    assert both.code == 1
    assert len(said(both, "problem")) == 2
    options = ("--epochs", 1, "--folds", 2, "--set", "slices_per_epoch=16", "--skip-bad", *TINY)
    trained = call("train", folder, "-o", tmp_path / "out", *options)
    assert (trained.code, trained.err) == (0, "")
    assert "hippocampus_003, hippocampus_006" in trained.out
    assert "2 for training, 2 for validation" in trained.out
