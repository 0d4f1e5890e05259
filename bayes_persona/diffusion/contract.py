"""What every adapter promises, as checks that yours can be put through too.

These promises are all that samplers, trainers and galleries ask of a personalization method: one that keeps them can be
given a posterior, averaged, gated and saved without a line of glue.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import Adapter, Batch, load, rates_of, save
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.text import conditions, hidden
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.named import require_finite, require_like
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

MEMBERS = 3
"""How many are tried together; the middle one has no rows where gradients are looked at."""
NETWORKS = ("unet", "text_encoder", "text_encoder_2", "vae")
"""The parts of a pipeline that hold weights."""


def check(adapter: Adapter, pipe: DiffusionPipeline, seed: int = 0) -> None:
    """Put an adapter through its promises on a pipeline, best a small one in evaluation mode.

    Args:
        adapter: The one to check.
        pipe: Where it is attached; left as it was if the adapter keeps its promises.
        seed: Names the noise that stands for photos and for training.

    Raises:
        MismatchError: Saying which promise is broken.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> from bayes_persona.diffusion.pipelines import load
    >>> check(TextualInversion(Subject("robot")), load())
    """
    _require(isinstance(adapter, Adapter), f"{type(adapter).__name__} lacks a method or property of an adapter")
    # transformers hangs its own hooks into a text encoder when it is first asked for all states
    _predict(pipe, _tokens(pipe, ["a"]), _latents(pipe, 1, seed))
    params = _trained(adapter, _checked_start(adapter, pipe, seed), seed)
    _check_attaching(adapter, pipe, params)
    _check_gradients(adapter, pipe, params, seed)
    _check_rows(adapter, pipe, params, seed)
    _check_blocks(adapter, pipe, params, seed)
    _check_gates(adapter, pipe, params, seed)
    _check_tracking(adapter, pipe, params, seed)
    _check_file(adapter, pipe, params)


def _checked_start(adapter: Adapter, pipe: DiffusionPipeline, seed: int) -> Params:
    start = adapter.init(pipe, MEMBERS, seed)
    for name, array in start.items():
        _require(array.shape[:1] == (MEMBERS,), f"init gives {name} no leading axis of members")
    require_finite(start, "contract: init")
    _require(_same(adapter.init(pipe, MEMBERS, seed), start), "init depends on more than its seed")
    fewer = {name: array[:2] for name, array in start.items()}
    _require(_same(adapter.init(pipe, 2, seed), fewer), "a member's start depends on how many others there are")
    return start


def _check_attaching(adapter: Adapter, pipe: DiffusionPipeline, params: Params) -> None:
    rows, given = torch.arange(MEMBERS), {name: array.copy() for name, array in params.items()}
    restored = _untouched(pipe, "attaching and detaching does not restore the pipeline")
    with restored, adapter.attached(pipe, params, rows):
        _predict(pipe, _tokens(pipe, [adapter.subject.phrase] * MEMBERS), _latents(pipe, MEMBERS, 0))
    with _untouched(pipe, "an exception inside the with does not restore the pipeline"):
        try:
            with adapter.attached(pipe, params, rows):
                raise InterruptedError
        except InterruptedError:
            pass
        else:
            _require(False, "an exception inside the with is swallowed")
    with _untouched(pipe, "refusing a gate does not leave the pipeline as it was"):
        for gates in ({"no such gate": 1.0}, dict.fromkeys(adapter.gates[:1], 2.0)):
            if gates:
                _require(_refuses(adapter, pipe, params, gates), f"the gates {gates} are not refused with ConfigError")
    _require(_same(params, given), "attaching edits the params that it is given")


def _check_gradients(adapter: Adapter, pipe: DiffusionPipeline, params: Params, seed: int) -> None:
    batch = _batch(adapter, pipe, params, torch.tensor([0, 2, 2, 0]), seed)
    leaves = {name: tensor.requires_grad_() for name, tensor in _tensors(pipe, params).items()}
    with _untouched(pipe, "a loss does not restore the pipeline"):
        loss = adapter.loss(pipe, leaves, batch)
    _require(loss.shape == (4,), f"loss gives shape {tuple(loss.shape)} for 4 rows")
    _require(bool(loss.isfinite().all()), "loss is not finite")
    _require(loss.requires_grad, "no gradient reaches any parameter")
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    rates = rates_of(adapter, leaves)
    for name, grad in zip(leaves, grads, strict=True):
        if rates[name] == 0:
            _require(grad is None or not bool(grad.any()), f"a gradient reaches {name}, whose rate is 0")
            continue
        for member in (0, 2):
            reached = grad is not None and bool(grad[member].abs().sum() > 0)
            _require(reached, f"no gradient reaches {name} of a member that has rows")
        _require(grad is not None and not bool(grad[1].any()), f"a gradient reaches {name} of a member without rows")


@torch.no_grad()
def _check_rows(adapter: Adapter, pipe: DiffusionPipeline, params: Params, seed: int) -> None:
    batch = _batch(adapter, pipe, params, torch.tensor([2, 0, 1]), seed)
    joint = adapter.loss(pipe, _tensors(pipe, params), batch)
    for row, member in enumerate(batch.member.tolist()):
        own = _tensors(pipe, {name: array[member : member + 1] for name, array in params.items()})
        fields = [None if field is None else field[row : row + 1] for field in batch]
        one = Batch(*fields)._replace(member=torch.zeros_like(batch.member[:1]))  # pyright: ignore[reportArgumentType]
        alone = adapter.loss(pipe, own, one)
        _require(_close(joint[row], alone[0]), "the loss of a row is not that of its member alone")
    unweighted = adapter.loss(pipe, _tensors(pipe, params), batch._replace(weight=torch.zeros_like(batch.weight)))
    _require(_close(unweighted, joint), "loss weights its rows; whoever sums them does that")


@torch.no_grad()
def _check_blocks(adapter: Adapter, pipe: DiffusionPipeline, params: Params, seed: int) -> None:
    """Guidance sends two blocks of the same rows, one after the other."""
    with adapter.attached(pipe, params, torch.tensor([2, 0])):
        tokens, latents = _tokens(pipe, [adapter.subject.phrase] * 2), _latents(pipe, 2, seed)
        once = _predict(pipe, tokens, latents)
        twice = _predict(pipe, torch.cat([tokens, tokens]), torch.cat([latents, latents]))
        _require(_close(twice, torch.cat([once, once])), "a batch of two blocks is not computed as twice the same rows")
        try:
            _predict(pipe, torch.cat([tokens, tokens[:1]]), torch.cat([latents, latents[:1]]))
        except MismatchError:
            return
    _require(False, "a batch that is not whole blocks of rows is not refused with MismatchError")


@torch.no_grad()
def _check_gates(adapter: Adapter, pipe: DiffusionPipeline, params: Params, seed: int) -> None:
    """With every gate at 0 nothing that was learned is left; prompts without the token are then the base model's."""
    if not adapter.gates:
        return
    closed, rows, latents = dict.fromkeys(adapter.gates, 0.0), torch.tensor([0, 1]), _latents(pipe, 1, seed)
    plain, same = [f"the {adapter.subject.superclass}"] * 2, torch.cat([latents, latents])
    base = _predict(pipe, _tokens(pipe, plain), same)
    with adapter.attached(pipe, params, rows, closed):
        first, second = _predict(pipe, _tokens(pipe, [adapter.subject.phrase] * 2), same)
        without = _predict(pipe, _tokens(pipe, plain), same)
    _require(_close(first, second), "with all gates at 0 members still differ")
    _require(_close(without, base), "with all gates at 0 a prompt without the subject is not the base model's")
    said, unsaid = (_speaks(adapter, pipe, params, gates, same) for gates in (dict.fromkeys(adapter.gates, 1.0), None))
    _require(_close(said, unsaid), "a gate that nobody mentions is not 1")


def _speaks(
    adapter: Adapter,
    pipe: DiffusionPipeline,
    params: Params,
    gates: Mapping[str, float] | None,
    latents: Float[torch.Tensor, "n c h w"],
) -> Float[torch.Tensor, "n c h w"]:
    with adapter.attached(pipe, params, torch.arange(len(latents)), gates):
        return _predict(pipe, _tokens(pipe, [adapter.subject.phrase] * len(latents)), latents)


@torch.no_grad()
def _check_tracking(adapter: Adapter, pipe: DiffusionPipeline, params: Params, seed: int) -> None:
    """What is tracked is what has rate 0, each member's by its own rows."""
    rates, batch = rates_of(adapter, params), _batch(adapter, pipe, params, torch.tensor([0, 2, 2, 0]), seed)
    with _untouched(pipe, "tracking does not restore the pipeline"):
        new = adapter.track(pipe, _tensors(pipe, params), batch)
    for name, value in new.items():
        _require(rates.get(name) == 0, f"track changes {name}, whose rate is not 0")
        old = torch.as_tensor(params[name]).to(value)
        _require(value.shape == old.shape, f"track gives {name} another shape")
        _require(torch.equal(value[1], old[1]), f"track changes {name} of a member without rows")


def _check_file(adapter: Adapter, pipe: DiffusionPipeline, params: Params) -> None:
    base = fingerprint(pipe)
    posterior = Posterior(tuple({name: array[k] for name, array in params.items()} for k in range(MEMBERS)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save(path, adapter, posterior, base=base)
        back, about = load(path, base=base)
        _require(_same(back.stacked(), params), "saved and loaded params are not the same, bit for bit")
        own = (about["method"], about["subject"]["token"], about["base"])
        _require(own == (adapter.method, adapter.subject.token, base), "the file does not say what it is")
        try:
            load(path, base="another")
        except MismatchError:
            return
    _require(False, "a file for another base model is not refused with MismatchError")


def _trained(adapter: Adapter, start: Params, seed: int) -> Params:
    """Give params that have left their start, where many gradients are zero and members are alike."""
    moved, rates = dict(start), rates_of(adapter, start)
    for name, array in start.items():
        if rates[name] == 0:
            continue
        step = generator(seed, "contract", name).standard_normal(array.shape) * max(float(array.std()), 0.1)
        moved[name] = (array + step).astype(array.dtype)
    return moved


def _batch(adapter: Adapter, pipe: DiffusionPipeline, params: Params, rows: torch.Tensor, seed: int) -> Batch:
    with adapter.attached(pipe, params, rows):
        tokens = _tokens(pipe, [adapter.subject.phrase] * len(rows))
    time = torch.linspace(1, pipe.scheduler.config.num_train_timesteps - 1, len(rows)).long()
    latents, noise = _latents(pipe, len(rows), seed), _latents(pipe, len(rows), seed + 1)
    weight, mask = torch.ones_like(time).to(latents), latents[:, 0].sigmoid()
    return Batch(latents, noise, time.to(pipe.device), tokens, rows.to(pipe.device), weight, mask)


def _tokens(pipe: DiffusionPipeline, prompts: list[str]) -> Int[torch.Tensor, "n words"]:
    words = pipe.tokenizer
    spelled = [pipe.maybe_convert_prompt(prompt, words) for prompt in prompts]  # diffusers: `<me>` to `<me> <me>_1`
    ids = words(spelled, padding="max_length", max_length=words.model_max_length).input_ids
    return torch.tensor(ids, device=pipe.device)


def _latents(pipe: DiffusionPipeline, n: int, seed: int) -> Float[torch.Tensor, "n c h w"]:
    config = pipe.unet.config
    draws = generator(seed, "latents").standard_normal((n, config.in_channels, config.sample_size, config.sample_size))
    return torch.tensor(draws, dtype=pipe.unet.dtype, device=pipe.device)


@torch.no_grad()
def _predict(
    pipe: DiffusionPipeline, tokens: Int[torch.Tensor, "n words"], latents: Float[torch.Tensor, "n c h w"]
) -> Float[torch.Tensor, "n c h w"]:
    said = conditions(pipe, hidden(pipe, tokens))
    return pipe.unet(latents, torch.tensor(500, device=pipe.device), **said).sample


def _tensors(pipe: DiffusionPipeline, params: Params) -> dict[str, torch.Tensor]:
    device = pipe.device
    return {name: torch.tensor(array, device=device) for name, array in params.items()}


def _refuses(adapter: Adapter, pipe: DiffusionPipeline, params: Params, gates: Mapping[str, float]) -> bool:
    try:
        with adapter.attached(pipe, params, torch.arange(MEMBERS), gates):
            return False
    except ConfigError:
        return True


@contextmanager
def _untouched(pipe: DiffusionPipeline, promise: str) -> Iterator[None]:
    """Hold whatever is done inside to leaving the same objects with the same bits."""
    before, bits, config, words = _objects(pipe), fingerprint(pipe), dict(pipe.config), len(pipe.tokenizer)
    yield
    after = _objects(pipe)
    for name in [*before, *after]:
        if name not in before or name not in after or before[name] is not after[name]:
            _require(False, f"{promise}: {name} is another object")
    _require(list(before) == list(after), f"{promise}: its modules are in another order")
    _require(fingerprint(pipe) == bits, f"{promise}: a weight has changed")
    _require(len(pipe.tokenizer) == words, f"{promise}: the tokenizer has new words")
    _require(dict(pipe.config) == config, f"{promise}: its config has changed")


def _objects(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Give every object that a pipeline is made of, by name: parts, modules, weights, hooks and plain attributes."""
    found: dict[str, Any] = dict(pipe.components)
    for part in NETWORKS:
        net = getattr(pipe, part, None)
        for name, module in () if net is None else net.named_modules(prefix=part):
            for key, value in vars(module).items():
                items = value.items() if isinstance(value, dict) else [("", value)]
                found.update({f"{name}.{key}.{item}".rstrip("."): thing for item, thing in items})
    found.update({f"scheduler.{key}": value for key, value in vars(pipe.scheduler).items()})
    return found


def _close(have: torch.Tensor, want: torch.Tensor) -> bool:
    return have.shape == want.shape and bool(torch.allclose(have, want, rtol=1e-3, atol=1e-4))


def _same(have: Params, want: Params) -> bool:
    require_like(have, want, "contract")
    return all(have[name].dtype == want[name].dtype and np.array_equal(have[name], want[name]) for name in want)


def _require(kept: bool, promise: str) -> None:
    if not kept:
        raise MismatchError(f"contract: {promise}")
