"""Model cards: what a segmenter is, for whoever finds it on the Hugging Face Hub."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version

from scse.inference.hub import PREFIX
from scse.inference.saved import Saved
from scse.inference.saved_recipe import read_recipe
from scse.support.extras import needing
from scse.support.text import counted
from scse.vocabulary.titles import network_name, variant_name

MARKED = str.maketrans({"|": "\\|", "\n": " "})
"""Characters that would end a cell of a table."""


def card_of_segmenter(
    saved: Saved,
    repository: str,
    *,
    license: str | None = None,  # noqa: A002 (the name of the field in the card)
    sections: Iterable[tuple[str, str]] = (),
) -> str:
    """The model card of a segmenter: Markdown with the Hub's metadata in front.

    It names no case and no path.

    Args:
        saved: The segmenter.
        repository: OWNER/NAME, for the command that uses it.
        license: Licence of the weights, as the Hub abbreviates it, such as "cc-by-4.0"; None leaves it open.
        sections: Further headings with their texts.

    Raises:
        DataError: The recipe of the segmenter is damaged.
    """
    with needing("a model card", "hub"):
        from huggingface_hub import ModelCardData  # noqa: PLC0415 (an optional package)

    data = ModelCardData(
        library_name="scse",
        license=license,
        pipeline_tag="image-segmentation",
        tags=["medical", "squeeze-and-excitation", "pytorch"],
    )
    what = f"{network_name(saved.network)}, {variant_name(saved.variant)}"
    parts = [
        f"# {repository.rpartition('/')[2]}",
        f"A segmenter of [scse](https://github.com/scse-segmentation/scse) {version('scse')}: {what}, "
        f"{counted(len(saved.structures), 'structure')}.",
        "## Use",
        "```\npip install 'scse[hub]'\n" + f"scse predict -m {PREFIX}{repository} IMAGES -o labels\n```",
        "## Images",
        markdown_table(("", ""), read_recipe(saved).describe()),
        "## Structures",
        markdown_table(("structure", "label"), _structures(saved)),
    ]
    for heading, text in sections:
        parts += [f"## {heading}", text]
    parts += [
        "## Limits",
        "It knows images like those of its training. On others, its label maps can be wrong without a sign of it: look "
        "at them, and at what `scse predict --volumes` flags. It is no medical device.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).translate(MARKED) for cell in line)} |" for line in lines)


def _structures(saved: Saved) -> list[tuple[str, str]]:
    if saved.regions:
        return [(name, ", ".join(map(str, values))) for name, values in saved.regions.items()]
    return [(name, str(value)) for name, value in saved.structures.items()]
