"""A simulated patient with sepsis: four vital signs, three treatments, and diabetes that changes what they do.

The rules are those of the simulator of Oberst & Sontag ("Counterfactual Off-Policy Evaluation with Gumbel-Max
Structural Causal Models", ICML 2019; github.com/clinicalml/gumbel-max-scm, MIT licence), written anew as tables. It is
an illustration made by hand, not fitted to patients, and evidence for no clinical question.
"""

from itertools import product

import networkx as nx
import numpy as np
from jaxtyping import Float

from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.vector import FactoredVector

with needs_extra("envs"):
    from gymnasium.vector import AutoresetMode

STATES = {
    "diabetes": 2,
    "heart_rate": 3,
    "blood_pressure": 3,
    "oxygen": 2,
    "glucose": 5,
    "antibiotics": 2,
    "vasopressors": 2,
    "ventilation": 2,
}
"""The state variables. Treatments say what was given in the last step."""
ACTIONS = {"give_antibiotics": 2, "give_ventilation": 2, "give_vasopressors": 2}
"""The treatments to give until the next step."""
WORDS = {
    "diabetes": ("no", "yes"),
    "heart_rate": ("low", "normal", "high"),
    "blood_pressure": ("low", "normal", "high"),
    "oxygen": ("low", "normal"),
    "glucose": ("very low", "low", "normal", "high", "very high"),
    **dict.fromkeys(["antibiotics", "vasopressors", "ventilation", *ACTIONS], ("off", "on")),
}
"""What values are called."""
NORMAL = {"heart_rate": 1, "blood_pressure": 1, "oxygen": 1, "glucose": 2}
"""The vital signs, and their healthy values."""
GLUCOSE = ("fixed", "original")


class Sepsis(FactoredWorld):
    """The simulator, with diabetes observed.

    The reward is 1 for a discharge (all four signs normal, and no treatment), -1 for a death (three or four abnormal),
    and either ends the episode.

    Args:
        glucose: In the simulator's published code the glucose of a patient without diabetes never rises above "low" by
            itself, and a higher one falls to "low" when it should rise. That is "original"; "fixed" is what the
            authors' branch sim-v2 made of it.
        render_mode: As for any `FactoredWorld`.

    Raises:
        ConfigError: If there is no such `glucose`.

    >>> observation, _ = Sepsis().reset(seed=0)
    >>> len(observation)
    8
    """

    def __init__(self, glucose: str = "fixed", render_mode: str | None = None):
        if glucose not in GLUCOSE:
            raise ConfigError(f"glucose: expected one of {GLUCOSE}, got {glucose!r}")
        number = _number(tuple(f"{name}'" for name in STATES if name != "diabetes"))
        ends = Local(number.parents, number.table != 0)
        rules = LocalSpec(STATES, ACTIONS, _factors(glucose), (number,), (ends,), _initial())
        super().__init__(rules, render_mode, WORDS)


def vector(
    num_envs: int = 1,
    glucose: str = "fixed",
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
) -> FactoredVector:
    """Give many patients that step at once: what `gymnasium.make_vec` calls.

    >>> vector(num_envs=3).reset(seed=0)[0].shape
    (3, 8)
    """
    return FactoredVector(Sepsis(glucose, render_mode), num_envs, max_episode_steps, autoreset_mode)


def natural_graph() -> nx.DiGraph:
    """Give what anyone would say of the causes: a sign depends on itself and on its drugs, a treatment on the decision.

    It is part of the true graph, which has more edges.

    >>> sorted(natural_graph().predecessors("oxygen'"))
    ['give_ventilation', 'oxygen']
    """
    drugs = {
        "heart_rate": ["give_antibiotics"],
        "blood_pressure": ["give_antibiotics", "give_vasopressors"],
        "oxygen": ["give_ventilation"],
        "glucose": ["give_vasopressors"],
        "diabetes": [],
    }
    edges = [(cause, f"{sign}'") for sign, given in drugs.items() for cause in [sign, *given]]
    return nx.DiGraph([*edges, *((given, f"{given.removeprefix('give_')}'") for given in ACTIONS)])


def _factors(glucose: str) -> tuple[Local, ...]:
    given = {
        "diabetes": ("diabetes",),
        "heart_rate": ("heart_rate", "antibiotics", "give_antibiotics"),
        "blood_pressure": (
            *("diabetes", "blood_pressure", "antibiotics", "vasopressors"),
            *("give_antibiotics", "give_vasopressors"),
        ),
        "oxygen": ("oxygen", "ventilation", "give_ventilation"),
        "glucose": ("diabetes", "glucose", "give_vasopressors"),
        **{name: (f"give_{name}",) for name in ("antibiotics", "vasopressors", "ventilation")},
    }
    laws = {
        "heart_rate": _heart_rate,
        "blood_pressure": _blood_pressure,
        "oxygen": _oxygen,
        "glucose": _glucose if glucose == "fixed" else _glucose_original,
    }
    sizes = {**STATES, **ACTIONS}
    factors = []
    for name, parents in given.items():
        table = np.zeros([*(sizes[parent] for parent in parents), STATES[name]])
        for setting in product(*(range(sizes[parent]) for parent in parents)):
            table[setting] = laws[name](*setting) if name in laws else np.eye(STATES[name])[setting[0]]
        factors.append(Local(parents, table))
    return tuple(factors)


def _moved(size: int, value: int, chances: dict[int, float]) -> Float[np.ndarray, " size"]:
    """Give the law of a value that moves by so much with such a chance, and stops at the ends of its range."""
    law = np.zeros(size)
    law[value] = 1 - sum(chances.values())
    for by, chance in chances.items():
        law[min(max(value + by, 0), size - 1)] += chance
    return law


def _infected(value: int, was_given: int, is_given: int) -> dict[int, float]:
    """Give how antibiotics move heart rate and blood pressure: down when given, up again when taken away."""
    if is_given:
        return {-1: 0.5} if value == 2 else {}
    return {1: 0.1} if was_given and value == 1 else {}


def _heart_rate(value: int, antibiotics: int, give_antibiotics: int) -> np.ndarray:
    if antibiotics or give_antibiotics:
        return _moved(3, value, _infected(value, antibiotics, give_antibiotics))
    return _moved(3, value, {-1: 0.1, 1: 0.1})


def _blood_pressure(
    diabetes: int, value: int, antibiotics: int, vasopressors: int, give_antibiotics: int, give_vasopressors: int
) -> np.ndarray:
    if not (antibiotics or vasopressors or give_antibiotics or give_vasopressors):
        return _moved(3, value, {-1: 0.1, 1: 0.1})
    between = _moved(3, value, _infected(value, antibiotics, give_antibiotics))
    after = np.stack([_pressed(diabetes, now, vasopressors, give_vasopressors) for now in range(3)])
    return between @ after


def _pressed(diabetes: int, value: int, was_given: int, is_given: int) -> np.ndarray:
    """Give how vasopressors move blood pressure, after antibiotics did."""
    if not is_given:
        return _moved(3, value, {-1: 0.05 if diabetes else 0.1} if was_given else {})
    if not diabetes:
        return _moved(3, value, {1: 0.7})
    return _moved(3, value, {0: {1: 0.5, 2: 0.4}, 1: {1: 0.9}, 2: {}}[value])


def _oxygen(value: int, ventilation: int, give_ventilation: int) -> np.ndarray:
    if give_ventilation:
        return _moved(2, value, {1: 0.7})
    return _moved(2, value, {-1: 0.1} if ventilation else {-1: 0.1, 1: 0.1})


def _glucose(diabetes: int, value: int, give_vasopressors: int) -> np.ndarray:
    if give_vasopressors:
        return _moved(5, value, {1: 0.5} if diabetes else {})
    return _moved(5, value, {-1: 0.3, 1: 0.3} if diabetes else {-1: 0.1, 1: 0.1})


def _glucose_original(diabetes: int, value: int, give_vasopressors: int) -> np.ndarray:
    if diabetes or give_vasopressors:
        return _glucose(diabetes, value, give_vasopressors)
    return _moved(5, value, {-1: 0.1, min(1, value + 1) - value: 0.1} if value != 2 else {-1: 0.2})


def _number(parents: tuple[str, ...]) -> Local:
    """Give the reward of a state, over its variables (primed, or not)."""
    sizes = [STATES[name.removesuffix("'")] for name in parents]
    values = dict(zip(parents, np.indices(sizes), strict=True))
    abnormal = sum(
        values[name] != NORMAL[name.removesuffix("'")] for name in parents if name.removesuffix("'") in NORMAL
    )
    treated = sum(
        values[name] for name in parents if name.removesuffix("'") in ("antibiotics", "vasopressors", "ventilation")
    )
    healthy = np.logical_and(abnormal == 0, treated == 0)
    return Local(parents, np.where(abnormal >= 3, -1.0, np.where(healthy, 1.0, 0.0)))


def _initial() -> Float[np.ndarray, " s"]:
    """Give the law of the first state: each sign by itself, drawn again while the patient is dead or discharged."""
    law = np.zeros(list(STATES.values()))
    for sick, chance in enumerate([0.8, 0.2]):
        glucose = [0.01, 0.05, 0.15, 0.6, 0.19] if sick else [0.05, 0.15, 0.6, 0.15, 0.05]
        signs = np.einsum("h,b,o,g->hbog", [0.25, 0.5, 0.25], [0.25, 0.5, 0.25], [0.2, 0.8], glucose)
        law[sick, ..., 0, 0, 0] = chance * signs
    law[_number(tuple(STATES)).table != 0] = 0.0
    return law.ravel() / law.sum()
