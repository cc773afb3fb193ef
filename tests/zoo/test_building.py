"""Any network by its name: listed ones of libraries, a user's own file, any size, and one message for what is wrong."""

import importlib
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from named import build
from scse.attachment.placements import placements
from scse.networks import UNet
from scse.zoo.building import MULTIPLE, Sized, build_plain, describe_places, explain, find_factory
from scse.zoo.catalogue import LIBRARIES, code_digest, confirm_network, read_network

ARGUMENTS = {"in_channels": 1, "classes": 3}
LISTED = [f"{source}:{name}" for source, library in LIBRARIES.items() for name in library.networks]
SMALL = {
    "smp": "[encoder_name=resnet18]",
    "monai:BasicUNet": "[features=(4,4,8,8,8,4)]",
    "monai:UNet": "[channels=(4,8,16),strides=(2,2)]",
    "monai:DynUNet": "[filters=(4,8,8,8,8)]",
    "monai:SegResNet": "[init_filters=8]",
    "monai:SegResNetDS": "[init_filters=4]",
    "nnunet": "[features_per_stage=(4,8,8)]",
    "monai:AttentionUnet": "[channels=(4,8,16),strides=(2,2)]",
}
BASIC = "monai:BasicUNet[features=(4,4,8,8,8,4)]"
MINE = """
from dataclasses import dataclass

from torch import nn

from beside import WIDTH

print("run")

@dataclass
class Sizes:
    width: int = WIDTH

class Net(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.last(self.first(x))

def make(*, in_channels, classes, spatial_dims, width=Sizes().width):
    assert spatial_dims == 2
    return Net(in_channels, classes, width)

def broken(**arguments):
    raise RuntimeError("out of luck")

def nothing(**arguments):
    return None

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def small(name: str) -> str:
    return name + SMALL.get(name, SMALL.get(name.partition(":")[0], ""))


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_network_takes_any_size_it_can(name):
    size = (128, 120) if name == "smp:PAN" else (40, 24)
    network = build(small(name), ARGUMENTS, size=size)
    assert network.training
    network.eval()
    with torch.no_grad():
        assert network(image(2, 1, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    "name",
    [
        *("monai:BasicUNet", "monai:UNet", "monai:DynUNet", "monai:SegResNet", "monai:SegResNetDS"),
        *("nnunet:PlainConvUNet", "nnunet:ResidualEncoderUNet"),
    ],
)
def test_listed_networks_of_volumes(name):
    network = build(small(name), ARGUMENTS, size=(16, 32, 8), variant="cse").eval()
    with torch.no_grad():
        assert network(image(1, 1, 16, 32, 8)).shape == (1, 3, 16, 32, 8)


def test_defaults_are_the_libraries_own_but_for_weights_which_are_not_fetched():
    unet = build_plain(read_network("smp:Unet"), {**ARGUMENTS, "spatial_dims": 2})
    assert unet.name == "u-resnet34"
    assert LIBRARIES["smp"].networks["Unet"] == {"encoder_weights": None}


def test_options_in_brackets_reach_the_network():
    network = build_plain(read_network(BASIC), {**ARGUMENTS, "spatial_dims": 2})
    assert network.conv_0.conv_0.conv.out_channels == 4


@pytest.mark.parametrize("name", ["smp:Unet[encoder_name=resnet18]", BASIC])
def test_variants_share_all_weights_of_the_plain_network(name):
    built = {}
    for variant in ("none", "cse", "sse", "scse"):
        torch.manual_seed(3)
        built[variant] = build(name, ARGUMENTS, size=(32, 32), variant=variant)
    plain = built["none"].state_dict()
    for variant, network in built.items():
        weights = network.state_dict()
        assert plain.keys() <= weights.keys()
        assert all(torch.equal(weights[key], plain[key]) for key in plain)
        added = {tuple(key.split(".")[-2:]) for key in weights.keys() - plain.keys()}
        assert added <= set(product(("squeeze", "excite", "project"), ("weight", "bias")))
        assert (len(weights) > len(plain)) == (variant != "none")
        assert len(placements(network)) == (0 if variant == "none" else len(placements(built["scse"])))
    # the blocks start as the identity
    x = image(2, 1, 32, 32)
    outputs = [network.eval()(x) for network in built.values()]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_blocks_go_where_they_are_wanted():
    network = build(BASIC, ARGUMENTS, size=(32, 32), variant="sse", attach_to="upcat_*")
    assert placements(network.network).names == ("upcat_4", "upcat_3", "upcat_2", "upcat_1")
    assert describe_places(network) == "upcat_*"


@pytest.mark.parametrize("aggregation", ["add", "max", "multiply"])
def test_options_of_a_variant_and_the_identity_start_reach_blocks(aggregation):
    variant = f"scse[reduction=4,aggregation={aggregation}]"
    network = build(BASIC, ARGUMENTS, variant=variant, size=(32, 32))
    blocks = [place.block for place in placements(network.network)]
    assert blocks
    for block in blocks:
        assert (block.channel.reduction, block.aggregation) == (4, aggregation)
        assert block.identity == (aggregation != "multiply")


def test_a_placement_is_refused_for_networks_that_are_not_ours():
    with pytest.raises(ValueError, match=r"placement has no effect on monai:BasicUNet.*--attach-to"):
        build(BASIC, ARGUMENTS, variant="scse[placement=encoder]", size=(32, 32))


def test_the_papers_networks_have_their_own_places():
    network = build("unet", {**ARGUMENTS, "width": 4, "depth": 2}, size=(16, 16), variant="cse")
    assert isinstance(network, UNet)
    assert describe_places(network) == "encoder.*|decoder.*"


# Sizes


class Seen(nn.Module):
    """Keeps the last input and gives it back as two classes."""

    def forward(self, x):
        self.x = x
        return torch.cat([x, -x], 1)


def sized(network: nn.Module, classes: int = 2) -> Sized:
    return Sized(network, spec=read_network("smp:Unet"), classes=classes)


@pytest.mark.parametrize("size", [(1, 1), (8, 40), (33, 31), (64, 32), (5, 70, 9)])
def test_images_are_filled_with_their_edges_and_logits_cut(size):
    seen = Seen()
    x = image(2, 1, *size)
    logits = sized(seen)(x)
    assert torch.equal(logits, torch.cat([x, -x], 1))
    filled = seen.x
    assert all(side % MULTIPLE == 0 and side - own < MULTIPLE for side, own in zip(filled.shape[2:], size, strict=True))
    for axis, own in enumerate(size, start=2):
        edge = filled.narrow(axis, own - 1, 1)
        assert torch.equal(
            filled.narrow(axis, own - 1, filled.shape[axis] - own + 1),
            edge.expand_as(filled.narrow(axis, own - 1, filled.shape[axis] - own + 1)),
        )


class Gives(nn.Module):
    def __init__(self, give) -> None:
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x, self.training)


@pytest.mark.parametrize(
    ("give", "found"),
    [
        (lambda x, training: x[:, :, ::2, ::2].repeat(1, 2, 1, 1), r"\(1, 2, 16, 16\)"),
        (lambda x, training: x, r"\(1, 1, 32, 32\)"),
        (lambda x, training: (x, x), "tuple"),
        (lambda x, training: {"out": x}, "dict"),
        (lambda x, training: [x] if training else torch.cat([x, x], 1), "in training it gives list"),
    ],
)
def test_what_gives_no_logits_is_named(give, found):
    wanted = r"\(1, 2, 32, 32\) for an image \(1, 1, 32, 32\)"
    message = rf"smp:Unet must give one tensor of logits .*{wanted}; .*{found}: leave out"
    with pytest.raises(ValueError, match=message):
        sized(Gives(give))(image(1, 1, 30, 30))


# A file of the user's own


def test_a_factory_in_a_file_is_called_with_what_the_data_decide(mine, capsys):
    network = build(f"{mine}:make[width=5]", ARGUMENTS, size=(24, 20), variant="scse", attach_to="first")
    assert network.network.first.out_channels == 5
    assert network(image(2, 1, 24, 20)).shape == (2, 3, 24, 20)
    assert placements(network.network).names == ("first",)
    assert build(f"{mine}:make", ARGUMENTS, size=(8, 8)).network.first.out_channels == 6
    assert capsys.readouterr().out == "run\nrun\n"
    assert str(mine.parent) not in sys.path


def test_the_path_may_be_relative_or_of_the_home_folder(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    monkeypatch.setenv("HOME", str(mine.parent))
    for path in ("mine.py", "./mine.py", "~/mine.py"):
        assert callable(find_factory(read_network(f"{path}:make")))


def test_the_digest_of_a_file_changes_with_it(mine):
    before = code_digest(read_network(f"{mine}:make"))
    assert list(before) == ["mine.py"]
    mine.write_text(MINE + "\n")
    assert code_digest(read_network(f"{mine}:make")) != before
    assert code_digest(read_network("unet")) == code_digest(read_network("smp:Unet")) == {}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("other", "mine.py: has no function or class other; it has Sizes, Net, make, broken, nothing"),
        ("number", "mine.py: has no function or class number; it has"),
        ("broken", r"mine.py:broken cannot be built with in_channels=1, .* \(RuntimeError: out of luck\)"),
        ("nothing", "mine.py:nothing must return a torch.nn.Module, got NoneType"),
        ("make[wide=3]", "mine.py:make.* cannot be built with .*wide=3 .*unexpected keyword"),
        ("make[in_channels=3]", "in_channels come from the data; leave them out"),
        ("Net[channels=2,width=3]", "cannot be built"),
    ],
)
def test_a_factory_that_is_wrong_is_named(mine, function, message):
    with pytest.raises(ValueError, match=message):
        build(f"{mine}:{function}", ARGUMENTS, size=(8, 8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import torch\nraise OSError('no')", r"net.py: cannot be run \(OSError: no\)"),
        ("def make(:", r"net.py: cannot be run \(SyntaxError"),
        ("import nowhere_at_all", "net.py: cannot be run .ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("", "net.py: has no function or class make; it has none"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, content, message):
    (tmp_path / "net.py").write_text(content)
    with pytest.raises(ValueError, match=message):
        find_factory(read_network(f"{tmp_path / 'net.py'}:make"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*net\.py; give the path of a Python file"):
        find_factory(read_network(f"{tmp_path}/net.py:make"))


# What is wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vnet",
            "network must be one of 'unet', .*, smp:CLASS, monai:CLASS, nnunet:CLASS or FILE.py:FUNCTION, got 'vnet'",
        ),
        ("timm:resnet18", r"'timm' is neither a library \('smp', 'monai', 'nnunet'\) nor a file that ends in .py"),
        ("unet:make", "'unet' is neither a library"),
        ("smp:create_model", "the network of smp must be one of 'Unet', .*, got 'create_model'"),
        ("monai:UNETR", "the network of monai must be one of 'BasicUNet', .*, got 'UNETR'"),
        ("smp:Unet[wide=3]", "an option of smp:Unet must be one of 'encoder_name', .*, got 'wide'"),
        ("smp:Unet[pretrained_cfg={}]", "an option of smp:Unet must be one of"),
        ("smp:Unet[classes=3]", "classes come from the data; leave them out"),
        ("monai:BasicUNet[out_channels=3]", "an option of monai:BasicUNet must be one of .*, got 'out_channels'"),
        ("smp:Unet[encoder_name=resnet9]", "cannot be built with .*encoder_name='resnet9' .*Wrong encoder name"),
        ("smp:Unet[encoder_name=tu-hf-hub:a/b]", "encoder_name must be a name of .*, no file or address, got 'tu-hf"),
        ("monai:UNet[channels=(4,)]", "monai:UNet.* cannot be built with .*channels=.4,. .*length of `channels`"),
        ("smp:PAN", r"smp:PAN does not take an image of 1 channels and \(32, 32\) pixels .*choose another network"),
        (
            "monai:UNet[channels=(4,4,4,4,4,4),strides=(2,2,2,2,2)]",
            r"does not take an image of 1 channels and \(32, 32\) pixels \(ValueError: Expected more than 1 spatial",
        ),
        ("monai:DynUNet[deep_supervision=True]", "deep_supervision follows from the setting deep_supervision"),
        ("monai:SegResNetDS[dsdepth=2]", "dsdepth follows from the setting deep_supervision .*leave it out"),
    ],
)
def test_wrong_names_and_options_are_named(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(name, ARGUMENTS, size=(32, 32))(image(2, 1, 32, 32))
    assert len(str(caught.value)) < 1000


def test_no_volumes_for_networks_of_pictures():
    with pytest.raises(ValueError, match="smp has networks of 2 spatial axes only, got spatial_dims=3"):
        build("smp:Unet", ARGUMENTS, size=(8, 8, 8))


@pytest.mark.parametrize("attach_to", ["auto", "second"])
def test_places_that_are_not_found_are_told_with_how_to_look(mine, attach_to):
    message = rf"mine.py:make.*no blocks with attach_to='{attach_to}' \(`scse places --explain .*mine.py:make` lists"
    with pytest.raises(ValueError, match=message):
        build(f"{mine}:make", ARGUMENTS, size=(32, 32), variant="cse", attach_to=attach_to)


def test_a_library_that_is_missing_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"smp:Unet needs segmentation_models_pytorch, .*: pip install 'scse\[smp\]'"):
        find_factory(read_network("smp:Unet"))


def test_nnunets_networks_need_their_package_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    assert callable(find_factory(read_network("nnunet:PlainConvUNet")))
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    with pytest.raises(ValueError, match=r"nnunet:PlainConvUNet needs dynamic_net.*: pip install 'scse\[nnunet\]'"):
        find_factory(read_network("nnunet:PlainConvUNet"))


# What a folder names


def confirm(folder: Path, saved: str, network: str | None, **options: bool) -> str:
    return confirm_network(folder, read_network(saved), network, **options).text


@pytest.mark.parametrize(
    ("saved", "network", "built"),
    [
        ("unet", None, "unet"),
        ("unet", "unet", "unet"),
        ("smp:Unet[encoder_name=resnet18]", None, "smp:Unet[encoder_name=resnet18]"),
        ("a/mine.py:make", "a/mine.py:make", "a/mine.py:make"),
        ("a/mine.py:make[width=3]", "moved/nets.py:make[width=3]", "moved/nets.py:make[width=3]"),
    ],
)
def test_what_is_built_for_a_folder(saved, network, built):
    assert confirm(Path("model"), saved, network) == built


@pytest.mark.parametrize(
    ("saved", "network", "message"),
    [
        ("a/mine.py:make", None, r"model: its network is a factory in a file, 'a/mine.py:make', .* name it yourself"),
        ("a/mine.py:make", "a/mine.py:other", "its network is 'a/mine.py:make', got network='a/mine.py:other'"),
        ("a/mine.py:make[width=3]", "a/mine.py:make", "name the same one"),
        ("a/mine.py:make", "unet", "name the same one"),
        ("unet", "a/mine.py:make", "its network is 'unet', got network='a/mine.py:make'"),
        ("smp:Unet", "smp:Unet[encoder_name=resnet18]", "name the same one"),
    ],
)
def test_code_that_the_caller_does_not_name_is_not_run(saved, network, message):
    with pytest.raises(ValueError, match=message):
        confirm(Path("model"), saved, network)


def test_weights_are_fetched_only_if_the_caller_names_them():
    asking = "smp:Unet[encoder_weights=imagenet]"
    with pytest.raises(ValueError, match="would fetch weights; name it again to allow it"):
        confirm(Path("run"), asking, None, downloading=True)
    assert confirm(Path("run"), asking, None) == asking
    assert confirm(Path("run"), asking, asking, downloading=True) == asking
    assert confirm(Path("run"), "smp:Unet[encoder_weights=None]", None, downloading=True)
    assert confirm(Path("run"), "monai:BasicUNet", None, downloading=True)


def test_nothing_is_fetched_when_that_is_not_allowed(monkeypatch):
    asked = []
    encoders = importlib.import_module("segmentation_models_pytorch.encoders")

    def fetch(*arguments, **options):
        asked.append(arguments)
        raise OSError("offline")

    monkeypatch.setattr(encoders, "hf_hub_download", fetch)
    name = "smp:Unet[encoder_name=resnet18,encoder_weights=imagenet]"
    build(name, ARGUMENTS, size=(32, 32), pretrained=False)
    assert asked == []
    with pytest.raises(ValueError, match=r"cannot be built with .*OSError: offline"):
        build(name, ARGUMENTS, size=(32, 32))
    assert len(asked) == 1


# What there is to attach to


def test_explaining_lists_stages_and_patterns(mine):
    example = image(1, 1, 32, 32)
    known = explain(build_plain(read_network(BASIC), {**ARGUMENTS, "spatial_dims": 2}), example)
    assert known.startswith("auto attaches to conv_")
    assert "(1, 4, 32, 32)" in known
    arguments = {**ARGUMENTS, "spatial_dims": 2}
    other = explain(build_plain(read_network(f"{mine}:make"), arguments), example)
    assert other.startswith(
        "auto does not know Net\nstages, for an input (1, 1, 32, 32):\n  first  Conv2d  (1, 6, 32, 32)"
    )
    assert other.endswith("all stages: first")
    assert explain(nn.Conv2d(1, 2, 1), example) == "auto does not know Conv2d"
