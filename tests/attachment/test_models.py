"""`attach` on real networks of other libraries: one test per network and check, and the table of results in docs/."""

import copy
import functools
import multiprocessing
from pathlib import Path

import pytest
import torch
import two_processes

import scse
from zoo import ZOO, leaves


@functools.lru_cache(maxsize=1)  # the checks of a network run one after the other
def original(name):
    """Return a network with blocks, and the same network without; neither may be changed."""
    plain = ZOO[name].make()
    network = copy.deepcopy(plain)
    scse.attach(network, "scse")
    return network, plain


def attached(name):
    """Return a network with blocks, the same network without, an example, and the placements."""
    network, plain = copy.deepcopy(original(name))
    return network, plain, ZOO[name].example(), scse.placements(network)


def disturb(placed):
    """Change the weights of the blocks, so that they are no longer the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in placed.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def outputs(network, x):
    torch.manual_seed(7)  # for dropout
    return leaves(network(x))


def same(first, second):
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


def closest(first, second):
    """Return the largest difference, relative to the largest value."""
    pairs = list(zip(first, second, strict=True))
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


def unchanged(name, tmp_path):
    network, plain, x, placed = attached(name)
    assert len(placed) >= 3
    for training in (False, True):
        assert same(outputs(network.train(training), x), outputs(plain.train(training), x))


def gradients(name, tmp_path):
    network, _, x, placed = attached(name)
    sum(leaf.square().mean() for leaf in outputs(network.train(), x)).backward()
    assert all(parameter.grad is not None for parameter in placed.parameters())
    for place in placed:  # in the first step, the gradients before layers that start at zero are zero
        assert place.block.channel.excite.bias.grad.abs().sum() > 0
        assert place.block.spatial.project.weight.grad.abs().sum() > 0


def step(name, tmp_path):
    network, _, x, placed = attached(name)
    network.eval()
    before = outputs(network, x)
    optimizer = torch.optim.SGD(placed.parameters(), lr=1.0)
    sum(leaf.square().mean() for leaf in before).backward()
    optimizer.step()
    assert not same(before, outputs(network, x))


def detach(name, tmp_path):
    network, plain, x, placed = attached(name)
    disturb(placed)
    assert not same(outputs(network.eval(), x), outputs(plain.eval(), x))
    assert set(plain.state_dict()) == {key for key in network.state_dict() if ".recalibration." not in key}
    scse.detach(network)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in network.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not any(module._forward_hooks for module in network.modules())
    assert same(outputs(network.eval(), x), outputs(plain.eval(), x))


def deep_copy(name, tmp_path):
    network, _, x, placed = attached(name)
    disturb(placed)
    twin = copy.deepcopy(network)
    assert repr(scse.placements(twin)) == repr(placed)
    expected = outputs(network.eval(), x)
    assert same(outputs(twin.eval(), x), expected)
    disturb(scse.placements(twin))
    assert same(outputs(network, x), expected)
    assert not same(outputs(twin, x), expected)


def compiled(name, tmp_path):
    network, _, x, placed = attached(name)
    disturb(placed)
    torch.compiler.reset()
    # This tests full capture of the graph; the tests of the blocks check the code that compilers generate.
    fast = torch.compile(network.train(), fullgraph=True, backend="eager")
    reached = outputs(fast, x)
    sum(leaf.square().mean() for leaf in reached).backward()
    assert all(parameter.grad is not None for parameter in placed.parameters())
    network, _, _, placed = attached(name)
    disturb(placed)
    assert closest(outputs(network.train(), x), reached) < 1e-4


def compiled_with_breaks_of_its_own(name, tmp_path):
    network, plain, x, placed = attached(name)
    disturb(placed)
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=OWN_BREAKS[name]):
        torch.compile(plain, fullgraph=True, backend="eager")(x)
    torch.compiler.reset()
    with torch.no_grad():  # with gradients, torch warns when a graph continues after a break
        expected = outputs(network.eval(), x)
        assert closest(expected, outputs(torch.compile(network, backend="eager"), x)) < 1e-4


@functools.lru_cache(maxsize=1)  # the two checks that need it run one after the other
def program_of(name):
    """Return an exported network, an example, and the expected outputs."""
    network, _, x, placed = attached(name)
    disturb(placed)
    expected = [leaf.detach() for leaf in outputs(network.eval(), x)]
    return torch.export.export(network, (x,)), x, expected


def exported(name, tmp_path):
    program, x, expected = program_of(name)
    assert closest(expected, [leaf.detach() for leaf in leaves(program.module()(x))]) < 1e-4


def onnx(name, tmp_path):
    import onnxruntime

    program, x, expected = program_of(name)
    path = tmp_path / "network.onnx"
    torch.onnx.export(program, (x,), dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    reached = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert closest(expected, [torch.from_numpy(array) for array in reached]) < 1e-4


def two_process_training(name, tmp_path):
    places = scse.placements(original(name)[0]).names
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["two_processes", "segmentation_models_pytorch", "monai.networks.nets", "timm"])
    processes = [
        context.Process(target=two_processes.train, args=(rank, name, places, str(tmp_path)))
        for rank in range(two_processes.PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(two_processes.PROCESSES))
    assert first["moved"]
    assert all(first["moved"].values())
    assert all(torch.equal(first["blocks"][key], second["blocks"][key]) for key in first["blocks"])


COMPILED = "torch.compile, full graph"
CHECKS = {
    "outputs unchanged, bit for bit": unchanged,
    "every weight gets a gradient": gradients,
    "a step changes the output": step,
    "detach restores": detach,
    "deepcopy": deep_copy,
    COMPILED: compiled,
    "torch.export": exported,
    "ONNX Runtime": onnx,
    "2 processes, DDP": two_process_training,
}


OWN_BREAKS = {f"MONAI BasicUNet {dims}D": "`isinstance` in file .*jit" for dims in (2, 3)}
"""Networks that break the graph without blocks too, and the message of torch."""

PASSED, PASSED_WITH_BREAKS = "yes", "yes, but MONAI's own `torch.jit.isinstance` breaks the graph, without blocks too"
TABLE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ZOO)
def test_real_network(name, check, tmp_path, record_property):
    own_breaks = check == COMPILED and name in OWN_BREAKS
    assert_passes = compiled_with_breaks_of_its_own if own_breaks else CHECKS[check]
    assert_passes(name, tmp_path)
    place = (list(ZOO).index(name), name), (list(CHECKS).index(check), check)
    record_property("cell", (*place, PASSED_WITH_BREAKS if own_breaks else PASSED))


def test_table_in_the_documentation_has_a_cell_for_every_network_and_check():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header[1:] == list(CHECKS)
    assert [row[0] for row in rows] == list(ZOO)
    assert {cell for row in rows for cell in row[1:]} == {PASSED, PASSED_WITH_BREAKS}
