"""The folders that an earlier version of scse wrote, see `test_earlier`."""

import tarfile
from pathlib import Path


def unpack_earlier(folder: Path) -> Path:
    """Unpack earlier.tar.xz into a folder; returns the folder."""
    with tarfile.open(Path(__file__).parent / "earlier.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
