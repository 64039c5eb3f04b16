"""Averaging submissions: equal to the mean of all files at once, in any row order, with faults named."""

import re
import tracemalloc

import numpy as np
import pytest

import ensemble_combine_CSVs_16seeds
import ensemble_combine_CSVs_all_23seeds
from src.common.files import InputError, sha256
from src.data.submissions import read_submission, write_submission
from src.ensemble import main
from src.ensembles.averaging import average
from src.training.recipe import BASELINE
from src.training.runs import DataRecord, FileRecord, Results, RunRecord, write_run

IDS = np.array([30, 7, 12, -4])


def make_submission(path, seed, ids=IDS, width=6):
    """Random embeddings, a row of which depends on the seed and its id alone."""
    rows = [np.random.default_rng([seed, 100 + caption_id]).standard_normal(width) for caption_id in ids]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_submission(path, ids, np.array(rows, np.float32))
    return path


@pytest.fixture
def files(tmp_path):
    """Three submissions of the same captions, each in another row order."""
    orders = (IDS, IDS[::-1], IDS[[2, 0, 3, 1]])
    return [make_submission(tmp_path / f"{seed}.csv", seed, ids) for seed, ids in enumerate(orders)]


def stack(files):
    return np.float64([read_submission(file).aligned(IDS) for file in files])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_mean_is_that_of_all_files_at_once(files):
    caption_ids, embeddings = average(files, [1.0] * 3)
    assert (caption_ids == IDS).all()
    assert embeddings.dtype == np.float32
    assert (embeddings == np.mean(stack(files), axis=0).astype(np.float32)).all()


def test_weights_count_in_proportion(files):
    expected = np.average(stack(files), axis=0, weights=[1, 2, 5])
    for weights in ([1, 2, 5], [0.1, 0.2, 0.5]):
        np.testing.assert_allclose(average(files, weights)[1], expected, rtol=1e-6)


def test_normalised_each_counts_the_same(files, tmp_path):
    scaled = tmp_path / "scaled.csv"
    write_submission(scaled, IDS, 1000 * stack(files)[0])
    for first in (files[0], scaled):
        _, embeddings = average([first, *files[1:]], [1.0] * 3, normalize=True)
        np.testing.assert_allclose(embeddings, unit(stack(files)).mean(axis=0), rtol=1e-5)


def test_one_file_is_its_own_mean(files):
    assert (average(files[:1], [0.3])[1] == stack(files)[0].astype(np.float32)).all()


def test_other_ids_and_widths_are_named(files, tmp_path):
    other_id = make_submission(tmp_path / "other.csv", 3, np.array([30, 7, 12, 5]))
    with pytest.raises(InputError, match=r"other.csv: lacks 1 .*\[-4\] and has 1 unknown ones \[5\]; those of .*0.csv"):
        average([*files, other_id], [1.0] * 4)
    wide = make_submission(tmp_path / "wide.csv", 3, width=7)
    with pytest.raises(InputError, match=r"wide.csv: its embeddings have 7 numbers; .*0.csv has 6"):
        average([*files, wide], [1.0] * 4)


def test_zeros_cannot_be_normalised(files, tmp_path):
    zeros = np.ones((4, 6), np.float32)
    zeros[2] = 0
    write_submission(tmp_path / "zeros.csv", IDS, zeros)
    average([*files, tmp_path / "zeros.csv"], [1.0] * 4)
    with pytest.raises(InputError, match=r"zeros\.csv: the embedding of id 12 is all zeros"):
        average([*files, tmp_path / "zeros.csv"], [1.0] * 4, normalize=True)


def test_more_files_take_no_more_memory(tmp_path):
    files = [make_submission(tmp_path / f"{seed}.csv", seed, np.arange(100), 512) for seed in range(8)]
    peaks = []
    for some in (files[:2], files):
        tracemalloc.start()
        average(some, [1.0] * len(some))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one_file = 100 * 512 * 4
    assert peaks[1] - peaks[0] < one_file
    assert peaks[0] > one_file  # so it is measured at all


def combine(*arguments):
    main(["combine", *map(str, arguments)])


def test_the_command_averages_any_files(files, tmp_path, capsys):
    combine(*files, "--output", tmp_path / "mean.csv")
    np.testing.assert_allclose(read_submission(tmp_path / "mean.csv").embeddings, stack(files).mean(0), rtol=1e-6)
    assert "mean.csv: 4 captions × 6 numbers" in capsys.readouterr().out


def test_weights_by_mrr_come_from_the_run_that_wrote_the_file(files, tmp_path):
    for file, mrr in zip(files, (0.5, 0.2, 0.1), strict=True):
        record = RunRecord(
            run_name=file.stem,
            status="finished",
            recipe=BASELINE,
            data=DataRecord(),
            results=Results(measures={"mrr": mrr}),
            submission=FileRecord(str(file), sha256(file)),
        )
        write_run(tmp_path / "models" / file.stem, record)
    flags = ("--output", tmp_path / "out.csv", "--models-dir", tmp_path / "models", "--weights", "mrr")
    combine(*files, *flags)
    expected = np.average(stack(files), axis=0, weights=[5, 2, 1])
    np.testing.assert_allclose(read_submission(tmp_path / "out.csv").embeddings, expected, rtol=1e-5)
    unknown = make_submission(tmp_path / "unknown.csv", 9)
    with pytest.raises(InputError, match=r"unknown\.csv: no run recorded in .*models wrote it"):
        combine(*files, unknown, *flags)


def test_weights_are_given_as_a_number_for_each_file(files, tmp_path, capsys):
    combine("--weights", "3,0,0.5", *files, "--output", tmp_path / "out.csv")
    assert re.search(r"weights +3,0,0\.5\n", capsys.readouterr().out)
    expected = np.average(stack(files), axis=0, weights=[3, 0, 0.5])
    np.testing.assert_allclose(read_submission(tmp_path / "out.csv").embeddings, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "weights", ["3,1", "3,1,2,1", "3,1,-2", "0,0,0", "1,1,nan", "1,inf,1", "1,1,", "mrr,1,1", "MRR"]
)
def test_other_weights_are_refused_in_one_line(files, tmp_path, weights):
    with pytest.raises(
        InputError, match=rf"^--weights {weights}: expected uniform, mrr, or for 3 files as many numbers"
    ):
        combine(*files, "--output", tmp_path / "out.csv", "--weights", weights)
    assert not (tmp_path / "out.csv").exists()


def test_a_submission_is_averaged_once(files, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(files[0].read_bytes())
    for again in (files[0], copy):
        with pytest.raises(InputError, match=rf"{again.name}: the same submission as .*0\.csv; give it once"):
            combine(*files, again, "--output", tmp_path / "mean.csv")
    assert not (tmp_path / "mean.csv").exists()


def test_the_output_is_none_of_the_inputs(files):
    before = files[1].read_bytes()
    with pytest.raises(InputError, match="is read, so it cannot be written"):
        combine(*files, "--output", files[1])
    assert files[1].read_bytes() == before


@pytest.mark.parametrize(
    ("script", "count", "output"),
    [
        (ensemble_combine_CSVs_16seeds, 16, "submission_ensemble_mean_16seeds.csv"),
        (ensemble_combine_CSVs_all_23seeds, 23, "submission_ensemble_mean_23seeds.csv"),
    ],
)
def test_the_scripts_average_their_members(tmp_path, monkeypatch, capsys, script, count, output):
    monkeypatch.chdir(tmp_path)
    members = {
        member.run_name: make_submission(tmp_path / f"models/{member.run_name}/submission.csv", number)
        for number, member in enumerate(ensemble_combine_CSVs_all_23seeds.MEMBERS)
    }
    script.main([])
    assert f"Averaging {count} submissions" in capsys.readouterr().out
    chosen = [members[member.run_name] for member in script.MEMBERS]
    mean = read_submission(tmp_path / output)
    assert (mean.caption_ids == IDS).all()
    np.testing.assert_array_equal(mean.embeddings, stack(chosen).mean(axis=0).astype(np.float32))

    script.main([str(chosen[0]), str(chosen[1]), "--output", "own.csv", "--normalise"])
    expected = unit(stack(chosen[:2])).mean(axis=0)
    np.testing.assert_allclose(read_submission(tmp_path / "own.csv").embeddings, expected, rtol=1e-5)


def test_what_a_script_misses_is_named_with_the_commands_that_make_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for member in ensemble_combine_CSVs_16seeds.MEMBERS:
        make_submission(tmp_path / f"models/{member.run_name}/submission.csv", member.seed)
    for name in ("ensemble_raw_seed42", "ensemble_clip_adamw_seed42", "ensemble_clip_adamw_seed322"):
        (tmp_path / f"models/{name}/submission.csv").unlink()
    with pytest.raises(InputError) as error:
        ensemble_combine_CSVs_16seeds.main([])
    assert str(error.value) == (
        "models/ensemble_raw_seed42/submission.csv: no such file, nor those of 2 other members; run "
        "`python train_mrr_Ensemble_old_dataset.py --seeds 42` and "
        "`python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py --seeds 42 322`"
    )
    assert not list(tmp_path.glob("*.csv"))
    with pytest.raises(InputError, match=r"--seeds 42 1337 .* --models-dir elsewhere`"):
        ensemble_combine_CSVs_16seeds.main(["--models-dir", "elsewhere"])
    with pytest.raises(InputError, match=r"--models-dir 'other models'`"):
        ensemble_combine_CSVs_16seeds.main(["--models-dir", "other models"])


def test_what_is_not_the_submission_that_a_run_recorded_is_never_averaged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for member in ensemble_combine_CSVs_16seeds.MEMBERS:
        make_submission(tmp_path / f"models/{member.run_name}/submission.csv", member.seed)
    written = FileRecord("models/ensemble_raw_seed7/submission.csv", "another")
    record = RunRecord(run_name="", status="finished", recipe=BASELINE, data=DataRecord(), submission=written)
    write_run(tmp_path / "models/ensemble_raw_seed7", record)
    with pytest.raises(InputError, match=r"seed7/submission.csv: is not the one that its run recorded; .* --seeds 7`"):
        ensemble_combine_CSVs_16seeds.main([])
    assert not list(tmp_path.glob("*.csv"))
