"""Content in the embeddings of videos, against NumPy and by its properties."""

import numpy as np
import pytest
import torch

from mealrec import ConfigError, MealRec
from mealrec.noise import Noise
from tests.mealrec.small import (
    VIDEOS,
    frame_table,
    make_batch,
    make_config,
    make_model,
    with_features,
)
from tests.mealrec.test_model import ranking_batch


def content_model(**fields):
    model = make_model(content_half=4.0, **fields)
    with torch.no_grad():
        model.content_weight.mul_(100)
    return model


def expected_table(model, half=4.0):
    features, frames = (part.numpy() for part in frame_table())
    v = features.sum(1) / np.maximum(frames, 1)[:, None]
    n = np.arange(VIDEOS + 1)[:, None]  # the counts of `make_model`
    E, W = (part.detach().numpy() for part in (model.item, model.content_weight))
    return (n > 0) * E + half / (half + n) * (v @ W)


def test_embeddings_are_ids_and_a_share_of_content():
    model = content_model().eval()
    assert np.allclose(model.table().detach(), expected_table(model), atol=1e-5)
    assert np.allclose(model.video_vectors(), expected_table(model)[1:], atol=1e-5)


def test_content_alone_has_no_id_table():
    model = make_model(use_ids=False).eval()
    assert "item" not in dict(model.named_parameters())
    features, frames = frame_table()
    v = features.sum(1) / frames.clamp_min(1)[:, None]
    torch.testing.assert_close(model.table(), v @ model.content_weight)


def test_scores_are_products_with_those_embeddings(batch):
    model = content_model(item_bias=True).eval()
    batch = ranking_batch(batch)
    scores, videos = model(batch, task="top", k=5, mask_history=False)
    E = np.concatenate([expected_table(model), model.bias.detach().numpy()[:, None]], axis=1)
    products = model.user_vectors(batch).detach().numpy() @ E[1:].T
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :5], atol=1e-4)


def test_an_evaluation_sees_the_weights_of_its_time(batch):
    """The embeddings are made once for it, and anew for the next."""
    model, batch = content_model().eval(), ranking_batch(batch)
    before = model(batch, task="top")[0]
    model.train()
    with torch.no_grad():
        model.content_weight.mul_(-1)
    after = model.eval()(batch, task="top")[0]
    assert not torch.allclose(before, after)


def test_dropout_of_a_video_is_the_same_wherever_it_occurs_in_a_step():
    model, batch = content_model(), make_batch()
    noise = Noise.of_batch(batch, 4, "auto")
    table = model.table(noise)
    assert not torch.allclose(table, model.eval().table())
    (rows,) = model.train().rows(noise, batch["item"])  # as the sampled softmax does, without the table
    torch.testing.assert_close(rows, table[batch["item"]])
    later = model.table(Noise.of_batch(dict(batch, global_step=torch.tensor(5)), 4, "auto"))
    assert not torch.allclose(table, later)


def test_full_and_sampled_softmax_train_the_content_alike():
    """With each video among the negatives a thousand times, log-Q makes them the same but for chance."""
    batch = make_batch()
    gradients = []
    for softmax in ("full", "sampled"):
        model = content_model(
            objective__softmax=softmax, objective__negatives=30_000, objective__negative_power=0.0
        )
        model(batch)["rec"].backward()
        gradients.append(model.content_weight.grad)
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("item_bias", [True, False])
def test_a_video_that_nobody_watched_does_not_compete_and_is_ranked_by_its_content(batch, softmax, item_bias):
    counts = torch.arange(VIDEOS + 1) + 5
    counts[7] = 0
    batch["item"], batch["target"] = (
        torch.where(batch[name] == 7, 8, batch[name]) for name in ("item", "target")
    )
    features, frames = frame_table()
    content = features.sum(1) / frames.clamp_min(1)[:, None]
    losses = []
    for direction in (1, -1):
        content[7] *= direction * 1000
        config = make_config(
            content_half=4.0, item_bias=item_bias, objective__softmax=softmax, objective__negatives=500
        )
        model = MealRec(config, 1, counts, content).train()
        losses.append(model(with_features(batch))["rec"])
    assert torch.equal(*losses)
    losses[-1].backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert not model.item.grad[7].any() and model.item.grad[8].any()
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval().table()[7], content[7] @ model.content_weight, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("content", [None, torch.zeros(3, 6)])
def test_content_that_is_not_there_is_refused(content):
    found = None if content is None else r"\[3, 6\]"
    with pytest.raises(ConfigError, match=rf"content is {found}, expected \[31, 6\]"):
        MealRec(make_config(content_half=4.0), content=content)


def test_content_alone_needs_features():
    with pytest.raises(
        ConfigError, match=r"model\.use_ids is False, expected true where there are no features"
    ):
        MealRec(make_config(use_ids=False, frames=0, width=0))
