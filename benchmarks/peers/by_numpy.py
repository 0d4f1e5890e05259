"""PSRL of tables in plain NumPy (Osband, Russo & Van Roy 2013): draw a world, plan, live an episode, count."""

import numpy as np

from benchmarks.peers.tabular import Table, backward


def live(table: Table, weight: float, seed: int) -> np.ndarray:
    """Give the policy of every episode; the reward is known, each next state was seen `weight` times before."""
    rng, counts, policies = np.random.default_rng(seed), np.full(table.probs.shape, weight), []
    for _ in range(table.episodes):
        drawn = np.maximum(rng.standard_gamma(counts), 1e-300)
        policy = backward(drawn / drawn.sum(axis=-1, keepdims=True), table.reward, table.horizon)
        state = table.first(rng)
        for actions in policy:
            after = table.step(state, actions[state], rng)
            counts[state, actions[state], after] += 1
            state = after
        policies.append(policy)
    return np.array(policies)
