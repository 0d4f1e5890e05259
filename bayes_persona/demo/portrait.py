"""Act three: someone whom the base model has never seen, from four pictures, with a posterior over who it is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.demo.config import Config
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.persona import celebrities, turning, uncertainty
from bayes_persona.persona import verdict as verdicts
from bayes_persona.persona.learned import Learned
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.persona.scorers import Oracle
from bayes_persona.persona.turning import Turned
from bayes_persona.persona.verdict import Verdict
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits

PROMPTS = (
    "{subject} looking happy wearing red facing front on the beach",
    "{subject} looking surprised wearing blue with a hat facing front at night",
)
"""Situations that none of the photos shows."""
NOISES = 2
"""Pictures of each prompt that every member makes."""
QUICK = 10
"""Steps, at most, of pictures that nobody looks at for long."""
WHO = 5
"""Of the held-out identities, this one: a woman."""


class Scene(NamedTuple):
    """One prompt: the average's pictures, every member's, and what the base model makes of anyone."""

    prompt: str
    averaged: UInt8[np.ndarray, "s h w 3"]
    members: UInt8[np.ndarray, "k s h w 3"]
    anyone: UInt8[np.ndarray, "s h w 3"]


class Result(NamedTuple):
    """The photos, the pictures, how far each is from the person by the oracles' reading, and what they say."""

    superclass: str
    photos: UInt8[np.ndarray, "n h w 3"]
    scenes: tuple[Scene, ...]
    errors: dict[str, Float[np.ndarray, " pictures"]]
    verdict: Verdict
    turned: Turned


def compare(config: Config) -> Result:
    """Personalize the embedded model, and judge its pictures beside photos and pictures of anyone."""
    who = splits.held_out(WHO + 1, config.seed)[WHO]
    examples = splits.photos(who, config.photos, seed=config.seed)
    photos = Shown(np.stack([one.render().pixels for one in examples]), tuple(one.caption for one in examples))
    pipe, judge = pipelines.load(), Oracle()
    adapter = celebrities.method(pipe, Subject(who.superclass), photos.pixels, embedded=True)
    draw = Draw(particles=config.portraits, pseudo=8, steps=config.portrait_steps, rate=6e-2)
    posterior = personalize(pipe, adapter, photos, draw, seed=config.seed, title="portraits")
    scenes, sampling, quick = [], generate.Config(config.sampling), generate.Config(min(QUICK, config.sampling))
    for number, prompt in enumerate(PROMPTS):
        start = generate.noise(pipe, NOISES, child(config.seed, "portrait", number))
        members = uncertainty.pictures(pipe, adapter, posterior, prompt, start, sampling)
        averaged = uncertainty.averaged(pipe, adapter, posterior, [prompt] * NOISES, start, sampling)
        plain = adapter.subject.anyone(prompt)
        anyone = generate.sample(pipe, [plain] * NOISES, start, sampling)
        scenes.append(Scene(plain, averaged, members, anyone))
    pictures = {
        "the photos": photos.pixels,
        "model average": np.concatenate([scene.averaged for scene in scenes]),
        "its members": np.concatenate([picture for scene in scenes for picture in scene.members]),
        f"a {who.superclass}, not personalized": np.concatenate([scene.anyone for scene in scenes]),
    }
    errors = {name: oracles.identity_error(pixels, who) for name, pixels in pictures.items()}
    verdict = verdicts.judge(
        pipe, adapter, posterior, photos.pixels, verdicts.SITUATIONS, seed=child(config.seed, "verdict"),
        config=quick, title="verdict",
    )  # fmt: skip
    learned = Learned(pipe, adapter, posterior, photos, quick, judge)
    turned = turning.turn(learned, PROMPTS, config.tunings, seed=child(config.seed, "tune"), title="tuning")
    return Result(who.superclass, photos.pixels, tuple(scenes), errors, verdict, turned)
