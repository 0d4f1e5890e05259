"""Tuning a personalized pipeline: C-PSRL over its knobs, with a causal graph of what each may move.

The controls are actions, the qualities of the pictures are the state. A generation at a setting is an intervention, so
nothing confounds what is learned of it. Every quality has a few knobs as its causes; which, is half known beforehand (a
graph from knobs to qualities, edges certain, likely or forbidden) and learned from the generations, as C-PSRL does it;
what the causes do is `responses`, for qualities are real numbers. Earlier subjects' generations are a prior of both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from bayes_persona import loop, ranges
from bayes_persona.cpsrl import graph as graphs
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.errors import ConfigError, DataError, MismatchError, RunError, needs_extra
from bayes_persona.named import fingerprint
from bayes_persona.persona import causes as causing
from bayes_persona.persona import knobs as turning
from bayes_persona.persona.generations import Made
from bayes_persona.persona.responses import Responses, Scales, Seen
from bayes_persona.persona.session import QUALITIES, Generates, Quality, Recorded, load, utility
from bayes_persona.seeds import child
from bayes_persona.types import Info

with needs_extra("jax"):
    import gymnasium
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
    max_parents: int = 3
    """Knobs that may cause one quality, at most."""
    scales: Scales = field(default_factory=Scales)
    """How far qualities move, in common and from subject to subject."""

    def __post_init__(self):
        ranges.at_least(self, 1, "budget", "max_parents")


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

    @property
    def weights(self) -> Float[np.ndarray, " qualities"]:
        """What each quality's share counts in the utility."""
        weights = np.array([one.weight for one in self.qualities])
        return weights / weights.sum()

    def _rewards(self) -> Float[np.ndarray, "1 s"]:
        shares = np.meshgrid(*(one.shares for one in self.qualities), indexing="ij")
        return np.tensordot(self.weights, np.stack(shares), axes=1).reshape(1, -1)

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
    earlier: Sequence[Sequence[Made]] = (),
    seed: int = 0,
    folder: Any = None,
    title: str | None = None,
) -> Tuned:
    """Spend a budget of generations, and give the best setting.

    Args:
        env: The environment; its history begins anew.
        causes: What is known of causes (`causes.beliefs`).
        config: How.
        earlier: The history of each earlier subject, with the same knobs: what they have in common is expected here.
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
    knobs = env.session.knobs
    prior = graphs.prior(
        env.fmdp_spec(), causing.beliefs(knobs, env.qualities, causes), max_parents=min(config.max_parents, len(knobs))
    )
    agent = _Agent(env, config, prior, seen(env, earlier))
    said = {
        "config": asdict(config),
        "knobs": turning.as_json(knobs),
        "qualities": [asdict(one) for one in env.qualities],
        "prior": fingerprint({"members": prior.members, "log_prior": prior.log_prior, **agent.earlier._asdict()}),
    }
    run, _ = loop.run(
        agent, steps=config.budget, seed=seed, folder=folder, config=said, title=title, checkpoint_every=1
    )
    history = run.told(env)
    env.history[:] = history
    told = agent.believed(history)
    worth = told.expected() @ env.weights
    best = int(worth.argmax())
    places = tuple(int(k) for k in np.unravel_index(best, [len(knob.values) for knob in knobs]))
    edges = nx.DiGraph()
    for quality, row in zip(env.qualities, told.marginals.tolist(), strict=True):
        edges.add_edges_from((knob.name, quality.name, {"probability": p}) for knob, p in zip(knobs, row, strict=True))
    expected = float(np.clip(worth[best], 0.0, 1.0))
    return Tuned(places, turning.described(knobs, places), expected, history, edges)


def seen(env: Tuning, subjects: Sequence[Sequence[Made]]) -> Seen:
    """Give generations of earlier subjects as `Responses` takes them.

    Raises:
        DataError: If a quality is NaN.
        MismatchError: If they have places or qualities that there are not.

    >>> seen(Tuning(), [[Made((0, 0, 0, 0, 1), {"identity": 1.0, "prompt": 0.8, "context": 0.85}, 0.6)]])
    Seen(settings=array([1]), subjects=array([1]), shares=array([[1. , 0.5, 0. ]]))
    """
    sizes = [len(knob.values) for knob in env.session.knobs]
    numbered = [(number, made) for number, history in enumerate(subjects, start=1) for made in history]
    for _, made in numbered:
        if strange := sorted({one.name for one in env.qualities} - set(made.values)):
            raise MismatchError(f"earlier: expected generations with {strange[0]}, got {', '.join(made.values)}")
        if len(made.places) != len(sizes) or not all(0 <= k < n for k, n in zip(made.places, sizes, strict=True)):
            raise MismatchError(f"earlier: expected one place of each of {sizes}, got {made.places}")
    if not numbered:
        return Seen.nothing(len(env.qualities))
    places = np.array([made.places for _, made in numbered])
    shares = np.array([[one.share(made.values[one.name]) for one in env.qualities] for _, made in numbered])
    if not np.isfinite(shares).all():
        raise DataError("earlier: qualities are NaN; leave out the subject whose generations they are")
    settings = np.asarray(np.ravel_multi_index(tuple(places.T), sizes))
    return Seen(settings, np.array([number for number, _ in numbered]), shares)


class _History(NamedTuple):
    """Every generation, as arrays that a checkpoint can hold."""

    places: Int[np.ndarray, "budget knobs"]
    values: Float[np.ndarray, "budget qualities"]
    utilities: Float[np.ndarray, " budget"]
    made: Int[np.ndarray, ""]

    @property
    def number(self) -> int:
        """How many were made; a file may say anything."""
        if self.made.dtype.kind != "i" or not 0 <= self.made <= len(self.utilities):
            raise RunError(f"tuning: its state says that {self.made} generations were made; begin anew elsewhere")
        return int(self.made)

    def told(self, env: Tuning) -> tuple[Made, ...]:
        names = env.session.names
        return tuple(
            Made(tuple(places), dict(zip(names, values, strict=True)), worth)
            for places, values, worth in zip(
                *(part[: self.number].tolist() for part in (self.places, self.values, self.utilities)), strict=True
            )
        )


@dataclass(frozen=True)
class _Agent:
    """C-PSRL, an episode being one generation: draw causes and responses, and make what is best in the draw.

    What it believes follows from what was made, so a run that goes on needs its history and nothing else.
    """

    env: Tuning
    config: Config
    prior: graphs.GraphPrior
    earlier: Seen

    def init(self, seed: int) -> _History:
        knobs, names, n = self.env.session.knobs, self.env.session.names, self.config.budget
        return _History(np.zeros((n, len(knobs)), int), np.zeros((n, len(names))), np.zeros(n), np.array(0))

    def step(self, seed: int, state: _History, batch: Any) -> tuple[_History, Info]:
        sizes = [len(knob.values) for knob in self.env.session.knobs]
        drawn = self.believed(state.told(self.env)).sample(child(seed, "believed")) @ self.env.weights
        self.env.reset(seed=child(seed, "generation"))
        self.env.step(np.array(np.unravel_index(int(drawn.argmax()), sizes)))
        made, at = self.env.history[-1], state.number
        if at == self.config.budget:
            raise RunError("tuning: its state says that all generations were made; begin anew elsewhere")
        places, values, utilities = state.places.copy(), state.values.copy(), state.utilities.copy()
        places[at], utilities[at] = made.places, made.utility
        values[at] = [made.values[name] for name in self.env.session.names]
        return _History(places, values, utilities, np.array(at + 1)), {"utility": made.utility}

    def believed(self, history: Sequence[Made]) -> Responses:
        own, before = seen(self.env, [history]), self.earlier
        both = Seen(
            np.concatenate([before.settings, own.settings]),
            np.concatenate([before.subjects, np.zeros_like(own.subjects)]),
            np.concatenate([before.shares, own.shares]),
        )
        knobs = self.env.session.knobs
        members = self.prior.members[:, :, -len(knobs) :]  # the levels before are no causes
        return Responses([len(knob.values) for knob in knobs], members, self.prior.log_prior, both, self.config.scales)


def shipped() -> Recorded:
    """Give the session that comes with the package: a man whom low-rank updates learned, in the embedded model.

    >>> shipped().names
    ('identity', 'prompt', 'context')
    """
    return load(str(files("bayes_persona.persona") / "assets" / "tuning.safetensors"))
