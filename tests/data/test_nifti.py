"""NIfTI files: values, sizes described by headers, units, and memory."""

import gzip
import itertools
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scse.data.files import geometry_errors, read_image, read_label, write_label
from scse.data.nifti import MOST_HEADER
from scse.data.raw_volumes import MOST_AFTER
from scse.support.errors import DataError

READERS: list[Callable[[Path], Any]] = [lambda path: read_image([path]), read_label]


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, form: str, *values: Any) -> Path:
    """Change the header of a file at `offset`, and return its path."""
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


@contextmanager
def assert_memory_at_most(megabytes: float) -> Iterator[None]:
    """Assert that the block allocates at most this much memory."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 1e6


def random(dtype: Any = np.int16, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 100, shape).astype(dtype)


# Values


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII", ".NII.GZ"])
@pytest.mark.parametrize("order", "<>")
def test_voxels_are_those_that_nibabel_reads(tmp_path: Path, form: Any, suffix: str, order: str) -> None:
    for dtype in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        array = random(f"{order}{dtype}", (40, 50, 60))
        path = tmp_path / f"a{suffix}"
        header = form.header_class(endianness=order)
        header.set_data_dtype(array.dtype)
        nib.save(form(array, np.eye(4), header), path)
        np.testing.assert_array_equal(read_image([path]).array[0], nib.load(path).get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(read_label(path).array, array)


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.5, 3), (1, -1024), (2, 0), (-1, 7), (1e-3, 0), (0, 5), (np.nan, 0)]
)
def test_slopes_are_applied_as_nibabel_does(tmp_path: Path, slope: float, intercept: float) -> None:
    for dtype in (np.int16, np.float32, np.uint8):
        path = save(tmp_path / "a.nii", random(dtype))
        patched(path, 112, "<ff", slope, intercept)
        np.testing.assert_array_equal(
            read_image([path]).array[0], nib.load(path).get_fdata(dtype=np.float64).astype("f4")
        )


def test_channels_in_files_and_axes_are_joined_without_a_copy(tmp_path: Path) -> None:
    arrays = [random(np.float32, (40, 50, 60)) + k for k in range(3)]
    one = save(tmp_path / "a.nii.gz", arrays[0])
    two = save(tmp_path / "b.nii", np.stack(arrays[1:], axis=-1))
    with assert_memory_at_most(1.2 * 3 * arrays[0].nbytes / 1e6 + 3):
        joined = read_image([one, two]).array
    np.testing.assert_array_equal(joined, np.stack(arrays))


def test_values_beyond_float32_become_infinite_without_a_warning(tmp_path: Path) -> None:
    array = np.ones((3, 3, 3))
    array[0, 0, 0] = 1e300
    assert read_image([save(tmp_path / "a.nii", array)]).array[0, 0, 0, 0] == np.inf


# Labels


@pytest.mark.parametrize(("step", "slope"), [(255, 1 / 255), (10, 0.1), (3, 1 / 3), (2, 0.5), (1000, 1e-3)])
def test_labels_stored_with_a_slope_are_read(tmp_path: Path, step: int, slope: float) -> None:
    labels = np.arange(12).reshape(2, 2, 3) % 4
    path = save(tmp_path / "a.nii.gz", (labels * step).astype(np.int16))
    found = read_label(patched(path, 112, "<ff", slope, 0)).array
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.int32


@pytest.mark.parametrize(("noise", "read"), [(1e-6, True), (9e-4, True), (-9e-4, True), (2e-3, False), (0.5, False)])
def test_labels_may_be_a_thousandth_off(tmp_path: Path, noise: float, read: bool) -> None:
    labels = random(np.float64, (5, 6, 7)) % 5
    path = save(tmp_path / "a.nii.gz", labels + noise)
    if read:
        np.testing.assert_array_equal(read_label(path).array, labels)
    else:
        with pytest.raises(
            DataError, match=r"210 voxels are not whole numbers .*stored as float64.*tolerance of 0\.001: "
        ):
            read_label(path)


def test_a_slope_that_makes_labels_fractional_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.ones((3, 3, 3), np.int16))
    patched(path, 112, "<ff", 0.25, 0)
    with pytest.raises(
        DataError, match=r"a\.nii: 27 voxels .*\(such as 0\.25; stored as int16 with slope 0\.25 and inter"
    ):
        read_label(path)


# Sizes of voxels


@pytest.mark.parametrize("size", [1e-9, 9e-7, 9e-4, 1.0, 1e3, 1e6, 1e9])
def test_every_size_of_voxels_is_read_and_compared_with_itself(tmp_path: Path, size: float) -> None:
    affine = np.diag([0.9 * size, size, 1.5 * size, 1])
    affine[:3, 3] = -20 * size
    image = read_image([save(tmp_path / "a.nii", random(), affine)])
    assert image.spacing == pytest.approx((0.9 * size, size, 1.5 * size), rel=1e-6)
    assert image.spacing == tuple(float(f"{mm:.7g}") for mm in image.spacing)
    for shift, agrees in ((5e-4, True), (0.25, False)):
        other = affine.copy()
        other[0, 3] += shift * size
        found = read_label(save(tmp_path / "b.nii", random(), other))
        errors = geometry_errors(tmp_path / "b.nii", found, tmp_path / "a.nii", image)
        assert (errors == []) == agrees


def test_far_from_the_origin_the_precision_of_a_header_is_no_difference(tmp_path: Path) -> None:
    affine = np.diag([1e-3, 1e-3, 1e-3, 1])
    affine[:3, 3] = 200
    image = read_image([save(tmp_path / "a.nii", random(), affine)])
    affine[:3, 3] += 1e-5
    label = read_label(save(tmp_path / "b.nii", random(), affine))
    assert geometry_errors(tmp_path / "b.nii", label, tmp_path / "a.nii", image) == []


def test_flat_affines_are_refused_whatever_their_unit(tmp_path: Path) -> None:
    for size in (1e-3, 1.0, 1e6):
        affine = np.diag([size, size, size, 1])
        affine[:3, 2] = affine[:3, 1]  # two axes point the same way
        image = nib.Nifti1Image(random(), None)
        image.header.set_sform(affine, 1)
        nib.save(image, tmp_path / "a.nii")
        with pytest.raises(DataError, match="cannot be inverted; write a valid s-form"):
            read_image([tmp_path / "a.nii"])


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("mm", 1), ("meter", 1e3), ("unknown", 1)])
def test_the_unit_of_the_header_is_taken_to_millimetres(tmp_path: Path, unit: str, mm: float) -> None:
    image = nib.Nifti1Image(random(), np.diag([0.9, 0.9, 2, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_image([tmp_path / "a.nii"])
    assert read.spacing == pytest.approx((0.9 * mm, 0.9 * mm, 2 * mm))
    write_label(tmp_path / "label.nii.gz", random(np.uint8), like=tmp_path / "a.nii")
    written = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(written.affine, image.affine, rtol=1e-6)  # in the unit of the file
    assert written.header.get_xyzt_units()[0] == unit
    assert geometry_errors(tmp_path, read_label(tmp_path / "label.nii.gz"), tmp_path, read) == []


# Sizes described by headers


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_small_file_that_claims_a_huge_volume_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", np.zeros((2, 2, 2), np.uint16))
    patched(path, 42, "<hhh", 1250, 1250, 1250)
    for read in READERS:
        with (
            assert_memory_at_most(10),
            pytest.raises(DataError, match=r"1250 x 1250 x 1250 voxels of uint16, 3,906,250,000 bytes, but"),
        ):
            read(path)


@pytest.mark.parametrize("axes", [(2**40, 2**40, 2**40), (2**62, 4, 4), (2**20, 2**20, 2**20, 2**20), (-1, 5, 6)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_axes_of_64_bits_are_not_believed(tmp_path: Path, axes: tuple[int, ...], suffix: str) -> None:
    nib.save(nib.Nifti2Image(random(), np.eye(4)), tmp_path / f"a{suffix}")
    path = patched(tmp_path / f"a{suffix}", 16, f"<{len(axes) + 1}q", len(axes), *axes)
    for read in (*READERS, lambda path: read_image([path, path])):
        with assert_memory_at_most(10), pytest.raises(DataError, match=r"^.*/a\.nii(\.gz)?: "):
            read(path)


@pytest.mark.parametrize("read", READERS)
def test_what_follows_the_voxels_is_never_kept(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    whole = (save(tmp_path / "a.nii", random())).read_bytes()
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(whole) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(60)) + packer.flush()
    (tmp_path / "bomb.nii.gz").write_bytes(bomb)
    with (
        assert_memory_at_most(10),
        pytest.raises(DataError, match="more than 1,048,576 bytes follow the voxels that its header"),
    ):
        read(tmp_path / "bomb.nii.gz")
    (tmp_path / "a.nii").write_bytes(whole + bytes(MOST_AFTER + 1))
    with pytest.raises(DataError, match="follow the voxels"):
        read(tmp_path / "a.nii")
    for name, content in (("b.nii", whole + bytes(99)), ("c.nii.gz", gzip.compress(whole + bytes(99)))):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name).shape == (4, 5, 6)


def test_gzip_of_several_members_is_read_and_anything_else_behind_it_is_not(tmp_path: Path) -> None:
    array = random(np.int16, (30, 30, 30))
    whole = save(tmp_path / "a.nii", array).read_bytes()
    path = tmp_path / "a.nii.gz"
    parts = [whole[start : start + 9000] for start in range(0, len(whole), 9000)]
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    np.testing.assert_array_equal(read_label(path).array, array)
    path.write_bytes(gzip.compress(whole) + bytes(20))  # padding, which gzip allows
    np.testing.assert_array_equal(read_label(path).array, array)
    path.write_bytes(gzip.compress(whole) + b"more")
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_label(path)


@pytest.mark.parametrize(
    ("offset", "form", "values"),
    [
        (40, "<hhhh", (3, -4, 5, 6)),
        (40, "<hhhh", (3, 0, 5, 6)),
        (40, "<hhhh", (0, 4, 5, 6)),
        (40, "<hhhh", (-1, 4, 5, 6)),
        (40, "<hhhh", (9, 4, 5, 6)),
        (40, "<8h", (7, *[32767] * 7)),  # exceeds 64-bit integers
        (40, "<8h", (5, 4, 5, 6, 2, 2, 1, 1)),
        (108, "<f", (np.nan,)),
        (108, "<f", (np.inf,)),
        (108, "<f", (-5,)),
        (108, "<f", (100,)),
        (108, "<f", (1e9,)),
        (108, "<f", (5000,)),
        (112, "<ff", (2, np.nan)),
        (70, "<h", (32,)),  # complex64
        (70, "<h", (128,)),  # RGB
        (70, "<h", (2304,)),  # RGBA
        (70, "<h", (1,)),  # bits
        (70, "<h", (9999,)),
        (344, "4s", (b"none",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nonsense_in_headers_is_one_clear_error(
    tmp_path: Path, offset: int, form: str, values: tuple[Any, ...], suffix: str
) -> None:
    path = save(tmp_path / f"a{suffix}", random())
    patched(path, offset, form, *values)
    for read in READERS:
        with assert_memory_at_most(10), pytest.raises(DataError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [2**31 - 16, -16, 0, 7, 160])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_extensions_that_claim_any_size_take_no_memory(tmp_path: Path, size: int, suffix: str) -> None:
    image = nib.Nifti1Image(random(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 40))
    path = tmp_path / f"a{suffix}"
    nib.save(image, path)
    patched(path, 352, "<i", size)
    with assert_memory_at_most(10):
        try:
            found = read_image([path]).array[0]
        except DataError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 (nibabel must refuse the damage, too)
        else:
            np.testing.assert_array_equal(found, random())


def test_voxels_may_not_start_beyond_any_header(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", random()), 108, "<f", 2.0 * MOST_HEADER)
    with pytest.raises(DataError, match=r"start at byte 134,217,728; 352 to 67,108,864 is allowed"):
        read_image([path])


def test_a_written_map_keeps_the_extensions_of_its_image(tmp_path: Path) -> None:
    image = nib.Nifti1Image(random(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanned in June"))
    nib.save(image, tmp_path / "a.NII.GZ")
    write_label(tmp_path / "label.nii.gz", random(np.uint8), like=tmp_path / "a.NII.GZ")
    [kept] = nib.load(tmp_path / "label.nii.gz").header.extensions
    assert kept.get_content().rstrip(b"\0") == b"scanned in June"
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz").array, random(np.uint8))


def test_an_image_larger_than_the_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", random())
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": 100}))
    with pytest.raises(DataError, match=r"a\.nii: needs 0\.0 GB of memory, but only 0\.0 GB are free; crop or"):
        read_image([path])


# Paths that are not regular files


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".tif"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo(f"pipe{suffix}")
    Path(f"folder{suffix}").mkdir()
    Path(f"device{suffix}").symlink_to("/dev/zero")
    Path(f"broken{suffix}").symlink_to("gone")
    Path(f"loop{suffix}").symlink_to(f"loop{suffix}")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"socket{suffix}")
        found = {
            "pipe": r"is a named pipe \(FIFO\), not a file",
            "folder": "is a folder, not a file",
            "device": "is a device, not a file",
            "socket": "is a socket, not a file",
            "broken": "is a link to gone, which does not exist; put the file there",
            "loop": "Too many levels of symbolic links",
        }
        for (name, message), read in itertools.product(found.items(), READERS):
            with pytest.raises(DataError, match=rf"^{name}{suffix}: .*{message}"):
                read(Path(name + suffix))
        for name in ("pipe", "broken"):
            with pytest.raises(DataError, match=rf"^{name}{suffix}: {found[name]}"):
                write_label(Path("label.nii"), random(np.uint8), like=Path(name + suffix))


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", random())
    (tmp_path / "link.nii.gz").symlink_to("a.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "link.nii.gz").array, random())


# Memory


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64])
def test_nothing_but_the_array_is_as_large_as_the_volume(tmp_path: Path, suffix: str, dtype: Any) -> None:
    path = save(tmp_path / f"a{suffix}", np.ones((100, 200, 200), dtype))
    volume = 4 * 100 * 200 * 200 / 1e6
    for read in READERS:
        with assert_memory_at_most(1.2 * volume + 4):
            assert read(path).shape == (100, 200, 200)


def test_inspect_takes_little_more_memory_than_the_volume(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    array = np.ones((256, 256, 300), np.float32)
    save(tmp_path / "images/a.nii", array)
    save(tmp_path / "masks/a.nii.gz", array.astype(np.float32))
    script = f"""
import resource
from scse.data.dataset import Dataset
from scse.data.inspection import inspect
import scse.data.pictures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert inspect(Dataset.open({str(tmp_path)!r})).problems == ()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1.3 * array.nbytes


@pytest.mark.parametrize(("form", "place", "kind"), [(nib.Nifti1Image, 108, "<f"), (nib.Nifti2Image, 168, "<q")])
@pytest.mark.parametrize("start", [0, 4, 351])
def test_voxels_may_not_start_within_the_header(tmp_path: Path, form: Any, place: int, kind: str, start: int) -> None:
    nib.save(form(random(), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(DataError, match=f"voxels would start at byte {start}"):
        read_image([patched(tmp_path / "scan.nii", place, kind, start)])


def test_empty_axes_at_the_end_mean_nothing(tmp_path: Path) -> None:
    array = random()
    for extra in ((1,), (1, 1), (1, 1, 1)):
        image = read_image([save(tmp_path / "scan.nii", array.reshape(*array.shape, *extra))])
        np.testing.assert_array_equal(image.array, array[None])


@pytest.mark.parametrize("slope", [1e-30, 1e-4, -1e-5])
def test_a_tiny_slope_does_not_make_all_labels_background(tmp_path: Path, slope: float) -> None:
    path = save(tmp_path / "label.nii", np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    with pytest.raises(DataError, match="voxels are not whole numbers"):
        read_label(patched(path, 112, "<ff", slope, 0.0))
