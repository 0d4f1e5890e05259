"""What `bayes-persona people` takes: all that `personalize` does, and how people are shared out."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from bayes_persona import ranges
from bayes_persona.errors import ConfigError, DataError
from bayes_persona.persona import config as one


@dataclass(frozen=True)
class Config(one.Config):
    """How many people are learned, each as `personalize` does it.

    Raises:
        ConfigError: If a number is out of its range, or a cluster is given folders that only this machine could find.

    >>> Config(Path("everybody"), "robot", workers=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: workers: expected at least 1, got 0
    """

    photos: Path
    """Folder of folders: pictures of one subject in each, as `personalize` takes them, named as the subject is."""
    out: Path = Path("people")
    """Folder of a page of everybody, and of a folder for each; a run that was killed goes on from there."""
    workers: int = 1
    """People at a time, each in a process of one thread."""
    ray: str | None = None
    """Address of a Ray cluster that shares them out, as `ray start --head` says it, or `auto`; left out, this machine
    does."""

    def __post_init__(self):
        super().__post_init__()
        ranges.at_least(self, 1, "workers")
        if self.ray is None:
            return
        names = ("photos", "out", "base", "judge", "guide", "segmenter")
        places = [(name, getattr(self, name)) for name in names]
        for name, place in [*places, *(("earlier", folder) for folder in self.earlier)]:
            if place is not None and not place.is_absolute() and not (name == "base" and self.held.hub):
                raise ConfigError(
                    f"{name}: all machines of a cluster use one folder; give a shared one's whole path, not {place}"
                )

    def each(self) -> list[one.Config]:
        """Give what `personalize` takes of every subject, by the names of their folders.

        Raises:
            DataError: If there is no such folder, or none in it.

        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> (place / "r2").mkdir()
        >>> Config(place, "robot").each()[0].out
        PosixPath('people/r2')
        """
        if not self.photos.is_dir():
            raise DataError(f"{self.photos}: there is no such folder")
        folders = sorted(place for place in self.photos.iterdir() if place.is_dir() and not place.name.startswith("."))
        if not folders:
            raise DataError(f"{self.photos}: has no folders; expected one of each subject, or use personalize")
        plain = one.Config(**{field.name: getattr(self, field.name) for field in fields(one.Config)})
        return [replace(plain, photos=place, out=self.out / place.name) for place in folders]
