"""A CSV file as a data set: its columns, paths beside it, groups and splits; what is wrong is refused by name."""

from pathlib import Path

import pytest

from datasets import write_table
from scse.data.dataset import Case, Dataset
from scse.data.folds import make_folds
from scse.data.inspection import inspect, open_checked
from scse.support.errors import DataError


def table(folder: Path, text: str, *, names: str | None = "name,value\nleft,1\nright,2\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if names is not None:
        (folder / "labels.csv").write_text(names)
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_rows_are_cases_with_paths_beside_the_table(tmp_path: Path) -> None:
    rows = "image,label\nscans/b_0000.nii.gz,b_seg.nii.gz\nscans/a.nii.gz,/else/a.nii.gz\n"
    dataset = Dataset.open(table(tmp_path, rows))
    assert (dataset.path, dataset.name, dataset.format) == (tmp_path / "cases.csv", "cases", "table")
    assert (dataset.channels, dataset.structures) == ((), {"left": 1, "right": 2})
    assert dataset.cases == (
        Case("a", (tmp_path / "scans/a.nii.gz",), Path("/else/a.nii.gz")),
        Case("b", (tmp_path / "scans/b_0000.nii.gz",), tmp_path / "b_seg.nii.gz"),
    )
    assert (dataset.test_cases, dataset.splits, dataset.unused) == ((), (), ())
    assert Dataset.open(table(tmp_path / "plain", rows, names=None)).structures == {}


def test_channels_names_splits_and_groups(tmp_path: Path) -> None:
    rows = """Name,image,label,split,group
    one,a_t1.nii.gz; a_flair.nii.gz,a_seg.nii.gz,train,p1
    two,b_t1.nii.gz;b_flair.nii.gz,b_seg.nii.gz,Train,
    three,c_t1.nii.gz;c_flair.nii.gz,,test,p3
    """
    dataset = Dataset.open(table(tmp_path, rows))
    one, two = dataset.cases
    assert one == Case("one", (tmp_path / "a_t1.nii.gz", tmp_path / "a_flair.nii.gz"), tmp_path / "a_seg.nii.gz", "p1")
    assert (two.name, two.group) == ("two", None)
    images = (tmp_path / "c_t1.nii.gz", tmp_path / "c_flair.nii.gz")
    assert dataset.test_cases == (Case("three", images, None, "p3"),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"found no columns; needed: image, label; optional: name, split, group; .*commas"),
        ("image;label\na.png;b.png\n", r"found the columns image;label; needed: image, label"),
        ("name,value\nleft,1\n", r"found the columns name,value; needed: image, label"),
        ("image,label,image\n", r"the column 'image' appears twice"),
        ("image,label\n", r"lists no cases"),
        ("image,label\n,b.png\n", r"row 1: image is empty; give a file, or several channels separated by semicolons"),
        ("image,label\na.png;;c.png,b.png\n", r"row 1: image is 'a.png;;c.png', with an empty place"),
        ("image,label\na.png,b.png\nc.png,\n", r"row 2: label is empty; .*a test case, .* may have none"),
        ("image,label,split\na.png,b.png,val\n", r"row 1: split is 'val'; allowed: train, test"),
        ("image,label,split\na.png,b.png,\n", r"row 1: split is empty; allowed: train, test"),
        ("image,label,split\na.png,b.png,test\n", r"lists no training cases"),
        ("image,label\nx/t1.png,b.png\ny/t1.png,c.png\n", r"rows 1 and 2 are both called t1; .*column name"),
        ("image,label,name\na.png,b.png,../a\n", r"row 1: name is '../a'; a name is that of a file"),
        ("image,label,name\na.png,b.png,.a\n", r"row 1: name is '.a'; a name is that of a file"),
        ("image,label,name\na.png,b.png,\n", r"row 1: name is ''; a name is that of a file"),
        (
            "image,label,split,group\na.png,b.png,train,p1\nc.png,d.png,test,p1\ne.png,f.png,train,p2\n",
            r"the group p1 has training and test cases \(a and c\); .*split",
        ),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"cases\.csv: .*{message}"):
        Dataset.open(table(tmp_path, rows))


def test_the_table_is_not_the_list_of_structures(tmp_path: Path) -> None:
    path = table(tmp_path, "image,label\na.png,b.png\n").rename(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv: lists cases, but .* lists structures; call it cases\.csv"):
        Dataset.open(path)


def test_other_files_are_no_data_sets(tmp_path: Path) -> None:
    (tmp_path / "cases.xlsx").write_text("")
    with pytest.raises(DataError, match=r"cases\.xlsx: is a file; .*a table cases\.csv"):
        Dataset.open(tmp_path / "cases.xlsx")


def test_the_inspection_names_groups_and_columns_that_are_not_used(tmp_path: Path) -> None:
    found = inspect(Dataset.open(write_table(tmp_path)))
    assert found.problems == ()
    assert found.dataset.channels == ("intensity",)
    rows = dict(found.summary())
    assert rows["groups"] == "7 cases in 4 groups, which folds keep together and statistics count as one each"
    assert rows["not used"] == "columns of cases.csv: age"


def test_problems_name_the_labels_beside_the_table(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    (tmp_path / "labels.csv").write_text("name,value\nleft,1\n")
    found = inspect(Dataset.open(path))
    assert len(found.problems) == 7
    assert "labels.csv lists 0, 1" in found.problems[0].message
    (tmp_path / "labelsTr/c0.nii.gz").unlink()
    with pytest.raises(DataError, match=r"cases\.csv: .*scse inspect .*cases\.csv"):
        open_checked(path)


def test_folds_of_a_table_keep_groups_together(tmp_path: Path) -> None:
    dataset = Dataset.open(write_table(tmp_path))
    for fold in make_folds(dataset, 3):
        assert [case.group for case in fold.test] == [fold.test[0].group] * 2
    [own] = make_folds(dataset, None)
    assert [case.name for case in own.test] == ["t0"]
    with pytest.raises(DataError, match=r"cases\.csv: has 6 labelled cases in 3 groups, too few for 4 folds; .*3"):
        make_folds(dataset, 4)
