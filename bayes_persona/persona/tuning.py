"""Tuning a personalized pipeline: C-PSRL over its knobs, with a causal graph of what each may move.

The controls are actions, the qualities of the pictures are the state. A generation at a setting is an intervention, so
nothing confounds what is learned of it. Every quality has a few knobs as its causes; which, is half known beforehand (a
graph from knobs to qualities, edges certain, likely or forbidden) and learned from the generations, as C-PSRL does it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from bayes_persona import loop, ranges
from bayes_persona.cpsrl import agents, factors, structure
from bayes_persona.cpsrl import graph as graphs
from bayes_persona.cpsrl.compiled import candidates, sizes
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import fingerprint
from bayes_persona.persona import causes as causing
from bayes_persona.persona import knobs as turning
from bayes_persona.persona.generations import Made
from bayes_persona.persona.session import QUALITIES, Generates, Quality, Recorded, load, utility
from bayes_persona.types import Info, Kernel

with needs_extra("jax"):
    import gymnasium
    import jax
    from gymnasium.spaces import Discrete, MultiDiscrete


@dataclass(frozen=True)
class Config:
    """How a tuning session goes.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(budget=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: budget: expected at least 1, got 0
    """

    budget: int = 20
    """Generations in all."""
    horizon: int = 1
    """Generations of an episode: the agent learns after each episode, and plans for the next."""
    alpha: float = 0.1
    """How many times each level of a quality was seen before the data, for each setting of its causes."""
    max_parents: int = 2
    """Knobs that may cause one quality, at most."""
    trust: float = 144.0
    """Generations that those of earlier subjects, all together, are worth at most; one is never worth more than one."""

    def __post_init__(self):
        ranges.at_least(self, 1, "budget", "horizon", "max_parents")
        ranges.positive(self, "alpha", "trust")
        if self.budget % self.horizon:
            raise ConfigError(f"budget: expected whole episodes of {self.horizon}, got {self.budget}")


class Tuning(gymnasium.Env[np.ndarray, Any]):
    """A Gymnasium environment: an action is a setting of all knobs, an observation the levels of all qualities.

    An episode begins at the lowest level of everything, as nothing has been made yet. The reward is the utility of the
    middle of the levels; `info` has the qualities themselves, and their utility.

    Args:
        session: What makes pictures; None is a session that was recorded and comes with the package.
        qualities: What counts, and how it is cut into levels; None is those of `session.QUALITIES` that the session
            knows.

    Raises:
        ConfigError: If the session does not know a quality.

    >>> env = Tuning()
    >>> levels, _ = env.reset(seed=0)
    >>> levels, reward, *_ = env.step(env.action_space.sample())
    >>> 0 <= reward <= 1
    True
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012, as Gymnasium has it

    def __init__(
        self,
        session: Generates | None = None,
        qualities: Sequence[Quality] | None = None,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode: expected None or ansi, got {render_mode!r}")
        self.session: Generates = shipped() if session is None else session
        known = [one for one in QUALITIES if one.name in self.session.names]
        self.qualities = tuple(known if qualities is None else qualities)
        if strange := [one.name for one in self.qualities if one.name not in self.session.names]:
            raise ConfigError(f"qualities: the session knows no {strange[0]}, but {', '.join(self.session.names)}")
        self.render_mode = render_mode
        self.observation_space = MultiDiscrete([one.levels for one in self.qualities])
        places = [len(knob.values) for knob in self.session.knobs]
        self.action_space = Discrete(places[0]) if len(places) == 1 else MultiDiscrete(places)
        self.history: list[Made] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; `history` goes on."""
        super().reset(seed=seed)
        return np.zeros(len(self.qualities), np.int64), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make pictures at a setting.

        Raises:
            DataError: If the session gives NaN or an infinite number.
        """
        places = np.atleast_1d(action)
        values = self.session(places, seed=int(self.np_random.integers(2**53)))
        if bad := [name for name, value in values.items() if not np.isfinite(value)]:
            raise DataError(f"session: gave {values[bad[0]]} for {bad[0]}; mend its scorer")
        levels = np.array([one.level(values[one.name]) for one in self.qualities])
        worth = utility(self.qualities, values)
        self.history.append(Made(tuple(map(int, places)), values, worth))
        reward = float(self._rewards()[0, np.ravel_multi_index(tuple(levels), [one.levels for one in self.qualities])])
        return levels, reward, False, False, {**values, "utility": worth}

    def render(self) -> Any:
        """Give the last setting and what came of it, in words."""
        if self.render_mode is None or not self.history:
            return "" if self.render_mode else None
        last = self.history[-1]
        lines = [f"{name} = {value:g}" for name, value in turning.described(self.session.knobs, last.places).items()]
        return "\n".join([*lines, *(f"{name}: {value:.3f}" for name, value in last.values.items())])

    def fmdp_spec(self) -> FactoredSpec:
        """Give the variables and the utility; how settings make qualities is known of a recorded session alone."""
        states = {one.name: one.levels for one in self.qualities}
        actions = {knob.name: len(knob.values) for knob in self.session.knobs}
        count = int(np.prod(list(states.values())))
        laws = [np.tile(law, (count, 1)) for law in self._laws()]
        rewards = self._rewards()
        initial = np.eye(count)[0]
        return FactoredSpec(states, actions, rewards, np.zeros((1, count), bool), initial, tuple(laws))

    def _rewards(self) -> Float[np.ndarray, "1 s"]:
        weights = np.array([one.weight for one in self.qualities])
        shares = np.meshgrid(*(one.shares for one in self.qualities), indexing="ij")
        return np.tensordot(weights / weights.sum(), np.stack(shares), axes=1).reshape(1, -1)

    def _laws(self) -> list[Float[np.ndarray, "settings levels"]]:
        every = turning.settings(self.session.knobs)
        if not isinstance(self.session, Recorded):
            return [np.full((every, one.levels), 1 / one.levels) for one in self.qualities]
        laws = []
        for one in self.qualities:
            values = self.session.values[:, :, self.session.names.index(one.name)]
            levels = np.vectorize(one.level)(values)
            laws.append((levels[:, :, None] == np.arange(one.levels)).mean(axis=1))
        return laws


class Tuned(NamedTuple):
    """What a tuning session found.

    >>> Tuned((1,), {"guidance": 3.0}, 0.7, (), nx.DiGraph()).setting
    {'guidance': 3.0}
    """

    places: tuple[int, ...]
    """The best setting: of the highest expected utility, by all that was seen."""
    setting: dict[str, float]
    """The same in numbers."""
    expected: float
    """Its expected utility."""
    history: tuple[Made, ...]
    """Every generation."""
    edges: nx.DiGraph
    """From knobs to qualities, with their posterior `probability`."""


def tune(
    env: Tuning,
    causes: nx.DiGraph | None = None,
    config: Config | None = None,
    *,
    earlier: Sequence[Made] = (),
    seed: int = 0,
    folder: Any = None,
    title: str | None = None,
) -> Tuned:
    """Spend a budget of generations, and give the best setting.

    Args:
        env: The environment; its history begins anew.
        causes: What is known of causes (`causes.beliefs`).
        config: How.
        earlier: Generations of other subjects with the same knobs: a prior of what knobs do, and of causes.
        seed: Names the run.
        folder: Where every generation is kept; a run that was killed goes on from there. None keeps nothing.
        title: Name beside the progress bar; None shows none.

    Raises:
        ConfigError: If the graph speaks of knobs or qualities that there are not.
        DataError: If the session gives NaN.
        MismatchError: If the folder holds a run with other knobs, qualities, causes, settings or earlier generations,
            or those have places or qualities that there are not.

    >>> found = tune(Tuning(), config=Config(budget=2))
    >>> len(found.history), 0 <= found.expected <= 1
    (2, True)
    """
    config = Config() if config is None else config
    spec = env.fmdp_spec()
    knobs = env.session.knobs
    most = min(config.max_parents, len(knobs))
    known = causing.beliefs(knobs, env.qualities, causes)
    prior = graphs.prior(spec, known, max_parents=most)
    agent = agents.kernel(agents.Config(horizon=config.horizon, alpha=config.alpha), env, prior)
    said = {
        "config": asdict(config),
        "knobs": turning.as_json(knobs),
        "qualities": [asdict(one) for one in env.qualities],
        "causes": sorted([cause, effect, data.get("probability")] for cause, effect, data in known.edges(data=True)),
    }
    if earlier:
        said["earlier"] = fingerprint(_arrays(earlier))
    before = _informed(prior, env, earlier, config) if earlier else None
    run, _ = loop.run(
        _Remembering(agent, env, config, before), steps=config.budget // config.horizon, seed=seed,
        folder=folder, config=said, title=title, checkpoint_every=1,
    )  # fmt: skip
    state, history = run["agent"], run["history"].told(env)
    env.history[:] = history
    worth = expected(prior, state, config.alpha)
    best = int(worth.argmax())
    places = tuple(int(k) for k in np.unravel_index(best, [len(knob.values) for knob in knobs]))
    edges = structure.edge_marginals(prior, state)
    shown = nx.DiGraph()
    shown.add_edges_from(
        (cause, effect.removesuffix("'"), data)
        for cause, effect, data in edges.edges(data=True)
        if cause in {knob.name for knob in knobs}
    )
    return Tuned(places, turning.described(knobs, places), float(worth[best]), history, shown)


class _History(NamedTuple):
    """Every generation, as arrays that a checkpoint can hold."""

    places: Int[np.ndarray, "budget knobs"]
    values: Float[np.ndarray, "budget qualities"]
    utilities: Float[np.ndarray, " budget"]
    made: Int[np.ndarray, ""]

    def told(self, env: Tuning) -> tuple[Made, ...]:
        names = env.session.names
        return tuple(
            Made(tuple(places), dict(zip(names, values, strict=True)), worth)
            for places, values, worth in zip(
                *(part[: int(self.made)].tolist() for part in (self.places, self.values, self.utilities)), strict=True
            )
        )


@dataclass(frozen=True)
class _Remembering:
    """An agent that keeps, beside what it learned, what it was told: a run that goes on has its whole history."""

    agent: Kernel[structure.State, Any]
    env: Tuning
    config: Config
    before: structure.State | None = None
    """What earlier subjects taught."""

    def init(self, seed: int) -> dict[str, Any]:
        knobs, names, n = self.env.session.knobs, self.env.session.names, self.config.budget
        blank = _History(np.zeros((n, len(knobs)), int), np.zeros((n, len(names))), np.zeros(n), np.array(0))
        return {"agent": self.agent.init(seed) if self.before is None else self.before, "history": blank}

    def step(self, seed: int, state: dict[str, Any], batch: Any) -> tuple[dict[str, Any], Info]:
        self.env.history.clear()
        learned, info = self.agent.step(seed, state["agent"], batch)
        history: _History = state["history"]
        places, values, utilities = history.places.copy(), history.values.copy(), history.utilities.copy()
        first, last = int(history.made), int(history.made) + len(self.env.history)
        for row, made in zip(range(first, last), self.env.history, strict=True):
            places[row], utilities[row] = made.places, made.utility
            values[row] = [made.values[name] for name in self.env.session.names]
        told = _History(places, values, utilities, np.array(last))
        return {"agent": learned, "history": told}, {"utility": info["return"] / self.config.horizon}


def _informed(prior: graphs.GraphPrior, env: Tuning, earlier: Sequence[Made], config: Config) -> structure.State:
    """Give what earlier subjects' generations say, each being worth a part of one of this subject's."""
    if strange := sorted({one.name for one in env.qualities} - set(earlier[0].values)):
        raise MismatchError(f"earlier: expected generations with {strange[0]}, got {', '.join(earlier[0].values)}")
    places = np.array([made.places for made in earlier])
    y = np.array([[one.level(made.values[one.name]) for one in env.qualities] for made in earlier])
    x = np.concatenate([np.zeros_like(y), places], axis=1)  # the levels before are no causes
    seen = structure.update(prior, structure.init(prior), x, y, config.alpha)
    return structure.power_prior(prior, seen, min(1.0, config.trust / len(earlier)), config.alpha)


def _arrays(made: Sequence[Made]) -> dict[str, np.ndarray]:
    return {
        "places": np.array([one.places for one in made]),
        "values": np.array([list(one.values.values()) for one in made]),
    }


def expected(prior: graphs.GraphPrior, state: structure.State, alpha: float) -> Float[np.ndarray, " settings"]:
    """Give the posterior expectation of the utility of every setting, over graphs and tables.

    >>> env = Tuning()
    >>> prior = graphs.prior(env.fmdp_spec(), causing.beliefs(env.session.knobs, env.qualities), max_parents=1)
    >>> bool(np.allclose(expected(prior, structure.init(prior), 1.0), 0.5))  # nothing was seen
    True
    """
    spec: Any = prior.spec
    with jax.enable_x64(True):
        laws = factors.mean(candidates(prior), sizes(prior), state, alpha)
        laws = [np.asarray(law)[: spec.action_count] for law in laws]  # the state before is no cause
    reward = spec.reward[0].reshape(list(spec.states.values()))
    out = np.zeros(spec.action_count)
    for number, law in enumerate(laws):  # the utility is a sum over qualities
        others = tuple(axis for axis in range(reward.ndim) if axis != number)
        share = reward.mean(axis=others)
        out += law @ (share - reward.mean())
    return out + reward.mean()


def shipped() -> Recorded:
    """Give the session that comes with the package: a man whom low-rank updates learned, in the embedded model.

    >>> shipped().names
    ('identity', 'prompt', 'context')
    """
    return load(str(files("bayes_persona.persona") / "assets" / "tuning.safetensors"))
