"""Training steps on CPU or GPU, epochs of full size on a GPU, and the memory that training needs on the host.

Shapes: B captions and G images of a batch, T text width, H hidden width, V image width.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.data.pairs import Pairs, open_pairs
from src.training.batching import ImageGroups
from src.training.fit import fit
from src.training.inputs import OnDevice, Part, Split, TrainingData
from src.training.machine import Machine, choose_machine
from src.training.recipe import BASELINE, Recipe
from src.training.trainer import Trainer
from tests.benchmarks.measuring import Cost, Row, Sizes, best_seconds, format_seconds, in_own_process
from tests.benchmarks.opening import lack_of_memory
from tests.benchmarks.reference_files import open_train
from tests.benchmarks.reference_training import ReferenceTrainer

CAPTIONS_AN_IMAGE = 5
SEED_EPOCHS = 300  # of an ensemble member
MEMBERS = 23


def random_pairs(captions: int, images: int, sizes: Sizes) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs(
        caption_ids=np.arange(captions),
        caption_texts=np.full(captions, "", object),
        text_embeddings=rng.standard_normal((captions, sizes.text_dim), np.float32),
        image_of_caption=(np.arange(captions) * images // captions).astype(np.int32),
        image_names=np.array([f"{image:08}.jpg" for image in range(images)], object),
        image_embeddings=rng.standard_normal((images, sizes.image_dim), np.float32),
    )


def recipe_of(sizes: Sizes) -> Recipe:
    return replace(BASELINE, hidden_dim=sizes.hidden_dim, batch_size=sizes.batch_size)


def whole(pairs: Pairs, device: torch.device) -> Part:
    return OnDevice(pairs, device).part(np.ones(pairs.num_images, np.bool_))


def reference_trainer(train: Part, recipe: Recipe, device: torch.device) -> ReferenceTrainer:
    arrays = (tensor.cpu().numpy() for tensor in (train.text_nT, train.gallery_mV, train.target_n))
    return ReferenceTrainer(*arrays, recipe, device)


def matrix_rate(precision: str, device: torch.device, sizes: Sizes) -> float:
    """Floating-point operations a second of the branch's matrix product at the size of a batch, the best of some."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    inputs = torch.randn(sizes.batch_size, sizes.hidden_dim, device=device, dtype=dtype)
    weights = torch.randn(sizes.hidden_dim, sizes.hidden_dim, device=device, dtype=dtype)
    outputs, products = torch.empty_like(inputs), 50 if device.type == "cuda" else 1

    def work() -> None:
        for _ in range(products):
            torch.mm(inputs, weights.T, out=outputs)
        synchronize(device)

    work()
    seconds = best_seconds(5, work=work)["work"]
    return 2 * products * inputs.numel() * sizes.hidden_dim / seconds


def step_floor(captions: int, images: int, sizes: Sizes, rate: float) -> float:
    """Seconds of the matrix products of training on `captions`, `images` at a time being told apart, and nothing else.

    Forward, gradient of the weights, gradient of the inputs, but for those inputs that need none: the captions' and
    the images' embeddings.
    """
    text, hidden, image = sizes.text_dim, sizes.hidden_dim, sizes.image_dim
    layers = captions * (4 * text * hidden + 6 * 2 * hidden**2 + 6 * hidden * image)
    logits = captions * 4 * images * image
    return (layers + logits) / rate


def measure_steps(sizes: Sizes, machine: Machine) -> list[Row]:
    """One step in the default precision and in float32, each in its own process: ours changes how malloc works."""
    device, precisions = machine.device, list(dict.fromkeys([machine.precision, "float32"]))
    costs = {name: [] for name in ("reference", *precisions)}
    for _ in range(sizes.repeats):
        for name, seconds in costs.items():
            cost = in_own_process("tests.benchmarks.training:step_seconds", name, str(device), asdict(sizes))
            seconds.append(cost.seconds)
    best = {name: min(seconds) for name, seconds in costs.items()}
    rates = {precision: matrix_rate(precision, device, sizes) for precision in precisions}
    images = sizes.batch_size // CAPTIONS_AN_IMAGE
    captions = images * CAPTIONS_AN_IMAGE
    return [
        Row(
            work=f"training step, {precision}",
            size=f"{captions:,} captions, width {sizes.hidden_dim}, {device.type}",
            reference=Cost(best["reference"]),
            ours=Cost(best[precision]),
            floor=step_floor(captions, images, sizes, rates[precision]),
            note=f"reference: float32; floor: the matrix products at the measured {format_rate(rates[precision])}",
        )
        for precision in precisions
    ]


def step_seconds(trainer: str, device_name: str, sizes: dict[str, int]) -> float:
    """Seconds of a step of the "reference", or of ours in a precision; on a GPU the mean of the steps of an epoch."""
    sizes, device = Sizes(**sizes), torch.device(device_name)
    steps = 20 if device.type == "cuda" else 1
    images = steps * (sizes.batch_size // CAPTIONS_AN_IMAGE)
    train, recipe = whole(random_pairs(images * CAPTIONS_AN_IMAGE, images, sizes), device), recipe_of(sizes)
    if trainer == "reference":
        work = reference_trainer(train, recipe, device).train_epoch
    else:
        work = partial(Trainer(recipe, train, Machine(device, trainer)).train_epoch, 1, lambda: None)
    return best_seconds(3, work=work)["work"] / steps


def format_rate(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s"


def measure_gpu(sizes: Sizes, machine: Machine) -> list[Row]:
    """An epoch of all training captions, and what follows from it for a seed and for all members."""
    title, device, precision = "epoch on a GPU", machine.device, machine.precision
    if device.type != "cuda":
        return [Row(work=title, size="needs a GPU")]
    pairs = random_pairs(sizes.captions, sizes.images, sizes)
    recipe = recipe_of(sizes)
    split = split_of(pairs, recipe, device)

    def run_ours() -> dict[str, float]:
        trainer = Trainer(recipe, split.train, machine)
        works = {
            "epoch": partial(trainer.train_epoch, 1, lambda: None),
            "validation": lambda: split.validation.measure(trainer.translator),
        }
        return best_seconds(sizes.repeats, **works)

    def run_reference() -> dict[str, float]:
        return best_seconds(sizes.repeats, epoch=reference_trainer(split.train, recipe, device).train_epoch)

    (ours, peak), (reference, reference_peak) = (with_gpu_peak(work, device) for work in (run_ours, run_reference))
    groups = ImageGroups(split.train.target_n.cpu().numpy(), recipe.batch_size)
    captions, batches = len(split.train), groups.num_batches
    rate = matrix_rate(precision, device, sizes)
    images = len(split.train.images) // batches
    floor = step_floor(captions, images, sizes, rate)
    seed = SEED_EPOCHS * sum(ours.values())
    return [
        Row(
            work=title,
            size=f"{captions:,} captions, width {sizes.hidden_dim}, {precision}",
            reference=Cost(reference["epoch"], reference_peak),
            ours=Cost(ours["epoch"], peak),
            floor=floor,
            note=f"{captions / ours['epoch']:,.0f} captions/s, {floor / ours['epoch']:.1%} of the measured "
            f"{format_rate(rate)} in {precision}; validation {format_seconds(ours['validation'])}; "
            f"extrapolated from {sizes.repeats} epochs: a seed of {SEED_EPOCHS} epochs {seed:.0f} s, all {MEMBERS} "
            f"members {MEMBERS * seed / 60:.1f} minutes; peaks: of GPU memory",
        )
    ]


def with_gpu_peak(work: Callable[[], dict[str, float]], device: torch.device) -> tuple[dict[str, float], int]:
    """What `work` returns, and the most GPU memory that tensors took while it ran; they go when it returns."""
    torch.cuda.reset_peak_memory_stats(device)
    return work(), torch.cuda.max_memory_allocated(device)


def split_of(pairs: Pairs, recipe: Recipe, device: torch.device) -> Split:
    return TrainingData.of(pairs, device).split(recipe.val_fraction, recipe.effective_split_seed)


def measure_memory(train_npz: Path, sizes: Sizes) -> list[Row]:
    """The peak of a whole process on CPU: open the file, split, train one epoch, validate."""
    lacking = lack_of_memory(sizes, "float32")
    changes = {"hidden_dim": sizes.hidden_dim, "batch_size": sizes.batch_size}
    module = "tests.benchmarks.training"
    ours = in_own_process(f"{module}:train_once", str(train_npz), **changes)
    reference = Cost() if lacking else in_own_process(f"{module}:train_reference_once", str(train_npz), **changes)
    return [
        Row(
            work="open, train an epoch, validate",
            size=f"{sizes.captions:,} × {sizes.images:,}, width {sizes.hidden_dim}, cpu",
            reference=reference,
            ours=ours,
            note="peaks of the whole process with PyTorch; run once; the reference keeps no validation captions back"
            + lacking,
        )
    ]


def train_once(train_npz: str, **changes: int) -> None:
    recipe, machine = replace(BASELINE, epochs=1, **changes), choose_machine("cpu")
    split = split_of(open_pairs(train_npz), recipe, machine.device)
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, split, Path(folder), machine=machine)


def train_reference_once(train_npz: str, **changes: int) -> None:
    ReferenceTrainer(*open_train(train_npz), replace(BASELINE, **changes), torch.device("cpu")).train_epoch()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
