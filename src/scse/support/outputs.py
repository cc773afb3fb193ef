"""Records of the files that scse wrote, so that it does not replace other files of the user without being asked.

The folder `.scse-written` next to the files has one small file for each of them, the mark, with the digest of its
content. While a file is being written, its mark is empty, so that an interrupted file counts as written by scse.
"""

import hashlib
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.support.text import shortened_list

MARKS = ".scse-written"


def check_outputs(outputs: Iterable[Path], *, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuse to replace files that scse did not write, or that were changed since.

    Args:
        outputs: Files that will be written.
        inputs: Files that are read. They are never replaced, even with `overwrite`.
        overwrite: Whether all other files may be replaced.

    Raises:
        UserError: An output is also an input, or exists and was not written by scse or was changed since.
    """
    outputs = list(outputs)
    read = {path.resolve() for path in inputs}
    if same := [path for path in outputs if path.resolve() in read]:
        raise UserError(f"{_named(same)}: would be replaced by its own output; choose another folder")
    if overwrite:
        return
    if foreign := [path for path in outputs if os.path.lexists(path) and not _is_ours(path)]:
        raise UserError(
            f"{_named(foreign)}: already there, and not written by scse or changed since; choose another folder, or "
            "replace what is there with --overwrite (overwrite=True in Python)"
        )


@contextmanager
def marked(outputs: Sequence[Path]) -> Generator[None]:
    """Mark the files that the block writes as written by scse. The marks of files that it does not write stay."""
    before = {path: (_inode(path), _read(_mark(path))) for path in outputs}
    for path in outputs:
        write_atomic(_mark(path), b"")
    try:
        yield
    finally:
        for path, (inode, mark) in before.items():
            now = mark if _inode(path) == inode else _digest(path)
            if now is None:
                _mark(path).unlink()
            else:
                write_atomic(_mark(path), now)


def marked_digest(path: Path) -> str | None:
    """The digest of the content that scse wrote into a file; None if it did not write it or is writing it."""
    return (_read(_mark(path)) or b"").decode() or None


def is_marked(path: Path, digest: str) -> bool:
    """Whether a file has the content of this digest, and scse wrote it."""
    return marked_digest(path) == digest and path.is_file() and _digest(path).decode() == digest


def _named(paths: Sequence[Path]) -> str:
    return shortened_list(paths)


def _is_ours(path: Path) -> bool:
    mark = _read(_mark(path))
    return mark is not None and path.is_file() and mark in (b"", _digest(path))


def _mark(path: Path) -> Path:
    return path.parent / MARKS / path.name


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _inode(path: Path) -> int | None:
    # a written file has another inode, because it replaces the old one
    return path.lstat().st_ino if os.path.lexists(path) else None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()
