"""Recommends videos for any history, with the model of a run or of an export."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from mealrec import MealRec, MealRecConfig
from shards import Batch, FeatureTable, Index, history_batch
from trainer import checkpoint_files, distributed
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.evaluation.run import check_videos, open_run
from trainer.inputs import content_of, on_device
from trainer.serving import saved
from trainer.serving.catalogue import Catalogue, Id

T = TypeVar("T")


class Recommendation(NamedTuple):
    """A video by its original id, and its score: comparable within one history only."""

    item: Id
    score: float


@dataclass(frozen=True)
class Source:
    """What a recommender is made of: the content of an export, or of a run and its data set.

    config, state: the model and its parameters in fp32; its ID table has the content of its embeddings.
    item_ids: original ids, int64 or text [I].
    table: the frames of all videos, for models that read them.
    seed: of the noise from which the reverse chains start.
    sampler_steps: of both reverse chains; 0: the full chains.
    batch_size: histories at once on each device.
    weights_sha256: of the file that the weights are from; None for checkpoints older than checksums.
    data: address of the data set of a run; None for an export, and for a run that names none.
    """

    config: MealRecConfig
    state: dict[str, torch.Tensor]
    item_ids: np.ndarray
    table: FeatureTable | None
    seed: int
    sampler_steps: int
    batch_size: int
    weights_sha256: str | None
    data: str | None = None

    def model(self, device: torch.device) -> MealRec:
        """Return the model in evaluation mode.

        Raises:
            UserError: weights that are not those of the configuration.
        """
        model = MealRec(self.config)
        weights.load_into(model, self.state)
        return model.to(device).eval()


class Recommender:
    """A trained model that ranks all videos for any history."""

    def __init__(self, source: Source, devices: Sequence[torch.device] | None = None) -> None:
        """Build the model on each device: by default all GPUs, or the CPU."""
        distributed.settle_attention()
        self.source = source
        self.catalogue = Catalogue(source.item_ids)
        self.devices = list(devices or _all_devices())
        self._models = [source.model(device) for device in self.devices]

    @property
    def on_gpu(self) -> bool:
        """Whether batches should come in page-locked memory."""
        return self.devices[0].type != "cpu"

    @property
    def embeddings(self) -> np.ndarray:
        """Vectors of the videos, float32 [I, D]: the product with a user's vector is the score."""
        return self._models[0].video_vectors().cpu().numpy()

    @staticmethod
    def load(
        path: str | Path, data: str | None = None, devices: Sequence[torch.device] | None = None
    ) -> Recommender:
        """Open an export, or a run by its best weights. No code of theirs is run.

        data: the data set of a run, where it is no longer where it was. A model that reads frames takes them
        from there; other runs need none, and an export has all that it needs.

        Raises:
            UserError, DataError: neither is there, or it is damaged or of another version.
        """
        path = Path(path)
        return Recommender(open_export(path) if saved.is_export(path) else open_trained(path, data), devices)

    def recommend(
        self,
        histories: Sequence[Sequence[Id]],
        k: int = 10,
        *,
        mask_history: bool = True,
        allow: Iterable[Id] | None = None,
        deny: Iterable[Id] | None = None,
        strict: bool = False,
    ) -> list[list[Recommendation]]:
        """Return the best `k` videos for each history, best first.

        A history is what one user has seen, original ids, oldest first. Its newest `max_length` videos are
        read; all of them are left out of the result with `mask_history`. Unknown ids are skipped. A history
        without a known video gets an empty list, and one for which fewer than `k` are left a shorter one.

        allow: only these videos; deny: none of these; unknown ids do nothing.
        strict: refuse unknown ids.

        Raises:
            UserError: an unknown id with `strict`, a `k` that is not 1 to the number of videos, or lists that
                leave no video.
        """
        self.check_top("k", k)
        numbers = [
            self.numbers(history, f"history {place}", strict=strict)
            for place, history in enumerate(histories)
        ]
        size = self.source.batch_size
        parts = (numbers[start : start + size] for start in range(0, len(numbers), size))
        hidden = self.catalogue.hidden(allow, deny)
        ranked = self.rank(((part, self.batch(part)) for part in parts), k, mask_history, hidden)
        return [recommended for _, scores, videos in ranked for recommended in self._named(scores, videos)]

    def check_top(self, name: str, k: int) -> None:
        """Check a number of videos to recommend.

        Raises:
            UserError: it is below 1 or above the number of videos.
        """
        if not 1 <= k <= len(self.catalogue):
            raise UserError(f"{name} {k}: expected 1 to {len(self.catalogue)}, the videos of the model")

    def numbers(self, history: Iterable[Id], place: str, *, strict: bool) -> list[int]:
        """Return the videos of a history by number, without unknown ones.

        Raises:
            UserError: an unknown id with `strict`; `place` says where.
        """
        known = []
        for original in history:
            number = self.catalogue.number(original)
            if number:
                known.append(number)
            elif strict:
                raise UserError(f"{place}: the model knows no video {original!r:.60}")
        return known

    def batch(self, histories: Sequence[Sequence[int]]) -> Batch:
        """Return histories of videos by number as a batch on the host, with the frames that it needs."""
        batch = history_batch(histories, self.source.config.max_length)
        return self.source.table.join(batch) if self.source.table is not None else batch

    def rank(
        self,
        batches: Iterable[tuple[T, Batch]],
        k: int,
        mask_history: bool = True,
        hidden: np.ndarray | None = None,
    ) -> Iterator[tuple[T, torch.Tensor, torch.Tensor]]:
        """Yield the `k` best videos of each batch, in order: scores float32 and numbers int64 [B, k].

        They are on the CPU. Each device has a batch at a time. Scores are -inf where no video is left, as in
        all of the row of a history without any. What comes with a batch is yielded with its result.

        hidden: bool [I], videos that nobody gets.
        """
        masks = [None if hidden is None else torch.from_numpy(hidden).to(device) for device in self.devices]

        def score(place: int, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            placed = on_device(batch, self.devices[place], self.source.seed)
            scores, videos = self._models[place](
                placed,
                task="top",
                k=k,
                mask_history=mask_history,
                sampler_steps=self.source.sampler_steps,
                hidden=masks[place],
            )
            empty = ~(placed["item"] > 0).any(1, keepdim=True)
            return scores.masked_fill(empty, float("-inf")).cpu(), videos.cpu()

        batches = iter(batches)
        with ThreadPoolExecutor(len(self.devices)) as pool:
            while group := list(itertools.islice(batches, len(self.devices))):
                results = pool.map(score, range(len(group)), [batch for _, batch in group])
                for (companion, _), (scores, videos) in zip(group, results, strict=True):
                    yield companion, scores, videos

    def _named(self, scores: torch.Tensor, videos: torch.Tensor) -> Iterator[list[Recommendation]]:
        ids = self.source.item_ids[videos.numpy() - 1].tolist()
        for row, values in zip(ids, scores.tolist(), strict=True):
            pairs = zip(row, values, strict=True)
            yield [Recommendation(item, value) for item, value in pairs if value > float("-inf")]


def open_trained(run: Path, data: str | None = None) -> Source:
    """Return what a run's best weights need to recommend.

    Raises:
        UserError, DataError: no run there, no checkpoint yet, or it reads frames and has no data set.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run or export")
    config, best = open_run(str(run), data)
    model, item_ids = best.model_config, weights.original_ids(run, best.facts)
    state, table = best.state, None
    if model.has_video:
        index = Index.load(config.data.path or "")
        check_videos(index, str(run), item_ids)
        if (index.frames, index.width) != (model.frames, model.width):
            shape = f"{index.frames} frames of {index.width}"
            raise UserError(f"{index.path}: found {shape}, the model expects {model.frames} of {model.width}")
        table = FeatureTable.open(index, config.data.cache_dir, verify=config.data.verify)
        if model.has_content:
            model, state = with_whole_table(model, state, index, table)
    return Source(
        config=model,
        state=state,
        item_ids=item_ids,
        table=table,
        seed=best.facts.seed,
        sampler_steps=config.eval.test_sampler_steps,
        batch_size=config.eval.batch_size,
        weights_sha256=(best.facts.files or {}).get(checkpoint_files.WEIGHTS),
        data=config.data.path,
    )


def with_whole_table(
    config: MealRecConfig, state: dict[str, torch.Tensor], index: Index, table: FeatureTable | None
) -> tuple[MealRecConfig, dict[str, torch.Tensor]]:
    """Return the same model with the content of its embeddings in an ID table: it then needs no counts."""
    counts = torch.from_numpy(index.train_counts())
    model = MealRec(config, train_counts=counts, content=content_of(config, table)).eval()
    weights.load_into(model, state)
    whole = {**state, weights.ITEM_TABLE: model.table().detach()}
    del whole["content_weight"]
    return replace(config, use_ids=True, content_half=0.0), whole


def open_export(folder: Path) -> Source:
    """Return the content of an export, each file that it reads compared with its checksum.

    Raises:
        UserError, DataError: a file is missing or damaged, or the export is of another version.
    """
    content = saved.read(folder)
    return Source(
        config=content.config,
        state=content.state,
        item_ids=content.item_ids,
        table=content.table,
        seed=content.about.seed,
        sampler_steps=content.about.sampler_steps,
        batch_size=content.about.batch_size,
        weights_sha256=content.weights_sha256,
    )


def _all_devices() -> list[torch.device]:
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return gpus or [torch.device("cpu")]
