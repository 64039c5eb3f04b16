"""The top-k filter, as src/topk_filter_pairs.py tells it; what that command and visualize_split_top_50.ipynb share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.common.files import InputError, read_json, require_file, sha256, try_outputs
from src.common.paths import FILTERED_DIR, IMAGES_ROOT, MODELS_DIR, TRAIN_NPZ
from src.data.keep_lists import KeepList, save_filtered, save_selected
from src.data.pairs import fingerprint, open_pairs
from src.filters.decisions import DROP, KEEP, ReviewDecisions
from src.filters.out_of_fold import rank_out_of_fold
from src.filters.ranks import RANK_NAME, find_ranks, rank_captions, save_ranks
from src.filters.report import write_report
from src.training.inputs import OnDevice, TrainingData
from src.training.machine import Machine
from src.training.metrics import NonFiniteError
from src.training.model import load_translator
from src.training.recipe import AUTO, describe_recipe, one_mlp, recorded_recipe, sized
from src.training.runs import DataRecord, best_weights, folder_name, read_run
from src.training.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class TopKFilter:
    """Ranks are of the translator `weights` (None: of the best run in `models_dir` on `input_npz`) or, with `folds`, of
    so many models, none of which saw the image: each one MLP of the recipe `auto` for so many captions, with
    `fold_changes`. `decisions_csv` is that of the review (None: in `output_dir`), which overrides the cut unless
    `honour_decisions` is off."""

    input_npz: Path = TRAIN_NPZ
    images_root: Path = IMAGES_ROOT
    output_dir: Path = FILTERED_DIR
    models_dir: Path = MODELS_DIR
    top_k: int = 50
    weights: Path | None = None
    folds: int | None = None
    fold_changes: Mapping[str, Any] = field(default_factory=dict)
    decisions_csv: Path | None = None
    honour_decisions: bool = True


def as_ranked(settings: TopKFilter) -> TopKFilter:
    """The settings, by the models of the ranks in `output_dir` if those of its pairs are all out of fold; of several
    by the most folds. Raises InputError."""
    pairs, stem = fingerprint(settings.input_npz), escape(settings.input_npz.stem)
    paths = [path for name in ("ranks", "folds*_ranks") for path in settings.output_dir.glob(f"{stem}_{name}.json")]
    records = [record for record in map(read_json, paths) if isinstance(record, dict)]
    made = [record for record in records if record.get("input_fingerprint") == pairs]
    if not made or not all("folds" in record for record in made):
        return settings
    most = max(made, key=lambda record: record["folds"])
    return replace(settings, folds=most["folds"], fold_changes=asdict(recorded_recipe(most["recipe"])))


class TopK:
    """One filtering: opened and checked here; then `rank`, look at it, and `export`. Several processes rank together,
    and the first exports."""

    def __init__(self, settings: TopKFilter, machine: Machine, world: World = ALONE) -> None:
        """Raises InputError for what cannot be used, before any work."""
        self.settings, self.world = settings, world
        self.machine = machine if settings.folds else replace(machine, precision="float32")
        stem = settings.input_npz.stem + (f"_folds{settings.folds}" if settings.folds else "")
        self.ranks_csv = settings.output_dir / f"{stem}_ranks.csv"
        self.clean, self.suspect = (
            settings.output_dir / f"{stem}_{part}_top{settings.top_k}.npz" for part in ("clean", "suspect")
        )
        outputs = (self.ranks_csv, self.clean, self.clean.with_suffix(".keep.npz"), self.suspect)
        try_outputs(outputs, (settings.input_npz, settings.weights))
        self.fingerprint = fingerprint(settings.input_npz)
        identity: dict[str, Any] = {"input_fingerprint": self.fingerprint}
        if not settings.folds:
            others = "name weights with --weights, or rank with --folds 5"
            self.weights = settings.weights or best_weights(settings.models_dir, settings.input_npz, others)
            identity["weights_sha256"] = sha256(require_file(self.weights))
        with world.one_after_the_first():
            self.pairs = open_pairs(settings.input_npz)
        if settings.folds:
            self.base = replace(one_mlp(sized(AUTO, len(self.pairs))), name="topk_fold")
            self.recipe = replace(self.base, **settings.fold_changes)
            identity |= {"folds": settings.folds, "recipe": asdict(self.recipe)}
        self.decisions: ReviewDecisions | None = None
        if settings.honour_decisions:
            path = settings.decisions_csv or settings.output_dir / "review_decisions.csv"
            self.decisions = ReviewDecisions(path, self.pairs, self.fingerprint)
            self.decisions.read()  # one about other pairs ends it here
        made: dict[str, Any] = {"input_npz": str(settings.input_npz)} | identity
        found = world.of_first(lambda: find_ranks(self.ranks_csv, self.pairs, identity))
        self.table, self.made = found or (pd.DataFrame(), made)

    def describe(self) -> dict[str, Any]:
        """The opening lines."""
        given = self.settings
        lines: dict[str, Any] = {"pairs": f"{given.input_npz} ({self.fingerprint})"}
        if given.folds:
            models = f"{given.folds} models that did not see the image"
            lines["ranked by"] = f"{models}, seed {self.recipe.seed}, {self.machine.precision}"
            lines["their recipe"] = describe_recipe(self.recipe, self.base)
        else:
            lines["ranked by"] = self.weights
            record = read_run(self.weights.parent)
            if record is None:
                lines["it was trained on"] = "pairs that are not recorded"
            elif record.data.train_fingerprint != self.fingerprint:
                lines["it was trained on"] = "other pairs"
            else:
                lines["it was trained on"] = "these pairs, so its ranks flatter them; --folds 5 ranks out of fold"
        decisions = f"{len(self.decisions.read()):,} in {self.decisions.path}" if self.decisions else "none"
        there = "" if self.table.empty else " (of these pairs by the same model: there already)"
        return lines | {
            "captions, images": f"{len(self.pairs):,}, {self.pairs.num_images:,}",
            "kept": f"ranks up to {given.top_k}",
            "review decisions": decisions,
            "device": f"{self.machine.device}{self.world}",
            "ranks": f"{self.ranks_csv}{there}",
        }

    def rank(self) -> pd.DataFrame:
        """Rank all captions unless that is done. Returns their table (see src.filters.ranks), which `self.table` holds
        from now on, in every process. Raises InputError."""
        if not self.table.empty:
            return self.table
        given, device, world = self.settings, self.machine.device, self.world
        self.made |= asdict(self.machine.provenance(world.size))
        if given.folds:
            # A folder of its own for every input, number of folds, recipe and seed.
            name = folder_name(replace(self.recipe, name=f"{self.fingerprint}_folds{given.folds}"), self.base)
            folder = given.models_dir / "topk_folds" / name
            record = DataRecord(train_npz=str(given.input_npz), train_fingerprint=self.fingerprint)
            data = TrainingData.of(self.pairs, device, record)
            self.table, mrrs = rank_out_of_fold(data, given.folds, self.recipe, folder, self.machine, world)
            self.made |= {"models": str(folder), "models_mrr": mrrs}
        else:
            translator = load_translator(self.weights, device, of=self.pairs)
            try:
                everything, captions = OnDevice(self.pairs, device), np.arange(len(self.pairs))
                self.table = rank_captions(translator, everything, captions, world=world)
            except NonFiniteError as error:
                raise InputError(f"{self.weights}: {error}") from None
            self.made["weights"] = str(self.weights)
        if world.first:
            save_ranks(self.ranks_csv, self.table, self.made)
        return self.table

    def keep(self, *, decided: bool = True) -> np.ndarray:
        """Which captions to keep, (N captions,) bool: ranks up to k, but `decided` captions as they were decided."""
        keep = self.table["rank"].to_numpy() <= self.settings.top_k
        return self.decisions.apply(keep) if self.decisions and decided else keep

    def export(self, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Cut, and write everything but the ranks; `arguments` are for the keep-list's provenance. Returns title and
        lines of a summary. Raises InputError."""
        pairs, given, top_k, keep = self.pairs, self.settings, self.settings.top_k, self.keep()
        ranks, dropped = self.table["rank"].to_numpy(), int((~keep).sum())
        decided = [*self.decisions.read().values()] if self.decisions else []
        changed = int((keep != self.keep(decided=False)).sum())
        review = {"kept": decided.count(KEEP), "dropped": decided.count(DROP), "against_the_cut": changed}
        origin = {
            "input_npz": self.made["input_npz"],
            "input_fingerprint": self.fingerprint,
            "filter": "topk",
            "higher_is_better": False,
            "ranks": self.made,
            "arguments": dict(arguments),
            "cut": {"top_k": top_k, "dropped": dropped, "cut": top_k, "review_decisions": review},
        }
        keep_list = KeepList(caption_ids=pairs.caption_ids, scores=ranks, keep=keep, provenance=origin)

        list_path, report = save_filtered(pairs, keep_list, self.clean), self.clean.with_suffix(".png")
        self.suspect.unlink(missing_ok=True)
        if dropped:
            save_selected(pairs, ~keep, self.suspect)
        write_report(report, pairs, keep_list, given.images_root, name=RANK_NAME, cut=top_k, log=True)

        emptied = len(np.setdiff1d(pairs.image_of_caption, pairs.image_of_caption[keep]))
        shares = ", ".join(f"{(ranks <= k).mean():.1%} in the first {k}" for k in (1, 5, 10, 50))
        pictures = "" if given.images_root.is_dir() else f" (without pictures: {given.images_root} is no folder)"
        return f"kept {keep.sum():,} captions", {
            "ranks": f"{shares}; median {np.median(ranks):g} of {pairs.num_images:,}",
            "dropped": f"{dropped:,} of {len(pairs):,} captions; {emptied:,} images lose all of theirs",
            "review decisions": f"{len(decided):,} honoured ({review['kept']:,} keep, {review['dropped']:,} drop), "
            f"{changed:,} of them against the cut",
            "clean pairs": self.clean,
            "suspect pairs": self.suspect if dropped else "none",
            "keep-list": list_path,
            "report": f"{report}{pictures}",
        }
