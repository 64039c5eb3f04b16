"""The inventory: 23 models of three scripts, 16 of them in the smaller ensemble, and the table of them."""

from collections import Counter
from dataclasses import replace

import pytest

from src.common.files import InputError
from src.inventory import ALL_23, THE_16, main
from src.training.recipe import AUTO, STRONG, sized
from src.training.runs import DataRecord, Results, RunRecord, write_run
from tests.conftest import REPO

OLD = "train_mrr_Ensemble_old_dataset.py"
CLIP = "train_mrr_Ensemble_new_dataset_CLIP.py"
ADAMW = "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py"


def test_there_are_23_models_and_16_in_the_smaller_ensemble():
    assert Counter(member.ensemble.script for member in ALL_23) == {OLD: 11, CLIP: 6, ADAMW: 6}
    assert Counter(member.ensemble.script for member in THE_16) == {OLD: 11, CLIP: 3, ADAMW: 2}
    assert {member.seed for member in THE_16 if member.ensemble.script == CLIP} == {8, 26, 256}
    assert {member.seed for member in THE_16 if member.ensemble.script == ADAMW} == {42, 322}
    assert all(member in ALL_23 for member in THE_16)
    assert all((REPO / member.ensemble.script).is_file() for member in ALL_23)


def test_no_two_models_share_a_folder():
    assert len({member.run_name for member in ALL_23}) == 23
    assert [member.seed for member in ALL_23].count(42) == 2


def test_reference_figures():
    """Their sums, added up by hand; two were not recorded."""
    figures = {member.ensemble.script: member.ensemble.reference_mrr for member in ALL_23}
    assert [seed for seed, mrr in figures[OLD].items() if mrr is None] == [42, 1337]
    assert sum(filter(None, figures[OLD].values())) == pytest.approx(5.117519, abs=1e-9)
    assert sum(figures[CLIP].values()) == pytest.approx(3.566896, abs=1e-9)
    assert sum(figures[ADAMW].values()) == pytest.approx(3.557774, abs=1e-9)


def record_run(models_dir, member, mrr, own=None, status="finished", by=None, **changes):
    recipe = replace(by or member.recipe, name=member.recipe.name, seed=member.seed, **changes)
    results = Results(measures={"mrr": mrr}, own_measures=own)
    record = RunRecord(run_name=member.run_name, status=status, recipe=recipe, data=DataRecord(), results=results)
    write_run(models_dir / member.run_name, record)


def test_the_table_shows_recorded_figures_beside_the_reference(tmp_path, capsys):
    models = {(member.ensemble.script, member.seed): member for member in ALL_23}
    record_run(tmp_path, models[OLD, 42], 0.51)
    record_run(tmp_path, models[CLIP, 4096], 0.52, {"mrr": 0.62}, epochs=3, tau=0.02)
    record_run(tmp_path, models[CLIP, 8], 0.54, by=STRONG, split_seed=0)
    record_run(tmp_path, models[CLIP, 26], 0.54, by=sized(AUTO, 4_000), copies=1)
    record_run(tmp_path, models[ADAMW, 42], 0.63)  # validated on filtered captions alone
    record_run(tmp_path, models[ADAMW, 322], 0.99, status="running")
    main(["--models-dir", str(tmp_path)])
    header, rule, *lines = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == 8
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    shown = {(script.strip("`"), int(seed)): rest for script, seed, *rest in cells}
    assert list(shown) == list(models)
    assert shown[OLD, 42] == ["raw, batch 4096, adam", "–", "0.510000", "0.510000", "yes"]
    with_changes = "CLIP-filtered, batch 4096, adam; with epochs=3, tau=0.02"
    assert shown[CLIP, 4096] == [with_changes, "0.598578", "0.620000", "0.520000", ""]
    assert shown[CLIP, 8][0] == "CLIP-filtered, recipe strong; with split_seed=0"
    assert shown[CLIP, 26][0] == "CLIP-filtered, recipe auto; with copies=1"
    assert shown[ADAMW, 42] == ["CLIP-filtered, batch 5000, adamw", "0.594952", "0.630000", "–", "yes"]
    assert shown[ADAMW, 322][1:] == ["0.595863", "–", "–", "yes"]


def test_a_named_folder_has_to_be_there(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="nope: no such folder"):
        main(["--models-dir", str(tmp_path / "nope")])
    assert not capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    main([])  # nothing is trained yet: the reference figures alone
    assert len(capsys.readouterr().out.splitlines()) == 2 + 23
