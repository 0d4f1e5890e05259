from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from bayes_persona_envs.sepsis import Sepsis, natural_graph

from bayes_persona.cpsrl.env import joint

ANCHORS = [
    ("original", 20, (0.448, -0.759, -0.809)),
    ("original", 10, (0.336, -0.561, -0.734)),
    ("fixed", 20, (0.581, -0.716, -0.759)),
    ("fixed", 50, (0.796, -0.830, -0.766)),
]
"""Best, uniformly random and never-treating policies."""


@pytest.fixture(scope="module")
def specs():
    return {glucose: Sepsis(glucose).fmdp_spec() for glucose in ("original", "fixed")}


@pytest.fixture(scope="module")
def values(specs):
    horizons = {glucose: max(horizon for name, horizon, _ in ANCHORS if name == glucose) for glucose in specs}
    return {glucose: by_horizon(spec, horizons[glucose]) for glucose, spec in specs.items()}


def by_horizon(spec, horizon):
    law = joint(spec.factors)
    earned, goes_on = law @ spec.reward[0], law * ~spec.terminal[0]
    value, found = np.zeros((spec.state_count, 3)), []
    for _ in range(horizon):
        scores = (earned[:, None] + goes_on @ value).reshape(spec.state_count, spec.action_count, 3)
        value = np.stack([scores[:, :, 0].max(axis=1), scores[:, :, 1].mean(axis=1), scores[:, 0, 2]], axis=1)
        found.append(spec.initial @ value)
    return found


@pytest.mark.parametrize(("glucose", "horizon", "anchor"), ANCHORS)
def test_three_policies_are_worth_what_they_are_in_the_simulator(values, glucose, horizon, anchor):
    np.testing.assert_allclose(values[glucose][horizon - 1], anchor, atol=1e-3)


def all_outcomes(play):
    """Play with every way that coins can fall, and give the chance of each end."""
    law, open_ = {}, [()]
    while open_:
        script, chance, asked = open_.pop(), 1.0, 0

        def falls(probability, script=script):
            nonlocal chance, asked
            asked += 1
            if asked > len(script):
                raise IndexError
            chance *= probability if script[asked - 1] else 1 - probability
            return script[asked - 1]

        try:
            end = play(falls)
        except IndexError:
            open_ += [(*script, True), (*script, False)]
        else:
            law[end] = law.get(end, 0.0) + chance
    return law


def drifts(falls, value, size, chance):
    """Up with the chance, down with the chance."""
    if falls(2 * chance):
        return min(value + 1, size - 1) if falls(0.5) else max(value - 1, 0)
    return value


def played(state, action, falls):  # noqa: C901
    """The simulator's rules, as one would tell them."""
    diabetes, heart, blood, oxygen, glucose, antibiotics, pressors, ventilation = state
    give_antibiotics, give_ventilation, give_pressors = action
    settled_heart = settled_blood = settled_oxygen = settled_glucose = False
    if give_antibiotics:
        heart = 1 if heart == 2 and falls(0.5) else heart
        blood = 1 if blood == 2 and falls(0.5) else blood
        settled_heart = settled_blood = True
    elif antibiotics:
        heart = 2 if heart == 1 and falls(0.1) else heart
        blood = 2 if blood == 1 and falls(0.1) else blood
        settled_heart = settled_blood = True
    if give_ventilation:
        oxygen = 1 if oxygen == 0 and falls(0.7) else oxygen
        settled_oxygen = True
    elif ventilation:
        oxygen = 0 if oxygen == 1 and falls(0.1) else oxygen
        settled_oxygen = True
    if give_pressors:
        if diabetes:
            if blood == 1:
                blood = 2 if falls(0.9) else 1
            elif blood == 0 and falls(0.9):
                blood = 1 if falls(5 / 9) else 2
            glucose = min(glucose + 1, 4) if falls(0.5) else glucose
        elif falls(0.7):
            blood = min(blood + 1, 2)
        settled_blood = settled_glucose = True
    elif pressors:
        blood = max(blood - 1, 0) if falls(0.05 if diabetes else 0.1) else blood
        settled_blood = True
    heart = heart if settled_heart else drifts(falls, heart, 3, 0.1)
    blood = blood if settled_blood else drifts(falls, blood, 3, 0.1)
    oxygen = oxygen if settled_oxygen else drifts(falls, oxygen, 2, 0.1)
    glucose = glucose if settled_glucose else drifts(falls, glucose, 5, 0.3 if diabetes else 0.1)
    return diabetes, heart, blood, oxygen, glucose, give_antibiotics, give_pressors, give_ventilation


def test_the_law_of_the_next_state_is_that_of_the_rules_played_with_every_fall_of_the_coins(specs):
    spec = specs["fixed"]
    sizes, rng = list(spec.states.values()), np.random.default_rng(0)
    law = joint(spec.factors)
    for x in rng.choice(len(law), 400, replace=False):
        state = tuple(int(value) for value in np.unravel_index(x // 8, sizes))
        action = tuple(int(value) for value in np.unravel_index(x % 8, (2, 2, 2)))
        want = np.zeros(spec.state_count)
        for end, chance in all_outcomes(lambda falls, s=state, a=action: played(s, a, falls)).items():
            want[np.ravel_multi_index(end, sizes)] += chance
        np.testing.assert_allclose(law[x], want, atol=1e-12)


def test_death_and_discharge_are_on_the_next_state(specs):
    spec = specs["fixed"]
    assert spec.reward.shape == spec.terminal.shape == (1, 1440)
    for state, reward, ends in zip(
        product(*(range(size) for size in spec.states.values())), spec.reward[0], spec.terminal[0], strict=True
    ):
        abnormal = sum(have != normal for have, normal in zip(state[1:5], (1, 1, 1, 2), strict=True))
        want = -1 if abnormal >= 3 else 1 if abnormal == 0 and not any(state[5:]) else 0
        assert (reward, ends) == (want, want != 0)


def test_the_first_patient_is_neither_dead_nor_discharged_nor_treated(specs):
    spec = specs["fixed"]
    law = spec.initial.reshape(*spec.states.values())
    assert spec.initial[spec.terminal[0]].sum() == 0
    assert law[..., 0, 0, 0].sum() == pytest.approx(1)
    # The odds of two states that are not redrawn are those of the draws.
    assert law[1, 1, 1, 1, 1, 0, 0, 0] / law[0, 1, 1, 1, 1, 0, 0, 0] == pytest.approx(0.2 * 0.05 / (0.8 * 0.15))


def test_the_original_glucose_differs_only_without_diabetes_and_vasopressors(specs):
    fixed, original = (
        specs[name].factors[4].reshape(*specs[name].inputs.values(), 5) for name in ("fixed", "original")
    )
    same = np.isclose(fixed, original).all(axis=-1)
    assert same[1].all()
    assert same[..., 1].all()
    where = np.argwhere(~same)
    assert set(where[:, 0]) == {0}
    assert set(where[:, 4]) == {1, 2, 3, 4}
    assert original[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0].tolist() == pytest.approx([0, 0.1, 0, 0.1, 0.8])


def test_the_natural_graph_is_part_of_the_true_one(specs):
    spec = specs["fixed"]
    edges = set(natural_graph().edges)
    truth = {(cause, effect) for effect, causes in spec.parents.items() for cause in causes}
    assert edges < truth
    assert {effect for _, effect in edges} == set(spec.outputs)
    assert max(len(causes) for causes in spec.parents.values()) == 6
    assert replace(spec).parents == specs["original"].parents
