"""Work that takes long, in a thread of its own: it can be looked at, and stopped between two steps."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from rich.console import Console

from bayes_persona.errors import RunError
from bayes_persona.progress import Progress, watched

STOPPED = "stopped; learn again, and it goes on from its last checkpoint"
"""What a job that was stopped gives as its error."""


class Moment(NamedTuple):
    """How far a job is, and what it has said.

    >>> Moment(Progress("personalizing", 1, 2), "").progress.share
    0.5
    """

    progress: Progress | None
    said: str


class Job:
    r"""One piece of work.

    Args:
        work: Does it; what it prints on the console, and the steps of its progress bars, are seen from outside.

    >>> from bayes_persona.progress import bar
    >>> def work(console):
    ...     console.print("begun")
    ...     with bar("counting", total=2) as advance:
    ...         advance()
    ...     return 7
    >>> job = Job(work)
    >>> list(job.moments(every=0.01))[-1]
    Moment(progress=Progress(title='counting', done=1, total=2, note=''), said='begun\n')
    >>> job.result()
    7
    """

    def __init__(self, work: Callable[[Console], Any]):
        self._work, self._found, self._text = work, Future(), io.StringIO()
        self._progress: Progress | None = None
        self._stop = threading.Event()
        # a daemon: who leaves the studio does not wait for it, and what was learned so far is in its folder
        self._thread = threading.Thread(target=self._run, daemon=True)

    def moments(self, every: float = 0.4) -> Iterator[Moment]:
        """Begin, and give how far it is again and again until it has ended; who stops asking stops the work.

        Args:
            every: Seconds between two moments.
        """
        self._thread.start()
        try:
            while not self._found.done():
                yield self._moment()
                wait([self._found], every)
            yield self._moment()
        finally:
            self.stop()
            self._thread.join()

    def result(self) -> Any:
        """Give what the work gave.

        Raises:
            RunError: If it was stopped.
        """
        return self._found.result()

    def stop(self) -> None:
        """End the work after its next step."""
        self._stop.set()

    def _run(self) -> None:
        try:
            with watched(self._watch):
                self._found.set_result(self._work(Console(file=self._text, width=100)))
        except BaseException as error:  # it belongs to whoever asks for the result
            self._found.set_exception(error)

    def _watch(self, progress: Progress) -> None:
        self._progress = progress
        if self._stop.is_set():
            raise RunError(STOPPED)

    def _moment(self) -> Moment:
        return Moment(self._progress, self._text.getvalue())
