"""Which files to predict: what a user names on the command line, as images of one or more channels."""

import re
from collections.abc import Sequence
from pathlib import Path

from scse.data.files import ending, stem
from scse.errors import DataError

CHANNEL = re.compile(r"_\d{4}$")


def find_images(paths: Sequence[Path], *, channels: int) -> dict[str, list[Path]]:
    """Collect images from files and folders.

    Files named NAME_0000, NAME_0001, ... are the channels of one image NAME, as nnU-Net names them.

    Args:
        paths: files, or folders whose image files are taken.
        channels: of the model; an image is one file that holds them all, or as many files.

    Returns:
        Image name -> its files in the order of channels.

    Raises:
        DataError: a path does not exist, a folder has no images, or an image lacks channels.
    """
    images: dict[str, list[Path]] = {}
    for path in paths:
        for file in _files(path):
            images.setdefault(CHANNEL.sub("", stem(file.name)), []).append(file)
    for name, files in images.items():
        if len(files) not in {1, channels}:
            found = ", ".join(file.name for file in files)
            raise DataError(f"{files[0].parent / name}: {len(files)} files ({found}), but the model takes {channels}")
    return images


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder; name images or folders of images")
    files = sorted(file for file in path.iterdir() if ending(file.name))
    if not files:
        raise DataError(f"{path}: holds no images; NIfTI, PNG, TIFF, JPEG and BMP files are read")
    return files
