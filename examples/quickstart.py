# %% [markdown]
# # From video clips to recommendations, in a few minutes on a laptop
#
#     pip install -e ".[frames]"
#     python examples/quickstart.py --videos DIR --log log.csv
#
# `DIR` holds a video `ID.mp4` for each id of the log; its columns are `user_id`, `item_id`, `timestamp`.
# Without arguments it makes clips of moving shapes, and a log of users who each like one colour.

# %%
import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from trainer.serving import Recommender

parser = argparse.ArgumentParser(description="From video clips to recommendations.")
parser.add_argument("--videos", type=Path, help="folder of videos, each named by its id in the log")
parser.add_argument("--log", type=Path, help="CSV with the columns user_id, item_id, timestamp")
parser.add_argument("--titles", type=Path, help="CSV with the columns item, title; without it, ids are shown")
parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="default: %(default)s")
parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if (args.videos is None) != (args.log is None):
    parser.error("--videos and --log come together")
if args.out.exists():
    parser.error(f"{args.out} exists already: remove it, or name another --out")


def command(*words: object) -> None:
    """Run `python -m WORDS` and show what it prints."""
    print("$ python -m", *words)
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout or ():
        print(line, end="")
    if process.wait():
        sys.exit(process.returncode)


# %% [markdown]
# ## The clips and the log

# %%
if args.videos is None:
    from moving_shapes import write_all

    args.videos, args.log, args.titles = write_all(args.out)
print(len(list(args.videos.iterdir())), "files in", args.videos)

# %% [markdown]
# ## Videos to features
#
# Eight frames of each video through an image encoder. `features/contact.png` shows what it saw.

# %%
command("shards", "frames", args.videos, "--out", args.out / "features")

# %% [markdown]
# ## Features and log to a data set

# %%
command(
    "shards", "import", "table", args.log, "--features", args.out / "features", "--out", args.out / "data"
)

# %% [markdown]
# ## Training
#
# A small model, for a small log. `--train.track wandb` or `mlflow` would show it in a tracker of experiments.

# %%
small = {"model.dim": 32, "data.max_length": 10, "train.batch_size": 64, "train.lr": 0.01}
options = [word for name, value in small.items() for word in (f"--{name}", value)]
run = ("--run", args.out / "run", "--data", args.out / "data")
command("trainer", *run, "--train.max_epochs", args.epochs, "--train.patience", 0, *options)

# %% [markdown]
# ## Recommendations
#
# For any history of ids, oldest first: here for those of the first users of the log.

# %%
histories = defaultdict(list)
with open(args.log, newline="", encoding="utf-8") as file:
    for row in sorted(csv.DictReader(file), key=lambda row: float(row["timestamp"])):
        histories[row["user_id"]].append(row["item_id"])
titles = {}
if args.titles is not None:
    with open(args.titles, newline="", encoding="utf-8") as file:
        titles = {row["item"]: row["title"] for row in csv.DictReader(file)}

users = list(histories)[:4]
recommender = Recommender.load(args.out / "run")
top = min(3, len(recommender.source.item_ids))
found = recommender.recommend([histories[user] for user in users], k=top)
for user, best in zip(users, found, strict=True):
    print(f"\nuser {user} watched", "; ".join(titles.get(item, item) for item in histories[user][-4:]))
    for item, score in best:
        print(f"    {score:6.2f}  {titles.get(str(item), item)}")
