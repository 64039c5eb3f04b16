"""A run's record: it reads back as it was, older and newer ones are understood, one function tells a run's state."""

import json
from dataclasses import asdict, replace

import pytest

from src.common.files import InputError
from src.training.recipe import BASELINE, STRONG
from src.training.runs import (
    LAST,
    RUN_JSON,
    RUNNING,
    DataRecord,
    FileRecord,
    Provenance,
    Results,
    RunRecord,
    State,
    folder_name,
    read_run,
    recorded_runs,
    runs_by_submission,
    state_of,
    write_run,
)

DATA = DataRecord(train_npz="train.npz", train_fingerprint="0123", train_captions=10, train_images=2)
RECORD = RunRecord(
    run_name="some",
    status=State.FINISHED,
    recipe=replace(STRONG, split_seed=7),
    data=replace(DATA, val_npz="raw.npz", val_fingerprint="4567"),
    provenance=Provenance(command="train", started="now", device="cpu", precision="float32", threads=2),
    results=Results(measures={"mrr": 0.5, "lr": 1e-3}, own_measures={"mrr": 0.6}, best_epoch=2, training_seconds=1.5),
    parameters=12,
    weights={"best_mrr.safetensors": "ab"},
    submission=FileRecord("out.csv", "cd"),
    finished="later",
)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, submission=FileRecord("out.csv", "cd", ["is odd"])),
        RunRecord(run_name="some", status=RUNNING, recipe=BASELINE, data=DATA),
        replace(RECORD, results=None),
    ],
)
def test_a_record_reads_back_as_it_was_written(tmp_path, record):
    write_run(tmp_path / "some", record)
    read = read_run(tmp_path / "some")
    assert asdict(read) | {"results": None} == asdict(record) | {"results": None}
    if record.results:
        assert read.results.mrr == 0.5
        assert read.results.own_measures == {"mrr": 0.6}
        assert (read.results.measures["lr"], read.results.best_epoch, read.results.training_seconds) == (1e-3, 2, 1.5)


def test_the_file_is_flat_and_holds_nothing_that_is_not_known(tmp_path):
    write_run(tmp_path, RECORD)
    values = json.loads((tmp_path / RUN_JSON).read_text())
    assert (values["device"], values["results"]["mrr"], values["results"]["own_validation"]) == (
        "cpu",
        0.5,
        {"mrr": 0.6},
    )
    assert values["submission"] == {"path": "out.csv", "sha256": "cd"}
    assert not {"keep_list", "test_npz"} & values["data"].keys()
    assert "reason" not in values


def test_a_record_of_another_version_is_understood(tmp_path):
    write_run(tmp_path, RECORD)
    values = json.loads((tmp_path / RUN_JSON).read_text())
    del values["recipe"]["input_noise"], values["recipe"]["dropout"], values["weights"], values["threads"]
    values["recipe"]["momentum"] = values["results"]["recall_at_7"] = values["novelty"] = 0.9
    (tmp_path / RUN_JSON).write_text(json.dumps(values))
    read = read_run(tmp_path)
    defaults = {"input_noise": BASELINE.input_noise, "dropout": BASELINE.dropout}
    assert read.recipe == replace(RECORD.recipe, **defaults)
    assert read.results.measures["recall_at_7"] == 0.9
    assert state_of(tmp_path, replace(RECORD.recipe, **defaults), RECORD.data) == State.FINISHED


WHOLE = '{"recipe": {}, "data": {}, "status": "finished"'


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"recipe": {}, "data": [], "status": "finished"}',
        '{"recipe": 1',
        "nothing",
        '{"recipe": {"lr": "fast"}, "data": {}, "status": "finished"}',
        '{"recipe": {}, "data": {"train_fingerprint": 5}, "status": "finished"}',
        WHOLE + ', "results": {"mrr": "high"}}',
        WHOLE + ', "results": {"recall_at_1": 0.5}}',
        WHOLE + ', "results": {"mrr": 0.5, "own_validation": [1]}}',
        WHOLE + ', "submission": {"path": "a.csv", "sha256": null}}',
        WHOLE + ', "device": true}',
    ],
)
def test_what_is_no_record_is_named(tmp_path, text):
    (tmp_path / RUN_JSON).write_text(text)
    with pytest.raises(InputError, match=r"run\.json: not a"):
        read_run(tmp_path)


def test_the_state_of_a_run(tmp_path):
    assert state_of(tmp_path / "none") == State.NEW
    for status, state in [(RUNNING, State.NEW), *((str(state), state) for state in State)]:
        write_run(tmp_path, replace(RECORD, status=status))
        assert state_of(tmp_path) == state
    write_run(tmp_path, replace(RECORD, status=RUNNING))
    (tmp_path / LAST).touch()
    assert state_of(tmp_path, RECORD.recipe, RECORD.data) == State.TO_RESUME


def test_a_run_that_was_killed_before_its_checkpoint_was_removed_is_to_resume(tmp_path):
    write_run(tmp_path, RECORD)
    (tmp_path / LAST).touch()
    assert state_of(tmp_path) == State.TO_RESUME


@pytest.mark.parametrize(
    ("recipe", "data", "named"),
    [
        ({"lr": 0.5, "seed": 9}, {}, "another seed, lr"),
        ({}, {"train_fingerprint": "other"}, "another train_fingerprint"),
        ({}, {"val_npz": None, "val_fingerprint": None}, "another val_fingerprint"),
        ({}, {"keep_list_fingerprint": "new"}, "another keep_list_fingerprint"),
    ],
)
def test_a_folder_with_another_run_is_refused_by_what_differs(tmp_path, recipe, data, named):
    write_run(tmp_path, RECORD)
    with pytest.raises(InputError, match=f"holds a run with {named}; choose another"):
        state_of(tmp_path, replace(RECORD.recipe, **recipe), replace(RECORD.data, **data))


def test_the_same_files_elsewhere_are_the_same_data(tmp_path):
    write_run(tmp_path, RECORD)
    moved = replace(RECORD.data, train_npz="else/where.npz", test_npz="new.npz", test_fingerprint="89")
    assert state_of(tmp_path, RECORD.recipe, moved) == State.FINISHED


def test_runs_are_found_below_a_folder_and_by_their_submission(tmp_path):
    for name in ("b", "a/c"):
        write_run(tmp_path / name, replace(RECORD, run_name=name))
    write_run(tmp_path / "d", replace(RECORD, submission=None))
    found = [(str(folder.relative_to(tmp_path)), record.run_name) for folder, record in recorded_runs(tmp_path)]
    assert found == [("a/c", "a/c"), ("b", "b"), ("d", "some")]
    assert runs_by_submission(tmp_path)["cd"][0] == tmp_path / "b"


def test_a_folder_tells_recipe_changes_data_and_seed():
    recipe = replace(BASELINE, seed=9, lr=1e-3, epochs=3)
    assert folder_name(recipe, BASELINE, "visual-train") == "baseline_epochs=3,lr=0.001_visual-train_seed9"
    assert folder_name(recipe, recipe) == "baseline_seed9"


def test_many_changes_still_make_a_name_that_a_file_system_takes():
    changes = {"val_fraction": 0.123456789, "input_noise": 0.123456789, "lr_warmup_epochs": 0.123456789}
    names = [
        folder_name(replace(STRONG, seed=9, tau=tau, **changes), BASELINE, tag)
        for tau in (0.0123456789, 0.0123456788)
        for tag in ("é" * 120, "é" * 119)
    ]
    assert len(set(names)) == 4
    assert all(len(name.encode()) < 230 and name.endswith("_seed9") for name in names)
