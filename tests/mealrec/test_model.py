"""Properties of the whole model, with every switch.

No leak of the future, and sums that do not depend on how a batch is cut.
"""

import pytest
import torch

from mealrec.noise import Noise
from mealrec.views import in_drawn_order, with_feature_noise
from tests.mealrec.small import FRAMES, VIDEOS, WIDTH, make_batch, make_model, with_features

BACKBONES = ("sasrec", "gru4rec", "nextitnet")
SWITCHES = [
    {},
    {"tcd__enabled": False},
    {"npd__enabled": False},
    {"tcd__enabled": False, "npd__enabled": False},
    {"use_video": False},
    {"frames": 0, "width": 0},
    {"tcd__temporal_guidance": False},
    {"tcd__collaborative": False},
    {"tcd__target": "video"},
    {"npd__noise_conditional": True},
    {"npd__detach_input": True},
    {"objective__softmax": "sampled", "objective__negatives": 9},
    {"content_half": 4.0},
    {"content_half": 4.0, "objective__softmax": "sampled", "objective__negatives": 9},
    {"use_ids": False, "item_bias": True},
    {"shuffle_frames": True},
    {"tcd__control": "no_diffusion", "npd__control": "no_diffusion"},
    {"tcd__control": "pooling"},
    {"tcd__schedule": "cosine", "npd__schedule": "sqrt", "tcd__sampler": "ddpm", "npd__eta": 0.5},
    {"tcd__guidance": 0.5, "tcd__steps": 1, "npd__steps": 1},
]


def rows_of(batch, rows):
    """A part of the batch's rows, with features of its own and its padding cut."""
    part = {name: batch[name][rows] for name in ("sample_id", "offset", "item", "target")}
    width = int((part["item"] > 0).sum(1).max())
    part |= {"item": part["item"][:, :width], "target": part["target"][:, :width]}
    return with_features(part | {"seed": batch["seed"], "global_step": batch["global_step"]})


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_items_after_a_position_change_nothing_up_to_it(backbone, switch):
    model, batch, last = make_model(backbone__name=backbone, **switch), make_batch(lengths=(8, 8, 8)), 4
    with torch.no_grad():
        # Embeddings of a trained size: from a small start a change hardly shows.
        for name in {"item", "content_weight"} & dict(model.named_parameters()).keys():
            getattr(model, name).mul_(12)
    other = dict(batch, item=batch["item"].clone())
    other["item"][:, last + 1 :] = other["item"][:, last + 1 :] % VIDEOS + 1
    other = with_features(other)
    losses = []
    for each in (batch, other):
        until = dict(each, target=each["target"].clone())
        until["target"][:, last + 1 :] = 0
        losses.append(model(until)["rec"])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    # The test can fail: one position later the change has an effect.
    assert not torch.allclose(model(batch)["rec"], model(other)["rec"])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_sums_do_not_depend_on_how_the_batch_is_cut(backbone, switch, batch):
    model = make_model(backbone__name=backbone, **switch)
    whole, counts = model(batch), model.counts(batch)
    parts = [rows_of(batch, rows) for rows in ([3, 0], [5], [1, 4, 2])]
    for name in whole:
        torch.testing.assert_close(
            whole[name], sum(model(part)[name] for part in parts), rtol=1e-5, atol=1e-5
        )
        assert float(counts[name]) == sum(float(model.counts(part)[name]) for part in parts)


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_parameter_learns(switch, batch):
    model = make_model(**switch)
    batch["item"][0, 0] = 3  # a video without frames
    batch = with_features(batch)
    # Zero-started outputs hide what is before them until they have moved once; the modulation is behind two
    # of them.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        batch["global_step"] = torch.tensor(step)
        model.objective(model(batch), model.counts(batch)).backward()
        optimizer.step()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # The nulls stand in for a tenth of the positions: a small batch may have none.
    assert not silent - {"tcd.null_guidance", "tcd.null_condition"}


def test_counts_are_of_real_targets_frames_and_positions(batch):
    counts = make_model().counts(batch)
    item, frames = batch["item"], torch.full((VIDEOS + 1,), FRAMES)
    frames[0], frames[3], frames[4] = 0, 0, 1
    assert int(counts["rec"]) == int((batch["target"] > 0).sum())
    assert int(counts["npd"]) == 30
    assert int(counts["tcd"]) == int(frames[item].sum())


def test_filler_rows_change_nothing(batch):
    model = make_model()
    filler = {
        name: torch.cat([batch[name], torch.zeros_like(batch[name][:2])])
        for name in ("sample_id", "offset", "item", "target")
    }
    padded = with_features(filler | {"seed": batch["seed"], "global_step": batch["global_step"]})
    for name, loss in model(batch).items():
        torch.testing.assert_close(model(padded)[name], loss)
    assert model.counts(padded) == model.counts(batch)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_a_micro_batch_of_filler_alone_takes_part(backbone, kernel):
    """The rank that gets it must still reduce every gradient with the others."""
    model = make_model(backbone__name=backbone, kernel=kernel)
    nothing = torch.zeros(3, 2).long()
    batch = with_features(make_batch(lengths=(2, 2, 2)) | {"item": nothing, "target": nothing})
    losses = model(batch)
    assert all(loss.item() == 0 for loss in losses.values())
    model.objective(losses, model.counts(batch)).backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    assert {name for name, p in model.named_parameters() if p.grad is None} <= {"no_video"}


def test_noise_belongs_to_the_global_step_and_the_seed(batch):
    model = make_model()
    assert model(batch)["rec"] == model(batch)["rec"]
    assert model(batch)["rec"] != model(dict(batch, global_step=torch.tensor(5)))["rec"]
    assert model(batch)["rec"] != model(dict(batch, seed=torch.tensor(6)))["rec"]


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = make_model(seed=3).state_dict()
    torch.manual_seed(99)
    torch.rand(5)
    second, other = make_model(seed=3).state_dict(), make_model(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["item"], other["item"])


def ranking_batch(batch):
    history = batch["item"][batch["item"] > 0]
    row = (batch["item"] > 0).nonzero()[:, 0]
    return dict(batch, target=batch["target"][:, 0], history=history, history_row=row)


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_ranking_does_not_depend_on_the_other_rows(switch, steps, batch):
    model = make_model(**switch).eval()
    scores, videos = model(ranking_batch(batch), task="top", k=5, sampler_steps=steps)
    alone = rows_of(batch, [3])
    again, same = model(ranking_batch(alone), task="top", k=5, sampler_steps=steps)
    torch.testing.assert_close(scores[3:4], again, rtol=1e-4, atol=1e-5)
    assert torch.equal(videos[3:4], same)
    greater, equal = model(ranking_batch(batch), task="target_rank", sampler_steps=steps)
    assert ((greater >= 0) & (greater < VIDEOS) & (equal >= 0)).all()
    for row in range(len(scores)):
        assert not set(videos[row].tolist()) & set(batch["item"][row].tolist())


def test_scores_do_not_depend_on_when_one_evaluates(batch):
    model = make_model(tcd__sampler="ddpm").eval()
    before = model(ranking_batch(batch), task="top")[0]
    assert torch.equal(before, model(ranking_batch(dict(batch, global_step=torch.tensor(77))), task="top")[0])


def test_noise_on_features_is_of_a_view_and_in_evaluation_alone():
    plain, noisy = make_model(), make_model(feature_noise=0.5)
    batch = make_batch()
    batch["item"][:, 1] = batch["item"][:, 0]  # seen twice by everybody
    batch = with_features(batch)
    for name, loss in plain(batch).items():
        assert torch.equal(noisy(batch)[name], loss)
    viewed = with_feature_noise(batch, 0.5, Noise.of_batch(batch, FRAMES, "auto"))
    row = viewed["feature_row"]
    real = batch["item"].flatten() > 0
    eps = viewed["features"][row] - batch["features"][batch["feature_row"]]
    assert eps.flatten(0, 1)[real].std() == pytest.approx(0.5, rel=0.1)
    assert (eps[:, 0] - eps[:, 1]).abs().min() > 0
    assert (eps[0] - eps[3])[0].abs().min() > 0
    scores = [model.eval()(ranking_batch(batch), task="top")[0] for model in (plain, noisy)]
    assert not torch.allclose(*scores)


def test_the_drawn_order_of_frames_belongs_to_the_video():
    order = []
    for seed in (2, 3):
        batch = make_batch(seed=seed, global_step=seed)
        shuffled = in_drawn_order(batch, Noise.of_batch(batch, FRAMES, "auto"))
        row = {
            int(video): int(row)
            for video, row in zip(batch["item"].flatten(), batch["feature_row"].flatten(), strict=True)
        }
        for place in row.values():
            frames = int(batch["frames"][place])
            moved, own = shuffled[place], batch["features"][place]
            assert torch.equal(moved[frames:], own[frames:])
            assert torch.equal(moved[:frames].sort(0).values, own[:frames].sort(0).values)
        order.append({video: shuffled[place] for video, place in row.items()})
        assert sum(not torch.equal(shuffled[place], batch["features"][place]) for place in row.values()) > 10
    both = set(order[0]) & set(order[1])
    assert len(both) > 3
    assert all(torch.equal(order[0][video], order[1][video]) for video in both)


def test_indices_from_the_host_change_nothing(batch):
    model = make_model()
    given = dict(
        batch,
        real_index=batch["item"].flatten().nonzero()[:, 0],
        target_index=batch["target"].flatten().nonzero()[:, 0],
    )
    losses, expected = model(given), model(batch)
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def test_unknown_task(batch):
    with pytest.raises(ValueError, match="task is 'guess', expected loss, target_rank, top or guards"):
        make_model()(batch, task="guess")


def test_width_is_the_data_sets():
    assert make_model().video.project.weight.shape == (16, WIDTH)
