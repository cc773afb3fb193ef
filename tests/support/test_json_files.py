"""Reading of untrusted JSON, and errors that name the file and the field."""

import os

import pytest
from pydantic import BaseModel, Field

from scse.support.errors import DataError
from scse.support.json_files import read_json, validated


class Model(BaseModel):
    """A model to check content against."""

    spacing: list[float] = Field(min_length=1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "Expecting property name"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ('{"a": 1' + "0" * 30 + "}", "beyond 64 bits"),
        ('{"a": 9223372036854775808}', "beyond 64 bits"),
        ('{"a": -1' + "0" * 5000 + "}", "beyond 64 bits"),
        ('{"a": {"b": 1, "b": 2}}', "'b' appears twice"),
    ],
)
def test_json_that_cannot_be_used_is_refused_by_the_name_of_its_file(tmp_path, text, what):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_json_in_another_encoding_and_things_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    os.mkfifo(tmp_path / "pipe.json")
    for name, what in {"latin.json": "utf-8", "pipe.json": "is a named pipe", "none.json": "does not exist"}.items():
        with pytest.raises(DataError, match=what):
            read_json(tmp_path / name)


def test_sound_json_is_read(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"a": [1, -9223372036854775807, 2.5, null]}')
    assert read_json(path) == {"a": [1, -9223372036854775807, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"spacing": ["x"]}, r"spacing\.0: .*got 'x'; copy it again"),
        ({"spacing": "y" * 500}, r"spacing: .*got 'y{76}\.\.\.; copy it again"),
        ({}, "spacing: Field required; copy it again"),
        ([], "the whole: .*dictionary.*got \\[\\]"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(tmp_path, content, what):
    with pytest.raises(DataError, match=what) as raised:
        validated(Model, content, path=tmp_path / "run.json", remedy="copy it again")
    assert str(raised.value).startswith(f"{tmp_path / 'run.json'}: ")
