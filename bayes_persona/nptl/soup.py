"""Soups (Wortsman et al. 2022): one net with the average of the particles' weights, at the price of one prediction.

It works where particles lie in one basin, as fits from one pretrained start do; fits from random heads need not.
The gaussian likelihood's noise is averaged like any other parameter.
"""

from bayes_persona.errors import ConfigError
from bayes_persona.nptl.base_measure import ProbedLearner
from bayes_persona.nptl.bootstrap import model_nll
from bayes_persona.posterior import Posterior
from bayes_persona.types import Data, Params


def uniform_soup(posterior: Posterior) -> Posterior:
    """Give the average of all particles, as a posterior of one.

    Raises:
        ConfigError: If particles hold BatchNorm's running statistics.

    >>> import numpy as np
    >>> uniform_soup(Posterior(({"w": np.zeros(2)}, {"w": np.ones(2)})))[0]["w"].tolist()
    [0.5, 0.5]
    """
    _require_averageable(posterior[0])
    return Posterior((posterior.mean(),))


def greedy_soup(learner: ProbedLearner, posterior: Posterior, data: Data) -> Posterior:
    """Average the particles that help: from the best on, each stays if held-out NLL does not get worse.

    The soup is therefore never worse on `data` than the best particle alone.

    Args:
        learner: Predicts.
        posterior: The particles.
        data: Examples that the particles were not fitted on; those of the final scores are out of the question too.

    Raises:
        ConfigError: If particles hold BatchNorm's running statistics.

    >>> import numpy as np
    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> def net(slope): return {"weight": np.array([[-slope], [slope]], np.float32), "bias": np.zeros(2, np.float32)}
    >>> data = Data(np.array([[-1.0], [1.0]], np.float32), np.eye(2), np.ones(2))
    >>> posterior = Posterior((net(-9.0), net(1.0), net(3.0)))  # the first is wrong, and 3 alone beats (3 + 1) / 2
    >>> greedy_soup(TorchLearner(nn.Linear(1, 2)), posterior, data)[0]["weight"].tolist()
    [[-3.0], [3.0]]
    """
    _require_averageable(posterior[0])
    alone = sorted((model_nll(learner, Posterior((particle,)), data), k) for k, particle in enumerate(posterior))
    best, first = alone[0]
    chosen = Posterior((posterior[first],))
    for _, k in alone[1:]:
        wider = Posterior((*chosen, posterior[k]))
        nll = model_nll(learner, Posterior((wider.mean(),)), data)
        if nll <= best:
            best, chosen = nll, wider
    return Posterior((chosen.mean(),))


def _require_averageable(particle: Params) -> None:
    # statistics of the average net are not the average of statistics, and there is no data here to gather them anew
    learned = [name for name in particle if name.endswith("running_mean")]
    if learned:
        have = f"particles hold BatchNorm's running statistics ({learned[0]}), which do not average"
        raise ConfigError(f'soup: {have}; fit with frozen ones (batch_norm="frozen")')
