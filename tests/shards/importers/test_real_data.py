"""Published logs, where $MEALREC_REAL_DATA names their folder: their known counts must come out."""

import os
from pathlib import Path

import pytest

from shards import Index
from shards.__main__ import main
from shards.format.check import check_data_set

ROOT = Path(os.environ.get("MEALREC_REAL_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="MEALREC_REAL_DATA is not set")


def run(out, *arguments):
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    index = Index.load(out)
    assert list(check_data_set(out)) == []
    return index


def test_microlens_50k_with_title_tokens(tmp_path):
    folder = ROOT / "microlens50k"
    log, tokens = folder / "MicroLens-50k_pairs.tsv", folder / "title_tokens.npz"
    index = run(tmp_path / "d", "import", "microlens", log, "--features", tokens)
    assert (index.users, index.videos, index.interactions) == (50_000, 19_220, 359_708)
    assert (index.frames, index.width, index.features.videos_with_features) == (8, 64, 19_220)
    assert index.item_ids()[-1] == 19_738
    assert index.counts.test_users == 50_000


def test_microlens_50k_preset(tmp_path):
    log = ROOT / "microlens50k" / "MicroLens-50k_pairs.tsv"
    index = run(tmp_path / "d", "import", "microlens", log, "--preset", "microlens")
    assert index.users == 50_000
    assert max(length for e in index.sequence_shards for length, _ in e.train_lengths) == 11


def test_kuairand_likes(tmp_path):
    log = ROOT / "kuairand27k_kcore15" / "processed_standard_kcore_15.tsv.gz"
    index = run(tmp_path / "d", "import", "kuairand", log, "--signal", "label")
    assert (index.users, index.videos) == (664, 1_854)
    assert index.source["drops"]["events_read"] == 41_828
    columns = "user=user_id,item=video_id,time=time_ms"
    everything = run(tmp_path / "e", "import", "table", log, "--columns", columns)
    assert (everything.users, everything.videos) == (664, 9_359)
    assert everything.source["drops"]["exact_duplicates"] == 124


def test_ml_100k(tmp_path):
    index = run(tmp_path / "d", "import", "recbole", ROOT / "ml100k_recbole" / "ml-100k.inter.gz")
    assert (index.users, index.videos, index.interactions) == (943, 1_682, 100_000)
