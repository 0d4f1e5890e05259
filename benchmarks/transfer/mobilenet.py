"""MobileNet-V1 as it was pretrained on ImageNet, cut in two: a trunk that stays, and a tail that is fine-tuned.

Weights are dequantised from TensorFlow Lite, BatchNorm folded into biases; padding is TensorFlow's "SAME".
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Of the thirteen depthwise convolutions."""


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding: what is odd goes to the right and to the bottom."""

    def forward(self, input):
        """Give ReLU6 of the convolution."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[-2:])
        padded = nn.functional.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(padded).clamp(0, 6)


class Tail(nn.Module):
    """Some last layers, the average over places, and a linear head."""

    def __init__(self, layers: list[nn.Module], width: int, outputs: int):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        """Give logits of the trunk's activations (n, channels, height, width)."""
        return self.head(self.features(x).mean(dim=(-2, -1)))


def load(path: Path, at: int, outputs: int) -> tuple[nn.Sequential, Tail]:
    """Give the layers before `features.<at>` as the trunk, and the others with a fresh head of zeros as the tail."""
    weights = load_file(path)
    layers: list[nn.Module] = []
    for number in range(27):
        weight, bias = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
        depthwise = number % 2 == 1
        stride = 2 if number == 0 else STRIDES[number // 2] if depthwise else 1
        groups = len(weight) if depthwise else 1
        layer = Same(weight.shape[1] * groups, len(weight), weight.shape[-1], stride, groups=groups)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    tail = Tail(layers[at:], weights["classifier.weight"].shape[1], outputs)
    nn.init.zeros_(tail.head.weight)
    nn.init.zeros_(tail.head.bias)
    return nn.Sequential(*layers[:at]).eval(), tail.eval()


@torch.no_grad()
def activations(trunk: nn.Module, pictures: np.ndarray, size: int) -> np.ndarray:
    """Give what the trunk makes of uint8 pictures (n, h, w, 3), made `size` pixels wide and high."""
    parts = []
    for start in range(0, len(pictures), 100):
        resized = [
            np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
            for picture in pictures[start : start + 100]
        ]
        scaled = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
        parts.append(trunk(scaled).numpy())
    return np.concatenate(parts)
