"""The inventory: 23 models of three scripts, 16 of them in the smaller ensemble, and the table of the README."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from src.inventory import ALL_23, THE_16, main, seeds_of, training_commands
from src.training.recipe import RECIPES
from src.training.runs import write_run
from tests.conftest import REPO

OLD = "train_mrr_Ensemble_old_dataset.py"
CLIP = "train_mrr_Ensemble_new_dataset_CLIP.py"
ADAMW = "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py"


def test_there_are_23_models_and_16_in_the_smaller_ensemble():
    assert Counter(member.script for member in ALL_23) == {OLD: 11, CLIP: 6, ADAMW: 6}
    assert Counter(member.script for member in THE_16) == {OLD: 11, CLIP: 3, ADAMW: 2}
    assert {member.seed for member in THE_16 if member.script == CLIP} == {8, 26, 256}
    assert {member.seed for member in THE_16 if member.script == ADAMW} == {42, 322}


def test_scripts_and_recipes_exist():
    for member in ALL_23:
        assert (REPO / member.script).is_file()
        recipe = RECIPES[member.recipe_name]
        assert (recipe.optimizer, recipe.batch_size) == (("adamw", 5000) if member.script == ADAMW else ("adam", 4096))
        assert (member.dataset == "raw") == (member.script == OLD)


def test_no_two_models_share_a_folder():
    assert len({member.run_name for member in ALL_23}) == 23
    assert [member.seed for member in ALL_23].count(42) == 2


def test_seeds_are_those_of_the_script():
    assert seeds_of(CLIP) == [8, 26, 256, 4096, 8888, 1234]
    assert seeds_of("mine.py") == []


def test_reference_figures():
    """Their sums, added up by hand; two were not recorded."""
    figures = {
        script: [member.reference_mrr for member in ALL_23 if member.script == script] for script in (OLD, CLIP, ADAMW)
    }
    assert figures[OLD][:2] == [None, None]
    assert sum(figures[OLD][2:]) == pytest.approx(5.117519, abs=1e-9)
    assert sum(figures[CLIP]) == pytest.approx(3.566896, abs=1e-9)
    assert sum(figures[ADAMW]) == pytest.approx(3.557774, abs=1e-9)


def test_the_commands_for_missing_models():
    some = [member for member in ALL_23 if member.seed in (42, 322)]
    assert training_commands(some, Path("models")) == f"`python {OLD} --seeds 42` and `python {ADAMW} --seeds 42 322`"
    assert training_commands(some[:1], Path("m")) == f"`python {OLD} --seeds 42 --models-dir m`"


def record_run(models_dir, member, results, status="finished", by=None, **changes):
    recipe = replace(RECIPES[by or member.recipe_name], name=member.recipe_name, seed=member.seed, **changes)
    record = {"run_name": member.run_name, "status": status, "recipe": asdict(recipe), "data": {}, "results": results}
    write_run(models_dir / member.run_name, record)


def test_the_table_shows_recorded_figures_beside_the_reference(tmp_path, capsys):
    def member(script, seed):
        return next(member for member in ALL_23 if (member.script, member.seed) == (script, seed))

    record_run(tmp_path, member(OLD, 42), {"mrr": 0.51})
    record_run(tmp_path, member(CLIP, 4096), {"mrr": 0.52, "own_validation": {"mrr": 0.62}}, epochs=3)
    record_run(tmp_path, member(CLIP, 8), {"mrr": 0.54}, by="compact", split_seed=0)
    record_run(tmp_path, member(ADAMW, 42), {"mrr": 0.63})  # validated on filtered captions alone
    record_run(tmp_path, member(ADAMW, 322), {"mrr": 0.99}, status="running")
    main(["--models-dir", str(tmp_path)])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == 8
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(row[0].strip("`"), int(row[1])) for row in cells] == [(member.script, member.seed) for member in ALL_23]
    by_model = {(row[0].strip("`"), int(row[1])): row[2:] for row in cells}
    assert by_model[OLD, 42] == ["raw, batch 4096, adam", "–", "0.510000", "0.510000", "yes"]
    with_change = "CLIP-filtered, batch 4096, adam; with epochs=3"
    assert by_model[CLIP, 4096] == [with_change, "0.598578", "0.620000", "0.520000", ""]
    assert by_model[CLIP, 8][0] == "CLIP-filtered, recipe compact; with split_seed=0"
    assert by_model[ADAMW, 42] == ["CLIP-filtered, batch 5000, adamw", "0.594952", "0.630000", "–", "yes"]
    assert by_model[ADAMW, 322][1:] == ["0.595863", "–", "–", "yes"]
