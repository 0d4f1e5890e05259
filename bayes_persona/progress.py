"""One progress bar for everything that takes long, on standard error, silent where nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task("" if title is None else title, total=total, completed=done, note="")

        def advance(**numbers: float) -> None:
            note = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            progress.update(task, advance=1, note=note)

        yield advance
