"""Volumes of MetaImage, NRRD, GIPL and MGH: values and geometry against SimpleITK and nibabel, and damaged files."""

import gzip
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scse.data.files import read_image, read_label, write_label, write_map
from scse.data.volumes import open_volume
from scse.support.errors import DataError, UserError

ANGLES = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, 0.28, -0.96], [0, 0.96, 0.28]]
SPACING, ORIGIN = (0.7, 0.8, 2.5), (-91.0, 126.5, -72.25)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = LPS @ np.vstack([np.c_[ANGLES * SPACING, ORIGIN], [0, 0, 0, 1]])
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr", ".gipl", ".gipl.gz")
ORIENTED = (".mha", ".mhd", ".nrrd", ".nhdr")
READERS: list[Callable[[Path], Any]] = [lambda path: read_image([path]), read_label]


def random(dtype: Any = np.int16, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def save(path: Path, array: np.ndarray, *, vector: bool = False, oriented: bool = True, packed: bool = True) -> Path:
    """Write an array (x, y, z), with `vector` (x, y, z, C), with SimpleITK."""
    stored = array.swapaxes(0, 2) if vector else array.T
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored), isVector=vector)
    axes = image.GetDimension()
    image.SetSpacing((*SPACING, 1.0)[:axes])
    image.SetOrigin((*ORIGIN, 0.0)[:axes])
    if oriented and axes >= 3:
        direction = np.eye(axes)
        direction[:3, :3] = ANGLES
        image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path


def by_sitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (x, y, z) and affine along right, anterior, superior of a 3D image of one channel."""
    image = sitk.ReadImage(str(path))
    corners = [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    start, *ends = np.array(corners)
    affine = np.eye(4)
    affine[:3] = np.c_[np.array([end - start for end in ends]).T, start]
    return sitk.GetArrayFromImage(image).T, LPS @ affine


# Values and geometry


@pytest.mark.parametrize("suffix", [*ITK_ENDINGS, ".MHA", ".NRRD"])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_and_affine_are_those_of_simpleitk(tmp_path: Path, suffix: str, packed: bool) -> None:
    types = ("u1", "i1", "i2", "u2", "f4", "f8") if "gipl" in suffix else ()
    for dtype in types or ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        array = random(dtype, (40, 50, 60))
        path = save(tmp_path / f"a{suffix.lower()}", array, oriented="gipl" not in suffix, packed=packed)
        path = path.rename(tmp_path / f"a{suffix}")
        expected, affine = by_sitk(path) if suffix == suffix.lower() else (array, AFFINE)
        image, label = read_image([path]), read_label(path)
        np.testing.assert_array_equal(image.array[0], expected)
        np.testing.assert_array_equal(label.array, expected)
        assert label.array.dtype == (np.int32 if dtype[0] == "f" else dtype)
        assert image.array.dtype == np.float32
        np.testing.assert_allclose(image.affine, affine, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(label.affine, image.affine)


def test_the_affine_is_the_one_that_a_nifti_file_of_the_same_image_has(tmp_path: Path) -> None:
    for suffix in ORIENTED:
        path = save(tmp_path / f"a{suffix}", random())
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "a.nii.gz"))
        np.testing.assert_allclose(read_image([path]).affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-5)
        np.testing.assert_allclose(read_image([path]).affine, AFFINE, atol=1e-12)


@pytest.mark.parametrize("suffix", ORIENTED)
@pytest.mark.parametrize("packed", [False, True])
def test_channels_are_components_or_the_fourth_axis(tmp_path: Path, suffix: str, packed: bool) -> None:
    array = random("i2", (40, 50, 60, 3))
    expected = np.moveaxis(array, -1, 0)
    vector = save(tmp_path / f"v{suffix}", array, vector=True, packed=packed)
    fourth = save(tmp_path / f"f{suffix}", array, packed=packed)
    for path in (vector, fourth):
        image = read_image([path])
        np.testing.assert_array_equal(image.array, expected)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-12)
        with pytest.raises(DataError, match=r"the label has shape .*one map"):
            read_label(path)
    single = save(tmp_path / f"s{suffix}", array[..., 0])
    joined = read_image([vector, single, fourth])
    np.testing.assert_array_equal(joined.array, np.concatenate([expected, expected[:1], expected]))
    flat = save(tmp_path / f"d{suffix}", random("u1", (7, 5)))
    np.testing.assert_array_equal(read_image([flat]).array[0], random("u1", (7, 5)))
    assert read_image([flat]).spacing == SPACING[:2]


def test_large_interleaved_channels_are_read_in_parts(tmp_path: Path) -> None:
    array = random("u1", (90, 80, 70, 3))  # three parts, whose length is no multiple of 3 without care
    image = read_image([save(tmp_path / "a.nrrd", array, vector=True)])
    np.testing.assert_array_equal(image.array, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize(
    "space",
    [
        "space: RAS",
        "space: left-posterior-superior",
        "space: left-anterior-superior",
        "space: scanner-xyz",
        "space dimension: 3",
    ],
)
@pytest.mark.parametrize(("endian", "encoding"), [("little", "raw"), ("big", "gzip")])
def test_nrrd_headers_of_other_programs_are_read_as_by_simpleitk(
    tmp_path: Path, space: str, endian: str, encoding: str
) -> None:
    array = random(">i2" if endian == "big" else "<i2", (2, 3, 4, 5))
    content = array.tobytes() if encoding == "raw" else gzip.compress(array.tobytes())
    fields = (
        f"type: signed short\ndimension: 4\n{space}\nsizes: 5 4 3 2\nspace directions: (1,0,0.5) (0,2,0) (0,0,3) none\n"
        f"kinds: domain domain domain list\nendian: {endian}\nencoding: {encoding}\nspace origin: (1,2,3)\nkey:=value\n"
    )
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0005\n# a comment\n{fields}\n".encode() + content)
    (tmp_path / "b.bin").write_bytes(content)
    (tmp_path / "b.nhdr").write_text(f"NRRD0005\n{fields}data file: b.bin\n")
    for path in (tmp_path / "a.nrrd", tmp_path / "b.nhdr"):
        first = sitk.VectorIndexSelectionCast(sitk.ReadImage(str(path)), 0)
        sitk.WriteImage(first, str(tmp_path / "first.mha"))
        expected, affine = by_sitk(tmp_path / "first.mha")
        image = read_image([path])
        np.testing.assert_array_equal(image.array, np.swapaxes(array, 1, 3))
        np.testing.assert_array_equal(image.array[0], expected)
        np.testing.assert_allclose(image.affine, affine, atol=1e-12)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh", ".MGZ"])
def test_mgh_voxels_and_affine_are_those_of_nibabel(tmp_path: Path, suffix: str) -> None:
    affine = AFFINE.astype("f4").astype("f8")
    for dtype in ("u1", "i2", "i4", "f4"):
        array = random(dtype, (40, 50, 60))
        nib.save(nib.MGHImage(array, affine), tmp_path / "a.mgz")
        path = tmp_path / f"b{suffix}"
        content = (tmp_path / "a.mgz").read_bytes()
        path.write_bytes(gzip.decompress(content) if suffix == ".mgh" else content)
        image, label = read_image([path]), read_label(path)
        np.testing.assert_array_equal(image.array[0], array)
        np.testing.assert_array_equal(label.array, array)
        np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "a.mgz").affine)
    nib.save(nib.MGHImage(random("f4", (4, 5, 6, 2)), affine), tmp_path / "c.mgz")
    np.testing.assert_array_equal(
        read_image([tmp_path / "c.mgz"]).array, np.moveaxis(random("f4", (4, 5, 6, 2)), -1, 0)
    )


def test_arrays_are_those_of_nnunets_reader(tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    for suffix in (".mha", ".nrrd", ".gipl"):
        files = [
            save(tmp_path / f"a_{n:04d}{suffix}", random("i2", (6, 7, 8)) + n, oriented=suffix != ".gipl")
            for n in (0, 1)
        ]
        expected, properties = SimpleITKIO().read_images(tuple(map(str, files)))
        image = read_image(files)
        np.testing.assert_array_equal(image.array, expected.transpose(0, 3, 2, 1))
        np.testing.assert_allclose(image.spacing[::-1], properties["spacing"], rtol=1e-6)


def test_channels_of_different_formats_must_share_one_geometry(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.nrrd", random()), save(tmp_path / "b.mha", random() + 1)
    np.testing.assert_array_equal(read_image([first, second]).array, np.stack([random(), random() + 1]))
    nib.save(nib.Nifti1Image(random(), AFFINE + 0.25 * np.eye(4, k=3)), tmp_path / "c.nii")
    with pytest.raises(DataError, match=r"c\.nii: its affine differs from that of .*a\.nrrd"):
        read_image([first, tmp_path / "c.nii"])


# Damaged files


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "start": content[:60],
        "half": content[: len(content) // 2],
        "last byte": content[:-1],
        "last 500 bytes": content[:-500],
        "long": content + bytes(2 << 20),
        "text": b"not an image" * 100,
        "zeros": bytes(2000),
    }


@pytest.mark.parametrize("suffix", [*ITK_ENDINGS, ".mgz", ".mgh"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_one_error_and_nothing_is_printed(
    tmp_path: Path, suffix: str, packed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(random("i2", (20, 30, 40)), np.eye(4)), path)
    else:
        save(path, random("i2", (20, 30, 40)), oriented="gipl" not in suffix, packed=packed)
    voxels = next((tmp_path / name for name in ("a.raw", "a.zraw", "a.raw.gz") if (tmp_path / name).exists()), path)
    content = voxels.read_bytes()
    kinds = damaged(content)
    if suffix == ".mgh":  # bytes may follow the voxels, so that the last ones need not be theirs
        kinds.pop("last byte")
    if content[:2] == b"\x1f\x8b" or (packed and suffix in ORIENTED):
        kinds.pop("long")  # zeros may follow compressed voxels
        middle = len(content) // 2
        kinds["a changed byte"] = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        kinds["a changed checksum"] = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    for name, damage in kinds.items():
        voxels.write_bytes(damage)
        for read in READERS:
            with pytest.raises(DataError) as error:
                read(path)
            text = str(error.value)
            assert "\n" not in text, name
            assert str(path) in text or str(voxels) in text, name
            assert "copy or export it again" in text, (name, text)
    voxels.unlink()
    for read in READERS:
        with pytest.raises(DataError, match="does not exist"):
            read(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_sizes_in_a_header_cost_no_memory(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", random(), packed=False)
    name = b"DimSize = 4 5 6" if suffix == ".mha" else b"sizes: 4 5 6"
    path.write_bytes(path.read_bytes().replace(name, name.replace(b"4 5 6", b"40000 50000 60")))
    with pytest.raises(DataError, match=r"its header describes 40000 x 50000 x 60 voxels of int16, 240,000,000,000 b"):
        read_image([path])


@pytest.mark.parametrize(
    ("suffix", "before", "after", "message"),
    [
        (".mha", "ElementType = MET_SHORT", "ElementType = MET_OTHER", "MET_OTHER; save it as integers"),
        (".mha", "ElementSpacing = 0.69999999999999996", "ElementSpacing = 0", "affine .*cannot be inverted"),
        (".mha", "ElementSpacing = 0.69999999999999996", "ElementSpacing =", "ElementSpacing has 2 numbers; 3"),
        (".mha", "DimSize = 4 5 6", "DimSize = 4 5", "NDims = 3, but DimSize = 4 5"),
        (".mha", "DimSize = 4 5 6", "DimSize = 4 5 0", r"shape \(4, 5, 0\); save at least one voxel"),
        (".mha", "DimSize = 4 5 6", "DimSize = 4 5 x", "cannot be read"),
        (".mha", "BinaryData = True", "BinaryData = False", "written as text; save them as binary"),
        (".mha", "ElementDataFile = LOCAL", "ElementDataFile = LIST", "in several files; save them in one"),
        (".mha", "ElementDataFile = LOCAL", "ElementDataFile = a.bin", "does not exist; put the file there"),
        (".mha", "NDims = 3\n", "", "has no NDims"),
        (".mha", "TransformMatrix = 0.8", "TransformMatrix = nan 0.8", "TransformMatrix has 10 numbers; 9"),
        (".mha", "TransformMatrix = 0.8", "Transform 0.8", "has the line 'Transform 0.8.*', where NAME = VALUE"),
        (".mha", "Offset = -91", "Offset = nan", "affine .*cannot be inverted"),
        (".nrrd", "type: short", "type: block", "cannot be read"),
        (".nrrd", "type: short", "type: other", "cannot be read"),
        (".nrrd", "sizes: 4 5 6", "sizes: 4 5", "dimension: 3, but sizes: 4 5"),
        (".nrrd", "sizes: 4 5 6", "sizes: 4 5 -6", "cannot be read"),
        (".nrrd", "encoding: raw", "encoding: bzip2", "encoding is bzip2; save it as raw or gzip"),
        (".nrrd", "encoding: raw\n", "", "has no encoding"),
        (".nrrd", "kinds: domain domain domain", "kinds: domain list domain", "cannot be read"),
        (".nrrd", "space origin: (-91", "space origin: (nan", "cannot be"),
        (".nrrd", "encoding: raw", "encoding: raw\ndata file: LIST", "in several files"),
    ],
)
def test_a_wrong_header_is_one_clear_error(
    suffix: str, before: str, after: str, message: str, *, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / f"a{suffix}", random(), packed=False)
    content = path.read_bytes()
    assert before.encode() in content
    path.write_bytes(content.replace(before.encode(), after.encode(), 1))
    with pytest.raises(DataError, match=rf"(a{suffix}|a\.bin): .*({message})") as error:
        read_image([path])
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((3, 3, 3), np.complex64))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(DataError, match=r"a\.nrrd: .*complex of 32-bit float; save them"):
        read_image([tmp_path / "a.nrrd"])


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, 1e12])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    array = np.ones((3, 3, 3), np.float32)
    array[0, 0, 0] = value
    with pytest.raises(DataError, match=r"a\.nrrd: 1 voxels are not whole numbers.*nearest neighbour"):
        read_label(save(tmp_path / "a.nrrd", array))


@pytest.mark.parametrize(
    "line",
    [
        *("MET_CHAR", "MET_UCHAR", "MET_LONG", "MET_ULONG", "MET_LONG_LONG", "MET_ULONG_LONG"),
        *("ElementSize = 2 3 4", "ElementSize = 2 3 4\nElementSpacing = 5 6 7", "ElementSpacing: 5 6 7"),
        *("ElementSpacing = -1 2 3", "Position = 1 2 3", "Origin = 1 2 3", "Offset = 1 2 3\nPosition = 4 5 6"),
        *("Rotation = 0 1 0 -1 0 0 0 0 1", "Orientation = 0 1 0 -1 0 0 0 0 1", "ElementByteOrderMSB = True"),
        *(
            "BinaryDataByteOrderMSB = 1",
            "BinaryData = True",
            "HeaderSize = 20",
            "DistanceUnits = um",
            "dim[0] = 3",
            "0008|0060 = CT",
            "ITK_FileNotes = a b",
            "Comment = a=b:c",
        ),
        *("ElementToIntensityFunctionSlope = 2", "elementspacing = 5 6 7", "AnatomicalOrientation = LPS"),
    ],
)
def test_meta_headers_of_other_programs_are_read_as_by_simpleitk(tmp_path: Path, line: str) -> None:
    kind, line = (line, "Comment = none") if line.startswith("MET_") else ("MET_INT", line)
    header = f"NDims = 3\n{line}\nDimSize = 4 5 6\nElementType = {kind}\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + random("<i8").tobytes())
    expected, affine = by_sitk(tmp_path / "a.mha")
    label = read_label(tmp_path / "a.mha")
    np.testing.assert_array_equal(label.array, expected)
    assert label.array.dtype == expected.dtype
    np.testing.assert_allclose(label.affine, affine, atol=1e-12)


def test_meta_headers_with_a_size_of_their_own_are_read(tmp_path: Path) -> None:
    array = random("<i2")
    for before in (7, -1):
        (tmp_path / "a.raw").write_bytes(b"1234567" + array.tobytes(order="F"))
        (tmp_path / "a.mhd").write_text(
            f"ObjectType = Image\nNDims = 3\nBinaryData = True\nHeaderSize = {before}\nDimSize = 4 5 6\n"
            "ElementSpacing = 1 2 3\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
        )
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mhd"))).T, array)
        np.testing.assert_array_equal(read_image([tmp_path / "a.mhd"]).array[0], array)


# Writing


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(("least", "greatest"), [(0, 3), (0, 300), (-3, 3), (0, 70_000)])
def test_written_labels_are_read_by_simpleitk_with_the_geometry_of_the_image(
    tmp_path: Path, suffix: str, least: int, greatest: int
) -> None:
    labels = np.random.default_rng(0).integers(least, greatest, (4, 5, 6), endpoint=True)
    labels[0, 0, 0], labels[0, 0, 1] = least, greatest
    sources = [save(tmp_path / f"source{end}", random()) for end in ORIENTED]
    sources.append(save(tmp_path / "vector.mha", random("f4", (4, 5, 6, 2)), vector=True))
    for source in sources:
        path = tmp_path / "out" / f"a{suffix}"
        write_label(path, labels, like=source)
        written, image = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written).T, labels)
        if suffix == ".mha" and source.suffix in (".mha", ".mhd"):
            assert written.GetDirection() == image.GetDirection()
            assert (written.GetSpacing(), written.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
        np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-15)
        np.testing.assert_allclose(written.GetSpacing(), image.GetSpacing(), rtol=1e-15)
        assert written.GetOrigin() == image.GetOrigin()
        read = read_label(path)
        np.testing.assert_array_equal(read.array, labels)
        np.testing.assert_allclose(read.affine, AFFINE, atol=1e-12)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        before = path.read_bytes()
        write_label(path, labels, like=source)
        assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz", ".mgh", ".mha", ".nrrd"])
def test_labels_may_be_written_like_a_volume_of_any_format(tmp_path: Path, suffix: str) -> None:
    nib.save(nib.MGHImage(random("f4"), AFFINE), tmp_path / "source.mgz")
    nib.save(nib.Nifti1Image(random("f4"), AFFINE), tmp_path / "source.nii")
    labels = random("u2") * 400
    for source in (tmp_path / "source.mgz", tmp_path / "source.nii", save(tmp_path / "source.nrrd", random())):
        write_label(tmp_path / f"a{suffix}", labels, like=source)
        found = read_label(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(found.array, labels)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
        if suffix in (".nii.gz", ".nii", ".mgz"):  # nibabel does not close .mgh files
            np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / f"a{suffix}").dataobj), labels)
    write_label(tmp_path / f"b{suffix}", labels, affine=AFFINE)
    np.testing.assert_allclose(read_label(tmp_path / f"b{suffix}").affine, AFFINE, atol=1e-5)
    with pytest.raises(UserError, match=r"shape \(3, 5, 6\), but .*source.nrrd has \(4, 5, 6\)"):
        write_label(tmp_path / f"a{suffix}", labels[1:], like=tmp_path / "source.nrrd")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".mha", ".nrrd"])
def test_maps_have_the_same_values_in_all_formats(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    source = save(tmp_path / "source.mha", random())
    write_map(tmp_path / f"a{suffix}", values, like=source)
    np.testing.assert_array_equal(read_image([tmp_path / f"a{suffix}"]).array[0], np.rint(values * 2**15) / 2**15)


def test_flat_labels_are_written(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nrrd", random("u1", (7, 5)))
    for suffix in (".nrrd", ".mha"):
        write_label(tmp_path / f"b{suffix}", random("u1", (7, 5)) % 3, like=source)
        written = sitk.ReadImage(str(tmp_path / f"b{suffix}"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written).T, random("u1", (7, 5)) % 3)
        assert written.GetSpacing() == pytest.approx(SPACING[:2])


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".gipl"])
def test_label_maps_are_one_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=rf"a\{suffix}: .* written as \.mha or \.nrrd"):
        write_label(tmp_path / f"a{suffix}", random("u1"), affine=AFFINE)


def test_the_header_is_read_without_the_voxels(tmp_path: Path) -> None:
    for suffix, packed in product((".mhd", ".nhdr"), (False, True)):
        path = save(tmp_path / f"a{suffix}", random("f4", (4, 5, 6, 2)), vector=True, packed=packed)
        volume = open_volume(path)
        volume.data.write_bytes(b"")
        again = open_volume(path)
        assert (again.channel_shape, again.dtype, again.map_shape) == ((2, 4, 5, 6), np.float32, None)
        with pytest.raises(DataError, match=volume.data.name):
            again.check_length()
