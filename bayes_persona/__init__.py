"""Posterior sampling with an informative prior, three times, and one place where they meet.

The hall (this package's own files) needs numpy alone; a room is entered by importing it: `bayes_persona.nptl`,
`bayes_persona.cpsrl`. Importing the package loads no framework and allocates nothing.
"""

from importlib.metadata import PackageNotFoundError, version

from bayes_persona.bma import average, predictions, standard_error
from bayes_persona.errors import ConfigError, DataError, MismatchError, MissingExtraError, RunError
from bayes_persona.loop import run
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.store import load_posterior, save_posterior
from bayes_persona.types import Data, Info, Kernel, Learner, Params

try:
    __version__ = version("bayes-persona")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "ConfigError",
    "Data",
    "DataError",
    "Info",
    "Kernel",
    "Learner",
    "MismatchError",
    "MissingExtraError",
    "Params",
    "Posterior",
    "RunError",
    "average",
    "child",
    "load_posterior",
    "predictions",
    "run",
    "save_posterior",
    "standard_error",
]
