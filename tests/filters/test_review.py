"""The review: pictures that show what they claim, choices that are written, and the notebook without hands."""

import json
import os
import subprocess
import sys

import ipywidgets as widgets
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from PIL import Image

from src.common.files import InputError
from src.data.keep_lists import open_keep_list
from src.data.pairs import fingerprint, open_pairs, save_pairs
from src.filters.decisions import ReviewDecisions
from src.filters.review import captions_of_image, choices, compare, contact_sheet, find_captions, plot_ranks
from tests.conftest import REPO
from tests.filters.conftest import make_pairs

NOTEBOOK = REPO / "visualize_split_top_50.ipynb"


@pytest.fixture
def table() -> pd.DataFrame:
    """Four captions of two images; the second prefers another image, the third a missing one."""
    captions = {
        "caption_id": [7, 3, 11, 5],
        "caption": ["a red square", "costs $5 or $6", "<b>bold</b>", "two dots"],
        "image": ["a.png", "a.png", "a.png", "b.png"],
        "rank": [2.0, 61.0, 2.0, 1.0],
        "score": np.array([0.5, 0.1, 0.6, 0.9], np.float32),
    }
    first = ["b.png", "b.png", "gone.png", "b.png"]
    captions |= {"preferred_1": first, "preferred_score_1": np.array([0.7, 0.8, 0.65, 0.9], np.float32)}
    captions |= {"preferred_2": ["a.png"] * 4, "preferred_score_2": np.array([0.5, 0.1, 0.6, 0.3], np.float32)}
    return pd.DataFrame(captions)


@pytest.fixture
def decisions(tmp_path) -> ReviewDecisions:
    save_pairs(make_pairs(captions=12), tmp_path / "pairs.npz")  # with ids 33, 30, … 0
    pairs = open_pairs(tmp_path / "pairs.npz")
    return ReviewDecisions(tmp_path / "decisions.csv", pairs, fingerprint(pairs.source))


# -------------------------------------------------------------------------------------------------- the pictures


def test_the_cut_is_marked_in_the_distribution_of_ranks(table):
    figure = plot_ranks(table, np.array([True, False, True, True]), 50)
    histogram, cumulative = figure.axes
    for axes in (histogram, cumulative):
        assert any(set(line.get_xdata()) == {50} for line in axes.lines)
    assert sum(patch.get_height() for patch in histogram.patches if patch.get_height()) >= 4
    assert [text.get_text() for text in histogram.get_legend().get_texts()][:2] == ["kept: 3", "dropped: 1"]
    assert "the first 50: 75.0%" in cumulative.get_legend().get_texts()[0].get_text()


def test_a_contact_sheet_frames_the_own_image_in_green_beside_what_the_caption_prefers(table, tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (300, 200), colour).save(tmp_path / name)
    figure = contact_sheet(table.iloc[1:3], tmp_path)
    figure.savefig(tmp_path / "sheet.png")
    assert len(figure.axes) == 2 * 6
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["own: rank 61, 0.100", "1: 0.800", "2: 0.100"]
    assert titles[6:9] == ["own: rank 2, 0.600", "1: 0.650", "2: 0.600"]
    framed = [
        [patch for patch in axes.patches if same_color(patch.get_edgecolor(), "tab:green")] for axes in figure.axes
    ]
    assert [bool(frame) for frame in framed] == [True, False, True, False, False, False] * 2, "wherever it stands"
    shown = [axes.images[0].get_array()[0, 0].tolist() if axes.images else None for axes in figure.axes]
    red, blue = [255, 0, 0], [0, 0, 255]
    assert shown == [red, blue, red, None, None, None, red, None, red, None, None, None], "a missing image is a gap"
    assert max(axes.images[0].get_array().shape[0] for axes in figure.axes if axes.images) <= 160
    assert figure.subfigs[0].get_suptitle() == "3: costs $5 or $6"


def test_a_sheet_shows_images_by_any_spelling_of_their_names_and_any_text(table, tmp_path):
    for name in ("A.PNG", "b.PNG"):
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    table.loc[0, "caption"] = "half \ud83d of an emoji, \0 and \a"
    figure = contact_sheet(table.iloc[:1], tmp_path)
    with pytest.warns(UserWarning, match="Glyph"):
        figure.savefig(tmp_path / "sheet.png")
    assert [bool(axes.images) for axes in figure.axes[:3]] == [True, True, True]


def test_a_sheet_of_no_captions_is_drawn(table, tmp_path):
    contact_sheet(table.iloc[:0], tmp_path).savefig(tmp_path / "empty.png")


# --------------------------------------------------------------------------------------------------- the tables


def test_captions_of_an_image_stand_strongest_first(table):
    found = captions_of_image(table, "a.png", np.array([True, False, True, True]))
    assert found.index.tolist() == [11, 7, 3], "by rank, of equal ranks by score"
    assert found.kept.tolist() == ["yes", "yes", "no"]
    assert found.decided.tolist() == [""] * 3
    assert "&lt;b&gt;" in found._repr_html_()


def test_the_table_shows_what_was_decided(decisions, table):
    decisions.decide(3, "keep")
    found = captions_of_image(table, "a.png", np.ones(4, bool), decisions)
    assert found.decided.to_dict() == {11: "", 7: "", 3: "keep"}


def test_captions_are_found_by_their_ids(table):
    assert find_captions(table, "11 7").caption_id.tolist() == [11, 7]
    for ids, reason in (("11 8", "8: no caption has this id"), ("7, x", "expected the ids")):
        with pytest.raises(InputError, match=reason):
            find_captions(table, ids)


def test_before_and_after_are_counted(table):
    summary = compare(table, table["rank"].to_numpy() == 1)
    assert summary.loc["captions"].tolist() == ["4", "1", "3"]
    assert summary.loc["images with captions"].tolist() == ["2", "1", "1"]
    assert summary.loc["captions an image"].tolist() == ["2.00", "1.00", "3.00"]
    assert summary.loc["median rank"].tolist() == ["2", "1", "2"]
    assert summary.loc["own image first"].tolist() == ["25.0%", "100.0%", "0.0%"]
    assert summary.loc["MRR", "all (before)"] == f"{(1 / 2 + 1 / 61 + 1 / 2 + 1) / 4:.3f}"
    assert summary.loc["mean score", "clean (after)"] == "0.900"


# -------------------------------------------------------------------------------------------------- the choices


def buttons_and_texts(box: widgets.VBox):
    lines = [line.children for line in box.children]
    return [line[0] for line in lines], [line[1].value for line in lines]


def test_choices_are_written_at_once_and_are_there_again(decisions, table):
    rows = table.iloc[:3].assign(caption_id=[33, 3, 0])
    decisions.decide(0, "drop")
    buttons, texts = buttons_and_texts(choices(rows, decisions))
    assert [button.value for button in buttons] == ["by rank", "by rank", "drop"]
    assert texts[2] == "0, rank 2: &lt;b&gt;bold&lt;/b&gt;", "captions are no HTML"
    buttons[0].value = "keep"
    assert decisions.read() == {0: "drop", 33: "keep"}
    buttons[1].value = "drop"
    buttons[0].value = "by rank"
    assert decisions.read() == {0: "drop", 3: "drop"}
    again, _ = buttons_and_texts(choices(rows, decisions))
    assert [button.value for button in again] == ["by rank", "drop", "drop"]


# ------------------------------------------------------------------------------------------------- the notebook


def outputs_of(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_without_hands(run_script, sample, tmp_path):
    raw = open_pairs(sample / "train/train.npz")
    review = ReviewDecisions(tmp_path / "out/review_decisions.csv", raw, fingerprint(raw.source))
    review.decide(5, "drop")
    parameters = {
        "INPUT_NPZ": raw.source,
        "IMAGES_ROOT": sample / "train/Images",
        "OUTPUT_DIR": tmp_path / "out",
        "MODELS_DIR": tmp_path / "models",
        "TOP_K": 30,
        "REVIEW_CAPTIONS": "17 5",
    }
    given = [part for name, value in parameters.items() for part in ("-p", name, value)]
    folds = ("-y", "{FOLDS: 2, FOLD_CHANGES: {hidden_dim: 32, epochs: 3}}")
    environment = {"IPYTHONDIR": str(tmp_path / "ipython")}
    result = run_script("-m", "papermill", NOTEBOOK, tmp_path / "executed.ipynb", *given, *folds, env=environment)
    assert result.returncode == 0, result.stderr
    outputs = outputs_of(nbformat.read(tmp_path / "executed.ipynb", 4))
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 3
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    assert "topk_fold with hidden_dim=32,epochs=3" in text
    assert "1 honoured (0 keep, 1 drop)" in text
    keep_list = open_keep_list(tmp_path / "out/train_folds2_clean_top30.keep.npz")
    assert not keep_list.keep[raw.caption_ids == 5].any()
    assert len(open_pairs(tmp_path / "out/train_folds2_clean_top30.npz")) == keep_list.keep.sum()
    assert len(open_pairs(tmp_path / "out/train_folds2_suspect_top30.npz")) == (~keep_list.keep).sum()

    result = run_script("-m", "papermill", NOTEBOOK, tmp_path / "again.ipynb", *given, env=environment)
    assert result.returncode == 0, result.stderr
    opening = outputs_of(nbformat.read(tmp_path / "again.ipynb", 4))[0].text
    assert "2 models that did not see the image" in opening
    assert "of these pairs by the same model: there already" in opening


@pytest.mark.slow
@pytest.mark.parametrize("how", ["papermill", "nbclient", "nbconvert"])
def test_the_notebook_runs_from_any_folder(run_script, sample, tmp_path, how):
    """By the data of its project, with no folder told to Python; what is given is seen from where it was started."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project / "data/train").mkdir(parents=True)
    (project / "src").symlink_to(REPO / "src")
    (project / "data/train/train.npz").symlink_to(sample / "train/train.npz")
    (elsewhere / "mine.npz").symlink_to(sample / "train/train.npz")
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells[1].source += "\nFOLDS, FOLD_CHANGES, TOP_K = 2, {'hidden_dim': 32, 'epochs': 1}, 30"
    nbformat.write(notebook, project / NOTEBOOK.name)
    command = {
        "papermill": ("-m", "papermill", f"../project/{NOTEBOOK.name}", "out.ipynb", "-p", "INPUT_NPZ", "mine.npz"),
        "nbclient": ("-c", EXECUTE, project / NOTEBOOK.name),
        "nbconvert": ("-m", "nbconvert", "--to", "notebook", "--execute", f"../project/{NOTEBOOK.name}"),
    }[how]
    environment = os.environ | {"PYTHONPATH": "", "IPYTHONDIR": str(tmp_path / "ipython")}
    result = subprocess.run([sys.executable, *command], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    stem = "mine" if how == "papermill" else "train"
    assert (project / f"data/filtered/{stem}_folds2_clean_top30.npz").exists()
    assert not (elsewhere / "data").exists()


EXECUTE = """
import sys, nbclient, nbformat
nbclient.NotebookClient(nbformat.read(sys.argv[1], 4), kernel_name="python3").execute()
"""


@pytest.fixture
def find_project(tmp_path):
    """Run the lines by which the notebook finds its project from a folder; what they print: the folder that they left
    and the one they are in."""
    source = nbformat.read(NOTEBOOK, 4).cells[2].source
    lines = source[source.index("# No kernel") : source.index("from src.common import paths")]
    code = "import os, psutil, sys\nfrom pathlib import Path\n%s\n" + lines + "\nprint(Path.cwd(), sys.path[0])"

    def start(folder, *words, project=None, path=""):
        """words: of the command that starts the kernel; path: where Python looks for packages."""
        shell = 'kernel=$1 code=$2; shift 2; "$kernel" -c "$code"; exit $?'
        command = ["bash", "-c", shell, "bash", sys.executable, code % f"PROJECT = {project!r}", *words]
        environment = os.environ | {"PYTHONPATH": str(path), "PWD": str(folder)}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return start


@pytest.fixture
def projects(tmp_path):
    """Two copies of the project's notebook: a/project/ and b/project/."""
    folders = [tmp_path / name / "project" for name in ("a", "b")]
    for folder in folders:
        (folder / "src/filters").mkdir(parents=True)
        (folder / NOTEBOOK.name).touch()
    (tmp_path / "empty").mkdir()
    return folders


def test_the_notebook_finds_its_project(find_project, projects, tmp_path):
    ours, other = projects
    for result in (
        find_project(ours),
        find_project(ours / "src/filters"),
        find_project(other, f"../../a/project/{NOTEBOOK.name}"),
        find_project(tmp_path / "empty", str(ours / NOTEBOOK.name), "out.ipynb"),
        find_project(tmp_path / "empty", path=ours),
        find_project(other, project=str(ours)),
        find_project(other, project="../../a/project"),
    ):
        assert (result.stdout, result.stderr) == (f"{ours} {ours}\n", "")
    neighbour = tmp_path / "a/empty"
    neighbour.mkdir()
    assert find_project(neighbour).stdout == f"{ours} {ours}\n"


def test_the_committed_notebook_reads_well_on_the_web():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    outputs = outputs_of(notebook)
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/jpeg") == 3
    assert kinds.count("text/html") >= 2
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 600_000
    text = json.dumps(outputs)
    for absolute in ("/home/", "/tmp/", "/root/", "/Users/", os.fspath(REPO)):
        assert absolute not in text
