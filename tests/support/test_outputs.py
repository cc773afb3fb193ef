"""Without --overwrite, scse replaces only files that it wrote and that were not changed since."""

import re
from pathlib import Path

import pytest

from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.support.outputs import check_outputs, marked


def write(path: Path, content: bytes = b"scse's") -> None:
    with marked([path]):
        write_atomic(path, content)


def may_write(*paths: Path, overwrite: bool = False) -> bool:
    try:
        check_outputs(paths, overwrite=overwrite)
    except UserError:
        return False
    return True


def test_new_files_and_files_of_scse_may_be_written(tmp_path: Path) -> None:
    assert may_write(tmp_path / "new" / "a.png")
    write(tmp_path / "a.png")
    assert may_write(tmp_path / "a.png")
    write(tmp_path / "a.png", b"again")
    assert may_write(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"again"


def test_files_of_others_are_refused_by_name(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(7)]
    for path in files:
        path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"0\.png, .*4\.png and 2 more: already there.*--overwrite") as caught:
        check_outputs(files)
    assert "5.png" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(f"{files[0]}: already there")):
        check_outputs([files[0], tmp_path / "new.png"])
    assert may_write(*files, overwrite=True)


def test_a_file_that_was_changed_since_is_the_users(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"corrected by hand")
    with pytest.raises(ValueError, match="changed since"):
        check_outputs([tmp_path / "a.png"])


def test_a_link_to_a_file_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "a.png").symlink_to(tmp_path / "mine.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match="already there"):
            check_outputs([tmp_path / name])


def test_a_folder_of_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ValueError, match="already there"):
        check_outputs([tmp_path / "a.png"])


def test_an_image_is_never_an_output(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    image = tmp_path / "a.png"
    image.write_bytes(b"an image")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"a\.png: would be replaced by its own output"):
            check_outputs([tmp_path / "folder" / ".." / "a.png"], inputs=[image], overwrite=overwrite)


def test_a_file_of_a_killed_process_counts_as_written_by_scse(tmp_path: Path) -> None:
    killed = marked([tmp_path / "a.png"])
    killed.__enter__()
    write_atomic(tmp_path / "a.png", b"whole")
    # the process ends here
    assert may_write(tmp_path / "a.png")


def test_a_file_that_could_not_be_written_keeps_its_mark(tmp_path: Path) -> None:
    mine, ours = tmp_path / "mine.png", tmp_path / "ours.png"
    mine.write_bytes(b"mine")
    write(ours)
    with pytest.raises(OSError, match="full"), marked([mine, ours, tmp_path / "new.png"]):
        raise OSError("the disk is full")
    assert may_write(ours)
    (tmp_path / "new.png").write_bytes(b"mine, too")
    for name in ("mine.png", "new.png"):
        with pytest.raises(ValueError, match="already there"):
            check_outputs([tmp_path / name])
