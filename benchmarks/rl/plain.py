"""C-PSRL as most people would write it from the paper, in NumPy, and a race between it and ours.

Each episode counts every candidate's table again from all the moves so far and scores it with scipy's gammaln,
multiplies the drawn factors out into p(s' | s, a), and plans with it. Both sides get the same seeds, and must give the
same evidence and the same value of the same drawn world. Ours is timed with the exact regret and the probability of
the true graph, which it reports for each episode and the plain one does not.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import bayes_persona_envs  # registers Taxi
import gymnasium
import networkx as nx
import numpy as np
from scipy.special import gammaln

from bayes_persona.cpsrl import agents, factors, graph, planner, structure
from bayes_persona.cpsrl.env import FactoredSpec, spec_of
from bayes_persona.seeds import child

gymnasium.register_envs(bayes_persona_envs)


class Race(NamedTuple):
    """Median seconds of an episode of each, after the first, and how far their numbers are apart."""

    ours: float
    numpy: float
    evidence_difference: float
    value_difference: float


def taxi_prior(spec: FactoredSpec, max_parents: int = 4) -> graph.GraphPrior:
    """Know that everything but the destination depends on itself and the action."""
    known = nx.DiGraph()
    known.add_edge("destination", "destination'")
    for name in ("row", "column", "passenger"):
        known.add_edges_from([(name, f"{name}'"), ("action", f"{name}'")])
    return graph.prior(spec, known, max_parents=max_parents)


def race(episodes: int = 100, seed: int = 0, horizon: int = 30, alpha: float = 0.2) -> Race:
    """Run both agents on Taxi with the same seeds, then compare them on the moves that ours made."""
    env = gymnasium.make("bayes_persona/Taxi-v0")
    spec = spec_of(env)
    prior = taxi_prior(spec)
    kernel = agents.kernel(agents.Config(horizon, alpha), env, prior)
    state, ours = kernel.init(seed), []
    for number in range(episodes):
        start = time.perf_counter()
        state, _ = kernel.step(child(seed, "step", number), state, None)
        ours.append(time.perf_counter() - start)
    moves, plain = [], []
    for number in range(episodes):
        start = time.perf_counter()
        moves = episode(env, spec, prior, moves, horizon, alpha, child(seed, "step", number))
        plain.append(time.perf_counter() - start)
    return Race(
        float(np.median(ours[1:])), float(np.median(plain[1:])), *differences(spec, prior, moves, horizon, alpha)
    )


def episode(
    env: gymnasium.Env, spec: FactoredSpec, prior: graph.GraphPrior, moves: list, horizon: int, alpha: float, seed: int
) -> list:
    """Play one episode of C-PSRL, and give all moves so far."""
    rng = np.random.default_rng(seed)
    x = np.array([move[0] for move in moves], dtype=int).reshape(-1, len(spec.inputs))
    y = np.array([move[1] for move in moves], dtype=int).reshape(-1, len(spec.outputs))
    drawn = []
    for j, scores in enumerate(evidence(spec, prior, x, y, alpha)):
        logs = prior.log_prior[j, : len(scores)] + scores
        probs = np.exp(logs - logs.max())
        choice = rng.choice(len(probs), p=probs / probs.sum())
        table = count(spec, x, y[:, j], prior.members[j, choice], list(spec.outputs.values())[j])
        gammas = np.maximum(rng.standard_gamma(alpha + table), 1e-300)
        drawn.append(expand(spec, gammas / gammas.sum(axis=1, keepdims=True), prior.members[j, choice]))
    policy, _ = plan(drawn, spec, horizon)
    return moves + act(env, spec, policy, child(seed, "episode"))


def evidence(spec: FactoredSpec, prior: graph.GraphPrior, x, y, alpha: float) -> list[np.ndarray]:
    """Score every parent set of every output in closed form."""
    scores = []
    for j, values in enumerate(spec.outputs.values()):
        row = []
        for members in prior.members[j, prior.log_prior[j] > -np.inf]:  # without the places that are filled up
            table = count(spec, x, y[:, j], members, values)
            rows = gammaln(values * alpha) - gammaln(values * alpha + table.sum(axis=1))
            row.append((rows + (gammaln(alpha + table) - gammaln(alpha)).sum(axis=1)).sum())
        scores.append(np.array(row))
    return scores


def count(spec: FactoredSpec, x: np.ndarray, y: np.ndarray, members: np.ndarray, values: int) -> np.ndarray:
    """Count the moves in each cell of one parent set's table."""
    sizes = np.array(list(spec.inputs.values()))[members]
    table = np.zeros((int(sizes.prod()), values))
    np.add.at(table, (row_of(x[:, members], sizes), y), 1)
    return table


def expand(spec: FactoredSpec, table: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Give the row of the table for every setting of the inputs."""
    sizes = list(spec.inputs.values())
    settings = np.indices(sizes).reshape(len(sizes), -1).T
    return table[row_of(settings[:, members], np.array(sizes)[members])]


def row_of(settings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Number settings with the first variable as the most significant digit."""
    rows = np.zeros(len(settings), dtype=int)
    for column, size in zip(settings.T, sizes, strict=True):
        rows = rows * size + column
    return rows


def plan(drawn: Sequence[np.ndarray], spec: FactoredSpec, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Multiply the factors out, and go backwards."""
    probs = drawn[0]
    for factor in drawn[1:]:
        probs = (probs[:, :, None] * factor[:, None, :]).reshape(len(probs), -1)
    goes_on = ~spec.terminal
    value, policy = np.zeros(spec.state_count), []
    for _ in range(horizon):
        scores = (spec.reward + goes_on * (probs @ value)).reshape(spec.state_count, -1)
        value = scores.max(axis=1)
        policy.insert(0, scores.argmax(axis=1))
    return np.array(policy), value


def act(env: gymnasium.Env, spec: FactoredSpec, policy: np.ndarray, seed: int) -> list:
    """Follow the policy for one episode."""
    moves = []
    observation, _ = env.reset(seed=seed)
    sizes = list(spec.actions.values())
    for now in policy:
        number = now[np.ravel_multi_index(observation, list(spec.states.values()))]
        parts = np.unravel_index(number, sizes)
        after, _, terminated, truncated, _ = env.step(number if len(sizes) == 1 else np.array(parts))
        moves.append(([*observation, *parts], list(after)))
        observation = after
        if terminated or truncated:
            break
    return moves


def differences(spec: FactoredSpec, prior: graph.GraphPrior, moves: list, horizon: int, alpha: float):
    """Give the largest difference in log evidence on these moves, and in the value of one world drawn given them."""
    x, y = (np.array(column) for column in zip(*moves, strict=True))
    state = structure.update(prior, structure.init(prior), x, y, alpha)
    plain = evidence(spec, prior, x, y, alpha)
    apart = max(np.abs(scores - state.log_evidence[j, : len(scores)]).max() for j, scores in enumerate(plain))
    drawn = factors.sample(prior, state, structure.sample(prior, state, 0), alpha, 0)
    ours = planner.plan(drawn, spec.reward, spec.terminal, horizon=horizon).value
    return float(apart), float(np.abs(ours - plan(drawn, spec, horizon)[1]).max())
