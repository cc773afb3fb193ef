"""TIFF stacks as volumes: values and axes against SimpleITK, voxel sizes, what is refused, and label maps written."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile

from datasets import save_nifti, scene
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label, write_label, write_map
from scse.data.inspection import inspect
from scse.data.tiff_stacks import is_stack
from scse.evaluation.scores import score_files
from scse.support.errors import DataError, UserError

SHAPE = (4, 5, 7)  # slices, rows, columns, as tifffile stores them
SIZES = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
RESOLUTION = (4, 2)  # columns and rows per unit

SLICES = {"metadata": {"axes": "ZYX"}}

LAYOUTS: dict[str, dict[str, Any]] = {
    "tifffile's": {},
    "plain": {"metadata": None},
    "ImageJ": {"imagej": True} | SLICES,
    "ImageJ's, big-endian": {"imagej": True, "byteorder": ">"} | SLICES,
    "OME": {"ome": True} | SLICES,
    "BigTIFF": {"bigtiff": True},
    "big-endian": {"byteorder": ">", "metadata": None},
    "Deflate": {"compression": "zlib"},
    "Deflate with a predictor": {"compression": "zlib", "predictor": True},
    "LZW": {"compression": "lzw", "metadata": None},
    "strips": {"rowsperstrip": 2},
    "tiles": {"tile": (16, 16), "metadata": None},
    "one header": {"truncate": True},
    "one header of ImageJ": {"imagej": True, "truncate": True} | SLICES,
}


def random(shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))
    return path


def ome(path: Path, array: np.ndarray, axes: str = "ZYX", **metadata: Any) -> Path:
    return save(path, array, ome=True, metadata={"axes": axes, **metadata})


# Values and axes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_values_and_axes_are_those_of_simpleitk(tmp_path: Path, layout: str, dtype: Any) -> None:
    array = random(dtype=dtype)
    path = save(tmp_path / "a.tif", array, **LAYOUTS[layout])
    image, label = read_image([path]), read_label(path)
    np.testing.assert_array_equal(image.array[0], array.T)
    np.testing.assert_array_equal(label.array, array.T)
    assert image.array.dtype == np.float32
    assert label.array.dtype == (np.int32 if dtype == np.float32 else dtype)
    assert (image.orientation, image.spacing) == ("LPS", (1, 1, 1))
    np.testing.assert_array_equal(label.affine, image.affine)
    if "one header" not in layout and layout != "tiles":  # which ITK reads as one slice, or as colours
        read = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(read).T)
        assert image.shape == read.GetSize()
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "a.nii.gz"))
        np.testing.assert_allclose(read_image([tmp_path / "a.nii.gz"]).affine, image.affine)


def test_channels_are_an_axis_or_samples(tmp_path: Path) -> None:
    array = random((4, 2, 5, 7))
    expected = array.transpose(1, 3, 2, 0)
    paths = [
        ome(tmp_path / "zc.tif", array, "ZCYX"),
        ome(tmp_path / "cz.tif", array.swapaxes(0, 1), "CZYX"),
        save(tmp_path / "imagej.tif", array, imagej=True, metadata={"axes": "ZCYX"}),
        save(tmp_path / "own.tif", array, metadata={"axes": "ZCYX"}),
        save(tmp_path / "samples.tif", array.transpose(0, 2, 3, 1), planarconfig="contig"),
        save(tmp_path / "planes.tif", array, planarconfig="separate"),
    ]
    for path in paths:
        np.testing.assert_array_equal(read_image([path]).array, expected, err_msg=path.name)
        with pytest.raises(DataError, match=r"label has shape \(7, 5, 4, 2\); it must be one map"):
            read_label(path)
    single = save(tmp_path / "single.tif", array[:, 0])
    joined = read_image([paths[0], single])
    np.testing.assert_array_equal(joined.array, np.concatenate([expected, expected[:1]]))


def test_colours_are_channels_without_alpha(tmp_path: Path) -> None:
    array = random((4, 5, 7, 4))
    colours = array[..., :3].transpose(3, 2, 1, 0)
    paths = [
        save(tmp_path / "rgb.tif", array[..., :3], photometric="rgb"),
        save(tmp_path / "alpha.tif", array, photometric="rgb", extrasamples=["unassalpha"]),
        save(tmp_path / "imagej.tif", array[..., :3], photometric="rgb", imagej=True, metadata={"axes": "ZYXS"}),
        save(tmp_path / "ome.tif", array[..., :3], photometric="rgb", ome=True, metadata={"axes": "ZYXS"}),
    ]
    for path in paths:
        np.testing.assert_array_equal(read_image([path]).array, colours, err_msg=path.name)
        with pytest.raises(DataError, match="it must be one map of 2 or 3 axes, with one number a voxel"):
            read_label(path)
    with pytest.raises(DataError, match=r"it must be an RGB picture, since labels\.csv lists colours"):
        read_label(paths[0], colors={0: (0, 0, 0)})


def test_palettes_are_colours_of_images_and_indices_of_label_maps(tmp_path: Path) -> None:
    array = random()
    table = random((3, 256), np.uint16) * 257
    path = save(tmp_path / "a.tif", array, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_image([path]).array, (table[:, array.T] >> 8).astype(np.uint8))
    np.testing.assert_array_equal(read_label(path).array, array.T)


def test_label_maps_are_whole_numbers(tmp_path: Path) -> None:
    bits = random() > 99
    label = read_label(save(tmp_path / "bits.tif", bits)).array
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, bits.T)
    np.testing.assert_array_equal(
        read_label(save(tmp_path / "a.tif", random(dtype=np.float32) + 1e-4)).array, random().T
    )
    with pytest.raises(DataError, match=r"140 voxels are not whole numbers .*stored as float64\)"):
        read_label(save(tmp_path / "b.tif", random(dtype=np.float64) + 0.25))


def test_pages_are_read_as_they_are_displayed(tmp_path: Path) -> None:
    array = random()
    path = save(tmp_path / "a.tif", array, extratags=[(274, "H", 1, 6, False)], metadata=None)
    np.testing.assert_array_equal(read_image([path]).array[0], np.rot90(array, -1, axes=(1, 2)).T)


def test_reduced_copies_are_left_out(tmp_path: Path) -> None:
    array = random((4, 32, 48))
    with tifffile.TiffWriter(tmp_path / "sub.tif") as writer:
        writer.write(array, photometric="minisblack", subifds=1, metadata={"axes": "ZYX"})
        writer.write(array[:, ::2, ::2], photometric="minisblack", subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "after.tif") as writer:
        for page in array:
            writer.write(page, photometric="minisblack", metadata=None)
        writer.write(array[0, ::2, ::2], photometric="minisblack", metadata=None, subfiletype=1)
    for name in ("sub.tif", "after.tif"):
        np.testing.assert_array_equal(read_image([tmp_path / name]).array[0], array.T)


def test_one_page_is_a_picture(tmp_path: Path) -> None:
    for name, options in (("a.tif", {}), ("b.tif", {"imagej": True}), ("c.ome.tif", {})):
        image = read_image([save(tmp_path / name, random()[:1], **options)])
        assert (image.shape, image.affine) == ((5, 7), None)
    assert not is_stack(tmp_path / "a.tif")
    assert not is_stack(tmp_path / "missing.tif")


# Voxel sizes


@pytest.mark.parametrize(("unit", "length"), [(None, 1e-3), ("µm", 1e-3), ("nm", 1e-6), ("mm", 1), ("cm", 10)])
def test_voxel_sizes_of_ome_are_in_millimetres(tmp_path: Path, unit: str | None, length: float) -> None:
    units = {} if unit is None else {f"{name}Unit": unit for name in SIZES}
    image = read_image([ome(tmp_path / "a.tif", random(), **SIZES, **units)])
    assert image.spacing == pytest.approx((0.25 * length, 0.5 * length, 2 * length))
    np.testing.assert_allclose(image.affine, np.diag([-0.25 * length, -0.5 * length, 2 * length, 1]))


@pytest.mark.parametrize(
    ("unit", "length"), [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1), ("inch", 25.4)]
)
@pytest.mark.parametrize("spacing", [2.0, -2.0])
def test_voxel_sizes_of_imagej_are_in_millimetres(tmp_path: Path, unit: str, length: float, spacing: float) -> None:
    metadata = {"axes": "ZYX", "spacing": spacing, "unit": unit}
    image = read_image([save(tmp_path / "a.tif", random(), imagej=True, resolution=RESOLUTION, metadata=metadata)])
    assert image.spacing == pytest.approx((0.25 * length, 0.5 * length, 2 * length))


def test_imagej_may_give_each_axis_its_unit(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 2.0, "unit": "um", "zunit": "mm"}
    image = read_image([save(tmp_path / "a.tif", random(), imagej=True, resolution=RESOLUTION, metadata=metadata)])
    assert image.spacing == pytest.approx((0.00025, 0.0005, 2))


def test_without_units_of_length_a_voxel_is_a_millimetre(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "dpi.tif", random(), resolution=(72, 72), resolutionunit="INCH"),
        save(
            tmp_path / "imagej.tif",
            random(),
            imagej=True,
            resolution=RESOLUTION,
            metadata={"axes": "ZYX", "spacing": 2.0},
        ),
        save(
            tmp_path / "pixel.tif",
            random(),
            imagej=True,
            resolution=RESOLUTION,
            metadata={"axes": "ZYX", "unit": "pixel"},
        ),
        ome(tmp_path / "two.tif", random(), PhysicalSizeX=0.25, PhysicalSizeY=0.5),
    ]
    for path in paths:
        assert read_image([path]).spacing == (1, 1, 1), path.name


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_voxel_sizes_that_are_no_lengths_are_refused(tmp_path: Path, size: float) -> None:
    path = ome(tmp_path / "a.tif", random(), **{**SIZES, "PhysicalSizeZ": size})
    with pytest.raises(DataError, match=r"a\.tif: has voxels of 0\.00025 x 0\.0005 x .* mm, which must be positive"):
        read_image([path])


def test_unknown_units_are_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.tif", random(), imagej=True, resolution=RESOLUTION, metadata={"axes": "ZYX", "unit": "furlong"}
    )
    with pytest.raises(DataError, match=r"gives its voxel size in 'furlong'; allowed: nm, µm, .*or pixel"):
        read_image([path])


# What is refused


def test_what_is_not_one_volume_is_refused_by_name(tmp_path: Path) -> None:
    two = tmp_path / "two.tif"
    with tifffile.TiffWriter(two) as writer:
        writer.write(random(), photometric="minisblack")
        writer.write(random()[:, :3], photometric="minisblack")
    images = tmp_path / "images.ome.tif"
    with tifffile.TiffWriter(images) as writer:
        for _ in range(2):
            writer.write(random(), photometric="minisblack", metadata={"axes": "ZYX"})
    refused = {
        two: "holds 2 images, of 4 x 5 x 7, 4 x 3 x 7 pixels; save the one",
        images: "is an OME-TIFF of 2 images; save the one",
        ome(tmp_path / "t.tif", random(), "TYX"): r"is a time series of 4 \(axes TYX\); save the volume of each time",
        ome(tmp_path / "tz.tif", random((2, 4, 5, 7)), "TZYX"): "is a time series of 2",
        save(tmp_path / "it.tif", random(), imagej=True, metadata={"axes": "TYX"}): "is a time series of 4",
        ome(tmp_path / "c.tif", random(), "CYX"): "holds 4 channels of one slice as pages; save channels as samples",
        save(tmp_path / "ic.tif", random(), imagej=True, metadata={"axes": "CYX"}): "holds 4 channels of one slice",
        save(
            tmp_path / "q.tif", random((2, 4, 5, 7))
        ): "has axes QQYX of 2 x 4 x 5 x 7, which are not those of a volume",
        save(tmp_path / "x.tif", random(), metadata={"axes": "XYZ"}): "has axes XYZ",
        save(tmp_path / "cmyk.tif", random((4, 5, 7, 4)), photometric="separated"): "SEPARATED",
        save(tmp_path / "zstd.tif", random(), compression="zstd"): "compressed with ZSTD, which is not supported",
        save(tmp_path / "complex.tif", random(dtype=np.complex64)): "complex64|64 bits",
    }
    for path, message in refused.items():
        with pytest.raises(DataError, match=message) as error:
            read_image([path])
        assert str(error.value).startswith(str(path))


def test_files_of_a_divided_ome_tiff_are_refused(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.tif", random())
    text = tifffile.tiffcomment(path)
    element = '<UUID FileName="b.tif">urn:uuid:00000000-0000-0000-0000-000000000000</UUID>'
    tifffile.tiffcomment(path, text.replace('PlaneCount="4"/>', f'PlaneCount="4">{element}</TiffData>').encode())
    with pytest.raises(DataError, match=r"one of the several files of an OME-TIFF \(another one is b\.tif\); save"):
        read_image([path])


@pytest.mark.parametrize(
    ("found", "claimed"), [('SizeZ="4"', 'SizeZ="999999999"'), ('PlaneCount="4"', 'PlaneCount="999999999"')]
)
def test_metadata_that_describe_other_pages_are_refused_at_once(tmp_path: Path, found: str, claimed: str) -> None:
    path = ome(tmp_path / "a.tif", random())
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace(found, claimed).encode())
    with pytest.raises(DataError, match="its OME metadata describe 999999999 pages, but it has 4"):
        read_image([path])
    path = save(tmp_path / "b.tif", random(), imagej=True, **SLICES)
    path.write_bytes(path.read_bytes().replace(b"slices=4", b"slices=9").replace(b"images=4", b"images=9"))
    with pytest.raises(DataError, match="it has 4 pages, but its metadata describe others"):
        read_image([path])


def test_pages_of_several_kinds_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", random(), metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        content[tiff.pages[2].tags["ImageWidth"].valueoffset] = 6
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds 2 images, of 3 x 5 x 7, 5 x 6 pixels"):
        read_image([path])


@pytest.mark.parametrize("options", [*LAYOUTS.values(), {"ome": True, "metadata": {"axes": "ZYX"} | SIZES}])
def test_a_stack_that_is_cut_off_is_never_read_in_part(tmp_path: Path, options: dict[str, Any]) -> None:
    array = random((3, 16, 24))
    path = save(tmp_path / "a.tif", array, **options)
    content, whole = path.read_bytes(), read_image([path])
    lengths = np.linspace(8, len(content) - 1, 40).astype(int)
    refused = 0
    for length in lengths:
        path.write_bytes(content[:length])
        with suppress(DataError):
            image = read_image([path])
            # the end may be bytes that nothing refers to
            np.testing.assert_array_equal(image.array, whole.array)
            np.testing.assert_array_equal(image.affine, whole.affine)
            continue
        refused += 1
    assert refused > 36


@pytest.mark.parametrize("packed", [False, True])
def test_a_stack_larger_than_the_free_memory_is_refused(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.tif", np.zeros((50, 40, 40), np.uint8), truncate=packed)
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": 100_000}))
    with pytest.raises(DataError, match=r"needs 0\.0 GB of memory, but only 0\.0 GB are free"):
        read_image([path])


def test_a_stack_under_another_ending_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", random()).rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"is a TIFF of 4 pages, but a picture has 1; .* call it \.tif"):
        read_image([tmp_path / "a.png"])


def test_damage_is_one_message_without_output_of_tifffile(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", random(), imagej=True, truncate=True, **SLICES)
    path.write_bytes(path.read_bytes()[:-50])
    script = f"""
from pathlib import Path
from scse.data.files import read_image
from scse.support.errors import DataError
try:
    read_image([Path({str(path)!r})])
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{path}: cannot be read")


# Label maps and maps of values


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.ome.tif"])
@pytest.mark.parametrize("greatest", [3, 300, 70_000])
def test_a_label_map_is_an_ome_tiff_with_the_voxel_sizes_of_the_image(tmp_path: Path, name: str, greatest: int) -> None:
    source = ome(tmp_path / "source.ome.tif", random(), **SIZES)
    label = np.zeros(SHAPE[::-1], np.int64)
    label[1:3, 2, 1] = 1, greatest
    write_label(tmp_path / "out" / name, label, like=source)
    path = tmp_path / "out" / name
    found, image = read_label(path), read_image([source])
    np.testing.assert_array_equal(found.array, label)
    np.testing.assert_allclose(found.affine, image.affine, rtol=1e-12)
    with tifffile.TiffFile(path) as tiff:
        assert (tiff.is_ome, tiff.series[0].axes, tiff.series[0].shape) == (True, "ZYX", SHAPE)
        assert tiff.pages.first.compression.name == "ADOBE_DEFLATE"
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert [pixels[f"PhysicalSize{axis}"] for axis in "XYZ"] == pytest.approx(image.spacing)
    read = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read).T, label)
    assert read.GetSpacing()[:2] == pytest.approx(image.spacing[:2])  # ITK reads no distance of slices


def test_no_voxel_sizes_are_written_where_the_image_has_none(tmp_path: Path) -> None:
    write_label(tmp_path / "a.tif", random().T, like=save(tmp_path / "source.tif", random()))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert "PhysicalSize" not in tiff.ome_metadata
    label = read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(label.array, random().T)
    assert not label.is_sized


def test_equal_label_maps_are_equal_files(tmp_path: Path) -> None:
    source = ome(tmp_path / "source.tif", random(), **SIZES)
    for name in ("a.tif", "b.tif"):
        write_label(tmp_path / name, random().T, like=source)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_maps_of_values_are_floats(tmp_path: Path) -> None:
    source = ome(tmp_path / "source.tif", random(), **SIZES)
    values = np.random.default_rng(0).random(SHAPE[::-1], np.float32)
    write_map(tmp_path / "a.tif", values, like=source)
    found = read_image([tmp_path / "a.tif"])
    np.testing.assert_allclose(found.array[0], values, atol=2**-16)
    np.testing.assert_allclose(found.affine, read_image([source]).affine, rtol=1e-12)


def test_an_orientation_that_a_stack_cannot_store_is_refused(tmp_path: Path) -> None:
    for affine in (np.eye(4), np.diag([-1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1]) + np.eye(4, k=3)):
        with pytest.raises(UserError, match=r"a\.tif: the affine .* is not that of a TIFF stack, .*; write \.nii\.gz"):
            write_label(tmp_path / "a.tif", random().T, affine=affine)
    with pytest.raises(UserError, match=r"a\.tif: a TIFF stack has 3 axes, but the map has shape \(7, 5\)"):
        write_map(tmp_path / "a.tif", np.zeros((7, 5)), like=save(tmp_path / "source.tif", random()))
    write_label(tmp_path / "b.tif", random().T)
    assert (read_label(tmp_path / "b.tif").orientation, read_label(tmp_path / "b.tif").spacing) == ("LPS", (1, 1, 1))
    write_label(tmp_path / "a.tif", random().T, affine=np.diag([-0.5, -2.0, 3.0, 1.0]))
    assert read_label(tmp_path / "a.tif").spacing == (0.5, 2, 3)


# Data sets


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_a_data_set_of_stacks_is_inspected(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        image, label = scene(rng, (12, 16, 8))
        ome(tmp_path / f"images/{name}{suffix}", image[0].T, **SIZES)
        ome(tmp_path / f"masks/{name}{suffix}", label.T, **SIZES)
    found = inspect(Dataset.open(tmp_path))
    assert found.problems == ()
    assert [(fact.name, fact.shape, fact.orientation) for fact in found.facts] == [
        ("a", (12, 16, 8), "LPS"),
        ("b", (12, 16, 8), "LPS"),
    ]
    assert found.facts[0].spacing == pytest.approx((0.00025, 0.0005, 0.002))
    ome(tmp_path / f"masks/b{suffix}", label.T[:-1], **SIZES)
    [problem] = inspect(Dataset.open(tmp_path)).problems
    assert (problem.case, problem.kind) == ("b", "shape")


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_other_layouts_hold_stacks(tmp_path: Path, suffix: str) -> None:
    labels = {"background": 0, "left": 1, "right": 2}
    image, label = scene(np.random.default_rng(0), (12, 16, 8), channels=2)
    own, msd = tmp_path / "nnunet", tmp_path / "msd"
    for folder in (own, msd):
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "labelsTr").mkdir()
        save(folder / f"labelsTr/a{suffix}", label.T, **SLICES)
    for channel in (0, 1):
        ome(own / f"imagesTr/a_{channel:04d}{suffix}", image[channel].T, **SIZES)
    ome(msd / f"imagesTr/a{suffix}", image.T.transpose(0, 3, 1, 2), "ZCYX", **SIZES)
    names = {"0": "one", "1": "two"}
    content = {"channel_names": names, "labels": labels, "file_ending": suffix}
    (own / "dataset.json").write_text(json.dumps(content))
    listed = [{"image": f"./imagesTr/a{suffix}", "label": f"./labelsTr/a{suffix}"}]
    values = {str(value): name for name, value in labels.items()}
    (msd / "dataset.json").write_text(json.dumps({"modality": names, "labels": values, "training": listed}))
    table = tmp_path / "cases.csv"
    table.write_text(f"image,label\nmsd/imagesTr/a{suffix},msd/labelsTr/a{suffix}\n")
    for path in (own, msd, table):
        found = inspect(Dataset.open(path))
        assert found.problems == ()
        [fact] = found.facts
        assert (fact.name, fact.shape, fact.channels, set(fact.voxels)) == ("a", (12, 16, 8), 2, {0, 1, 2})


def test_masks_without_voxel_sizes_take_those_of_their_image(tmp_path: Path) -> None:
    for folder in ("images", "masks", "predictions"):
        (tmp_path / folder).mkdir()
    image, label = scene(np.random.default_rng(0), (12, 16, 8))
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeY": 500.0, "PhysicalSizeZ": 2000.0}
    ome(tmp_path / "images/a.tif", image[0].T, **sizes)
    mask = save(tmp_path / "masks/a.tif", label.T)
    found = inspect(Dataset.open(tmp_path))
    assert (found.problems, found.facts[0].spacing) == ((), pytest.approx((0.25, 0.5, 2)))
    predicted = ome(tmp_path / "predictions/a.tif", np.roll(label.T, 1, axis=0), **sizes)
    table = score_files(predicted, mask, structures={"left": 1, "right": 2})
    sized = score_files(predicted, ome(tmp_path / "b.tif", label.T, **sizes), structures={"left": 1, "right": 2})
    assert table.equals(sized)
    nifti = save_nifti(tmp_path / "a.nii.gz", label, np.diag([0.25, 0.5, 2, 1]))  # whose axes point elsewhere
    with pytest.raises(DataError, match=r"its affine differs .* entry \[0, 0\] is -1, but 1 in that file"):
        score_files(mask, nifti, structures={"left": 1})
