"""ResNet-20 as it was pretrained on CIFAR-10 (He et al. 2015, shortcuts without parameters), with BatchNorm."""

from pathlib import Path

import torch
from torch import nn

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What pictures in [0, 1] are normalised with."""


class Block(nn.Module):
    """Two convolutions and a shortcut that drops every second pixel and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.padding = (outputs - inputs) // 2

    def forward(self, x):
        """Give the block's output."""
        short = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    """Three stages of three blocks."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(inputs, outputs), Block(outputs, outputs), Block(outputs, outputs))
            for inputs, outputs in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        """Give logits of pictures (n, 3, 32, 32) in [0, 1]."""
        mean, spread = (torch.tensor(numbers)[:, None, None].to(x) for numbers in (MEAN, SPREAD))
        x = torch.relu(self.bn1(self.conv1((x - mean) / spread)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return self.linear(x.mean(dim=(-2, -1)))


def pretrained(data: Path) -> ResNet20:
    """Give the net of akamaster/pytorch_resnet_cifar10."""
    saved = torch.load(data / "nets" / "resnet20-12fca82f.th", weights_only=True, map_location="cpu")
    net = ResNet20()
    net.load_state_dict({name.removeprefix("module."): value for name, value in saved["state_dict"].items()})
    return net.eval()
