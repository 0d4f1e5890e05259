"""The same hierarchy in NumPyro: graph, tables, moves. A second opinion on `structure`, and a start for other models.

For each output: parents ~ Categorical(prior), one table for each candidate with rows ~ Dirichlet(α, …, α), and the next
value ~ Categorical(the row of the chosen candidate's table that its parents' setting names). Tables of candidates that
were not chosen keep their prior, so all graphs have the same parameters and the joint density is one function.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro.distributions import Categorical, Dirichlet, DirichletMultinomial, Independent
    from numpyro.infer.util import log_density
    from scipy.special import gammaln


def model(
    prior: GraphPrior, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"] | None = None, *, alpha: float
) -> None:
    """Say how moves come about, for NumPyro's handlers and samplers.

    Its sites are, for each output `row'`: `row' parents` (the number of a candidate), `row' tables` (the rows of all
    its candidates, as they lie in `structure.State.counts`) and `row'` (the next values).

    Args:
        prior: The candidates.
        x: Settings of the inputs.
        y: The settings of the outputs that followed; none to draw them.
        alpha: The Dirichlet's parameter for each cell.

    >>> from numpyro.handlers import seed, trace
    >>> from bayes_persona.cpsrl import env, graph
    >>> sites = trace(seed(model, 0)).get_trace(graph.complete(env.lamp()), np.array([[0, 1]]), alpha=1.0)
    >>> {name: site["value"].shape for name, site in sites.items()}
    {"lamp' parents": (), "lamp' tables": (4, 2), "lamp'": (1,)}
    """
    for output, (name, values) in enumerate(prior.spec.outputs.items()):
        weights: Any = Categorical(probs=jnp.exp(jnp.asarray(prior.log_prior[output])))
        parents = numpyro.sample(f"{name} parents", weights)
        concentration = jnp.full((int(prior.heights[output].sum()), values), alpha)
        tables: Any = numpyro.sample(f"{name} tables", Independent(Dirichlet(concentration), 1))
        starts = jnp.asarray(prior.starts[output] - prior.starts[output, 0])
        rows = starts[parents] + jnp.asarray(x) @ jnp.asarray(prior.strides[output])[parents]
        seen = None if y is None else jnp.asarray(y)[:, output]
        numpyro.sample(name, Independent(Categorical(probs=tables[rows]), 1), obs=seen)


def log_joint(
    prior: GraphPrior,
    x: Int[np.ndarray, "t inputs"],
    y: Int[np.ndarray, "t outputs"],
    *,
    alpha: float,
    choice: Int[np.ndarray, " outputs"],
    tables: dict[str, np.ndarray],
) -> float:
    """Give ln p(graph, tables, y | x) at one graph and the tables of all candidates.

    Args:
        prior: The candidates.
        x: Settings of the inputs.
        y: The settings of the outputs that followed.
        alpha: The Dirichlet's parameter for each cell.
        choice: The number of the candidate of each output.
        tables: For each output by name, the rows of all its candidates' tables.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior, even = graph.complete(env.lamp()), {"lamp'": np.full((4, 2), 0.5)}
    >>> x, y = np.array([[0, 1], [1, 1]]), np.array([[1], [0]])
    >>> round(float(np.exp(log_joint(prior, x, y, alpha=1.0, choice=np.array([0]), tables=even))), 9)  # two coins
    0.25
    """
    values: dict[str, Any] = {}
    with jax.enable_x64(True):
        for number, name in zip(choice, prior.spec.outputs, strict=True):
            values[f"{name} parents"] = jnp.asarray(number)
            values[f"{name} tables"] = jnp.asarray(tables[name])
        return float(log_density(model, (prior, x, y), {"alpha": alpha}, values)[0])


def log_evidence(
    prior: GraphPrior, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"], *, alpha: float
) -> Float[np.ndarray, "outputs candidates"]:
    """Give the log evidence of all candidates, the tables integrated out: what `structure.State` holds.

    >>> from bayes_persona.cpsrl import env, graph
    >>> x = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 0]])
    >>> y = np.array([[0], [0], [0], [1], [1], [1]])
    >>> log_evidence(graph.complete(env.lamp()), x, y, alpha=1.0).round(6).tolist()  # −ln 60
    [[-4.094345]]
    """
    logs = np.zeros(prior.log_prior.shape)
    for output, values in enumerate(prior.spec.outputs.values()):
        starts = prior.starts[output] - prior.starts[output, 0]
        rows = starts + x @ prior.strides[output].T
        counts = np.zeros((int(prior.heights[output].sum()), values))
        np.add.at(counts, (rows, y[:, output, None]), 1)
        totals = counts.sum(axis=1)
        with jax.enable_x64(True):
            law = DirichletMultinomial(jnp.full(values, alpha), total_count=jnp.asarray(totals))
            unordered = np.asarray(law.log_prob(jnp.asarray(counts)))
        # it speaks of counts, which come about in many orders; moves came in one
        orders = gammaln(totals + 1) - gammaln(counts + 1).sum(axis=1)
        logs[output] = np.add.reduceat(unordered - orders, starts)
    return logs
