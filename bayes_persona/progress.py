"""One progress bar for everything that takes long, on standard error, silent where nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(NamedTuple):
    """How far something is.

    >>> Progress("personalizing", 50, 200, "loss 0.1").share
    0.25
    """

    title: str
    done: int
    total: int
    note: str = ""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.done / self.total if self.total else 1.0


Watcher = Callable[[Progress], None]


def _nobody(_: Progress) -> None:
    pass


_WATCHER: ContextVar[Watcher] = ContextVar("watcher", default=_nobody)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell a function of every step of every bar with a title, in this thread, while the block runs.

    What the function raises ends what was being done; what keeps checkpoints goes on from there another time.

    Args:
        watcher: Told of every step.

    >>> seen = []
    >>> with watched(seen.append), bar("learning", total=2) as advance:
    ...     advance(loss=0.5)
    >>> seen
    [Progress(title='learning', done=0, total=2, note=''), Progress(title='learning', done=1, total=2, note='loss 0.5')]
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def bar(title: str | None, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs, and give the function that moves it on by one.

    Args:
        title: What is being done; None shows nothing.
        total: How many steps there are.
        done: How many were done before, in a run that is resumed.

    Yields:
        A function to call after each step; keyword arguments (numbers) are shown beside the bar.

    >>> with bar(None, total=2) as advance:
    ...     advance()
    ...     advance(loss=0.5)
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = title is None or not console.is_terminal
    name, tell = ("", _nobody) if title is None else (title, _WATCHER.get())
    tell(Progress(name, done, total))
    with Bars(*columns, console=console, disable=hidden, transient=True) as bars:
        task = bars.add_task(name, total=total, completed=done, note="")

        def advance(**numbers: float) -> None:
            note = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            bars.update(task, advance=1, note=note)
            tell(Progress(name, int(bars.tasks[0].completed), total, note))

        yield advance
