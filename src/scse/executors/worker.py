"""A worker process of this machine: `python -m scse.executors.worker`, started by `scse.executors.workers`.

Standard input brings pickled values: the function, then items, each as a tuple of one, or "stop". Standard output takes
what the items report, and their outcomes. If the input ends, the process that wanted the results has ended.
"""

import os
import pickle
import signal
import sys
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any

from scse.allocator import keep_large_blocks
from scse.executors.base import attempt
from scse.executors.process import settle
from scse.executors.workers import STOP
from scse.support.events import Watch


def main() -> None:
    """Do items until the input ends."""
    keep_large_blocks()  # before anything starts a thread
    settle()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # batch systems send it to all processes; ours is asked by the first
    posts = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    inbox: SimpleQueue[Any] = SimpleQueue()
    stopped = Flag()
    function = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
    Thread(target=_listen, args=(inbox, stopped), daemon=True).start()

    def post(value: object) -> None:
        pickle.dump(value, posts)
        posts.flush()

    while True:
        (item,) = inbox.get()
        post(attempt(function, item, Watch(post, stopped.is_set)))


def _listen(inbox: "SimpleQueue[Any]", stopped: Flag) -> None:
    try:
        while True:
            value = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
            if value == STOP:
                stopped.set()
            else:
                inbox.put(value)
    except (EOFError, pickle.UnpicklingError):
        os._exit(1)  # nobody waits for the results; locks are free at once


if __name__ == "__main__":
    main()
