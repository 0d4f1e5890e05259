"""The subject's word in the personalized cross-attention: the noun as the prompt has it, and what the picture says.

What it is depends on the time and on the layer, as of NeTI (Alaluf et al. 2023, arXiv 2305.15391): m = [f, t_k],
m_tl = LN(m) + LN(P PE(t, l)), and a net of three layers gives what is added to the noun's state t_k.
"""

from functools import cache
from typing import Any

from jaxtyping import Float

from bayes_persona.errors import needs_extra
from bayes_persona.seeds import generator

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional

SPREAD_TIME, SPREAD_LAYER = 0.03, 2.0
"""Standard deviations of the frequencies of time and of layer."""
Tensors = dict[str, torch.Tensor]


@cache
def _frequencies(count: int) -> torch.Tensor:
    draws = torch.tensor(generator(0, "frequencies").standard_normal((2, count)), dtype=torch.float32)
    return draws * torch.tensor([[SPREAD_TIME], [SPREAD_LAYER]])


def encoding(time: Float[torch.Tensor, " n"], layer: int, frequencies: int) -> Float[torch.Tensor, "n two_frequencies"]:
    """Give PE(t, l): sines and cosines of random mixtures of both, of length 1.

    >>> code = encoding(torch.tensor([0.0, 500.0]), layer=3, frequencies=8)
    >>> code.shape, code.norm(dim=1).round(decimals=3).tolist()
    (torch.Size([2, 16]), [1.0, 1.0])
    """
    both = torch.stack([time.float(), torch.full_like(time, layer, dtype=torch.float32)], dim=1)
    angles = both @ _frequencies(frequencies).to(time.device)
    return functional.normalize(torch.cat([angles.sin(), angles.cos()], dim=1), dim=1)


def start(feature: int, text: int, hidden: int, frequencies: int, seed: int) -> dict[str, Any]:
    """Give the parameters to start from: nothing is added to the noun yet.

    >>> sorted(start(4, 8, 16, 8, seed=0))[:3]
    ['token.first.bias', 'token.first.weight', 'token.last.bias']
    """
    width = feature + text
    made = {"first": (width, hidden), "second": (hidden, hidden), "last": (hidden, text)}
    params: dict[str, Any] = {}
    for name, (into, out) in made.items():
        draws = generator(seed, "token", name).standard_normal((out, into)) * into**-0.5
        params[f"token.{name}.weight"] = (0 * draws if name == "last" else draws).astype("float32")
        params[f"token.{name}.bias"] = 0 * draws[:, 0].astype("float32")
    draws = generator(seed, "token", "place").standard_normal((width, 2 * frequencies))
    return params | {"token.place.weight": (draws * frequencies**-0.5).astype("float32")}


def told(
    params: Tensors,
    text: Float[torch.Tensor, "n words d"],
    marks: Float[torch.Tensor, "n words s"],
    who: Float[torch.Tensor, "n s f"],
    time: Float[torch.Tensor, " n"],
    layer: int,
) -> Float[torch.Tensor, "n words d"]:
    """Give the text in which each subject's noun says who it is.

    Args:
        params: The net's.
        text: The text as the prior reads it.
        marks: 1 where the noun of a subject is.
        who: What is known of each subject.
        time: Of the noise schedule, from 0 to 1000.
        layer: Number of the layer, in the order of the pass.

    >>> params = {name: torch.tensor(value) for name, value in start(4, 8, 16, 8, seed=0).items()}
    >>> text, marks = torch.randn(1, 5, 8), torch.zeros(1, 5, 1)
    >>> bool((told(params, text, marks, torch.zeros(1, 1, 4), torch.ones(1), 0) == text).all())
    True
    """
    noun = marks.mT.to(text) @ text  # n s d: the state of each subject's noun, zero where there is none
    both = torch.cat([who.to(text), noun], dim=-1)
    said = functional.layer_norm(both, both.shape[-1:])
    if "token.place.weight" in params:
        place = params["token.place.weight"]
        code = encoding(time, layer, place.shape[1] // 2).to(text) @ place.mT
        said = said + functional.layer_norm(code, code.shape[-1:])[:, None]
    said = functional.gelu(_linear(params, "first", said))
    said = functional.gelu(_linear(params, "second", said))
    return text + marks.to(text) @ _linear(params, "last", said)


def _linear(params: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, params[f"token.{name}.weight"], params[f"token.{name}.bias"])
