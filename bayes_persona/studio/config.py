"""What `bayes-persona studio` takes: where its page is served, what it keeps, and which model it works on."""

from dataclasses import dataclass
from pathlib import Path

from bayes_persona.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost")
"""Addresses that nobody else can reach."""


@dataclass(frozen=True)
class Config:
    """Where the page is, and what it works on; everything else is asked on the page.

    Raises:
        ConfigError: If there is no such port.

    >>> Config().private, Config(host="0.0.0.0").private
    (True, False)
    """

    out: Path = Path("studio")
    """Folder of everybody who is learned, each in a folder of their own: photos, personalization, page."""
    base: Path | None = None
    """Folder of a Stable Diffusion pipeline in the diffusers format; left out, the embedded model."""
    judge: Path | None = None
    """Folder of a CLIP model that says who pictures show, for the verdict; the embedded model has its oracles."""
    guide: Path | None = None
    """Folder of the guide that restores photos, for dual_pivot; left out, the embedded model's."""
    segmenter: Path | None = None
    """Folder of a CLIPSeg model that finds the superclass in photos, so that only it is learned."""
    host: str = "127.0.0.1"
    """Address to serve the page at. Any but this machine's own lets others see the photos and use the machine."""
    port: int = 7860
    """Port of the page; 0 takes the first free one from 7860 on."""
    browser: bool = True
    """Open the page in the browser."""

    def __post_init__(self):
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port: expected 0 to {2**16 - 1}, got {self.port}")

    @property
    def private(self) -> bool:
        """Whether the page can be reached from this machine alone."""
        return self.host in LOOPBACK
