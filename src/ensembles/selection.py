"""Which runs to average: forward selection on validation predictions.

    python -m src.ensemble select models/common_split
    python -m src.ensemble select models/common_split --normalize

Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of models": start with the best run
and add, again and again, the one that raises the MRR of the mean most. Each run is added once, because `combine`
gives all files one weight. The curve goes on to the mean of all runs; its highest point is what is selected.

A choice flatters itself on the captions that it was made on. So half of the images choose, and the figures to believe
are those of the other half; the gallery is all of them for both, as for `evaluate`. All predictions are held at once:
77 MB of float32 a run for 12,500 captions of width 1536, on the device.

Shapes: N captions, M images of the gallery, V image width, R runs.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from src.common.cli import MODELS_DIR, print_settings, resolve_device
from src.common.files import InputError, atomic_path
from src.data.pairs import open_pairs
from src.data.splits import image_folds
from src.ensembles.evaluation import Measurer, add_measuring_arguments, format_difference
from src.ensembles.held_out import common_images, finished_runs
from src.training.inputs import in_turns
from src.training.metrics import mrr, retrieval_ranks

OUTPUT = "submission_ensemble_selected.csv"


def forward_selection(predictions: Sequence[Tensor], gallery_MV: Tensor, target_N: Tensor) -> list[tuple[int, float]]:
    """The order in which greedy selection adds the runs, with the MRR of the mean after each: [(run, MRR)] × R.

    predictions: R of (N, V), on one device with the gallery and the targets. R²/2 rankings are computed.
    """
    steps: list[tuple[int, float]] = []
    left, total_NV = list(range(len(predictions))), torch.zeros_like(predictions[0])
    with tqdm(total=len(left) * (len(left) + 1) // 2, desc="selecting", unit="mean") as progress:
        while left:
            scores = []
            for run in left:
                scores.append(mrr(retrieval_ranks(total_NV + predictions[run], gallery_MV, target_N)))
                progress.update()
            best = int(np.argmax(scores))
            total_NV += predictions[left[best]]
            steps.append((left.pop(best), scores[best]))
    return steps


def add_select_arguments(parser: argparse.ArgumentParser) -> None:
    add_measuring_arguments(parser)
    parser.add_argument(
        "--normalize", "--normalise", action="store_true", help="average unit vectors instead of predictions"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the halving of the images: one half chooses")
    parser.add_argument(
        "--plot", type=Path, default=MODELS_DIR / "selection_curve.png", help="the curve", metavar="PNG"
    )


def select_runs(args: argparse.Namespace) -> None:
    """`python -m src.ensemble select`. Raises InputError as `evaluate` does, and for fewer than two runs."""
    device = resolve_device(args.device)
    runs = finished_runs(args.runs)
    if len(runs) < 2:
        raise InputError(f"{runs[0].folder}: is the only finished run; there is nothing to select from")
    on = open_pairs(args.on)
    captions = in_turns(on.select_images(common_images(runs, on)))
    chooses = (image_folds(captions.image_names, 2, args.seed) == 0)[captions.image_of_caption]
    settings = {
        "captions from": args.on,
        "measured": f"{len(captions):,} of {len(on):,} captions; {chooses.sum():,} choose, {(~chooses).sum():,} report",
        "gallery": f"{captions.num_images:,} images, held out by every run",
        "average of": "unit vectors" if args.normalize else "predictions",
        "device": device,
    }
    print_settings(f"Selecting among {len(runs)} runs", settings)
    predictions = [run.predict(captions, device) for run in tqdm(runs, desc="predicting", unit="run")]
    if args.normalize:
        predictions = [F.normalize(prediction_NV, dim=1) for prediction_NV in predictions]
    measurer = Measurer(captions, device)
    chooses_N = torch.from_numpy(chooses).to(device)
    steps = forward_selection(
        [prediction_NV[chooses_N] for prediction_NV in predictions], measurer.gallery_MV, measurer.target_N[chooses_N]
    )
    rows, total_NV = [], torch.zeros_like(predictions[0])
    for n, (run, _) in enumerate(steps, 1):
        total_NV += predictions[run]
        rows.append(measurer.row(f"first {n}", str(n), total_NV, ~chooses))
    curve = pd.DataFrame(
        {
            "n": range(1, len(runs) + 1),
            "added": [str(runs[run].folder) for run, _ in steps],
            "MRR, choosing half": [score for _, score in steps],
            "MRR, other half": [row.mrr for row in rows],
        }
    )
    print(curve.to_string(index=False, float_format="{:.4f}".format))
    best = int(curve["MRR, choosing half"].argmax())
    plot_selection(curve, best, args.plot)
    chosen = [runs[run] for run, _ in steps[: best + 1]]
    files = [run.record.get("submission", {}).get("path", str(run.folder / "submission.csv")) for run in chosen]
    command = ["python", "-m", "src.ensemble", "combine", *files, *["--normalize"] * args.normalize, "--output", OUTPUT]
    gain = measurer.difference(rows[best], rows[-1])
    summary = {
        "MRR, other half": f"{rows[best].mrr:.4f}",
        "over the best single": format_difference(*measurer.difference(rows[best], rows[0])) + " (95% interval)",
        "over the mean of all": format_difference(*gain) + " (95% interval)",
        "curve": args.plot,
        "average them with": shlex.join(command),
    }
    print_settings(f"{len(chosen)} of {len(runs)} runs selected", summary)
    if len(chosen) < len(runs) and gain[1] <= 0:
        print("On the other half these are not better than the mean of all runs: the choice may be chance.")


def plot_selection(curve: pd.DataFrame, best: int, path: Path) -> None:
    """The curve of a selection as PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for column, marker in (("MRR, choosing half", "o"), ("MRR, other half", "s")):
        axes.plot(curve.n, curve[column], marker=marker, label=column)
    axes.axvline(curve.n[best], color="grey", lw=0.8, ls=":", label="selected")
    axes.set(title="Forward selection", xlabel="runs averaged", ylabel="MRR", xticks=curve.n)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
