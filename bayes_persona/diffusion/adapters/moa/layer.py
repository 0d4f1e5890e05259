"""The mixture around one attention: Z' = R0 · A0(Z, C0) + R1 · A1(Z, C1), with R0 + R1 = 1 in every pixel.

A0 is the attention that was there, called and never changed, so whatever processor or style it has stays. A1 is a
second one of the same shape. A softmax over two logits is a sigmoid of their difference, so a router has one logit.
"""

from typing import Any

from jaxtyping import Float

from bayes_persona.diffusion.adapters.moa import tokens
from bayes_persona.diffusion.adapters.moa.now import Now
from bayes_persona.errors import MismatchError, needs_extra
from bayes_persona.seeds import generator

with needs_extra("diffusion"):
    import torch
    from diffusers.models.attention_processor import Attention
    from torch import nn
    from torch.nn import functional

PARTS = {"q_p": "to_q", "k_p": "to_k", "v_p": "to_v", "o_p": "to_out.0"}
"""The expert's projections, under names that no pattern for the prior's fits, and the prior's."""
Tensors = dict[str, torch.Tensor]


class Mixed(nn.Module):
    """An attention and a second one beside it; rows without a subject, and closed gates, are the first one's alone.

    Args:
        base: The attention that was there.
        name: What the layer is called.
        params: Parameters of expert and router, under the names of `start`, and those of `tokens` for reading the text.
        now: What all layers share.
        layer: Number of the transformer block, in the order of the pass.
        amount: How much of the expert's share is let in, from 0 to 1.
        lean: Added to the router's logit: how much more the expert is trusted than it was trained to be.
        silent_start: Attention to the first mark of the text gives nothing.

    >>> base = Attention(query_dim=8, heads=2, dim_head=4)
    >>> params = {name: torch.tensor(value) for name, value in start(base, seed=0).items()}
    >>> now = Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000, everywhere=True)
    >>> _ = now.enter(torch.zeros(1, 4, 3, 3), 1, torch.zeros(1, 5, 3), width=3)
    >>> x = torch.randn(1, 9, 8)
    >>> torch.allclose(Mixed(base, "attn1", params, now)(x), base(x), atol=1e-6), now.routed["attn1"].shape
    (True, torch.Size([1, 9]))
    """

    def __init__(
        self,
        base: nn.Module,
        name: str,
        params: Tensors,
        now: Now,
        *,
        layer: int = 0,
        amount: float = 1.0,
        lean: float = 0.0,
        silent_start: bool = False,
    ):
        super().__init__()
        self.base = base
        self.name = name
        self.params = params  # plain tensors: gradients flow to whoever owns them
        self.now = now
        self.layer = layer
        self.amount, self.lean, self.silent_start = amount, lean, silent_start
        self.training = base.training

    def forward(
        self,
        hidden_states: Float[torch.Tensor, "n pixels d"],
        encoder_hidden_states: Float[torch.Tensor, "n words e"] | None = None,
        attention_mask: torch.Tensor | None = None,
        **processors: Any,
    ) -> Float[torch.Tensor, "n pixels d"]:
        """Attend twice and mix."""
        prior = self.base(hidden_states, encoder_hidden_states, attention_mask, **processors)
        now = self.now
        if self.amount == 0 or not len(now.active):
            return prior
        x, text = now.pick(hidden_states), encoder_hidden_states
        mask = None if attention_mask is None else now.pick(attention_mask)
        mine = self._expert(x, None if text is None else self._text(text), mask)
        share = self.amount * torch.sigmoid(self._logit(x) + self.lean)
        now.routed[self.name] = share[..., 0]
        own = now.pick(prior)
        mixed = own + share * (mine - own)  # the same as R0 A0 + R1 A1, and A0 itself where the two agree
        return mixed if now.all_active else prior.index_copy(0, now.active, mixed)

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        now, own = self.now, self.now.pick(text)
        if now.marks is None:
            return own
        return tokens.told(self.params, own, now.pick(now.marks), now.who(), now.pick(now.time), self.layer)

    def _expert(self, x: torch.Tensor, text: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        base: Any = self.base
        source = x if text is None else text
        query, key, value = (self._project(part, one) for part, one in (("q_p", x), ("k_p", source), ("v_p", source)))
        if self.silent_start and text is not None:
            value = torch.cat([torch.zeros_like(value[:, :1]), value[:, 1:]], dim=1)
        query, key, value = (one.unflatten(-1, (base.heads, -1)).transpose(1, 2) for one in (query, key, value))
        mask = None if mask is None else mask.unsqueeze(1)
        if self.now.attention and text is not None and self.now.marks is not None:
            found = query @ key.mT * base.scale
            chance = (found if mask is None else found + mask).softmax(dim=-1)
            self.now.attended[self.name] = chance.mean(dim=1) @ self.now.pick(self.now.marks).to(chance)
            out = chance @ value
        else:
            out = functional.scaled_dot_product_attention(query, key, value, mask, scale=base.scale)
        return self._project("o_p", out.transpose(1, 2).flatten(2))

    def _project(self, part: str, x: torch.Tensor) -> torch.Tensor:
        if f"{part}.down" in self.params:
            change = x @ self.params[f"{part}.down"].mT @ self.params[f"{part}.up"].mT
            return self.base.get_submodule(PARTS[part])(x) + change
        return functional.linear(x, self.params[f"{part}.weight"], self.params.get(f"{part}.bias"))

    def _logit(self, x: torch.Tensor) -> torch.Tensor:
        if "router.hidden.weight" in self.params:
            x = functional.silu(
                functional.linear(x, self.params["router.hidden.weight"], self.params["router.hidden.bias"])
            )
        return functional.linear(x, self.params["router.weight"], self.params["router.bias"])


def start(
    base: nn.Module, *, seed: int, rank: int | None = None, router: int | None = None, lean: float = 0.0
) -> dict[str, Any]:
    """Give parameters to start from: an expert that does as the prior does, and a router that sees no difference.

    Args:
        base: The attention.
        seed: Names what is drawn.
        rank: Directions in which each projection may differ from the prior's; None keeps projections of its own.
        router: Width of the router's hidden layer; None has none.
        lean: The router's logit; 0 mixes half and half, less trusts the prior more.

    Raises:
        MismatchError: If this is no attention of a transformer block.

    >>> sorted(start(Attention(query_dim=8, heads=2, dim_head=4), seed=0, rank=2))[:3]
    ['k_p.down', 'k_p.up', 'o_p.down']
    """
    require_usual(base)
    params: dict[str, Any] = {}
    for part, place in PARTS.items():
        linear: Any = base.get_submodule(place)
        if rank is None:
            params[f"{part}.weight"] = _array(linear.weight)
            if linear.bias is not None:
                params[f"{part}.bias"] = _array(linear.bias)
        else:
            draws = generator(seed, part).standard_normal((rank, linear.in_features)) * linear.in_features**-0.5
            params[f"{part}.down"] = draws.astype("float32")
            params[f"{part}.up"] = 0 * generator(seed, part).random((linear.out_features, rank)).astype("float32")
    width = base.get_submodule("to_q").get_parameter("weight").shape[1]
    if router is not None:
        draws = generator(seed, "router").standard_normal((router, width)) * width**-0.5
        params |= {
            "router.hidden.weight": draws.astype("float32"),
            "router.hidden.bias": 0 * draws[:, 0].astype("float32"),
        }
        width = router
    zeros = 0 * generator(seed).random((1, width)).astype("float32")
    return params | {"router.weight": zeros, "router.bias": zeros[:, 0] + lean}


def require_usual(base: nn.Module) -> None:
    """Check that a module is an attention as transformer blocks of Stable Diffusion have it.

    Raises:
        MismatchError: If it is not.

    >>> require_usual(nn.Linear(2, 2))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: attention: is a Linear; only diffusers' Attention can be mixed
    """
    if not isinstance(base, Attention):
        raise MismatchError(f"attention: is a {type(base).__name__}; only diffusers' Attention can be mixed")
    odd = [name for name in ("norm_q", "norm_k", "group_norm", "spatial_norm") if getattr(base, name, None) is not None]
    if odd or base.residual_connection or base.rescale_output_factor != 1:
        raise MismatchError(f"attention: has {', '.join(odd) or 'a residual of its own'}, which no expert follows yet")


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().float().cpu().numpy().copy()
