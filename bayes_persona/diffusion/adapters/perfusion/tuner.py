"""The same edit behind PEFT's interface: `unet.add_adapter(PerfusionConfig(), "me")` and all that comes with it.

Adapters that are active together are combined exactly, as in `together`. Weights of `set_adapters` are how much of each
edit is made. The new word is not PEFT's: `words.taught` or diffusers' `load_textual_inversion` brings it in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.diffusion.adapters.perfusion.together import DIRECTION, INPUT, OUTPUT, SUPERCLASS
from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    import torch
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners._buffer_dict import BufferDict
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from torch import nn

KIND = "PERFUSION"
"""What PEFT calls it."""
PREFIX = "perfusion_"
"""How the names of its parameters begin."""
TARGETS = r".*attn2\.to_(k|v)"
"""The projections of the text."""


@dataclass
class PerfusionConfig(PeftConfig):
    """What `add_adapter` takes.

    >>> PerfusionConfig(beta=0.6).peft_type
    'PERFUSION'
    """

    target_modules: str = TARGETS
    """Which projections, as a regular expression."""
    beta: float = 0.70
    """How alike to i* a token must be for the gate to be half open."""
    tau: float = 0.15
    """How softly it opens."""

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = KIND  # pyright: ignore[reportAttributeAccessIssue]


class PerfusionLayer(nn.Module, BaseTunerLayer):
    """A projection of the text with adapters by name.

    >>> layer = PerfusionLayer(nn.Linear(2, 3, bias=False), "me", PerfusionConfig())
    >>> layer(torch.ones(1, 1, 2)).shape
    torch.Size([1, 1, 3])
    """

    adapter_layer_names = ("perfusion_output",)
    other_param_names = ("perfusion_input", "perfusion_direction", "perfusion_beta", "perfusion_tau")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: PerfusionConfig):
        super().__init__()
        self.base_layer = base_layer
        self.perfusion_output = nn.ParameterDict()
        self.perfusion_input = BufferDict({}, persistent=True)
        self.perfusion_direction: Any = BufferDict({}, persistent=True)
        self.perfusion_beta, self.perfusion_tau = BufferDict({}), BufferDict({})  # the config says these
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: PerfusionConfig) -> None:
        """Add an adapter that has learned nothing: its output is 0 and its input is of no token."""
        weight = self.base_layer.get_parameter("weight")
        nothing = torch.zeros(weight.shape[1], device=weight.device)
        self.perfusion_output[adapter_name] = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device))
        self.perfusion_input[adapter_name] = nothing
        self.perfusion_direction[adapter_name] = nothing.clone()
        self.perfusion_beta[adapter_name] = torch.tensor(config.beta, device=weight.device)
        self.perfusion_tau[adapter_name] = torch.tensor(config.tau, device=weight.device)
        self.scaling[adapter_name] = 1.0
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Say how much of an adapter's edit is made."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Project the text, with the edits of all adapters that are active."""
        names = [name for name in self.active_adapters if self._learned(name)]
        if self.disable_adapters or not names:
            return self.base_layer(x, *args, **kwargs)

        def stacked(table: Any) -> torch.Tensor:
            return torch.stack([table[name] for name in names])

        rows = torch.zeros(1, dtype=torch.long, device=x.device)
        inputs = Inputs(stacked(self.perfusion_input)[None], stacked(self.perfusion_direction)[None], rows, apart=True)
        edit = RankOneLinear(
            self.base_layer,
            inputs,
            stacked(self.perfusion_output)[None],
            stacked(self.perfusion_beta).float(),
            stacked(self.perfusion_tau).float(),
            amount=torch.tensor([self.scaling[name] for name in names], device=x.device),
        )
        return edit(x)

    def _learned(self, name: str) -> bool:
        return name in self.scaling and any(self.perfusion_direction[name].tolist())


class PerfusionModel(BaseTuner):
    """What PEFT puts into a U-Net.

    >>> PerfusionModel.prefix
    'perfusion_'
    """

    prefix = PREFIX
    tuner_layer_cls = PerfusionLayer
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012 - PEFT's name for models' usual targets

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: Any,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: Any,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, PerfusionLayer):
            target.update_layer(adapter_name, peft_config)
        else:
            self._replace_module(parent, target_name, PerfusionLayer(target, adapter_name, peft_config), target)


def register() -> None:
    """Make PEFT know the method; a second call does nothing.

    >>> register()
    >>> PEFT_TYPE_TO_TUNER_MAPPING["PERFUSION"] is PerfusionModel
    True
    """
    tables: list[tuple[dict[Any, Any], Any]] = [
        (PEFT_TYPE_TO_CONFIG_MAPPING, PerfusionConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, PerfusionModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
    ]
    for table, value in tables:
        table[KIND] = value


def state_dict(unet: nn.Module, member: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Give one member of Perfusion as `peft.set_peft_model_state_dict` takes it.

    Args:
        unet: The U-Net, with or without adapters.
        member: Its params, without an axis of members.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> start = Perfusion(Subject("robot")).init(pipe, 1, seed=0)
    >>> len(state_dict(pipe.unet, {name: value[0] for name, value in start.items()}))
    42
    """
    tensors = {name: torch.as_tensor(value) for name, value in member.items()}
    found = {}
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            base = module.base_layer if isinstance(module, PerfusionLayer) else module
            kept = base.get_parameter("weight").detach().float().cpu() @ tensors[SUPERCLASS].float()
            found[f"{name}.perfusion_output"] = tensors.get(f"{name}{OUTPUT}", kept)
            found[f"{name}.perfusion_input"] = tensors[INPUT]
            found[f"{name}.perfusion_direction"] = tensors[DIRECTION]
    return found


register()
