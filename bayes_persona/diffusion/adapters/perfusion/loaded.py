"""Subjects on a pipeline until they are unloaded: four verbs for people who call `pipe(prompt)` themselves.

Any pipeline of the Stable Diffusion class will do, SDXL too. Keys and values of the text are computed once for a
prompt, not in every step, so pictures of a subject take no longer than the pipeline's own.
"""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import covariance
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.perfusion.together import together
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.text import cached_text
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.posterior import Posterior
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


def save_perfusion(
    path: str | Path, pipe: DiffusionPipeline, subject: Perfusion, member: Mapping[str, Any], **facts: Any
) -> None:
    """Write one subject to a safetensors file: 65 kilobytes for Stable Diffusion 1.5.

    Args:
        path: The file.
        pipe: The base model, with nothing loaded: its fingerprint is kept, and that of its covariance.
        subject: The method and its settings, which are kept, too.
        member: One member's params: `posterior[k]`, or `posterior.mean()`.
        **facts: More for people to know, such as steps: plain JSON values.

    Raises:
        ConfigError: If subjects are loaded: the file would name another model.
        RunError: If the disk is full or the place cannot be written.

    >>> import tempfile
    >>> from bayes_persona.diffusion.pipelines import load
    >>> path, pipe, robot = Path(tempfile.mkdtemp()) / "r2.safetensors", load(), Perfusion(Subject("robot", "<r2>"))
    >>> save_perfusion(path, pipe, robot, {name: value[0] for name, value in robot.init(pipe, 1, seed=0).items()})
    >>> load_perfusion(pipe, path)
    '<r2>'
    >>> unload_perfusion(pipe)
    """
    if pipe in _LOADED:
        raise ConfigError("pipe: subjects are loaded on it; unload them first, then save")
    metric = covariance.of(pipe, subject.covariance).fingerprint
    adapters.save(path, subject, Posterior((dict(member),)), base=fingerprint(pipe), covariance=metric, **facts)


def load_perfusion(pipe: DiffusionPipeline, path: str | Path, *, token: str | None = None, member: int = 0) -> str:
    """Put a subject on a pipeline, beside those that are there, and give its token, to be used in prompts.

    Args:
        pipe: The pipeline.
        path: A file of `save_perfusion`, or the personalization.safetensors of `bayes-persona personalize`.
        token: What to call the subject; None is what the file says.
        member: Which member of a posterior.

    Raises:
        MismatchError: If the subject was trained on another base model.
        DataError: If the file is of another method, or has no such member.
        ConfigError: If the token is a word already.
        RunError: If the file is damaged, or no safetensors file. Whatever is raised, the pipeline is as it was.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> load_perfusion(load(), "nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    posterior, about = adapters.load(path)
    if about["method"] != "perfusion":
        raise DataError(f"{path}: holds {about['method']}, not Perfusion; attach it with its own method")
    if not 0 <= member < len(posterior):
        raise DataError(f"{path}: has no member {member}, but {len(posterior)} of them, counted from 0")
    loaded = _LOADED.get(pipe)
    base = fingerprint(pipe) if loaded is None else loaded.base
    adapters.require_base(path, about, base)
    subject = Perfusion(Subject(**about["subject"]), **about["settings"])
    if token is not None:
        subject = replace(subject, subject=replace(subject.subject, token=token))
    found = {} if loaded is None else loaded.subjects
    name = subject.subject.token
    if name in found:
        raise ConfigError(f"token: {name} is loaded already; give another token, or unload it first")
    params = {key: value[None] for key, value in posterior[member].items()}
    _put(pipe, {**found, name: (subject, params)}, base)
    return name


def set_perfusion_gate(pipe: DiffusionPipeline, *, token: str | None = None, **settings: Any) -> None:
    """Turn the settings of generation of a loaded subject, or of all.

    Args:
        pipe: The pipeline.
        token: Of whom; None is everyone.
        **settings: `beta` and `tau`, `betas` of single layers, or `keys="global"`.

    Raises:
        ConfigError: If nobody of that token is loaded, or a setting is not of generation or out of its range.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> set_perfusion_gate(load(), beta=0.6)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: token: no subject is loaded
    """
    loaded = _LOADED.get(pipe)
    if strange := sorted(settings.keys() - {"beta", "tau", "betas", "keys"}):
        raise ConfigError(f"{strange[0]}: no setting of generation; turn beta, tau, betas or keys")
    names = _named(loaded, token)
    assert loaded is not None
    turned = {
        name: (replace(subject, **settings) if name in names else subject, params)
        for name, (subject, params) in loaded.subjects.items()
    }
    _put(pipe, turned, loaded.base)


def unload_perfusion(pipe: DiffusionPipeline, token: str | None = None) -> None:
    """Take a subject, or all, off a pipeline; with the last one it is, bit for bit, what it was.

    Raises:
        ConfigError: If nobody of that token is loaded.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> unload_perfusion(load(), "<r2>")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: token: no subject is loaded
    """
    loaded = _LOADED.get(pipe)
    names = _named(loaded, token)
    assert loaded is not None
    _put(pipe, {name: one for name, one in loaded.subjects.items() if name not in names}, loaded.base)


class _Loaded:
    """What is on a pipeline, and the way off."""

    def __init__(self, subjects: dict[str, tuple[Perfusion, Params]], base: str, off: ExitStack):
        self.subjects, self.base, self.off = subjects, base, off


_LOADED: weakref.WeakKeyDictionary[Any, _Loaded] = weakref.WeakKeyDictionary()
"""By pipeline."""


def _put(pipe: DiffusionPipeline, subjects: dict[str, tuple[Perfusion, Params]], base: str) -> None:
    """Exchange what is loaded; if that fails, put back what was."""
    before = _LOADED.pop(pipe, None)
    if before is not None:
        before.off.close()
    try:
        if subjects:
            _LOADED[pipe] = _Loaded(subjects, base, _on(pipe, subjects))
    except Exception:
        if before is not None:
            _LOADED[pipe] = _Loaded(before.subjects, base, _on(pipe, before.subjects))
        raise


def _on(pipe: DiffusionPipeline, subjects: dict[str, tuple[Perfusion, Params]]) -> ExitStack:
    with ExitStack() as stack:
        concepts = [subject.concept(params) for subject, params in subjects.values()]
        stack.enter_context(together(pipe, concepts, torch.zeros(1, dtype=torch.long)))
        stack.enter_context(cached_text(pipe.unet))
        return stack.pop_all()


def _named(loaded: _Loaded | None, token: str | None) -> list[str]:
    if loaded is None:
        raise ConfigError("token: no subject is loaded")
    if token is not None and token not in loaded.subjects:
        raise ConfigError(f"token: {token} is not loaded; loaded are {', '.join(loaded.subjects)}")
    return list(loaded.subjects) if token is None else [token]
