"""Input files of a prediction: files and folders from the command line, grouped into images of one or more channels."""

import re
from collections.abc import Sequence
from pathlib import Path

from scse.data.endings import ending, stem
from scse.data.file_errors import check_is_file
from scse.support.errors import DataError
from scse.support.paths import absence

CHANNEL = re.compile(r"(.+)_(\d{4})")


def find_images(paths: Sequence[Path], *, channels: int) -> dict[str, list[Path]]:
    """Collect images from files and folders.

    Files NAME_0000, NAME_0001, ... in one folder are the channels of one image NAME, as in nnU-Net. A numbered file is
    a separate image if the model has one channel or its folder contains no NAME_0000.

    Args:
        paths: Files, and folders of which all image files are used.
        channels: Number of channels of the model. An image is one file with all channels, or one file per channel.

    Returns:
        Files of each image in the order of channels, by image name.

    Raises:
        DataError: A path does not exist, a folder has no images, an image lacks channels, or two images have the same
            name.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    there = {(file.parent, stem(file.name)) for file in files}
    images: dict[str, list[Path]] = {}
    for file in files:
        name, index = _channel(file)
        first = (file.parent, f"{name}_0000") in there
        alone = not first or (channels == 1 and index > 0)
        images.setdefault(stem(file.name) if alone else name, []).append(file)
    for name, parts in images.items():
        _check(name, parts, channels)
    return {name: sorted(parts) for name, parts in images.items()}


def _channel(file: Path) -> tuple[str, int]:
    """Image name and channel index from the name of a file, as in nnU-Net."""
    match = CHANNEL.fullmatch(stem(file.name))
    return (match[1], int(match[2])) if match else (stem(file.name), 0)


def _check(name: str, files: list[Path], channels: int) -> None:
    if len(files) == 1:
        return
    found = ", ".join(map(str, files))
    stems = {stem(file.name) for file in files}
    if len({file.parent for file in files}) > 1 or len(stems) < len(files) or name in stems:
        remedy = "rename one of them, or predict them into different folders"
        raise DataError(f"{len(files)} images have the same output name, {name} ({found}); {remedy}")
    if {_channel(file)[1] for file in files} != set(range(channels)):
        wanted = ", ".join(f"{name}_{index:04d}" for index in range(channels))
        raise DataError(f"{files[0].parent / name}: found {found}, but the model expects the channels {wanted}")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        check_is_file(path)
    if not path.is_dir():
        raise DataError(f"{path}: {absence(path)}; give images or folders of images")
    files = sorted(file for file in path.iterdir() if ending(file.name) and not file.name.startswith("."))
    if not files:
        raise DataError(
            f"{path}: contains no images; allowed: NIfTI, MGH, MetaImage, NRRD, GIPL, PNG, TIFF, JPEG and BMP files"
        )
    return files
