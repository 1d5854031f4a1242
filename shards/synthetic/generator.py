"""A synthetic world of short videos whose truth is known: a result on it has a ceiling as well as a floor.

[ours] The generator shares nothing with any model. All arithmetic is float64 NumPy with fixed random streams;
the numbers below are part of the world and are never tuned after models have been compared on it.

Videos   topic k(j) uniform over TOPICS centres c_k, unit vectors in R^LATENT;
         content     z_j = unit(c_k(j) + SPREAD * eps_j),  eps_j ~ N(0, I / LATENT)
         sequel      r_j = unit(c_s(k(j)) + SPREAD * eps_j): the same flavour in the topic's successor s(k)
         popularity  b_j ~ N(0, POPULARITY^2); the successors form one cycle
Users    interest w_u,0 = unit(c_a + c_b), topics a, b drawn; it drifts at every click:
         w_u,t+1 = unit(w_u,t + DRIFT * eta),  eta ~ N(0, I / LATENT)
         length n_u = round(lognormal(log 10, .55)) in 2..60 (mean about 12)
Clicks   of the videos v that the user has not clicked yet, with v' the last intended click (none at first):
         intended, with 1 - ACCIDENT:  p(v) ~ exp(INTEREST * w_u,t . z_v + SEQUEL * r_v' . z_v + b_v)
         accidental, with ACCIDENT:    p(v) ~ exp(b_v); it moves no state
         times in seconds: a start in a month, gaps 1 + exponential with mean an hour
Frames   c <= M real frames (M for nine videos in ten, else M/2..M); one in fifty has no features at all.
         SALIENT in 8 of them, at random places but in order, s = 0..S-1:
             x = A ((1 - h_s) z_j + h_s r_j),  h_s = s / S,  A [V, LATENT] with orthonormal columns
         REDUNDANT in 8: the video's generic background, one of BACKGROUNDS unit vectors, whatever the content
         the others: noise, of unit length in expectation; plus SENSOR * N(0, I / V) in every frame
         So the content is in few frames, and their order shows the sequel. Stored as float16.

The oracle knows w, v', r, z and b at each click, hence the true next-click distribution
`(1 - ACCIDENT) * intended + ACCIDENT * accidental`, and ranks by it: no ranking has a higher expected HR@K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TOPICS = 30
LATENT = 12
SPREAD = 0.8
POPULARITY = 0.8
DRIFT = 0.25
INTEREST = 6.0
SEQUEL = 9.0
ACCIDENT = 0.1
SALIENT = 3
REDUNDANT = 3
BACKGROUNDS = 6
SENSOR = 0.2
USERS_PER_CHUNK = 1024
"""Users drawn from one random stream; part of the world."""
_VIDEO, _FRAME, _USER = range(3)


@dataclass(frozen=True)
class Videos:
    """The truth of the videos: topic [I], content and sequel [I, LATENT], popularity [I]."""

    topic: np.ndarray
    content: np.ndarray
    sequel: np.ndarray
    popularity: np.ndarray
    centres: np.ndarray


@dataclass(frozen=True)
class Clicks:
    """The clicks of users, packed, oldest first, and where the oracle ranks each.

    length [n]; item (from 0), time, accidental [sum length]; greater, equal [sum length]: videos whose true
    probability is above, or equal to, that of the one clicked.
    """

    length: np.ndarray
    item: np.ndarray
    time: np.ndarray
    accidental: np.ndarray
    greater: np.ndarray
    equal: np.ndarray


def make_videos(count: int, seed: int) -> Videos:
    """Draw the truth of `count` videos."""
    rng = np.random.default_rng([seed, _VIDEO])
    centres = _unit(rng.standard_normal((TOPICS, LATENT)))
    cycle = rng.permutation(TOPICS)
    successor = np.empty(TOPICS, np.int64)
    successor[cycle] = np.roll(cycle, -1)
    topic = rng.integers(TOPICS, size=count)
    flavour = SPREAD * rng.standard_normal((count, LATENT)) / np.sqrt(LATENT)
    return Videos(
        topic=topic,
        content=_unit(centres[topic] + flavour),
        sequel=_unit(centres[successor[topic]] + flavour),
        popularity=POPULARITY * rng.standard_normal(count),
        centres=centres,
    )


def make_frames(videos: Videos, frames: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw (features float16 [I, M, V], zero past the count; real frames int64 [I], 0 = no features)."""
    rng = np.random.default_rng([seed, _FRAME])
    count = len(videos.topic)
    basis = np.linalg.qr(rng.standard_normal((max(width, LATENT), min(width, LATENT))))[0]
    basis = basis if width >= LATENT else basis.T
    backgrounds = _unit(rng.standard_normal((BACKGROUNDS, width)))
    real = np.where(rng.random(count) < 0.9, frames, rng.integers((frames + 1) // 2, frames + 1, size=count))
    real[rng.random(count) < 0.02] = 0
    salient = np.maximum(1, real * SALIENT // 8)[:, None]
    redundant = np.minimum(real[:, None] * REDUNDANT // 8, real[:, None] - salient)
    slot = np.arange(frames)
    lottery = np.where(slot < real[:, None], rng.random((count, frames)), 2.0)
    draw = np.argsort(np.argsort(lottery, axis=1), axis=1)  # 0.. over the real frames, in random order
    is_salient, is_redundant = draw < salient, (draw >= salient) & (draw < salient + redundant)
    ahead = (np.cumsum(is_salient, axis=1) - 1) / salient
    shown = (1 - ahead)[:, :, None] * videos.content[:, None] + ahead[:, :, None] * videos.sequel[:, None]
    background = backgrounds[rng.integers(BACKGROUNDS, size=count)][:, None]
    features = rng.standard_normal((count, frames, width)) / np.sqrt(width)
    features = np.where(is_redundant[:, :, None], background, features)
    features = np.where(is_salient[:, :, None], shown @ basis.T, features)
    features += SENSOR * rng.standard_normal(features.shape) / np.sqrt(width)
    return np.where((slot < real[:, None])[:, :, None], features, 0).astype(np.float16), real


def make_clicks(videos: Videos, users: int, seed: int) -> Iterator[Clicks]:
    """Draw the clicks of all users, a chunk of users at a time."""
    for chunk, start in enumerate(range(0, users, USERS_PER_CHUNK)):
        rng = np.random.default_rng([seed, _USER, chunk])
        yield _click(videos, min(USERS_PER_CHUNK, users - start), rng)


def _click(videos: Videos, users: int, rng: np.random.Generator) -> Clicks:
    count = len(videos.topic)
    length = np.exp(rng.normal(np.log(10), 0.55, size=users)).round().astype(np.int64)
    length = np.clip(length, 2, min(60, count))
    steps = int(length.max())
    interest = _unit(videos.centres[rng.integers(TOPICS, size=(users, 2))].sum(axis=1))
    follow = np.zeros((users, LATENT))
    time = 1_700_000_000 + rng.integers(30 * 86_400, size=users)
    seen = np.zeros((users, count), bool)
    taste = np.exp(videos.popularity)
    columns = {
        name: np.zeros((users, steps), np.int64)
        for name in ("item", "time", "accidental", "greater", "equal")
    }
    for step in range(steps):
        chance, accident = rng.random((2, users))
        drift, gap = rng.standard_normal((users, LATENT)), rng.exponential(3600, size=users)
        row = np.flatnonzero(length > step)
        unseen = np.where(seen[row], 0.0, taste)
        pull = (INTEREST * interest[row] + SEQUEL * follow[row]) @ videos.content.T
        intended = unseen * np.exp(pull - pull.max(axis=1, keepdims=True))
        intended /= intended.sum(axis=1, keepdims=True)
        random = unseen / unseen.sum(axis=1, keepdims=True)
        slip = accident[row] < ACCIDENT
        total = np.cumsum(np.where(slip[:, None], random, intended), axis=1)
        item = (total <= chance[row, None] * total[:, -1:]).sum(axis=1)
        truth = (1 - ACCIDENT) * intended + ACCIDENT * random
        own = np.take_along_axis(truth, item[:, None], axis=1)
        time = time + 1 + gap.astype(np.int64)
        columns["item"][row, step] = item
        columns["time"][row, step] = time[row]
        columns["accidental"][row, step] = slip
        columns["greater"][row, step] = (truth > own).sum(axis=1)
        columns["equal"][row, step] = (truth == own).sum(axis=1) - 1
        seen[row, item] = True
        follow[row[~slip]] = videos.sequel[item[~slip]]
        interest = _unit(interest + DRIFT * drift / np.sqrt(LATENT))
    inside = np.arange(steps) < length[:, None]
    return Clicks(length=length, **{name: values[inside] for name, values in columns.items()})


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
