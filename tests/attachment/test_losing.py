"""Blocks after modules that are replaced: they survive, or a warning reports their loss."""

import copy
import warnings

import monai.networks.utils
import pytest
import timm.layers
import timm.utils.model
import torch
from torch import nn
from torch.ao.quantization import fuse_modules, get_default_qconfig_mapping, quantize_dynamic, quantize_fx
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.fx.experimental import optimization
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor

import scse
from scse.attachment.losing import LostBlockWarning

X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


class Net(nn.Module):
    """Two layers with batch normalisation; the blocks follow the latter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.head(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Net().eval()
    scse.attach(model, "scse", to="bn?", example=X, identity=False)
    return model


def frozen(model):
    return timm.utils.model.freeze_batch_norm_2d(model)


def checkpointed(model):
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, nn.BatchNorm2d))
    return model


def wrapped(model):
    model.bn1 = nn.Sequential(model.bn1)
    return model


KEPT = {
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "SyncBatchNorm of timm": timm.layers.convert_sync_batchnorm,
    "split batch normalisation": timm.layers.convert_splitbn_model,
    "copy": copy.deepcopy,
    "averaging": AveragedModel,
    "activation checkpoints": checkpointed,
    "parallel": nn.DataParallel,
    "tracing": lambda model: torch.jit.trace(model, X),
    "freezing": lambda model: torch.jit.freeze(torch.jit.trace(model, X)),
    "optimising for inference": lambda model: torch.jit.optimize_for_inference(torch.jit.trace(model, X)),
    "scripting": torch.jit.script,
    "scripting by MONAI": monai.networks.utils.convert_to_torchscript,
    "export": lambda model: torch.export.export(model, (X,)).module(),
    "wrapping": wrapped,
    "half precision and back": lambda model: model.half().float(),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore:.*is not TorchScript|.*Training:")
@pytest.mark.parametrize("convert", KEPT.values(), ids=KEPT)
def test_block_survives(model, convert):
    before = model(X)
    converted = convert(model)
    if not isinstance(converted, torch.fx.GraphModule):
        converted.eval()
    tolerance = 1e-2 if convert is KEPT["half precision and back"] else 1e-5
    torch.testing.assert_close(converted(X), before, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["SyncBatchNorm", "SyncBatchNorm of timm", "split batch normalisation", "copy"])
def test_block_that_survives_is_found_saved_learns_and_is_taken_out(model, name, tmp_path):
    converted = KEPT[name](model).eval()
    placed = scse.placements(converted)
    assert placed.names == ("bn1", "bn2")
    converted(X).sum().backward()
    assert all(parameter.grad is not None for parameter in placed.parameters())
    scse.save_attached(converted, tmp_path / "model.safetensors")
    scse.detach(converted)
    assert not any("recalibration" in key for key in converted.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in converted.modules())


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated", "ignore:.*quantized tensor creation")
def test_dynamic_quantisation_reaches_the_layers_of_the_blocks(model):
    before = model(X)
    quantised = quantize_dynamic(model, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    assert (quantised(X) - before).abs().max() < 0.05 * before.abs().max()
    assert len(scse.placements(quantised)) == 2


def conv_folded(model):
    model.conv1 = nn.utils.fusion.fuse_conv_bn_eval(model.conv1, model.bn1)
    model.bn1 = nn.Identity()
    return model


def replaced_by_monai(model):
    monai.networks.utils.replace_modules(model, "bn1", nn.BatchNorm2d(4))
    return model


DROPPED = {
    "frozen batch normalisation": (frozen, ["bn1", "bn2"]),
    "folding by hand": (conv_folded, ["bn1"]),
    "MONAI's replace_modules": (replaced_by_monai, ["bn1"]),
    "copy of what lost a block": (lambda model: copy.deepcopy(conv_folded(model)), ["bn1"]),
}


@pytest.mark.parametrize(("convert", "lost"), DROPPED.values(), ids=DROPPED)
def test_block_that_is_dropped_is_noticed(model, convert, lost, tmp_path):
    converted = convert(model)
    message = rf"{len(lost)} blocks that were attached to Net \({', '.join(lost)}\) no longer run.*attach afterwards"
    with pytest.warns(LostBlockWarning, match=message):
        converted(X)
    with pytest.warns(LostBlockWarning, match=message):
        placed = scse.placements(converted)
    assert {*placed.names} == {"bn1", "bn2"} - {*lost}
    with pytest.warns(LostBlockWarning), pytest.raises(ValueError, match="do not run any more"):
        scse.save_attached(converted, tmp_path / "model.safetensors")
    with pytest.warns(LostBlockWarning):
        scse.detach(converted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted(X)


def test_hook_that_was_removed_is_restored_with_a_warning(model):
    before = model(X)
    for module in model.modules():
        module._forward_hooks.clear()
    with pytest.warns(LostBlockWarning, match=r"2 blocks .*\(bn1, bn2\) had lost their hooks and did not run"):
        after = model(X)
    assert torch.equal(after, before)


def test_part_that_is_replaced_loses_its_blocks_with_a_warning_of_its_model():
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": Net(), "other": nn.Conv2d(1, 1, 1)}).eval()
    scse.attach(model["encoder"], "cse", to="bn?", example=X)
    model["encoder"].bn2 = nn.Identity()
    with pytest.warns(LostBlockWarning, match=r"attached to Net \(bn2\)"):
        assert len(scse.placements(model)) == 1


def test_detaching_blocks_of_a_part_is_no_loss(model):
    outer = nn.Sequential(model)
    scse.detach(model)
    scse.attach(outer, "cse", to="0.bn?", example=X)
    scse.detach(model)
    outer(X)
    assert len(scse.placements(outer)) == 0


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
def test_hook_without_its_block_raises_with_the_remedy(model):
    fused = fuse_modules(model, [["conv1", "bn1"]])
    with pytest.warns(LostBlockWarning), pytest.raises(RuntimeError, match=r"this Conv2d is gone.*attach afterwards"):
        fused(X)


FOLDING = {
    "folding": optimization.fuse,
    "static quantisation": lambda model: quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (X,)),
    "tracing": torch.fx.symbolic_trace,
    "features": lambda model: create_feature_extractor(model, ["bn2"]),
}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated", "ignore:.*reduce_range")
@pytest.mark.parametrize("convert", FOLDING.values(), ids=FOLDING)
def test_graph_that_may_fold_a_module_with_its_block_is_warned_of(model, convert):
    with pytest.warns(LostBlockWarning, match="torch.fx treats a BatchNorm2d with its block as one module.*fold first"):
        convert(model)


def test_block_after_a_module_of_ones_own_is_traced_and_no_warning_given():
    class Maps(Net):
        def forward(self, x):
            return torch.relu(self.bn1(self.conv1(x)))

    torch.manual_seed(0)
    model = nn.Sequential(Maps(), nn.ReLU()).eval()
    scse.attach(model, "scse", to="0", example=X, identity=False)
    graph = optimization.fuse(model)
    torch.testing.assert_close(graph(X), model(X))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())


def test_compiles_without_graph_break_and_runs_its_blocks(model):
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), model(X))


def test_block_of_ones_own_with_the_same_name_is_not_run():
    host = nn.Conv2d(3, 4, 1)
    before = host(X)
    host.recalibration = scse.ChannelSE(4)
    assert not torch.equal(host.recalibration(before), before)
    assert torch.equal(host(X), before)
    assert len(scse.placements(host)) == 0
