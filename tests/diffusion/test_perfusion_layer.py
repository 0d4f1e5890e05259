"""The rank-one edit against independent transcriptions of its formula in float64, and the laws that it keeps."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import MismatchError
from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.seeds import generator


def problem(seed, concepts=1, members=1):
    """Random shapes and numbers: W, C⁻¹ as a product of a triangular matrix with itself, inputs, outputs, gates."""
    rng = generator(seed, "rank one")
    d, o, n, t = (int(rng.integers(low, high)) for low, high in ((concepts + 2, 40), (2, 30), (1, 4), (1, 9)))
    root = rng.normal(size=(d, d)) / np.sqrt(d) + np.eye(d)
    return {
        "weight": rng.normal(size=(o, d)),
        "metric": root.T @ root,
        "input": rng.normal(size=(members, concepts, d)),
        "output": rng.normal(size=(members, concepts, o)),
        "beta": rng.uniform(0.3, 0.9, concepts),
        "tau": rng.uniform(0.05, 0.3, concepts),
        "x": rng.normal(size=(n * members, t, d)),
        "rows": np.tile(np.arange(members), n),
    }


def layer(p, *, apart=False, **settings):
    base = nn.Linear(*p["weight"].shape[::-1], bias=False).requires_grad_(False)
    base.weight.data = torch.tensor(p["weight"], dtype=torch.float32)
    numbers = {name: torch.tensor(p[name], dtype=torch.float32) for name in ("output", "beta", "tau")}
    directions = torch.tensor(p["input"] @ p["metric"], dtype=torch.float32)
    inputs = Inputs(torch.tensor(p["input"], dtype=torch.float32), directions, torch.tensor(p["rows"]), apart=apart)
    return RankOneLinear(base, inputs, **numbers, **settings)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def equation_3(p, x, member):
    """h(e) = W e − s(e) W i* + σ((s(e) − β) / τ) o*, token by token."""
    metric, i, o = p["metric"], p["input"][member, 0], p["output"][member, 0]
    out = []
    for e in x:
        s = i @ metric @ e / (i @ metric @ i)
        out.append(p["weight"] @ e - s * (p["weight"] @ i) + sigmoid((s - p["beta"][0]) / p["tau"][0]) * o)
    return np.array(out)


def appendix_b(p, x, member):
    """The same for several concepts through a basis that is orthonormal in the metric, by Cholesky and QR."""
    upper = np.linalg.cholesky(p["metric"]).T
    i, o = p["input"][member], p["output"][member]
    basis = np.linalg.solve(upper, np.linalg.qr(upper @ i.T)[0]).T
    out = []
    for e in x:
        rest = e - sum(u * (u @ p["metric"] @ e) for u in basis)
        s = np.array([one @ p["metric"] @ e / (one @ p["metric"] @ one) for one in i])
        out.append(p["weight"] @ rest + sigmoid((s - p["beta"]) / p["tau"]) @ o)
    return np.array(out)


def relative(have, want):
    return np.abs(have.numpy() - want).max() / np.abs(want).max()


@pytest.mark.parametrize("seed", range(40))
def test_one_concept_is_equation_3(seed):
    p = problem(seed)
    have = layer(p)(torch.tensor(p["x"], dtype=torch.float32))
    assert relative(have, np.stack([equation_3(p, x, 0) for x in p["x"]])) < 1e-5


@pytest.mark.parametrize("concepts", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_several_are_the_projection_of_appendix_b(seed, concepts):
    p = problem(seed, concepts)
    have = layer(p)(torch.tensor(p["x"], dtype=torch.float32))
    assert relative(have, np.stack([appendix_b(p, x, 0) for x in p["x"]])) < 1e-4


@pytest.mark.parametrize("seed", range(10))
def test_gates_that_are_apart_see_each_concept_as_if_it_were_alone(seed):
    """At concept k's own input the edit is what k's alone would be, for the others are shut as at nothing at all."""
    p = problem(seed, 3) | {"rows": [0]}
    apart = layer(p, apart=True)
    for k in range(3):
        have = apart(torch.tensor(p["input"][None, 0, k], dtype=torch.float32)[None])[0]
        gates = sigmoid((np.eye(3)[k] - p["beta"]) / p["tau"])
        assert relative(have, (gates @ p["output"][0])[None]) < 1e-4


def test_every_row_has_its_own_members_concepts():
    p = problem(3, concepts=2, members=3)
    have = layer(p)(torch.tensor(p["x"], dtype=torch.float32))
    want = np.stack([appendix_b(p, x, m) for x, m in zip(p["x"], p["rows"], strict=True)])
    assert relative(have, want) < 1e-4
    # guidance sends two blocks of the same rows
    twice = torch.tensor(np.concatenate([p["x"], p["x"]]), dtype=torch.float32)
    torch.testing.assert_close(layer(p)(twice), torch.cat([have, have]))


@pytest.mark.parametrize(
    ("beta", "tau", "gates"),
    [
        (0.75, 0.10, (0.924, 0.500, 0.076, 0.0067, 0.00055)),
        (0.70, 0.15, (0.881, 0.583, 0.209, 0.047, 0.0093)),
        (0.50, 0.15, (0.966, 0.841, 0.500, 0.159, 0.034)),
        (0.40, 0.15, (0.982, 0.912, 0.661, 0.269, 0.065)),
    ],
)
def test_gates_open_with_the_similarity(beta, tau, gates):
    p = problem(0) | {"beta": np.array([beta]), "tau": np.array([tau]), "rows": np.array([0])}
    p["weight"] = np.zeros_like(p["weight"])  # nothing is left but the gated output
    tokens = np.stack([s * p["input"][0, 0] for s in (1, 0.75, 0.5, 0.25, 0)])[None]
    have = layer(p)(torch.tensor(tokens, dtype=torch.float32))[0, :, 0].numpy() / p["output"][0, 0, 0]
    np.testing.assert_allclose(have, gates, atol=6e-4)


def test_a_token_that_is_not_alike_hardly_changes():
    """|Δ| ≤ σ(−β / τ) |o*| where s = 0."""
    p = problem(5)
    i = p["input"][0, 0]
    x = p["x"] - (p["x"] @ p["metric"] @ i / (i @ p["metric"] @ i))[..., None] * i
    have = layer(p)(torch.tensor(x, dtype=torch.float32)).numpy() - x @ p["weight"].T
    bound = sigmoid(-p["beta"][0] / p["tau"][0]) * np.linalg.norm(p["output"])
    assert np.linalg.norm(have, axis=-1).max() <= bound * (1 + 1e-3)


def test_the_scale_of_the_metric_does_not_matter():
    p = problem(6, concepts=2)
    x = torch.tensor(p["x"], dtype=torch.float32)
    torch.testing.assert_close(layer(p | {"metric": 1e3 * p["metric"]})(x), layer(p)(x), rtol=1e-4, atol=1e-4)


def test_nothing_of_the_edit_is_the_base_bit_for_bit():
    p = problem(7)
    edited, x = layer(p, amount=torch.zeros(1)), torch.tensor(p["x"], dtype=torch.float32)
    assert torch.equal(edited(x), edited.base(x))
    half, whole = layer(p, amount=torch.full((1,), 0.5))(x), layer(p)(x)
    torch.testing.assert_close(half, (whole + edited.base(x)) / 2, rtol=1e-4, atol=1e-5)


def test_taking_two_away_leaves_nothing_of_either():
    """The sum of single edits would leave a residue where inputs are not orthogonal."""
    p = problem(8, concepts=2)
    p["output"] = np.zeros_like(p["output"])
    have = layer(p)(torch.tensor(p["input"], dtype=torch.float32))
    assert have.abs().max() < 1e-4 * np.abs(p["input"] @ p["weight"].T).max()


def test_gradients_reach_outputs_and_text_and_nothing_else():
    p = problem(9)
    edited, x = layer(p), torch.tensor(p["x"], dtype=torch.float32, requires_grad=True)
    edited.output.requires_grad_()
    edited(x).square().sum().backward()
    assert edited.output.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
    assert edited.base.weight.grad is None
    assert edited.inputs.input.grad is None


def test_what_does_not_fit_is_refused():
    p = problem(10)
    with pytest.raises(MismatchError, match="no length"):
        layer(p | {"input": np.zeros_like(p["input"])})
    with pytest.raises(MismatchError, match="do not fit a projection"):
        layer(p | {"output": p["output"][..., 1:]})
    same = problem(11, concepts=2)
    same["input"][:, 1] = 2 * same["input"][:, 0]
    with pytest.raises(MismatchError, match="the same target input"):
        layer(same)
