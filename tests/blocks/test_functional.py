"""The functional blocks: they equal the modules, and refuse shapes that broadcasting would accept."""

import pytest
import torch

from scse import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE, functional
from scse.vocabulary.options import AGGREGATIONS

C, HIDDEN = 4, 2


def channel_weights(**changed):
    weights = {
        "squeeze_weight": torch.ones(HIDDEN, C),
        "squeeze_bias": torch.ones(HIDDEN),
        "excite_weight": torch.ones(C, HIDDEN),
        "excite_bias": torch.ones(C),
    }
    return weights | {name: value for name, value in changed.items() if name in weights}


def run_cse(x, **changed):
    return functional.cse(x, **channel_weights(**changed))


def run_sse(x, weight=None, bias=None):
    return functional.sse(x, torch.ones(1, C) if weight is None else weight, bias)


def run_scse(x, aggregation="add", project_weight=None, project_bias=None, **changed):
    project_weight = torch.ones(1, C) if project_weight is None else project_weight
    return functional.scse(
        x,
        **channel_weights(**changed),
        project_weight=project_weight,
        project_bias=project_bias,
        aggregation=aggregation,
    )


def run_pe(x, **changed):
    return functional.pe(x, **channel_weights(**changed))


@pytest.mark.parametrize("run", [run_cse, run_sse, run_scse, run_pe])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, C), r"a feature map has shape \(N, C, \*spatial\) with at least one spatial axis, got \(2, 4\)"),
        ((2, C + 1, 6), r"built for 4 channels, but its input of shape \(2, 5, 6\) has 5; channels are axis 1"),
    ],
)
def test_feature_map_that_does_not_fit_is_refused(run, shape, message):
    with pytest.raises(ValueError, match=message):
        run(torch.zeros(shape))


@pytest.mark.parametrize("run", [run_cse, run_scse, run_pe])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"excite_weight": torch.ones(1, HIDDEN)}, r"excite_weight must have shape \(4, 2\), got \(1, 2\)"),
        ({"excite_weight": torch.ones(C, C)}, r"excite_weight must have shape \(4, 2\), got \(4, 4\)"),
        ({"excite_bias": torch.ones(1)}, r"bias of excite_weight must have shape \(4,\), got \(1,\)"),
        ({"squeeze_bias": torch.ones(1)}, r"bias of squeeze_weight must have shape \(2,\), got \(1,\)"),
    ],
)
def test_channel_weights_that_do_not_fit_are_refused(run, changed, message):
    with pytest.raises(ValueError, match=message):
        run(torch.zeros(2, C, 6), **changed)


@pytest.mark.parametrize(("run", "name"), [(run_sse, "weight"), (run_scse, "project_weight")], ids=["sse", "scse"])
def test_projection_to_other_than_one_channel_is_refused(run, name):
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(1, 4\), got \(4, 4\)"):
        run(torch.zeros(2, C, 6), **{name: torch.ones(C, C)})


@pytest.mark.parametrize(("run", "name"), [(run_sse, "bias"), (run_scse, "project_bias")], ids=["sse", "scse"])
def test_projection_bias_per_position_is_refused(run, name):
    with pytest.raises(ValueError, match=r"weight must have shape \(1,\), got \(6,\)"):
        run(torch.zeros(2, C, 6), **{name: torch.ones(6)})


@pytest.mark.parametrize("aggregation", ["mean", "", None, "Add"])
def test_unknown_aggregation_is_refused_with_all_known(aggregation):
    with pytest.raises(ValueError, match=r"aggregation must be one of 'add', 'max', 'multiply', 'concat', got "):
        run_scse(torch.zeros(2, C, 6), aggregation=aggregation)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"activation": "SiLU"}, r"activation must be one of 'relu', 'silu', 'leaky-relu', got 'SiLU'"),
        ({"gate": None}, r"gate must be one of 'sigmoid', 'hard-sigmoid', 'relu', got None"),
    ],
)
def test_unknown_activation_or_gate_is_refused_with_all_known(option, message):
    with pytest.raises(ValueError, match=message):
        functional.cse(torch.zeros(2, C, 6), **channel_weights(), **option)


def test_functions_compute_what_the_modules_compute():
    torch.manual_seed(0)
    x = torch.randn(2, C, 5, 6)
    channel, spatial = ChannelSE(C), SpatialSE(C)
    weights = [channel.squeeze.weight, channel.squeeze.bias, channel.excite.weight, channel.excite.bias]
    project = [spatial.project.weight, spatial.project.bias]
    assert torch.equal(functional.cse(x, *weights), channel(x))
    assert torch.equal(functional.sse(x, *project), spatial(x))
    for aggregation in AGGREGATIONS:
        both = ConcurrentSE(C, aggregation=aggregation)
        both.channel, both.spatial = channel, spatial
        assert torch.equal(functional.scse(x, *weights, *project, aggregation=aggregation), both(x))
    block = ProjectExcite(C)
    weights = [block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias]
    assert torch.equal(functional.pe(x, *weights), block(x))


def test_values_by_hand():
    """U is 1 in the first channel and 3 in the second. Every gate is sigmoid(ln 3) = 3/4 or sigmoid(0) = 1/2."""
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1).expand(1, 2, 4)
    ln3 = torch.log(torch.tensor(3.0))
    squeeze, excite = torch.tensor([[1.0, 1.0]]), torch.tensor([[ln3 / 4], [0.0]])
    project = torch.tensor([[ln3, 0.0]])
    by_channel = functional.cse(x, squeeze, None, excite, None)
    torch.testing.assert_close(by_channel[0, :, 0], torch.tensor([0.75, 1.5]))
    by_position = functional.sse(x, project, None)
    torch.testing.assert_close(by_position[0, :, 0], torch.tensor([0.75, 2.25]))
    hand = {"add": [1.5, 3.75], "max": [0.75, 2.25], "multiply": [0.5625, 3.375], "concat": [0.75, 1.5, 0.75, 2.25]}
    for aggregation, values in hand.items():
        joined = functional.scse(x, squeeze, None, excite, None, project, None, aggregation=aggregation)
        torch.testing.assert_close(joined[0, :, 0], torch.tensor(values))


def test_values_of_project_and_excite_by_hand():
    """Rows have the means 2 and 4, columns 2.5 and 3.5; the gate is the sigmoid of their sum."""
    x = torch.tensor([[1.0, 3.0], [4.0, 4.0]]).reshape(1, 1, 2, 2)
    found = functional.pe(x, torch.ones(1, 1), None, torch.ones(1, 1), None)
    torch.testing.assert_close(found, x * torch.sigmoid(torch.tensor([[4.5, 5.5], [6.5, 7.5]])))
    # the only axis of a map in 1D is its own projection
    line = x.flatten(2)
    found = functional.pe(line, torch.ones(1, 1), None, torch.ones(1, 1), None)
    torch.testing.assert_close(found, line * torch.sigmoid(line))


def test_scale_multiplies_the_gate():
    x = torch.randn(2, C, 6)
    twice = functional.cse(x, **channel_weights(), scale=2.0)
    torch.testing.assert_close(twice, 2 * run_cse(x))
    torch.testing.assert_close(functional.sse(x, torch.ones(1, C), None, scale=2.0), 2 * run_sse(x))
    torch.testing.assert_close(functional.pe(x, **channel_weights(), scale=2.0), 2 * run_pe(x))
