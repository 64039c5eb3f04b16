"""How all pictures look, and how they are saved. To be imported by what draws: matplotlib takes long."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.common.files import atomic_path

# Told apart by the colour-blind, too (Okabe & Ito 2008); GREY is for what is to compare with.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
DPI = 110
REFERENCE: dict[str, Any] = {"color": GREY, "lw": 1, "ls": ":"}  # a line that marks a place


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts never overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def finish(axes: Axes, **labels: Any) -> None:
    """Label axes, by what `Axes.set` takes; a grid behind, no frame above and beside, a legend if anything has a
    label."""
    axes.set(**labels)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def save_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
