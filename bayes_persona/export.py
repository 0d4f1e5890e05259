"""A posterior in other people's formats: xarray and ArviZ for diagnostics and plots, networkx for graphs.

The formats' libraries are imported when a function is called, so that importing this file stays light.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import DataError, MismatchError, needs_extra
from bayes_persona.named import require_finite
from bayes_persona.posterior import Posterior

if TYPE_CHECKING:
    import arviz
    import networkx
    import xarray


def to_datatree(
    posterior: Posterior, *, log_likelihood: Float[np.ndarray, "particles n"] | None = None
) -> "xarray.DataTree":
    """Give the particles as labelled arrays: group `posterior`, with dimensions chain (one) and draw (the particles).

    Args:
        posterior: What to export. Names stay as they are; the axes of `head.weight` are `head.weight_dim_0` and so on.
        log_likelihood: log p(y_i | x_i, θ_k) of every particle and example, which becomes the group `log_likelihood`.

    Raises:
        MissingExtraError: If xarray is not installed.
        MismatchError: If the log-likelihood has no row for each particle.
        DataError: If the log-likelihood is empty or not finite.

    >>> tree = to_datatree(Posterior(({"head.weight": np.zeros(2)}, {"head.weight": np.ones(2)})))
    >>> dict(tree["posterior"]["head.weight"].sizes)
    {'chain': 1, 'draw': 2, 'head.weight_dim_0': 2}
    """
    with needs_extra("export"):
        import xarray
    groups = {"posterior": posterior.stacked()}
    if log_likelihood is not None:
        _require_log_likelihood(log_likelihood, len(posterior))
        groups["log_likelihood"] = {"y": log_likelihood}
    coords = {"chain": [0], "draw": np.arange(len(posterior))}
    return xarray.DataTree.from_dict(
        {
            group: xarray.Dataset({name: _labelled(name, stack) for name, stack in arrays.items()}, coords)
            for group, arrays in groups.items()
        }
    )


def to_inference_data(
    posterior: Posterior, *, log_likelihood: Float[np.ndarray, "particles n"] | None = None
) -> "arviz.InferenceData":
    """Give the particles as ArviZ knows them, for `az.summary`, its plots and, with a log-likelihood, `az.loo`.

    Independent draws are not a chain: of the diagnostics, `r_hat` needs several chains and stays NaN.

    Args:
        posterior: What to export.
        log_likelihood: See `to_datatree`.

    Raises:
        MissingExtraError: If ArviZ is not installed.
        MismatchError: If the log-likelihood has no row for each particle.
        DataError: If the log-likelihood is empty or not finite.

    >>> data = to_inference_data(Posterior(({"w": np.zeros(2)}, {"w": np.ones(2)})), log_likelihood=np.zeros((2, 5)))
    >>> data.groups()
    ['posterior', 'log_likelihood']
    """
    with needs_extra("export"), warnings.catch_warnings():
        # It announces its next major version once a day, which the bound on ours keeps out.
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz
    return arviz.InferenceData.from_datatree(to_datatree(posterior, log_likelihood=log_likelihood))


def to_networkx(probabilities: Mapping[tuple[str, str], float]) -> "networkx.DiGraph":
    """Give edge probabilities as a directed graph, each edge with the attribute `probability`.

    Every edge named is there, those of probability 0 too: where to cut is the reader's choice.

    Args:
        probabilities: The probability of each edge (parent, child).

    Raises:
        DataError: If a probability is not between 0 and 1.

    >>> graph = to_networkx({("rain", "grass"): 0.9, ("sprinkler", "grass"): 0.4})
    >>> [parent for parent, _, belief in graph.in_edges("grass", data="probability") if belief > 0.5]
    ['rain']
    """
    import networkx

    graph = networkx.DiGraph()
    for (parent, child), probability in probabilities.items():
        if not 0 <= probability <= 1:
            raise DataError(f"edge {parent} -> {child}: expected a probability between 0 and 1, got {probability}")
        graph.add_edge(parent, child, probability=float(probability))
    return graph


def _labelled(name: str, stack: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    return ("chain", "draw", *(f"{name}_dim_{axis}" for axis in range(stack.ndim - 1))), stack[None]


def _require_log_likelihood(log_likelihood: np.ndarray, particles: int) -> None:
    if log_likelihood.ndim != 2 or len(log_likelihood) != particles:
        raise MismatchError(f"log_likelihood: expected shape ({particles}, examples), got {log_likelihood.shape}")
    if log_likelihood.size == 0:
        raise DataError(f"log_likelihood: empty, of shape {log_likelihood.shape}")
    require_finite({"log_likelihood": log_likelihood}, "export")
