"""What `personalize` has when training is over: all that the parts of its page look at."""

from typing import Any, NamedTuple

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.persona.base_measure import Shown
from bayes_persona.posterior import Posterior


class Learned(NamedTuple):
    """Somebody who was learned, and by whom pictures of them are judged.

    >>> Learned(None, None, Posterior(({},)), Shown(None, ()), generate.Config()).judge is None
    True
    """

    pipe: Any
    adapter: Adapter | Any
    posterior: Posterior
    shown: Shown
    sampling: generate.Config
    """How pictures are sampled."""
    judge: Any = None
    """One of `scorers`."""
