"""The command line of `python -m shards frames`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from shards.errors import DataError

DESCRIPTION = """\
Turn a folder of videos into frame features: one ID.npy of [frames, width] for each video ID.mp4, in a folder
that `import --features` and `attach --features` take.

  python -m shards frames videos/ --out features
  python -m shards frames videos/ --out features --resume             go on after an interruption
  python -m shards frames videos/ --out features --frames 5 --encoder timm:vit_small_patch14_dinov2.lvd142m

VIDEOS is a folder, searched with the folders inside it:
  ID.mp4, .mov, .mkv, .webm, .avi, ...   a video
  ID-1.jpg, ID-2.jpg, ...                the frames of one video, as MicroLens has them
  ID.jpg, .png, .webp, .bmp              a cover: one frame
or an LMDB of MicroLens's frames.

Encoders:
  efficientnet-lite0 (default)   width 1280; needs no network
  timm:NAME                      any model of timm (pip install timm); pooled features before the classifier
  transformers:NAME              any vision model of the hub, or in a folder (pip install transformers)
Weights come from your cache of the hub, else from the hub.
"""
EPILOG = """\
The folder also gets skipped.csv (file, reason: videos that could not be read), contact.png (the frames of
some videos as the encoder saw them) and frames.json (how the features were made).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("videos", type=Path, metavar="VIDEOS", help="folder of videos or pictures, or an LMDB")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of features to make")
    add(
        "--frames",
        type=_positive,
        default=8,
        metavar="M",
        help="frames per video, at most (default %(default)s)",
    )
    add(
        "--sample",
        choices=("uniform", "scenes"),
        default="uniform",
        help="uniform: equally far apart in time (default); scenes: some of each scene: all is decoded",
    )
    add("--encoder", default="efficientnet-lite0", metavar="NAME", help="see above (default %(default)s)")
    add(
        "--workers",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes that decode (default: one for each core, %(default)s)",
    )
    add("--resume", action="store_true", help="go on where an earlier run of the same command ended")


def run(arguments: argparse.Namespace) -> int:
    """`frames`: write the features, print a summary."""
    # The encoder's threads would spin while they wait, on the cores of those that decode. Read with PyTorch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Here: it loads torch, and what comes with the extra.
        from shards.frames.extract import Options, extract
        from shards.frames.read import Sampling
    except ModuleNotFoundError as error:
        raise DataError(f'frames needs {error.name}, not installed: pip install "mealrec[frames]"') from None
    options = Options(
        videos=arguments.videos,
        out=arguments.out,
        sampling=Sampling(arguments.frames, arguments.sample),
        encoder=arguments.encoder,
        workers=arguments.workers,
        resume=arguments.resume,
    )
    try:
        summary = extract(options)
    except KeyboardInterrupt:
        print(f"interrupted; --resume goes on with {options.out}", file=sys.stderr)
        return 1
    print(f"wrote {options.out}: {summary.written:,} of {summary.videos:,} videos have features")
    made = summary.videos - summary.before
    how = f"{options.workers} processes decode, {summary.device} encodes"
    print(f"  {made:,} done now in {summary.seconds:.1f} s ({how})")
    for count, what in (
        (summary.before, "done before"),
        (summary.short, f"with fewer than {options.sampling.frames} frames"),
        (summary.skipped, "not readable: see skipped.csv"),
        (summary.others, "neither video nor picture, left alone"),
    ):
        if count:
            print(f"  {count:,} {what}")
    print(f"  contact.png shows what the encoder saw; next: import or attach with --features {options.out}")
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number >= 1")
    return int(text)
