"""The picture of a training, of any length."""

import pytest
from matplotlib.figure import Figure

import src.training.history
from src.training.history import plot_curves

NAMES = ("train_loss", "train_mrr", "mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], src.training.history.save_figure
    monkeypatch.setattr(src.training.history, "save_figure", lambda *args: (figures.append(args[0]), save(*args)))
    return figures


def history(epochs, **columns):
    rows = [{"epoch": epoch, "lr": 0.1} | dict.fromkeys(NAMES, epoch / epochs) for epoch in range(1, epochs + 1)]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


@pytest.mark.parametrize("epochs", [1, 3, 300])
def test_the_training_loss_stands_alone_and_the_mrrs_together(tmp_path, drawn, epochs):
    plot_curves(history(epochs), "a run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    loss, mrrs, others = drawn[0].axes  # no learning rate, which is constant
    assert len(loss.lines) == 2  # with the best epoch
    labels = [line.get_label() for line in mrrs.lines]
    assert "validation captions" in labels
    assert "training captions, a sample" in labels
    assert len(others.lines) == 5
    assert f"in epoch {epochs}" in mrrs.get_title()


def test_a_learning_rate_that_varies_is_drawn_and_the_best_epoch_marked_everywhere(tmp_path, drawn):
    plot_curves(history(3, lr=[1, 2, 1], mrr=[0.1, 0.4, 0.3]), "a run", tmp_path / "curves.png")
    assert len(drawn[0].axes) == 4
    for axes in drawn[0].axes:
        assert any([*line.get_xdata()] == [2, 2] for line in axes.lines)


def test_a_run_that_began_without_the_training_mrr_has_a_picture(tmp_path, drawn):
    rows = history(3)
    for row in rows[:2]:
        del row["train_mrr"]
    plot_curves(rows, "a run", tmp_path / "curves.png")
    for row in rows[2:]:
        del row["train_mrr"]
    plot_curves(rows, "a run", tmp_path / "curves.png")
    assert [len(figure.axes[1].lines) for figure in drawn] == [4, 3]
