"""What has to be exact: formulas against numbers worked out by hand, brute force, and the simulators themselves."""

import itertools
import math
import time

import networkx as nx
import numpy as np
from bayes_persona_envs.sepsis import Sepsis
from gymnasium.envs.toy_text.taxi import TaxiEnv

from bayes_persona.cpsrl import calibration, env, graph, planner, structure
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.seeds import child
from benchmarks.rl import worlds
from benchmarks.rows import Row, row

VECTORS = (
    ([[3, 1], [0, 2]], 1.0, -4.0943445622),
    ([[3, 1], [0, 2]], 0.5, -4.2234216045),
    ([[2, 0, 1], [0, 0, 0], [1, 1, 4]], 1 / 3, -11.2374373150),
    ([[0, 0], [0, 0]], 0.7, 0.0),
)
"""Tables of counts, α, and their evidence."""
ANCHORS = {("original", 20): (0.448, -0.759, -0.809), ("original", 10): (0.336, -0.561, -0.734)} | {
    ("fixed", 20): (0.581, -0.716, -0.759),
    ("fixed", 50): (0.796, -0.830, -0.766),
}
"""Of the sepsis simulator: value of the best policy, of acting at random, and of never treating."""


def rows() -> list[Row]:
    """Give the largest errors."""
    command = "python -m benchmarks.rl.run --only exact"
    found = []
    for id, measure, unit in (
        ("vectors_max_error", vectors, "nats, 4 vectors"),
        ("bruteforce_max_error", brute_force, "probability, 200 random problems, all parent sets"),
        ("sepsis_anchor_error", anchors, "value, 12 anchors"),
        ("taxi_transition_error", transitions, "probability, reward or end, 3,000 pairs"),
    ):
        started, error = time.perf_counter(), measure()
        found.append(row(f"cpsrl.{id}", error, unit, command=command, seconds=time.perf_counter() - started))
    return found


def calibration_rows() -> list[Row]:
    """Give the coverage of 80 % credible sets of graphs, and how uniform the ranks of truths are."""
    started, command = time.perf_counter(), "python -m benchmarks.rl.run --only calibration"
    spec = worlds.random_worlds(1, parents=2, states=3, actions=2)[0]
    prior = graph.prior(spec, nx.DiGraph([("s0", "s0'")]), max_parents=2)
    covered, p_values = [], []
    for part in range(5):
        ranks = calibration.simulate(calibration.Config(repetitions=1000), prior, seed=child(0, "calibration", part))
        covered.append(calibration.coverage(ranks, level=0.8))
        p_values.append(min(calibration.uniformity(ranks).values()))
    rest = {"command": command, "seconds": time.perf_counter() - started}
    return [
        row("cpsrl.sbc_coverage_80", covered, "share of truths in 80 % sets, 5 × 1,000 worlds", **rest),
        row("cpsrl.sbc_p_value", p_values, "smallest of three tests of uniform ranks", **rest),
    ]


def vectors() -> float:
    """Give the largest error of the evidence of known tables."""
    return max(abs(structure.log_evidence(np.array(counts), alpha) - want) for counts, alpha, want in VECTORS)


def brute_force(problems: int = 200) -> float:
    """Give the largest error of a posterior probability, against Dirichlet integrals of every table counted anew."""
    return max(_brute_force(seed) for seed in range(problems))


def _brute_force(seed: int) -> float:
    rng = np.random.default_rng(seed)
    sizes, outputs = rng.integers(2, 4, size=4).tolist(), 2
    spec = _blank(sizes, outputs)
    odds = rng.choice([0.0, 0.2, 0.5, 0.7], size=(4, outputs))
    names = list(spec.inputs)
    edges = [(names[i], f"{names[j]}'", {"probability": odds[i, j]}) for i in range(4) for j in range(outputs)]
    prior = graph.prior(spec, nx.DiGraph(edges), max_parents=3)
    x, y = rng.integers(sizes, size=(25, 4)), rng.integers(sizes[:outputs], size=(25, outputs))
    have = structure.posterior(prior, structure.update(prior, structure.init(prior), x, y, 0.3))
    worst = 0.0
    for j in range(outputs):
        weights = {}
        for mask in itertools.product([False, True], repeat=4):
            z = [i for i in range(4) if mask[i]]
            if len(z) <= 3:
                weight = math.prod(odds[i, j] if mask[i] else 1 - odds[i, j] for i in range(4))
                weights[mask] = weight * math.exp(_evidence(x[:, z], y[:, j], sizes[j], 0.3))
        total = sum(weights.values())
        for c in np.flatnonzero(prior.log_prior[j] > -np.inf):
            worst = max(worst, abs(have[j, c] - weights[tuple(prior.members[j, c].tolist())] / total))
    return worst


def _evidence(settings: np.ndarray, values: np.ndarray, size: int, alpha: float) -> float:
    total = 0.0
    for setting in {tuple(setting) for setting in settings.tolist()}:
        met = values[(settings == setting).all(axis=1)]
        total += math.lgamma(size * alpha) - math.lgamma(size * alpha + len(met))
        total += sum(math.lgamma(alpha + (met == value).sum()) - math.lgamma(alpha) for value in range(size))
    return total


def _blank(sizes: list[int], outputs: int) -> FactoredSpec:
    names, x = "abcd", math.prod(sizes)
    states = dict(zip(names[:outputs], sizes[:outputs], strict=True))
    actions = dict(zip(names[outputs:], sizes[outputs:], strict=True))
    s = math.prod(states.values())
    factors = tuple(np.full((x, size), 1 / size) for size in states.values())
    return FactoredSpec(states, actions, np.zeros(x), np.zeros(x, dtype=bool), np.full(s, 1 / s), factors)


def anchors() -> float:
    """Give the largest error of the values that the sepsis simulator is known to have."""
    worst = 0.0
    for (glucose, horizon), want in ANCHORS.items():
        spec = Sepsis(glucose=glucose).fmdp_spec()
        arrays = (spec.factors, spec.reward, spec.terminal)
        best = spec.initial @ planner.plan(*arrays, horizon=horizon).value
        never = spec.initial @ planner.evaluate(np.zeros((horizon, spec.state_count), dtype=int), *arrays)
        worst = max(worst, *np.abs(np.array([best, _at_random(spec, horizon), never]) - want))
    return float(worst)


def _at_random(spec: FactoredSpec, horizon: int) -> float:
    """Give the value of acting at random: that of a world whose every action is all of them."""
    shape = (spec.state_count, spec.action_count)
    probs = env.joint(spec.factors).reshape(*shape, -1).mean(axis=1)
    arrived, ends = spec.reward[0], spec.terminal[0]
    value = np.zeros(spec.state_count)
    for _ in range(horizon):
        value = probs @ (arrived + np.where(ends, 0.0, value))
    return float(spec.initial @ value)


def transitions() -> float:
    """Give the largest difference from Gymnasium's own taxi, of all states and actions."""
    spec, table = worlds.taxi(), TaxiEnv().P
    have, worst = env.joint(spec.factors), 0.0
    for state, action in np.ndindex(500, 6):
        [(probability, after, reward, terminated)] = table[state][action]
        x = 6 * state + action
        end = abs(float(spec.terminal[x]) - float(terminated))
        worst = max(worst, abs(have[x, after] - probability), abs(spec.reward[x] - reward), end)
    return worst
