"""Input files of a prediction: files and folders from the command line, grouped into images of one or more channels."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scse.data.endings import ending, stem
from scse.data.file_errors import check_is_file
from scse.data.volumes import choose_series, is_dicom
from scse.support.errors import DataError, UserError
from scse.support.extras import needing
from scse.support.paths import absence

CHANNEL = re.compile(r"(.+)_(\d{4})")


def find_images(paths: Sequence[Path], *, channels: int, series: str | None = None) -> dict[str, list[Path]]:
    """Collect images from files and folders.

    Files NAME_0000, NAME_0001, ... in one folder are the channels of one image NAME, as in nnU-Net. A numbered file is
    a separate image if the model has one channel or its folder contains no NAME_0000.

    A folder without files of other formats, and a DICOM file, is one image, a DICOM series with the name of its folder.

    Args:
        paths: Files, and folders of which all image files are used.
        channels: Number of channels of the model. An image is one file with all channels, or one file per channel.
        series: SeriesInstanceUID or SeriesDescription of the series in folders of DICOM files; None if each holds one.

    Returns:
        Files of each image in the order of channels, by image name; of a DICOM series, one of its files.

    Raises:
        DataError: A path does not exist, a folder has no images or several DICOM series, an image lacks channels, or
            two images have the same name.
        UserError: `series` is given, and no path is a folder of DICOM files.
    """
    found = {file: is_dicom(file) for path in paths for file in _files(path, series)}
    scans = [file for file, scan in found.items() if scan]
    if series is not None and not scans:
        raise UserError(f"--series chooses among DICOM series ({series!r}), but no image is one; leave it out")
    files = [file for file, scan in found.items() if not scan]
    there = {(file.parent, stem(file.name)) for file in files}
    images: dict[str, list[Path]] = {}
    for file in files:
        name, index = _channel(file)
        first = (file.parent, f"{name}_0000") in there
        alone = not first or (channels == 1 and index > 0)
        images.setdefault(stem(file.name) if alone else name, []).append(file)
    for name, parts in images.items():
        _check(name, parts, channels)
    result = {name: sorted(parts) for name, parts in images.items()}
    for name, scan in _scans(scans):
        if name in result:
            remedy = "rename one of their folders, or predict them into different folders"
            raise DataError(f"2 images have the same output name, {name} ({result[name][0]}, {scan}); {remedy}")
        result[name] = [scan]
    return result


def check_not_in_series(out: Path, source: Path, *, what: str) -> None:
    """Refuse to write into the folder of a DICOM series.

    Args:
        out: Output folder.
        source: First file of the image.
        what: What would be written.

    Raises:
        UserError: `source` is a file of a DICOM series in `out`.
    """
    folder = source.parent.resolve()
    if is_dicom(source) and out.resolve() == folder:
        raise UserError(f"{out}: is the folder of the DICOM series {folder.name}; choose another one for {what}")


def _scans(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Name and first file of each DICOM series, of which several files may be given."""
    if not files:
        return
    with needing("reading DICOM series", "dicom"):
        from scse.data.dicom import find_series  # noqa: PLC0415 (an optional package)
    listed = {folder: find_series(folder) for folder in dict.fromkeys(file.parent for file in files)}
    first = {file: one.files[0] for series in listed.values() for one in series for file in one.files}
    for file in dict.fromkeys(first.get(file, file) for file in files):
        yield file.parent.resolve().name, file


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


def _files(path: Path, series: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        check_is_file(path)
    if not path.is_dir():
        raise DataError(f"{path}: {absence(path)}; give images or folders of images")
    files = sorted(file for file in path.iterdir() if ending(file.name) and not file.name.startswith("."))
    scan = next(filter(is_dicom, sorted(path.iterdir())), None)
    if scan is not None and (series is not None or not files):
        return [choose_series(path, series)]
    if scan is not None:
        found = f"contains DICOM files (such as {scan.name}) and images (such as {files[0].name})"
        raise DataError(f"{path}: {found}; give the files that you mean, or choose a DICOM series with --series")
    if not files:
        allowed = "NIfTI, MGH, MetaImage, NRRD, GIPL, PNG, TIFF, JPEG and BMP files, and the slices of a DICOM series"
        raise DataError(f"{path}: contains no images; allowed: {allowed}")
    return files
