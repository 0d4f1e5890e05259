"""How sure are we of this person? Posteriors of several adapters against the truth: `python -m benchmarks.persona`.

Members draw somebody from common noises, the oracles read who it is, and mean and spread over members make intervals
of every identity factor. The one constant that makes up for what members agree on is found on other people.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from scipy import stats

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.persona import calibration, celebrities, uncertainty
from bayes_persona.persona.calibration import Spread
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.persona.references.laplace import laplace
from bayes_persona.persona.references.mode import Likelihood
from bayes_persona.persona.references.nuts import nuts
from bayes_persona.persona.references.variational import variational
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import facts, oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import perfusion, subjects
from benchmarks.kept import kept
from benchmarks.rows import Row, ratio, row, save

Part = Literal["coverage", "photos", "alpha", "plain", "references", "cost"]
PARTS: tuple[Part, ...] = ("coverage", "photos", "alpha", "plain", "references", "cost")
NOISES = 3
"""Pictures that each member makes of somebody."""
SAMPLING = generate.Config(steps=10)
"""Few steps, as all that is read is who it is."""
TAUGHT = 4
"""Photos to learn from, where nothing else is said."""
COUNTS = (1, 2, 4, 8)
"""Photos that `photos` learns from."""
ALPHAS, FEW = (0.1, 0.3, 1.0), 0.1
"""What the prior may be worth where there are one or two photos, and what `alpha` chose."""
TURNS = 3
"""Of timing."""
DRAW = Draw(particles=8, alpha=1.0, pseudo=8, steps=60, rows=2)
"""Short, as there are many people to learn; plain fine-tuning has as many steps and rows."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = PARTS
    """Parts to measure; the rows of the others are kept."""
    methods: tuple[str, ...] = ("textual_inversion", "celeb_basis", "perfusion")
    """Adapters."""
    identities: int = 20
    """Held-out identities that are reported."""
    tuned: int = 24
    """Other held-out identities, that the constant is found on."""


class Seen(NamedTuple):
    """What the oracles read in one person's pictures."""

    members: list[list[list[float]]]
    """Factors: members × noises × factors."""
    averaged: list[list[float]]
    """Those of the model-averaged pictures: noises × factors."""
    epistemic: float
    """Variance of pixels between members, mean over pixels."""
    aleatoric: float
    seconds: float
    """Training."""


def textual_inversion(pipe: Any, who: Identity, photos: Shown) -> Adapter:
    return TextualInversion(Subject(who.superclass))


def celeb_basis(pipe: Any, who: Identity, photos: Shown) -> Adapter:
    return celebrities.method(pipe, Subject(who.superclass), photos.pixels, embedded=True)


def rank_one(pipe: Any, who: Identity, photos: Shown) -> Adapter:
    return perfusion.perfusion(who)


METHODS: dict[str, tuple[Callable[[Any, Identity, Shown], Adapter], Draw]] = {
    "textual_inversion": (textual_inversion, replace(DRAW, rate=2e-2)),
    "celeb_basis": (celeb_basis, replace(DRAW, steps=25, rate=6e-2)),
    "perfusion": (rank_one, replace(DRAW, rate=2e-2)),
}
"""Adapters, with rates that were chosen on tuning identities."""
SAMPLERS: dict[str, Callable[..., Posterior]] = {"laplace": laplace, "variational": variational, "nuts": nuts}
LIKELIHOOD = Likelihood(steps=25, warm_up=10)
"""As many steps as the bootstrap has, or draws."""
PLAIN: dict[str, Any] = {"alpha": 0.0, "weights": "even"}
"""Members that see the photos alone and alike: a deep ensemble, each of its members plain fine-tuning."""


def seen(
    method: str, who: Identity, seed: int, photos: int = TAUGHT, sampler: str = "bootstrap", **changed: Any
) -> Seen:
    """Learn somebody, and read what every member draws."""
    make, draw = METHODS[method]
    pipe, draw = pipelines.load(), replace(draw, **changed)
    shown = perfusion.shown(who, seed, count=photos, masked=method == "perfusion")
    adapter = make(pipe, who, shown)
    how = [adapters.settings(adapter), asdict(draw), photos, NOISES, asdict(SAMPLING)]
    how += [] if sampler == "bootstrap" else [sampler, asdict(LIKELIHOOD)]

    def look() -> list[Any]:
        started = time.perf_counter()
        if sampler == "bootstrap":
            posterior = personalize(pipe, adapter, shown, draw, seed=seed)
        else:
            posterior = SAMPLERS[sampler](pipe, adapter, shown, draw, LIKELIHOOD, seed=seed)
        seconds = time.perf_counter() - started
        text, start = f"a {who.superclass}", generate.noise(pipe, NOISES, child(seed, "judged"))
        pixels = uncertainty.pictures(pipe, adapter, posterior, text, start, SAMPLING)
        averaged = uncertainty.averaged(pipe, adapter, posterior, [text] * NOISES, start, SAMPLING)
        maps, read = uncertainty.maps(pixels), oracles.load().read
        every = read(pixels.reshape(-1, *pixels.shape[2:])).z.reshape(*pixels.shape[:2], -1)
        variances = [float(maps.epistemic.mean()), float(maps.aleatoric.mean())]
        return [every.tolist(), read(averaged).z.tolist(), *variances, seconds]

    return Seen(*kept("persona", [method, pipelines.fingerprint(pipe), how, seed], look))


class People(NamedTuple):
    """Several people's readings, and the truth."""

    members: Float[np.ndarray, "people members noises factors"]
    averaged: Float[np.ndarray, "people noises factors"]
    epistemic: Float[np.ndarray, " people"]
    truth: Float[np.ndarray, "people factors"]
    visible: Bool[np.ndarray, "people factors"]

    @property
    def spread(self) -> Spread:
        """What members say, each the mean of its pictures."""
        return calibration.spread(self.members.mean(axis=2))

    def error(self, said: Float[np.ndarray, "people factors"]) -> Float[np.ndarray, " people"]:
        """Give each person's root mean square error over visible factors."""
        return np.sqrt(((said - self.truth) ** 2).mean(axis=1, where=self.visible))

    def one_by_one(self) -> Float[np.ndarray, "people members"]:
        """Give the error of each member: what to expect of plain fine-tuning, if members are that."""
        return np.stack([self.error(said) for said in self.members.mean(axis=2).swapaxes(0, 1)], axis=1)

    def of_one(self) -> "People":
        """Take the pictures of the first member as if they were members: what its noise alone says."""
        return self._replace(members=self.members[:, 0, :, None])

    def identity_variance(self) -> Float[np.ndarray, " people"]:
        """Give the members' variance, mean over visible factors."""
        return (self.spread.sd**2).mean(axis=1, where=self.visible)


def people(method: str, group: int, n: int, title: str, photos: int = TAUGHT, **changed: Any) -> People:
    """Look at several people."""
    everyone, found = splits.held_out(n, group), []
    with bar(title, total=n) as advance:
        for k, who in enumerate(everyone):
            found.append(seen(method, who, child(group, "persona", k), photos, **changed))
            advance()
    return People(
        np.array([one.members for one in found]),
        np.array([one.averaged for one in found]),
        np.array([one.epistemic for one in found]),
        np.array([who.z for who in everyone]),
        np.array([[name in facts.visible(who.superclass) for name in facts.factors()] for who in everyone]),
    )


def covered(prefix: str, said: People, tuned: People, rest: dict[str, Any]) -> list[Row]:
    """Hold intervals against the truth: as they are, and with the constant that other people say."""
    constant = calibration.constant(tuned.spread, tuned.truth, tuned.visible)
    rows = [row(f"persona.constant.{prefix}", constant, f"multiplies intervals; found on {len(tuned.truth)}", **rest)]
    for kind, factor in (("raw.", 1.0), ("", constant)):
        each = [
            calibration.judge(
                Spread(said.spread.mean[k : k + 1], said.spread.sd[k : k + 1], said.spread.members),
                said.truth[k : k + 1], said.visible[k : k + 1], constant=factor,
            )
            for k in range(len(said.truth))
        ]  # fmt: skip
        for level, name in ((0.5, "50"), (0.8, "80"), (0.95, "95")):
            unit = f"share of true factors in {name} % intervals{'' if kind else ', recalibrated'}"
            rows.append(
                row(f"persona.{kind}coverage{name}.{prefix}", [one.coverage[level] for one in each], unit, **rest)
            )
        rows.append(
            row(f"persona.{kind}width80.{prefix}", [one.width[0.8] for one in each], "of factors in 0 to 1", **rest)
        )
        rows.append(row(f"persona.{kind}crps.{prefix}", [one.crps for one in each], "of factors in 0 to 1", **rest))
    return rows


def coverage(config: Config) -> list[Row]:
    """Look at every method's intervals."""
    started, rows = time.perf_counter(), []
    command = f"python -m benchmarks.persona --only coverage --methods {' '.join(config.methods)}"
    for method in config.methods:
        tuned = people(method, subjects.TUNING, config.tuned, f"{method}, constant")
        said = people(method, subjects.REPORT, config.identities, method)
        rest = {"command": command, "seconds": time.perf_counter() - started}
        rows += covered(method, said, tuned, rest) + errors(method, said, rest)
    return rows


def plain(config: Config) -> list[Row]:
    """Look at what people have without a posterior: a deep ensemble, and the noise of one of its members."""
    started, command, method = time.perf_counter(), "python -m benchmarks.persona --only plain", "celeb_basis"
    tuned = people(method, subjects.TUNING, config.tuned, "ensemble, constant", **PLAIN)
    said = people(method, subjects.REPORT, config.identities, "ensemble", **PLAIN)
    rest = {"command": command, "seconds": time.perf_counter() - started}
    rows = covered(f"{method}.ensemble", said, tuned, rest)
    rows += covered(f"{method}.noise", said.of_one(), tuned.of_one(), rest)
    for count in COUNTS[:2]:  # with more photos there is less to gain
        alone = people(method, subjects.REPORT, config.identities, f"{count} photos, plain", count, **PLAIN)
        single = alone.one_by_one().mean(axis=1)
        for alpha, name in ((DRAW.alpha, ""), (FEW, ".few")):
            said = people(
                method, subjects.REPORT, config.identities, f"{count} photos, α = {alpha:g}", count, alpha=alpha
            )
            good = said.error(said.averaged.mean(axis=1))
            rest = {"command": command, "seconds": time.perf_counter() - started}
            unit = f"RMSE of visible factors, model average at α = {alpha:g} less plain fine-tuning, paired"
            rows.append(row(f"persona.photos{count}.averaged_less_plain{name}", good - single, unit, **rest))
        rows.append(row(f"persona.photos{count}.plain", single, "RMSE of visible factors, plain fine-tuning", **rest))
    return rows


def alpha(config: Config) -> list[Row]:
    """See what the prior should be worth where there are one or two photos, on other people than are reported."""
    started, rows, method = time.perf_counter(), [], "celeb_basis"
    for count in COUNTS[:2]:
        for alpha in ALPHAS:
            title = f"{count} photos, α = {alpha:g}"
            said = people(method, subjects.TUNING, config.tuned // 2, title, count, alpha=alpha)
            rest = {"command": "python -m benchmarks.persona --only alpha", "seconds": time.perf_counter() - started}
            unit = f"RMSE of visible factors, model average, {count} photos, tuning people"
            rows.append(
                row(f"persona.alpha{alpha:g}.photos{count}", said.error(said.averaged.mean(axis=1)), unit, **rest)
            )
    return rows


def references(config: Config) -> list[Row]:
    """Look at the intervals of other posteriors over the same parameters, of fewer people: NUTS takes its time."""
    started, command, method = time.perf_counter(), "python -m benchmarks.persona --only references", "celeb_basis"
    rows = []
    for sampler in SAMPLERS:
        n = config.identities * 3 // 5 if sampler != "nuts" else config.identities * 3 // 10
        tuned = people(method, subjects.TUNING, n, f"{sampler}, constant", sampler=sampler)
        said = people(method, subjects.REPORT, n, sampler, sampler=sampler)
        rest = {"command": command, "seconds": time.perf_counter() - started}
        rows += covered(f"{method}.{sampler}", said, tuned, rest) + errors(f"{method}.{sampler}", said, rest)
    n = config.identities * 3 // 5
    for name, changed in (("bootstrap_same", {}), ("ensemble_same", PLAIN)):  # what the two are worth on these people
        tuned = people(method, subjects.TUNING, n, f"{name}, constant", **changed)
        said = people(method, subjects.REPORT, n, name, **changed)
        rest = {"command": command, "seconds": time.perf_counter() - started}
        rows += covered(f"{method}.{name}", said, tuned, rest) + errors(f"{method}.{name}", said, rest)
    return rows


def errors(prefix: str, said: People, rest: dict[str, Any]) -> list[Row]:
    """Compare the model average with single members."""
    single, averaged = said.one_by_one().mean(axis=1), said.error(said.averaged.mean(axis=1))
    rmse = "RMSE of visible factors, read from the mean of a person's pictures"
    return [
        row(f"persona.single.{prefix}", single, f"{rmse}: a member, in expectation", **rest),
        row(f"persona.averaged.{prefix}", averaged, f"{rmse}: the model average", **rest),
        row(f"persona.averaged_less_single.{prefix}", averaged - single, "the same, paired", **rest),
    ]


def photos(config: Config) -> list[Row]:
    """See whether more photos leave less open, and whether what is left open is what is wrong."""
    started, method = time.perf_counter(), "celeb_basis"
    command, rows, found = "python -m benchmarks.persona --only photos", [], []
    for count in COUNTS:
        found.append(people(method, subjects.REPORT, config.identities, f"{count} photos", count))
    rest = {"command": command, "seconds": time.perf_counter() - started}
    variances = [said.identity_variance() for said in found]
    wrong = [said.error(said.spread.mean) for said in found]
    for count, said, variance in zip(COUNTS, found, variances, strict=True):
        averaged = said.error(said.averaged.mean(axis=1))
        rows += [
            row(f"persona.photos{count}.identity_variance", variance, "of members, mean over visible factors", **rest),
            row(f"persona.photos{count}.epistemic", said.epistemic, "variance of pixels between members", **rest),
            row(f"persona.photos{count}.averaged", averaged, "RMSE of visible factors, model average", **rest),
        ]
    for few, many, a, b in zip(COUNTS, COUNTS[1:], variances, variances[1:], strict=False):
        unit = "identity variance, paired"
        rows.append(row(f"persona.variance_falls.{few}_to_{many}", a - b, f"{unit}: with {few} less {many}", **rest))
    about = f"Spearman of identity variance and true error, {config.identities} people"
    rows.append(correlation("persona.epistemic_spearman", variances, wrong, f"{about} × {len(COUNTS)} counts", rest))
    for count, variance, error in zip(COUNTS, variances, wrong, strict=True):
        rows.append(correlation(f"persona.photos{count}.spearman", [variance], [error], about, rest))
    return rows


def correlation(
    id: str, said: Sequence[np.ndarray], wrong: Sequence[np.ndarray], unit: str, rest: dict[str, Any]
) -> Row:
    """Give Spearman's correlation over all, people resampled for its interval."""
    a, b = np.stack(said), np.stack(wrong)

    def value(chosen: np.ndarray) -> float:
        return float(np.corrcoef(stats.rankdata(a[:, chosen].ravel()), stats.rankdata(b[:, chosen].ravel()))[0, 1])

    n = a.shape[1]
    again = [value(pick) for pick in np.random.default_rng(0).integers(n, size=(2000, n))]
    low, high = np.nanquantile(again, [0.025, 0.975])
    return replace(row(id, value(np.arange(n)), unit, **rest), low=round(low, 6), high=round(high, 6), n=a.size)


def cost(config: Config) -> list[Row]:
    """Time eight members in one pass beside eight runs of one, in turns."""
    started, found = time.perf_counter(), []
    command = "python -m benchmarks.persona --only cost"
    pipe, who = pipelines.load(), splits.held_out(1, subjects.TUNING)[0]
    for method in config.methods:
        make, draw = METHODS[method]
        shown = perfusion.shown(who, 0, count=TAUGHT, masked=method == "perfusion")
        adapter, quick = make(pipe, who, shown), replace(draw, steps=6, alpha=0.0)
        joint, alone = [], []
        with bar(method, total=TURNS) as advance:
            for turn in range(TURNS):
                began = time.perf_counter()
                personalize(pipe, adapter, shown, quick, seed=turn)
                middle = time.perf_counter()
                for k in range(quick.particles):
                    personalize(pipe, adapter, shown, replace(quick, particles=1), seed=child(turn, k))
                joint.append(middle - began)
                alone.append(time.perf_counter() - middle)
                advance()
        unit = "seconds of 8 members in one pass / of 8 runs, without pictures of the prior"
        seconds = time.perf_counter() - started
        found.append(ratio(f"persona.k8_cost_ratio.{method}", joint, alone, unit, command=command, seconds=seconds))
    return found


def main(config: Config) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    parts = {"coverage": coverage, "photos": photos, "alpha": alpha, "plain": plain}
    parts |= {"references": references, "cost": cost}
    for name in config.only:
        save("persona", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
