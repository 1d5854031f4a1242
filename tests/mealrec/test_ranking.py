"""The best videos against sorted scores; `target_rank` is tested with the metrics."""

import pytest
import torch

from mealrec.ranking import top


@pytest.mark.parametrize("chunk", [0, 3, 16])
def test_top_is_the_head_of_the_sorted_scores(chunk):
    generator = torch.Generator().manual_seed(5)
    u, E = torch.randn(6, 4, generator=generator), torch.randn(16, 4, generator=generator)
    seen = torch.tensor([2, 7, 16]), torch.tensor([0, 0, 4])
    scores = u @ E.T
    scores[seen[1], seen[0] - 1] = float("-inf")
    value, video = top(u, E, 5, seen, chunk)
    expected = scores.sort(1, descending=True)
    torch.testing.assert_close(value, expected.values[:, :5])
    assert torch.equal(video, expected.indices[:, :5] + 1)


@pytest.mark.parametrize("chunk", [0, 3, 16])
def test_hidden_videos_are_in_nobodys_top(chunk):
    generator = torch.Generator().manual_seed(6)
    u, E = torch.randn(6, 4, generator=generator), torch.randn(16, 4, generator=generator)
    hidden = torch.arange(16) % 4 != 1  # of videos 2, 6, 10 and 14 is the rest
    value, video = top(u, E, 5, None, chunk, hidden_I=hidden)
    shown = (u @ E.T)[:, ~hidden].sort(1, descending=True)
    torch.testing.assert_close(value[:, :4], shown.values)
    assert torch.equal(video[:, :4], shown.indices * 4 + 2)
    assert (value[:, 4] == float("-inf")).all()
