"""An agent in the manner of rlberry's PSRL: rewards are learned too, each as a coin, by a Beta.

Written anew, with its choices: Beta(1, 1) rewards, Gamma draws made into rows, and a table that `fit(budget)` fills.
"""

import numpy as np

from benchmarks.peers.tabular import Table, backward


class Agent:
    """Learns a world's transitions and rewards, an episode at a time."""

    def __init__(self, table: Table, weight: float, seed: int):
        self.table, self.rng = table, np.random.default_rng(seed)
        self.moves = np.full(table.probs.shape, weight)
        self.coins = np.ones((*table.reward.shape, 2))
        self.policies: list[np.ndarray] = []

    def fit(self, budget: int) -> None:
        """Live so many episodes."""
        for _ in range(budget):
            self._episode()

    def _episode(self) -> None:
        reward = self.rng.beta(self.coins[..., 0], self.coins[..., 1])
        drawn = np.maximum(self.rng.standard_gamma(self.moves), 1e-300)
        policy = backward(drawn / drawn.sum(axis=-1, keepdims=True), reward, self.table.horizon)
        self.policies.append(policy)
        state = self.table.first(self.rng)
        for actions in policy:
            action = actions[state]
            after = self.table.step(state, action, self.rng)
            won = self.rng.binomial(1, self.table.reward[state, action])
            self.moves[state, action, after] += 1
            self.coins[state, action] += (won, 1 - won)
            state = after


def live(table: Table, weight: float, seed: int) -> np.ndarray:
    """Give the policy of every episode."""
    agent = Agent(table, weight, seed)
    agent.fit(table.episodes)
    return np.array(agent.policies)
