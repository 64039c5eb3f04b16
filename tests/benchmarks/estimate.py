"""What a training would take that is too large to be run here: computed from the assumptions that it prints.

    python -m tests.benchmarks.estimate                                    # 100 million captions on 8 and 64 GPUs
    python -m tests.benchmarks.estimate --captions 10_000_000 --processes 1 8

The baseline's model, trained as src.training trains it by torchrun: each process has all images and its share of a
batch on its GPU, and gathers captions from the mapped file of its machine.
"""

import sys

from src.common.cli import Parser, positive_int, print_settings
from src.common.endings import run_main
from src.training.model import ResidualMLP
from src.training.recipe import BASELINE
from tests.benchmarks.measuring import markdown

TEXT_DIM, IMAGE_DIM, FLOAT, INDEX = 1024, 1536, 4, 8  # the challenge's widths; bytes
CAPTIONS_AN_IMAGE, LETTERS = 5, 60
BATCH, EPOCHS = 65_536, 8
RATE, DISK, NETWORK = 300e12, 3e9, 20e9  # of a GPU, FLOP/s; of a machine, of a process, bytes/s
GPUS_A_MACHINE = 8
ASSUMED = {
    "captions an image": f"{CAPTIONS_AN_IMAGE}, of {LETTERS} letters",
    "batch, epochs": f"{BATCH:,} captions of all processes, {EPOCHS}",
    "a GPU": f"{RATE / 1e12:.0f} TFLOP/s of matrix products in bfloat16, reached",
    "a machine": f"{GPUS_A_MACHINE} GPUs; reads {DISK / 1e9:.0f} GB/s in rows of {TEXT_DIM * FLOAT:,} bytes",
    "a process": f"sends {NETWORK / 1e9:.0f} GB/s",
}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--captions", type=positive_int, default=100_000_000, help="that train")
    parser.add_argument("--processes", type=positive_int, nargs="+", default=[8, 64], help="one a GPU")
    args = parser.parse_args(argv)
    print_settings(f"{args.captions:,} captions, {args.captions // CAPTIONS_AN_IMAGE:,} images", ASSUMED)
    columns = [estimate(args.captions, processes) for processes in args.processes]
    header = ["", *(f"{processes} processes" for processes in args.processes)]
    print(markdown([header, *([name, *(column[name] for column in columns)] for name in columns[0])]))


def estimate(captions: int, processes: int) -> dict[str, str]:
    images, shown = captions / CAPTIONS_AN_IMAGE, BATCH / CAPTIONS_AN_IMAGE
    rows, steps = BATCH / processes, EPOCHS * captions / BATCH
    mlp = ResidualMLP(TEXT_DIM, IMAGE_DIM, BASELINE.hidden_dim, depth=BASELINE.depth)
    parameters, width = mlp.num_parameters, TEXT_DIM + IMAGE_DIM + 4 * BASELINE.depth * BASELINE.hidden_dim

    gallery = FLOAT * images * IMAGE_DIM
    embeddings = FLOAT * captions * TEXT_DIM + gallery
    file = embeddings + captions * (INDEX + INDEX + FLOAT * LETTERS)  # ids, labels, texts
    own = (captions + images) * (sys.getsizeof("x" * LETTERS) + INDEX) + captions * (INDEX + FLOAT)
    state = 4 * FLOAT * parameters  # weights, gradients, two moments
    batch = rows * (FLOAT * width + 3 * FLOAT * shown)  # activations; logits, their exponentials and gradients
    indices = INDEX * (2 * captions + captions / processes + 2 * images)  # of the training part and of an epoch

    others = (processes - 1) / processes
    gradients = 2 * others * FLOAT * parameters  # around a ring (Patarasuk & Yuan 2009)
    normalisers = 3 * 2 * others * FLOAT * shown  # maximum, sum and gradient
    predictions = 2 * others * FLOAT * BATCH * IMAGE_DIM  # and gradients, if they were gathered instead

    products = 6 * (parameters + IMAGE_DIM * shown)  # FLOP a caption, forward and twice as much back
    compute = EPOCHS * captions * products / (processes * RATE)
    reading = EPOCHS * captions * TEXT_DIM * FLOAT / (DISK * max(1, processes / GPUS_A_MACHINE))
    sending = steps * (gradients + normalisers) / NETWORK
    return {
        "disk of a machine: `train.npz` and its cache": gigabytes(file + embeddings + captions * FLOAT),
        "memory of a GPU: images": gigabytes(gallery),
        "… all else": gigabytes(state + batch + indices),
        "memory of a process on the host, besides the mapped file": gigabytes(own),
        "sent by a process in a step: gradients": gigabytes(gradients),
        "… normalisers": gigabytes(normalisers),
        "… (predictions in their place)": gigabytes(predictions),
        "hours: matrix products": f"{compute / 3600:.2f}",
        "… reading captions, if none stays in memory": f"{reading / 3600:.2f}",
        "… sending, if none goes on meanwhile": f"{sending / 3600:.2f}",
    }


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


if __name__ == "__main__":
    run_main(main)
