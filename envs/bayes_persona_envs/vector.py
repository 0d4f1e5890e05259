"""Many copies of one factored world that step at once, each as it would step alone with its own seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.local import LocalSpec
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona_envs.factored_world import FactoredWorld

with needs_extra("envs"):
    import gymnasium
    from gymnasium.utils.seeding import np_random
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space

AHEAD = 256
"""Uniform numbers that each copy draws at a time."""


class FactoredVector(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Copies of a world, in numpy.

    Copy i, reset with seed s, moves exactly as the world alone would with seed s + i, so this is
    `gymnasium.vector.SyncVectorEnv` in all but time.

    Args:
        world: What there are copies of. It draws them too, one after the other.
        num_envs: How many.
        max_episode_steps: When episodes are cut off; never if None.
        autoreset_mode: What follows the end of an episode: a step that only resets (NEXT_STEP), a reset within the
            last step (SAME_STEP), or nothing until `reset(options={"reset_mask": ...})` (DISABLED).

    Raises:
        ConfigError: If a number is less than 1, there is no such mode, or an action is none of the world's.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> lamps = FactoredVector(FactoredWorld(lamp()), num_envs=3)
    >>> _ = lamps.reset(seed=0)
    >>> lamps.step(np.array([0, 1, 0]))[0].tolist()
    [[0], [1], [0]]
    """

    def __init__(
        self,
        world: FactoredWorld,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ):
        for name, number in {"num_envs": num_envs, "max_episode_steps": max_episode_steps}.items():
            if number is not None and number < 1:
                raise ConfigError(f"{name}: expected at least 1, got {number}")
        modes = {mode.value: mode for mode in AutoresetMode} | {mode: mode for mode in AutoresetMode}
        if autoreset_mode not in modes:
            raise ConfigError(f"autoreset_mode: expected one of {list(AutoresetMode)}, got {autoreset_mode!r}")
        self.world, self.num_envs, self.max_episode_steps = world, num_envs, max_episode_steps
        self.autoreset_mode = modes[autoreset_mode]
        self.metadata = {**world.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = world.render_mode
        self.single_observation_space, self.single_action_space = world.observation_space, world.action_space
        self.observation_space = batch_space(world.observation_space, num_envs)
        self.action_space = batch_space(world.action_space, num_envs)
        self._state = np.zeros((num_envs, len(world.rules.states)), dtype=int)
        self._before = np.zeros((num_envs, len(world.rules.inputs)), dtype=int)
        self._reward = np.zeros(num_envs)
        self._steps = np.zeros(num_envs, dtype=int)
        self._fresh = np.zeros(num_envs, dtype=bool)  # no move has been made since the reset
        self._over = np.zeros(num_envs, dtype=bool)
        self._draws: _Draws | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw first states.

        Args:
            seed: That of the first copy, whose number the others add their own to; or one for each; or None to go on
                with the random numbers that there are.
            options: A boolean array `reset_mask` says which copies are reset; all are, without it.
        """
        mask = self._mask(options)
        seeds = [seed + copy for copy in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise ConfigError(f"seed: expected {self.num_envs} seeds, one for each copy, got {len(seeds)}")
        if self._draws is None:
            self._draws = _Draws(self.num_envs)
        for copy, one in enumerate(seeds or []):
            if one is not None and mask[copy]:
                self._draws.seed(copy, one)
        self._begin(self._draws, mask)
        return self._state.copy(), self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all copies; what happens to those whose episode is over is up to `autoreset_mode`."""
        if self._draws is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu" or not self.action_space.contains(actions.astype(np.int64)):
            raise ConfigError(f"actions: expected a member of {self.action_space}, got {actions!r}")
        over, mode = self._over, self.autoreset_mode
        if mode == AutoresetMode.DISABLED and over.any():
            raise gymnasium.error.ResetNeeded(f"reset copies {np.flatnonzero(over).tolist()} before the next step")
        rewards, terminated = self._move(self._draws, ~over, actions.reshape(self.num_envs, -1))
        truncated = np.zeros(self.num_envs, dtype=bool)
        if self.max_episode_steps is not None:
            truncated = ~over & (self._steps >= self.max_episode_steps)
        self._over = terminated | truncated
        everyone = np.ones(self.num_envs, dtype=bool)
        if mode == AutoresetMode.NEXT_STEP and over.any():
            self._begin(self._draws, over)
        if mode == AutoresetMode.SAME_STEP and self._over.any():
            ended = self._over.copy()
            infos = {"final_obs": np.full(self.num_envs, None, dtype=object), "_final_obs": ended}
            for copy in np.flatnonzero(ended):
                infos["final_obs"][copy] = self._state[copy].copy()
            infos |= {"final_info": self._infos(ended), "_final_info": ended.copy()}
            self._begin(self._draws, ended)
            return self._state.copy(), rewards, terminated, truncated, infos | self._infos(everyone)
        return self._state.copy(), rewards, terminated, truncated, self._infos(everyone)

    def render(self) -> tuple[Any, ...]:
        """Draw every copy as the world draws itself."""
        if self._draws is None:
            raise gymnasium.error.ResetNeeded("call reset() before render()")
        frames = []
        for copy, (before, state) in enumerate(zip(self._before, self._state, strict=True)):
            self.world.show(None if self._fresh[copy] else before, state, float(self._reward[copy]))
            frames.append(self.world.render())
        return tuple(frames)

    def local_spec(self) -> LocalSpec:
        """Give what an agent may know of the world that there are copies of, and the truth, in local tables."""
        return self.world.local_spec()

    def fmdp_spec(self) -> FactoredSpec:
        """List what an agent may know of the world that there are copies of, and the truth."""
        return self.world.fmdp_spec()

    def _mask(self, options: dict[str, Any] | None) -> Bool[np.ndarray, " copies"]:
        everyone = np.ones(self.num_envs, dtype=bool)
        mask = everyone if options is None else options.get("reset_mask", everyone)
        fits = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (self.num_envs,) and mask.any()
        if not fits:
            raise ConfigError(
                f"reset_mask: expected a boolean array for {self.num_envs} copies, some True, got {mask!r}"
            )
        return mask

    def _begin(self, draws: "_Draws", mask: Bool[np.ndarray, " copies"]) -> None:
        rules = self.world.rules
        self._state[mask] = rules.first(draws.take(mask, rules.first_draws))
        self._steps[mask], self._over[mask], self._fresh[mask], self._reward[mask] = 0, False, True, 0.0

    def _move(
        self, draws: "_Draws", mask: Bool[np.ndarray, " copies"], actions: Int[np.ndarray, "copies _"]
    ) -> tuple[Float[np.ndarray, " copies"], Bool[np.ndarray, " copies"]]:
        """Move the copies in the mask; the others earn nothing."""
        rules = self.world.rules
        before = np.concatenate([self._state, actions], axis=1)[mask]
        after = rules.move(before, draws.take(mask, len(rules.states)))
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        rewards[mask], terminated[mask] = rules.earned(before, after), rules.ended(before, after)
        self._before[mask], self._state[mask] = before, after
        self._reward, self._fresh = rewards.copy(), self._fresh & ~mask
        self._steps[mask] += 1
        return rewards, terminated

    def _infos(self, mask: Bool[np.ndarray, " copies"]) -> dict[str, Any]:
        infos = {}
        for name, rows in self.world.infos(self._state).items():
            kept = np.where(mask.reshape(-1, *[1] * (rows.ndim - 1)), rows, np.zeros_like(rows))
            infos |= {name: kept, f"_{name}": mask.copy()}
        return infos


class _Draws:
    """Uniform numbers, drawn ahead: each copy gets those that its own generator gives, in order."""

    def __init__(self, copies: int):
        self._generators = [np_random(None)[0] for _ in range(copies)]
        self._numbers = np.stack([generator.random(AHEAD) for generator in self._generators])
        self._next = np.zeros(copies, dtype=int)

    def seed(self, copy: int, seed: int) -> None:
        self._generators[copy] = np_random(seed)[0]
        self._numbers[copy], self._next[copy] = self._generators[copy].random(self._numbers.shape[1]), 0

    def take(self, mask: Bool[np.ndarray, " copies"], count: int) -> Float[np.ndarray, "_ count"]:
        """Give the next numbers of the copies in the mask."""
        if count > self._numbers.shape[1]:
            more = count + AHEAD - self._numbers.shape[1]
            fresh = np.stack([generator.random(more) for generator in self._generators])
            self._numbers = np.concatenate([self._numbers, fresh], axis=1)
        for copy in np.flatnonzero(mask & (self._next + count > self._numbers.shape[1])):
            used = self._next[copy]
            self._numbers[copy] = np.concatenate([self._numbers[copy, used:], self._generators[copy].random(used)])
            self._next[copy] = 0
        taken = self._numbers[mask][np.arange(mask.sum())[:, None], self._next[mask][:, None] + np.arange(count)]
        self._next[mask] += count
        return taken
