"""Many images, one after the other, with reading and writing beside the computation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from scse.support.errors import DataError

T = TypeVar("T")
Read = TypeVar("Read")
Done = TypeVar("Done")


@dataclass
class _Job:
    """An image that passes through reading, computation and writing; steps skip it once it has a problem."""

    name: str
    paths: Sequence[Path]
    problem: str = ""
    state: Any = None


def each_image(
    images: Mapping[str, Sequence[Path]],
    *,
    read: Callable[[Sequence[Path]], Read],
    compute: Callable[[Read], Done],
    write: Callable[[str, Sequence[Path], Done], None],
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Read, compute and write many images; the others are still written if one fails.

    While one image is computed, the next one is read and the result of the previous one is written.

    Args:
        images: Files of the channels of each image in order, by image name.
        read: Function from the files of an image to what is computed from; it runs in a thread.
        compute: Function from that to the result; it runs in the thread of the caller.
        write: Function that writes a result, called with the name and files of the image; it runs in a thread.
        progress: Called with the numbers of finished and of all images after each image.

    Returns:
        A message for each image that failed.
    """

    def reading(job: _Job) -> None:
        job.state = read(job.paths)

    def computing(job: _Job) -> None:
        job.state = compute(job.state)  # also releases what was read

    def writing(job: _Job) -> None:
        write(job.name, job.paths, job.state)
        job.state = None

    failed = []
    jobs = (_Job(name, paths) for name, paths in images.items())
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        # the network runs in this thread, so that Ctrl-C stops it while the writer finishes its file
        computed = map(_step(computing), _ahead(reader, _step(reading), jobs))
        for done, job in enumerate(_ahead(writer, _step(writing), computed), start=1):
            if job.problem:
                failed.append(job.problem)
            if progress is not None:
                progress(done, len(images))
    return failed


def _step(do: Callable[[_Job], None]) -> Callable[[_Job], _Job]:
    """A step of the pipeline that stores a failure as the problem of the image."""

    def step(job: _Job) -> _Job:
        if not job.problem:
            try:
                do(job)
            except DataError as error:
                job.problem = str(error)
            except ValueError as error:  # networks of other libraries raise it for sizes that they do not support
                job.problem = f"{job.paths[0]}: {error}"
            except MemoryError:
                job.problem = f"{job.paths[0]}: needs more memory than available; use a machine with more memory"
            except torch.OutOfMemoryError:
                remedy = "choose a smaller --batch-size, or predict it with --device cpu"
                job.problem = f"{job.paths[0]}: needs more memory than the GPU has; {remedy}"
        return job

    return step


def _ahead(pool: Executor, function: Callable[[T], T], items: Iterable[T]) -> Iterator[T]:
    """`map` in a thread, which processes one item while the previous result is used and the next item is prepared."""
    working: Future[T] | None = None
    for item in items:
        submitted = pool.submit(function, item)
        if working is not None:
            yield working.result()
        working = submitted
    if working is not None:
        yield working.result()
