"""Faults of the machine, such as a full disk, as messages that name the file and the remedy."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from scse.data.prepared import cache_folder
from scse.support.errors import UserError, in_short

AGAIN = "then run the same command again; what was finished before is kept"
ELSEWHERE = "choose a folder that you may write to"

REMEDIES: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", f"free some space or choose a folder on another disk, {AGAIN}"),
    errno.EDQUOT: ("your disk quota is used up", f"delete files or choose a folder on another disk, {AGAIN}"),
    errno.EFBIG: ("the file is larger than the system allows", "raise the limit (ulimit -f) or choose another disk"),
    errno.EROFS: ("the file system is read-only", ELSEWHERE),
    errno.EACCES: ("permission denied", f"change its permissions, or {ELSEWHERE}"),
    errno.EPERM: ("not permitted", f"change its permissions, or {ELSEWHERE}"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
    errno.ENOENT: ("there is no such file or folder", "correct the path"),
    errno.ENOTDIR: ("a part of the path is a file, but a folder is needed", "choose another path"),
    errno.EISDIR: ("is a folder, but a file is needed", "choose another path"),
    errno.EEXIST: ("already exists, as something else", "choose another path, or move it away"),
    errno.EIO: ("the disk cannot be read or written", "check the disk, and choose a folder on another one"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
}
"""Error of the system -> what is wrong, and the remedy."""

TOLD_IN_WORDS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Those that are known by their words, where a library passes on no number."""

FREE = 2**20
"""Bytes; a disk that is full in spite of more has no room for the names of files."""


def fault_text(error: BaseException) -> str | None:
    """The message of a fault of the machine; None if the error is another one.

    Args:
        error: as it reached the command line. Of exceptions other than OSError, such as those of TensorFlow, only full
            and read-only disks are known.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        number = next((code for code in TOLD_IN_WORDS if os.strerror(code) in str(error)), None)
    if number is None:
        return None
    path = None
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error.filename, int):
        path = Path(os.fsdecode(error.filename))
    if number == errno.ENOENT and "temporary directory" in str(error):
        return "there is no folder for temporary files that can be written to; set TMPDIR to one on a disk with space"
    if number not in REMEDIES:
        return f"{path}: {os.strerror(number)}" if path else in_short(error)
    what, remedy = REMEDIES[number]
    if number == errno.ENOSPC and path:
        what = _full(path)
    if path is None:
        return f"{what} ({in_short(error)}); {remedy}"
    return f"{path}: {what}; {remedy}{_cache_remedy(path)}"


def _full(path: Path) -> str:
    """What a full disk is out of."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free > FREE and hasattr(os, "statvfs") and (status := os.statvfs(folder)).f_files and not status.f_favail:
        return "the disk has no room for further files (all of its inodes are in use)"
    return f"the disk is full ({free / 2**20:,.1f} MiB free)"


def _cache_remedy(path: Path) -> str:
    """What else helps where prepared arrays are kept, a folder that nobody chose."""
    try:
        cache = cache_folder().absolute()
    except UserError:  # there is none
        return ""
    # making the folder may fail at any of its parents
    if path.absolute().is_relative_to(cache) or cache.is_relative_to(path.absolute()):
        return ". Prepared arrays are kept there; set SCSE_CACHE to another folder to keep them elsewhere"
    return ""
