"""Translators in closed form: ridge regression from captions to images, on their embeddings or on a kernel of these.

Shapes: N captions and m images of the training part, T text width, V image width, F features (T, or L landmarks).

What a caption is regressed on is the unit vector of its image with the mean of all removed and the spread of their
directions evened out (`even_out`), and the prediction goes back through the same matrix, so that its dot product with
an image is the similarity that was fitted. The mean must go: ridge regression shrinks what it is unsure of, and would
shrink it towards the mean, to which some images are closer than others whatever the caption says. On 700 Flickr8k
photographs it took the MRR of a plain ridge from 0.42 to 0.34, and the further the stronger the ridge. Evening out lies
between regression on the embeddings (power 0) and canonical correlation (power 1, Hotelling 1936), which trusts
directions of small spread as much as those of large.

The strength of the ridge is found by generalised cross-validation (Golub, Heath & Wahba 1979). All captions of an
image have the same target, so what is left out is not a caption but an image with all of its own: of each image the
mean residual counts, and its leverage is that of its mean caption. Captions that have weights count by them.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from src.training.inputs import Part
from src.training.model import RidgeMap

ROWS_AT_ONCE = 8192
IMAGES_AT_ONCE = 2**15  # in float64: all of the challenge's
EVENING_POWER = 0.5
TEXT_FLOOR, IMAGE_FLOOR = 1e-3, 1e-2  # of the spread of a direction, in parts of the largest
GAMMA = 1.0  # of the kernel; unit vectors are 2 apart at most
STRENGTHS = tuple(10 ** (k / 4) for k in range(-28, 1))  # of the ridge, in parts of N
RESOLUTION = 1e-6  # of float32: what of the landmarks' kernel is smaller, in parts of its largest, is noise


def fit_ridge(train: Part, landmarks: int = 0, seed: int = 0) -> tuple[RidgeMap, dict[float, float]]:
    """Fit a linear map or, with `landmarks`, at most so many of the captions, drawn by the seed, a kernel's (Nyström;
    Williams & Seeger 2001). Returns it, on the part's device, and the generalised cross-validation of every strength:
    the squared distance of predictions to the targets, of unit length, of images that are left out."""
    device = torch.device("cpu") if train.of.device.type == "mps" else train.of.device  # which has no float64
    text_dim, image_dim = train.of.text_NT.shape[1], train.of.image_MV.shape[1]
    target_N = train.target_n.to(device)
    weight_N = torch.ones(len(train)) if train.weight_n is None else train.weight_n
    root_N = weight_N.to(device).sqrt()
    translator = RidgeMap(text_dim, image_dim, min(landmarks, len(train))).to(device)

    def units() -> Iterator[Tensor]:
        for text_BT in train.text_blocks(ROWS_AT_ONCE):
            yield translator.unit_vectors(text_BT.to(device))

    translator.center.copy_(train.of_features(lambda text_nT: text_nT.mean(dim=0)))
    translator.evening.copy_(torch.eye(text_dim))
    translator.gamma.fill_(GAMMA)
    translator.evening.copy_(even_out(units(), TEXT_FLOOR))

    centred_mV = F.normalize(train.gallery_mV.to(device), dim=1)
    centred_mV -= centred_mV.mean(dim=0)
    evening_VV = even_out(centred_mV.split(ROWS_AT_ONCE), IMAGE_FLOOR)

    def weighted() -> Iterator[Tensor]:
        for unit_BT, root_B in zip(units(), root_N.split(ROWS_AT_ONCE), strict=True):
            yield translator.features(unit_BT) * root_B[:, None]

    if landmarks:
        drawn_L = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:landmarks]
        drawn_LT = train.of.text(train.captions[drawn_L.to(train.captions.device)])
        translator.landmarks.copy_(translator.unit_vectors(drawn_LT.to(device)))
        kernel_FF = _orthonormal(translator.features(translator.landmarks))
        moment_FF = _moment(weighted())
        spread_r, rotation_Fr = torch.linalg.eigh(kernel_FF.T @ moment_FF @ kernel_FF)
        basis_Fr = kernel_FF @ rotation_Fr
    else:
        spread_r, basis_Fr = _spectrum(weighted())
    sums_mF = torch.zeros(len(centred_mV), len(basis_Fr), device=device)
    for block_BF, target_B, root_B in zip(
        weighted(), target_N.split(ROWS_AT_ONCE), root_N.split(ROWS_AT_ONCE), strict=True
    ):
        sums_mF.index_add_(0, target_B, block_BF * root_B[:, None])
    count_m = torch.bincount(target_N, root_N.square(), minlength=len(centred_mV))
    count = count_m.sum().item()
    products_rV, means_rr = basis_Fr.new_zeros(len(spread_r), image_dim), basis_Fr.new_zeros(2 * [len(spread_r)])
    blocks = (each.split(IMAGES_AT_ONCE) for each in (sums_mF, count_m, centred_mV))
    for sums_BF, count_B, centred_BV in zip(*blocks, strict=True):
        sums_Br = sums_BF.double() @ basis_Fr
        products_rV += sums_Br.T @ F.normalize(centred_BV.double() @ evening_VV, dim=1)
        sums_Br /= count_B.clamp(min=1e-6).sqrt()[:, None]
        means_rr += sums_Br.T @ sums_Br

    gcv, quadratic_rr = {}, means_rr * (products_rV @ products_rV.T)
    for strength in STRENGTHS:
        shrunk_r = 1 / (spread_r.clamp(min=0) + strength * count)
        explained = 2 * shrunk_r @ products_rV.square().sum(dim=1) - shrunk_r @ quadratic_rr @ shrunk_r
        leverage = shrunk_r @ means_rr.diagonal() / count_m.count_nonzero()
        gcv[strength] = ((1 - explained / count) / (1 - leverage) ** 2).item()
    shrunk_r = 1 / (spread_r.clamp(min=0) + best_strength(gcv) * count)
    translator.weight.copy_(basis_Fr @ (shrunk_r[:, None] * products_rV) @ evening_VV)
    return translator.to(train.of.device).eval(), gcv


def best_strength(gcv: Mapping[float, float]) -> float:
    """The strength whose generalised cross-validation is the lowest."""
    return min(gcv, key=gcv.__getitem__)


def even_out(blocks: Iterable[Tensor], floor: float) -> Tensor:
    """The matrix (D, D) float64 that takes vectors like these rows, which come in blocks and in whose second moment the
    directions have the shares s, to ones in which these are s^0.5; shares are raised by `floor` times the largest."""
    spread_r, basis_Dr = _spectrum(iter(blocks))
    shares_r = spread_r.clamp(min=0) / spread_r.max().clamp(min=1e-30) + floor
    power = -EVENING_POWER / 2
    matrix_DD = (basis_Dr * (shares_r**power - floor**power)) @ basis_Dr.T
    matrix_DD.diagonal().add_(floor**power)  # of the directions that no row has
    return matrix_DD


def _spectrum(blocks: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """The eigenvalues (r,) and eigenvectors (D, r), float64, of the second moment of N rows, which come in blocks; r is
    the smaller of N and D."""
    first_BD = next(blocks)
    if len(first_BD) < first_BD.shape[1]:
        _, singular_r, basis_rD = torch.linalg.svd(torch.cat([first_BD, *blocks]).double(), full_matrices=False)
        return singular_r.square(), basis_rD.T
    spread_D, basis_DD = torch.linalg.eigh(_moment(chain([first_BD], blocks)))
    return spread_D, basis_DD


def _moment(blocks: Iterable[Tensor]) -> Tensor:
    """The second moment of rows that come in blocks, not divided by their number: float64, of products in float32."""
    return sum(((block_BD.T @ block_BD).double() for block_BD in blocks), torch.zeros(()))


def _orthonormal(kernel_LL: Tensor) -> Tensor:
    """A basis (L, L) float64 in which functions of this kernel have the plain length that the ridge is on."""
    values_L, vectors_LL = torch.linalg.eigh(kernel_LL.double())
    return vectors_LL / values_L.clamp(min=RESOLUTION * values_L.max().item()).sqrt()
