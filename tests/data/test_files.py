"""Single files: reading and writing of every supported kind of image and label map, and damaged files."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from scse.data.endings import ending, stem
from scse.data.files import read_image, read_label, write_label, write_map
from scse.support.errors import DataError

AFFINE = np.array([[-0.8, 0, 0, 10], [0, 0, 1.5, -20], [0, 2.0, 0, 30], [0, 0, 0, 1]])


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_picture(path: Path, array: np.ndarray) -> Path:
    PIL.Image.fromarray(array).save(path)
    return path


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (4, 5, 6)).astype(np.int16)


def test_a_volume_keeps_its_axes_and_gains_a_channel(tmp_path: Path, volume: np.ndarray) -> None:
    image = read_image([save_nifti(tmp_path / "a.nii.gz", volume)])
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, volume[None])
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.shape == (4, 5, 6)
    assert image.spacing == (0.8, 2.0, 1.5)
    assert image.orientation == "LSA"


def test_several_files_and_the_fourth_axis_are_channels_in_order(tmp_path: Path, volume: np.ndarray) -> None:
    both = np.stack([volume, volume + 1], axis=-1)
    files = [save_nifti(tmp_path / "a.nii", volume), save_nifti(tmp_path / "b.nii.gz", volume + 1)]
    np.testing.assert_array_equal(read_image(files).array, np.moveaxis(both, -1, 0))
    for array in (both, both[:, :, :, None]):
        image = read_image([save_nifti(tmp_path / "c.nii", array)])
        np.testing.assert_array_equal(image.array, np.moveaxis(both, -1, 0))
        assert image.spacing == (0.8, 2.0, 1.5)


def test_slope_and_intercept_of_the_header_are_applied(tmp_path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_allclose(read_image([tmp_path / "a.nii"]).array[0], stored, rtol=1e-6)


def test_nifti_2_and_flat_nifti_are_read(tmp_path: Path, volume: np.ndarray) -> None:
    nib.save(nib.Nifti2Image(volume, AFFINE), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_image([tmp_path / "two.nii.gz"]).array[0], volume)
    flat = read_image([save_nifti(tmp_path / "flat.nii.gz", volume[:, :, 0])])
    assert flat.shape == (4, 5)
    assert flat.spacing == (0.8, 2.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_channels_of_rows_and_columns(tmp_path: Path, suffix: str, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 7, channels)).astype(np.uint8)
    image = read_image([save_picture(tmp_path / f"a{suffix}", array.squeeze())])
    np.testing.assert_array_equal(image.array, np.moveaxis(array, -1, 0))
    assert (image.affine, image.spacing, image.orientation) == (None, (1.0, 1.0), None)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_deep_pictures_keep_their_values(tmp_path: Path, dtype: type) -> None:
    array = np.arange(12, dtype=dtype).reshape(3, 4) * 5000
    np.testing.assert_array_equal(read_image([save_picture(tmp_path / "a.tif", array)]).array[0], array)


def test_alpha_is_left_out(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (4, 5, 4)).astype(np.uint8)
    np.testing.assert_array_equal(
        read_image([save_picture(tmp_path / "a.png", rgba)]).array, np.moveaxis(rgba[..., :3], -1, 0)
    )
    PIL.Image.fromarray(rgba[..., 0]).convert("LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image([tmp_path / "b.png"]).array[0], rgba[..., 0])


def test_a_palette_gives_indices_to_labels_and_colours_to_images(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    picture = PIL.Image.fromarray(indices).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata(indices.ravel().tolist())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array, indices)
    assert read_image([tmp_path / "a.png"]).array[:, 0, 1].tolist() == [255, 0, 0]


def test_one_bit_and_grey_rgb_masks_are_index_masks(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [1, 1]], dtype=np.uint8)
    PIL.Image.fromarray(mask * 255).convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array, mask)
    save_picture(tmp_path / "b.png", np.stack([mask * 7] * 3, axis=-1))
    np.testing.assert_array_equal(read_label(tmp_path / "b.png").array, mask * 7)


def test_colours_become_their_label_values(tmp_path: Path) -> None:
    rgb = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 0, 255], [255, 0, 0]]], dtype=np.uint8)
    path = save_picture(tmp_path / "a.png", rgb)
    colors = {0: (0, 0, 0), 7: (255, 0, 0), 2: (0, 0, 255)}
    label = read_label(path, colors=colors)
    assert label.array.tolist() == [[0, 7], [2, 7]]
    with pytest.raises(DataError, match=r"a\.png: 1 pixels have colours not listed .*#0000ff: 1.*labels\.csv"):
        read_label(path, colors={0: (0, 0, 0), 7: (255, 0, 0)})
    with pytest.raises(DataError, match=r"a\.png: is a colour mask.*labels\.csv"):
        read_label(path)
    with pytest.raises(DataError, match="must be an RGB picture"):
        read_label(save_nifti(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8)), colors=colors)


def test_labels_stored_as_floats_or_with_a_last_axis_are_read(tmp_path: Path, volume: np.ndarray) -> None:
    label = read_label(save_nifti(tmp_path / "a.nii.gz", volume.astype(np.float64)[..., None]))
    assert label.array.dtype.kind == "i"
    np.testing.assert_array_equal(label.array, volume)
    assert label.shape == volume.shape


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, 1e12])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    array = np.ones((3, 3, 3), dtype=np.float32)
    array[0, 0, 0] = value
    with pytest.raises(DataError, match=r"a\.nii\.gz: 1 voxels are not whole numbers.*nearest neighbour"):
        read_label(save_nifti(tmp_path / "a.nii.gz", array))


def test_a_label_of_several_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape \(3, 3, 3, 2\)"):
        read_label(save_nifti(tmp_path / "a.nii.gz", np.ones((3, 3, 3, 2), np.uint8)))


def test_channels_must_share_one_geometry(tmp_path: Path, volume: np.ndarray) -> None:
    first = save_nifti(tmp_path / "a.nii", volume)
    with pytest.raises(DataError, match=r"b\.nii: has shape \(3, 5, 6\), but .*a\.nii has \(4, 5, 6\); resample"):
        read_image([first, save_nifti(tmp_path / "b.nii", volume[1:])])
    shifted = AFFINE + np.eye(4, k=3) * 0.25
    with pytest.raises(
        DataError, match=r"c\.nii: its affine differs .*a\.nii: entry \[0, 3\] is 10.25, but 10 in that file"
    ):
        read_image([first, save_nifti(tmp_path / "c.nii", volume, shifted)])
    read_image([first, save_nifti(tmp_path / "d.nii", volume, AFFINE + np.eye(4, k=3) * 5e-4)])


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("cut", ["half", "empty", "text", "absent"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, volume: np.ndarray, suffix: str, cut: str) -> None:
    path = tmp_path / f"a{suffix}"
    if "nii" in suffix:
        save_nifti(path, volume)
    else:
        save_picture(path, np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8))
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"no image " * 99, "absent": b""}[cut])
    if cut == "absent":
        path.unlink()
    for read in (lambda: read_image([path]), lambda: read_label(path)):
        with pytest.raises(DataError) as error:
            read()
        assert str(error.value).startswith(str(path))
        assert "copy or export it again" in str(error.value) or "does not exist" in str(error.value)


def test_one_wrong_byte_in_a_compressed_volume_is_found_by_its_checksum(tmp_path: Path, volume: np.ndarray) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", volume)
    content = bytearray(gzip.decompress(path.read_bytes()))
    stored = bytearray(
        gzip.compress(content, 0)
    )  # uncompressed blocks: every byte decodes, so only the checksum reveals the damage
    stored[-20] ^= 1
    with pytest.raises(DataError, match="CRC check failed"):
        read_image([damaged(path, bytes(stored))])


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.dcm", r"an unknown ending; allowed: \.nii\.gz"), ("a", "an unknown ending")],
)
def test_unknown_types_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image([damaged(tmp_path / name, b"DICM")])


def test_volumes_without_real_voxels_or_a_valid_place_are_refused(tmp_path: Path, volume: np.ndarray) -> None:
    with pytest.raises(DataError, match="complex64"):
        read_image([save_nifti(tmp_path / "a.nii", volume.astype(np.complex64))])
    with pytest.raises(DataError, match="save it with 2 or 3 axes"):
        read_image([save_nifti(tmp_path / "b.nii", np.ones((2, 2, 2, 2, 2), np.float32))])
    image = nib.Nifti1Image(volume, None)
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "c.nii")
    with pytest.raises(DataError, match=r"c\.nii: its affine .* cannot be inverted"):
        read_image([tmp_path / "c.nii"])


def test_a_tiff_of_several_pages_is_a_volume(tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (1, 2, 3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read_image([tmp_path / "a.tif"]).array[0, 0, 0].tolist() == [1, 2, 3]
    assert read_label(tmp_path / "a.tif").shape == (4, 4, 3)


def test_no_path_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="at least one path"):
        read_image([])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.png", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("greatest", [2, 255, 40_000])
def test_a_written_label_map_is_read_back(tmp_path: Path, name: str, greatest: int) -> None:
    array = np.array([[0, 1, 2], [greatest, 0, 1]], dtype=np.int64)
    if name == "a.bmp" and greatest > 255:
        with pytest.raises(ValueError, match=r"BMP cannot store label values from 0 to 40000; write \.nii\.gz"):
            write_label(tmp_path / name, array)
        return
    write_label(tmp_path / "new folder" / name, array)
    np.testing.assert_array_equal(read_label(tmp_path / "new folder" / name).array, array)
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == [name]


def test_a_written_label_map_lies_exactly_where_its_image_lies(tmp_path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume, AFFINE)
    image.set_sform(AFFINE, code=2)
    image.set_qform(np.diag([0.8, 2, 1.5, 1]), code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(0.5, 3)
    image.header["cal_max"] = 700
    nib.save(image, tmp_path / "image.nii.gz")
    write_label(tmp_path / "label.nii.gz", volume % 3, like=tmp_path / "image.nii.gz")
    image, label = nib.load(tmp_path / "image.nii.gz"), nib.load(tmp_path / "label.nii.gz")
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), volume % 3)
    np.testing.assert_array_equal(label.affine, image.affine)
    for form in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b", "srow_x"):
        np.testing.assert_array_equal(label.header[form], image.header[form])
    assert label.header["cal_max"] == 0


def test_a_label_map_takes_its_place_from_the_header_alone(tmp_path: Path, volume: np.ndarray) -> None:
    for name in ("image.nii.gz", "image.NII", "image.nii"):
        like = tmp_path / name
        save_nifti(like, np.random.default_rng(0).normal(size=(40, 50, 60)))
        like.write_bytes(like.read_bytes()[:-1000])
        with pytest.raises(DataError, match="cannot be read"):
            read_image([like])
        write_label(tmp_path / "label.nii.gz", np.ones((40, 50, 60), np.uint8), like=like)
        np.testing.assert_allclose(read_label(tmp_path / "label.nii.gz").affine, AFFINE, atol=1e-6)


def test_the_same_label_map_is_written_as_the_same_bytes(tmp_path: Path, volume: np.ndarray) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label(tmp_path / name, volume, affine=AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    np.testing.assert_allclose(read_label(tmp_path / "a.nii.gz").affine, AFFINE, atol=1e-6)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    write_label(path, volume)
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_label(path, volume + 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_label_maps_are_not_written(tmp_path: Path, volume: np.ndarray) -> None:
    like = save_nifti(tmp_path / "like.nii", volume)
    mask = np.zeros((3, 3), np.uint8)
    for name, array, options, message in [
        ("a.nii", volume / 2, {}, "integer values, got float64"),
        ("a.nii", volume[1:], {"like": like}, r"shape \(3, 5, 6\), but .*like\.nii has \(4, 5, 6\)"),
        ("a.nii", volume, {"like": like, "affine": AFFINE}, "not both"),
        ("a.nii", volume.astype(np.int64) << 40, {}, "fit into 32 bits"),
        ("a.png", volume, {}, "a picture has 2 axes"),
        ("a.png", mask, {"affine": AFFINE}, "cannot store an affine"),
        ("a.jpg", mask, {}, "JPEG would alter their values"),
        ("a.png", mask.astype(np.int16) - 1, {}, "PNG cannot store label values from -1 to -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_label(tmp_path / name, array, **options)
    with pytest.raises(DataError, match=r"none\.nii: does not exist"):
        write_label(tmp_path / "a.nii", volume, like=tmp_path / "none.nii")
    assert [file.name for file in tmp_path.iterdir()] == ["like.nii"]


def test_names_are_split_at_the_ending_that_is_known() -> None:
    assert [stem(name) for name in ("a.b.nii.gz", "a.PNG", "a.gz")] == ["a.b", "a", "a.gz"]
    assert [ending(name) for name in ("a.NII.GZ", "a.nii", "a.gz")] == [".nii.gz", ".nii", None]


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz"])
def test_a_map_of_0_to_1_lies_where_its_image_does(tmp_path: Path, volume: np.ndarray, name: str) -> None:
    like = save_nifti(tmp_path / "image.nii.gz", volume)
    values = np.random.default_rng(1).random(volume.shape).astype(np.float32)
    values[0, 0, :3] = 0, 0.5, 1
    write_map(tmp_path / name, values, like=like)
    written = nib.load(tmp_path / name)
    np.testing.assert_array_equal(written.affine, nib.load(like).affine)
    assert written.get_data_dtype() == np.uint16
    found = written.get_fdata()
    assert found[0, 0, :3].tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(found, values, atol=2**-16 + 1e-7)
    with pytest.raises(ValueError, match=r"the map has shape \(4, 5, 5\), but .*image.nii.gz has \(4, 5, 6\)"):
        write_map(tmp_path / name, values[..., 1:], like=like)
