"""Properties of all networks: sizes, variants that share all other weights, copies, memory formats and dtypes."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from scse import ConcurrentSE
from scse.blocks.modules import VARIANTS
from scse.networks import NETWORKS, FCDenseNet, SDNet, UNet
from scse.networks.base import UniformNetwork
from scse.networks.densenet import Tiramisu
from scse.vocabulary.titles import NETWORK_NAMES
from scse.vocabulary.variants import Variant

MAKERS = {**NETWORKS, "tiramisu": Tiramisu}
UNIFORM = [name for name, maker in NETWORKS.items() if issubclass(maker, UniformNetwork)]
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

every_network = pytest.mark.parametrize("name", MAKERS)
every_uniform = pytest.mark.parametrize("name", UNIFORM)


def small(name, *, depth=2, in_channels=1, classes=3, **options):
    """Build a network of few channels, always with the same weights."""
    torch.manual_seed(0)
    if name == "tiramisu":
        return Tiramisu(
            in_channels, classes=classes, growth=2, layers=[1, 2, 1, 2][:depth], bottleneck_layers=2, first=4, **options
        )
    return NETWORKS[name](in_channels, classes=classes, width=4, depth=depth, kernel_size=3, **options)


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_networks_are_found_by_name():
    assert {"unet": UNet, "sdnet": SDNet, "densenet": FCDenseNet} == NETWORKS
    assert NETWORK_NAMES.keys() == NETWORKS.keys()


# Sizes


@every_network
@pytest.mark.parametrize("recalibration", [None, "scse"])
@pytest.mark.parametrize(
    "size", [(4, 4), (5, 7), (8, 12), (9, 4), (13, 11), (4, 4, 4), (5, 7, 6)], ids=lambda size: "x".join(map(str, size))
)
def test_any_size_comes_out_as_it_went_in(name, recalibration, size):
    network = small(name, spatial_dims=len(size), recalibration=recalibration).eval()
    logits = network(image(2, 1, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()


@every_network
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 16)])
def test_any_size_at_the_depth_of_the_paper(name, size):
    assert small(name, depth=4).eval()(image(1, 1, *size)).shape == (1, 3, *size)


@every_network
def test_several_channels_one_class_and_empty_batch(name):
    network = small(name, in_channels=3, classes=1).eval()
    assert network(image(1, 3, 8, 8)).shape == (1, 1, 8, 8)
    assert network(image(0, 3, 8, 8)).shape == (0, 1, 8, 8)


@every_network
@pytest.mark.parametrize("size", [(3, 8), (8, 3), (1, 1), (0, 8)])
def test_too_small_a_size_is_refused_with_both_sizes(name, size):
    network = small(name)
    kind = type(network).__name__
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        network(torch.zeros(1, 1, *size))
    assert str(raised.value) == (
        f"{kind} of depth 2 needs every spatial axis to be at least 4, got {size}; "
        "pad the input or build the network with a smaller depth"
    )


@every_network
@pytest.mark.parametrize(
    ("spatial_dims", "shape"), [(2, (1, 8, 8)), (2, (1, 1, 8, 8, 8)), (3, (1, 1, 8, 8)), (2, (8,))]
)
def test_other_number_of_axes_is_refused(name, spatial_dims, shape):
    network = small(name, spatial_dims=spatial_dims)
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        network(torch.zeros(shape))
    assert str(raised.value) == (
        f"{type(network).__name__} takes (N, channels, {spatial_dims} spatial axes), got shape {shape}"
    )


# Wrong arguments


@every_uniform
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"width": 6.5}, "width must be a whole number of at least 1, got 6.5"),
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": -1}, "kernel_size must be a whole number of at least 1, got -1"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"recalibration": "se"}, "recalibration must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'se'"),
    ],
    ids=lambda value: "-".join(f"{key}={found}" for key, found in value.items()) if isinstance(value, dict) else "",
)
def test_wrong_argument_is_named(name, options, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        NETWORKS[name](**{"width": 4, **options})
    assert str(raised.value) == message


# Variants


@every_network
def test_variants_share_their_weights_bit_for_bit(name):
    plain = small(name).state_dict()
    for variant in VARIANTS:
        state = small(name, recalibration=variant).state_dict()
        own = [key for key in state if "recalibration" in key.split(".")]
        assert [key for key in state if key not in own] == list(plain)
        assert all(torch.equal(state[key], value) for key, value in plain.items())
        assert bool(own) == (variant != "none")


@every_network
@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("scse[placement=encoder]", ["encoder"]),
        ("sse[placement=decoder]", ["decoder"]),
        ("cse[reduction=4]", ["encoder", "decoder"]),
        ("scse[aggregation=max,placement=both+bottleneck]", ["encoder", "decoder", "bottleneck"]),
    ],
)
def test_a_variant_says_where_its_blocks_go_and_shares_all_other_weights(name, variant, parts):
    network, plain = small(name, recalibration=variant), small(name).state_dict()
    blocks = {
        key.partition(".recalibration")[0]: m for key, m in network.named_modules() if key.endswith(".recalibration")
    }
    assert {host.partition(".")[0] for host in blocks} == set(parts)
    assert len(blocks) == sum(1 if part == "bottleneck" else network.depth for part in parts)
    options = Variant.parse(variant).block_options
    assert all({name: block.options[name] for name in options} == options for block in blocks.values())
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.items())
    assert network(image(1, 1, 8, 8)).isfinite().all()


@every_network
def test_blocks_of_the_bottleneck_change_nothing_of_the_others_start(name):
    both, more = (small(name, recalibration=v).state_dict() for v in ("scse", "scse[placement=both+bottleneck]"))
    assert all(torch.equal(more[key], value) for key, value in both.items())


@every_network
def test_weights_of_the_plain_network_load_into_a_variant(name):
    plain, variant = small(name), small(name, recalibration="scse")
    missing, unexpected = variant.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all("recalibration" in key.split(".") for key in missing)


@every_network
def test_blocks_follow_encoder_and_decoder_blocks_but_not_the_bottleneck(name):
    network = small(name, depth=4, recalibration="scse")
    hosts = [key.removesuffix(".recalibration") for key, _ in network.named_modules() if key.endswith("recalibration")]
    assert hosts == [f"{part}.{index}" for part in ("encoder", "decoder") for index in range(4)]


@every_network
def test_block_is_given_the_channels_of_its_host(name):
    network, seen = small(name, recalibration="cse").eval(), []
    for host in (*network.encoder, *network.decoder):
        host.recalibration.register_forward_hook(
            lambda block, inputs, _: seen.append((block.channels, inputs[0].shape[1]))
        )
    network(image(1, 1, 8, 8))
    assert len(seen) == 4
    assert all(built == found for built, found in seen)


@every_network
def test_any_function_of_the_channels_makes_a_variant(name):
    network = small(name, recalibration=partial(ConcurrentSE, aggregation="max", identity=True)).eval()
    assert {host.recalibration.aggregation for host in (*network.encoder, *network.decoder)} == {"max"}
    x = image(2, 1, 9, 8)
    assert torch.equal(network(x), small(name).eval()(x))


@every_uniform
@pytest.mark.parametrize(("bias", "added"), [(True, 34_056), (False, 33_280)])
def test_scse_adds_what_the_paper_says(name, bias, added):
    with torch.device("meta"):
        plain = NETWORKS[name]()
        variant = NETWORKS[name](recalibration=partial(ConcurrentSE, bias=bias))
    count, more = (sum(p.numel() for p in network.parameters()) for network in (plain, variant))
    assert more - count == added


# Copies and state


@every_network
def test_copy_runs_its_own_blocks(name):
    network = small(name, recalibration="scse").eval()
    x = image(1, 1, 8, 8)
    before = network(x)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for host in (*twin.encoder, *twin.decoder):
            host.recalibration.spatial.project.bias.add_(3.0)
    assert not torch.equal(twin(x), before)
    assert torch.equal(network(x), before)


@every_network
def test_state_round_trip(name):
    network = small(name, recalibration="scse")
    network(image(2, 1, 8, 8))
    torch.manual_seed(1)
    other = small(name, recalibration="scse")
    other.load_state_dict(network.state_dict())
    x = image(1, 1, 8, 8)
    assert torch.equal(other.eval()(x), network.eval()(x))


# Training, types and memory


@every_network
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_parameter_receives_a_gradient(name, spatial_dims):
    network = small(name, spatial_dims=spatial_dims, recalibration="scse")
    network(image(2, 1, *(8,) * spatial_dims)).square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@every_network
@pytest.mark.parametrize("recalibration", [None, "scse"])
def test_few_steps_lower_the_loss(name, recalibration):
    network = small(name, recalibration=recalibration)
    x = image(2, 1, 16, 16)
    target = (x[:, 0] > 0).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        losses.append(nn.functional.cross_entropy(network(x), target))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


@every_network
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_channels_last_changes_no_value(name, spatial_dims):
    network = small(name, spatial_dims=spatial_dims, recalibration="scse").eval()
    x = image(2, 1, *(9,) * spatial_dims)
    expected = network(x)
    memory = FORMATS[spatial_dims]
    torch.testing.assert_close(network.to(memory_format=memory)(x.to(memory_format=memory)), expected)


@every_network
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_bfloat16_autocast_trains(name, memory):
    network = small(name, recalibration="scse").to(memory_format=memory)
    x = image(2, 1, 9, 8).to(memory_format=memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@every_network
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_type_of_the_network_is_the_type_of_its_output(name, dtype):
    network = small(name, recalibration="scse").eval()
    x = image(1, 1, 8, 8)
    logits = copy.deepcopy(network).to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), network(x), rtol=0.1, atol=0.05)


@every_network
def test_compiles_without_graph_break(name):
    torch.compiler.reset()
    network = small(name, recalibration="scse").eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for x in (image(1, 1, 8, 8), image(2, 1, 9, 10)):
        torch.testing.assert_close(compiled(x), network(x))


@every_network
def test_exports(name):
    network = small(name, recalibration="scse").eval()
    x = image(2, 1, 8, 12)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    for y in (x, image(5, 1, 8, 12)):
        torch.testing.assert_close(exported(y), network(y))


# Wiring


@every_network
@pytest.mark.parametrize("part", ["encoder", "bottleneck", "decoder"])
def test_every_block_runs_once_and_the_decoder_backwards(name, part):
    """Every level runs once, and the decoder has the sizes of the encoder in reverse order."""
    network, sizes = small(name, depth=3).eval(), []
    blocks = [network.bottleneck] if part == "bottleneck" else getattr(network, part)
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: sizes.append(output.shape[2]))
    network(image(1, 1, 16, 16))
    assert sizes == {"encoder": [16, 8, 4], "bottleneck": [2], "decoder": [4, 8, 16]}[part]
