"""Segmenters go to the Hugging Face Hub and come back the same; its refusals are one line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download

from hub_server import serving
from scse.data.recipe import Recipe
from scse.inference.hub import download, local_folder, upload
from scse.inference.segmenter import Segmenter
from scse.networks import UNet
from scse.support.errors import UserError

ARGUMENTS = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
FILES = ("segmenter.json", "weights.safetensors")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server."""
    with serving(tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    recipe = Recipe(view="coronal", spacing=(1.0, 1.5), patch=(16, 16), channels=1)
    network = UNet(**ARGUMENTS, spatial_dims=2, recalibration="scse").eval()
    return Segmenter(network, "unet", ARGUMENTS, "scse", recipe, {"left|lobe": 3, "right": 1})


def card_of(repository: str) -> str:
    return Path(hf_hub_download(repository, "README.md")).read_text()


def test_a_published_segmenter_comes_back_the_same(hub: str, segmenter: Segmenter, tmp_path: Path) -> None:
    assert segmenter.push_to_hub("anna/lobes") == f"{hub}/anna/lobes"
    here, there = segmenter.save(tmp_path / "here"), Segmenter.from_hub("anna/lobes").save(tmp_path / "there")
    for name in FILES:
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    # the card is not fetched, nor would be anything else
    assert {path.name for path in download("anna/lobes").iterdir()} == set(FILES)


def test_a_card_says_how_to_use_the_segmenter(hub: str, segmenter: Segmenter) -> None:
    segmenter.push_to_hub("anna/carded", license="cc-by-4.0")
    card = card_of("anna/carded")
    assert card.startswith("---\nlibrary_name: scse\nlicense: cc-by-4.0\n")
    assert "scse predict -m hf:anna/carded IMAGES -o labels" in card
    assert "U-Net, scSE, 2 structures" in card
    for name, value in segmenter.recipe.describe():
        assert f"| {name} | {value} |" in card
    assert "| left\\|lobe | 3 |" in card


def test_a_card_that_somebody_edited_is_kept(hub: str, segmenter: Segmenter) -> None:
    segmenter.push_to_hub("anna/edited", card="mine")
    segmenter.push_to_hub("anna/edited")
    assert card_of("anna/edited") == "mine"
    segmenter.push_to_hub("anna/edited", overwrite=True)
    assert card_of("anna/edited") != "mine"


def test_a_revision_is_what_it_was(hub: str, segmenter: Segmenter) -> None:
    segmenter.push_to_hub("anna/twice")
    first = HfApi().model_info("anna/twice").sha
    with torch.no_grad():
        for weight in segmenter.network.parameters():
            weight.add_(1)
    segmenter.push_to_hub("anna/twice")
    old, new = (Segmenter.from_hub("anna/twice", revision=revision).network for revision in (first, None))
    assert all(torch.equal(a + 1, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_a_repository_is_private_unless_it_is_asked_to_be_public(
    hub: str, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.push_to_hub("anna/private")
    segmenter.push_to_hub("anna/public", private=False)
    monkeypatch.setenv("HF_TOKEN", "")
    assert download("anna/public").is_dir()
    with pytest.raises(UserError, match=r"hf:anna/private: there is no such repository, or it is private"):
        download("anna/private")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:anna/nothing", "there is no such repository, or it is private; check the name, or log in with"),
        ("hf:anna/empty@v9", "has no such revision; give a branch, tag or commit"),
        ("hf:anna/a/b", "is no name of a repository; give hf:OWNER/NAME"),
        ("hf:anna/empty", "contains no segmenter, segmenter.json is missing"),
        ("hf:broken/x", "the Hub refused it (HTTP 500); try again later"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(hub: str, name: str, message: str) -> None:
    HfApi().create_repo("anna/empty", exist_ok=True)
    with pytest.raises(UserError) as found:
        local_folder(name)
    text = str(found.value)
    assert text.startswith(f"{name.partition('@')[0]}: {message}")
    assert "\n" not in text


def test_without_the_right_to_write_nothing_is_published(
    hub: str, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "reader")
    with pytest.raises(UserError) as found:
        upload(segmenter.save(tmp_path), "anna/forbidden", card="")
    assert str(found.value) == (
        "hf:anna/forbidden: the Hub refused it (HTTP 403); log in with `hf auth login`, or set HF_TOKEN"
    )


def test_what_was_fetched_once_needs_no_connection(
    hub: str, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.push_to_hub("anna/kept")
    fetched = download("anna/kept")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert download("anna/kept") == fetched
    with pytest.raises(UserError, match=r"hf:anna/other: the Hub cannot be reached .*; check the connection"):
        download("anna/other")
    with pytest.raises(UserError, match=r"hf:anna/kept: the Hub cannot be reached .*; check the connection"):
        upload(segmenter.save(tmp_path), "anna/kept", card="")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("anna/kept") == fetched
    with pytest.raises(UserError, match=r"hf:anna/kept: the Hub cannot be reached .*; check the connection"):
        upload(tmp_path, "anna/kept", card="")


def test_a_folder_with_the_name_of_a_repository_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hf:anna/lobes").mkdir(parents=True)
    assert local_folder("hf:anna/lobes") == Path("hf:anna/lobes")
