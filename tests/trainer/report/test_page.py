"""The numbers of the page against NumPy, and that the page is one file that runs nothing of others."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from tests.trainer import runs
from tests.trainer.report.conftest import HOSTILE, Ranked, all_scores, brute_ranks
from tests.trainer.report.pages import Page


def gains(ranks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each user's metrics: the mean over every place that ties leave open."""
    rows: dict[str, list[float]] = {}
    for above, equal in zip(ranks["above"].tolist(), ranks["equal"].tolist(), strict=True):
        places = range(above + 1, above + equal + 2)
        own = {f"HR@{k}": [float(place <= k) for place in places] for k in (5, 10, 20)}
        own |= {f"NDCG@{k}": [(p <= k) / math.log2(p + 1) for p in places] for k in (5, 10, 20)}
        own["MRR"] = [1 / place for place in places]
        for name, values in own.items():
            rows.setdefault(name, []).append(float(np.mean(values)))
    return {name: np.array(values) for name, values in rows.items()}


def test_metrics_and_differences(page: Page, ranked: list[Ranked]) -> None:
    first, second = (gains(brute_ranks(run)) for run in ranked)
    for name, values in (("whole", first), (HOSTILE, second)):
        shown = page.column("Metrics", name)
        assert shown.pop("users") == "398"
        assert shown == {metric: f"{value.mean():.4f}" for metric, value in values.items()}
        low, high = page.interval("Metrics", name, "HR@10")
        error = values["HR@10"].std() / math.sqrt(398)
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    shown = page.column("Difference to whole, user by user", HOSTILE)
    expected = {metric: second[metric] - first[metric] for metric in first}
    assert {metric: float(text) for metric, text in shown.items()} == pytest.approx(
        {metric: value.mean() for metric, value in expected.items()}, abs=6e-5
    )
    low, high = page.interval("Difference to whole, user by user", HOSTILE, "NDCG@10")
    error = expected["NDCG@10"].std() / math.sqrt(398)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_what_the_run_found_itself(page: Page, ranked: list[Ranked]) -> None:
    results = runs.results(ranked[0].path)
    assert page.column("Metrics", "whole")["NDCG@10"] == f"{results['test']['ndcg@10']:.4f}"
    assert page.column("Metrics", "popularity")["HR@20"] == f"{results['popularity']['hr@20']:.4f}"
    assert page.column("Metrics", "oracle")["MRR"] == f"{results['oracle']['mrr']:.4f}"


@pytest.mark.parametrize(
    ("caption", "values"),
    [("by the length of the history", "history"), ("by the training interactions of the target", "count")],
)
def test_groups(page: Page, ranked: list[Ranked], caption: str, values: str) -> None:
    for run, name in zip(ranked, ("whole", HOSTILE), strict=True):
        ranks = brute_ranks(run)
        metrics = gains(ranks)
        for metric in ("HR@10", "NDCG@10"):
            shown = page.column(f"{metric} {caption}", name)
            users = page.column(f"{metric} {caption}", "users")
            assert sum(int(text) for text in users.values()) == 398
            for label, text in shown.items():
                low, _, high = label.partition("–")
                chosen = (ranks[values] >= int(low)) & (ranks[values] <= int(high or low))
                assert int(users[label]) == chosen.sum()
                assert text == f"{metrics[metric][chosen].mean():.4f}"


def test_cold_targets_are_counted(page: Page, ranked: list[Ranked]) -> None:
    ranks = brute_ranks(ranked[0])
    cold = ranks["count"] == 0
    (note,) = [note for note in page.notes if note.startswith("whole: ") and "cold" in note]
    if cold.any():
        assert f"{cold.sum()} of 398" in note and f"HR@10 {gains(ranks)['HR@10'][cold].mean():.4f}" in note
    else:
        assert "no user's target is cold" in note


def lists(run: Ranked, scores: np.ndarray) -> np.ndarray:
    """The top 10 of each user, numbers of videos; a target that was seen before is left out here, too."""
    hidden = scores.copy()
    for row, videos in enumerate(run.seen):
        hidden[row, [video - 1 for video in videos]] = -np.inf
    return np.argsort(-hidden, axis=1, kind="stable")[:, :10] + 1


def without_npd(run: Ranked) -> np.ndarray:
    """All scores with `npd.mix` at 0."""
    config, trained = run.model.config.npd, run.model.config.npd.mix
    config.mix = 0.0
    try:
        rows = {}
        for batch in run.inputs.eval_stream("test", run.config.eval):
            scores = all_scores(run.model, run.inputs.on_device(batch))
            real = batch["weight"].numpy() > 0
            rows |= dict(zip(batch["sample_id"].numpy()[real].tolist(), scores[real], strict=True))
        return np.stack([rows[user] for user in run.users.tolist()])
    finally:
        config.mix = trained


def test_recommended_videos(page: Page, ranked: list[Ranked]) -> None:
    for run, name in zip(ranked, ("whole", HOSTILE), strict=True):
        top, counts = lists(run, run.scores), run.inputs.index.train_counts()
        shown = page.column("Top 10 of every user", name)
        coverage, novelty, target, *_ = shown.values()
        assert coverage == f"{100 * len(np.unique(top)) / 120:.1f} %"
        share = np.maximum(counts, 1) / counts.sum()
        assert novelty == f"{-np.log2(share[top]).mean():.2f}"
        assert target == f"{-np.log2(share[run.targets]).mean():.2f}"


def test_what_npd_changes(page: Page, ranked: list[Ranked]) -> None:
    caption = "Rankings with and without NPD"
    for run, name in zip(ranked, ("whole", HOSTILE), strict=True):
        before = without_npd(run)
        whole, plain = lists(run, run.scores), lists(run, before)
        shown = page.column(caption, name)
        both = [len(set(a) & set(b)) / 10 for a, b in zip(whole.tolist(), plain.tolist(), strict=True)]
        other = (whole[:, 0] != plain[:, 0]).mean()
        assert shown["users whose first video is another one"] == f"{100 * other:.1f} %"
        assert shown["share of the top 10 that both have"] == f"{100 * np.mean(both):.1f} %"
        assert shown["NDCG@10 with NPD"] == page.column("Metrics", name)["NDCG@10"]
        hidden = run.hidden_scores(before)
        own = hidden[np.arange(398), run.targets - 1][:, None]
        ranks = {"above": (hidden > own).sum(1), "equal": (hidden == own).sum(1) - 1}
        expected = gains(ranks)["NDCG@10"].mean()
        assert float(shown["NDCG@10 with npd.mix 0"]) == pytest.approx(expected, abs=6e-5)


def test_frame_weights(page: Page, ranked: list[Ranked]) -> None:
    """The first video's weights by the formula, in NumPy, from the parts of TCD."""
    run = ranked[0]
    tcd, counts, frames = run.model.tcd, run.inputs.index.train_counts(), run.inputs.table.frames
    video = max(range(1, 121), key=lambda number: (counts[number] * (frames[number] >= 2), -number))
    given: list[tuple[torch.Tensor, ...]] = []
    hook = tcd.pool.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    found = []
    for batch in run.inputs.eval_stream("test", run.config.eval):
        placed = run.inputs.on_device(batch)
        all_scores(run.model, placed)
        x, mask, g, c = (part.detach().numpy() for part in given.pop())
        weight = tcd.pool.key.weight.detach().numpy()
        query = c @ tcd.pool.query.weight.detach().numpy().T + tcd.pool.query.bias.detach().numpy()
        item = placed["item"].numpy()
        for row in np.flatnonzero(item[item > 0] == video):
            real = int(mask[row].sum())
            position = tcd.pool.position.detach().numpy()[:real]
            key = np.concatenate([x[row, :real], g[row, :real] + position], axis=1) @ weight.T
            heads = zip(np.split(query[row], tcd.pool.heads), np.split(key, tcd.pool.heads, 1), strict=True)
            score = np.stack([k @ q / math.sqrt(len(q)) for q, k in heads])
            share = np.exp(score - score.max(1, keepdims=True))
            found.append((share / share.sum(1, keepdims=True)).mean(0))
    hook.remove()
    expected = np.mean(found, axis=0)
    original = run.inputs.index.item_ids()[video - 1]
    assert f"Video {original}" in page.headings
    shown = [title for title in page.titles if title.startswith("whole: ")][: len(expected)]
    assert [float(re.search(r"([\d.]+) % ±", title)[1]) for title in shown] == pytest.approx(
        100 * expected, abs=0.06
    )


def test_curves_are_what_was_logged(page_file, ranked: list[Ranked]) -> None:
    text = page_file.read_text()
    charts = json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', text)[1])
    names = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    by_name = dict(zip(names, charts, strict=True))
    records = runs.records(ranked[0].path)
    loss = by_name["Loss"]["traces"][0]
    logged = [(record["step"], record["loss"]) for record in records if "loss" in record]
    assert [*zip(loss["x"], loss["y"], strict=True)] == logged
    valid = [record for record in records if record.get("split") == "valid"]
    assert by_name["Validation NDCG@10"]["traces"][0]["y"] == [record["ndcg@10"] for record in valid]
    skill = {trace["name"]: trace["y"] for trace in by_name["TCD over a linear map"]["traces"]}
    guards = [record["guards"] for record in valid]
    assert skill["whole, high noise"] == [guard["tcd_skill_high_linear"] for guard in guards]
    assert {"NPD over doing nothing", "TCD loss", "NPD loss"} <= set(by_name)


def test_cost(page: Page, ranked: list[Ranked]) -> None:
    shown = page.column("Cost of training", "whole")
    assert shown["wall time of training"] == f"{round(runs.results(ranked[0].path)['seconds'])} s"
    assert shown["ranks"] == "1"


def test_it_is_one_file(page: Page, page_file) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len(page.scripts) == 3 and not page.handlers
    text = page_file.read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in text and "unsafe-eval" not in text


def test_names_are_shown_as_they_are(page: Page, page_file) -> None:
    assert page.headings[0] == f"MealRec: whole, {HOSTILE}"
    assert "<img src=x" not in page_file.read_text()
