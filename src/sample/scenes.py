"""Invented scenes for the embedded sample: coloured shapes in front of a background, painted and described.

One scene has many pictures and many captions, all drawn from the generator that is given. Captions leave facts out,
as people's do: several scenes may fit one caption.
"""

from collections.abc import Collection
from itertools import combinations
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

IMAGE_SIZE = 96  # pixels a side


def _spokes(count: int, first: float, inner: float = 1.0, width: float = 1.0) -> np.ndarray:
    """Corners (count, 2) around the unit circle from the angle `first` in degrees, every other one at `inner`."""
    angles = np.radians(first + np.arange(count) * 360 / count)
    reach = np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([width * reach * np.cos(angles), -reach * np.sin(angles)], axis=1)


_TURN = np.linspace(0, 2 * np.pi, 60)
_HEART_UP = (13 * np.cos(_TURN) - 5 * np.cos(2 * _TURN) - 2 * np.cos(3 * _TURN) - np.cos(4 * _TURN)) / 16
_CROSS_X = np.array([-0.33, 0.33, 0.33, 1, 1, 0.33, 0.33, -0.33, -0.33, -1, -1, -0.33])

# Here and below, names come with what people call them: a word that stands twice is said twice as often.
# An outline is corners (x, y), y downwards, or discs (x of the centre, radius, grey), in parts of the thing's radius.
_SHAPES: dict[str, tuple[tuple[str, ...], np.ndarray | list[tuple[float, float, int]]]] = {
    "circle": (("circle", "disc", "ball"), [(0, 1, 255)]),
    "square": (("square", "square", "box"), _spokes(4, first=45)),
    "triangle": (("triangle",), _spokes(3, first=90)),
    "star": (("star", "five-pointed star"), _spokes(10, first=90, inner=0.42)),
    "heart": (("heart",), np.stack([np.sin(_TURN) ** 3, -_HEART_UP], axis=1)),
    "diamond": (("diamond", "rhombus"), _spokes(4, first=90, width=0.72)),
    "cross": (("cross", "plus sign"), np.stack([_CROSS_X, np.roll(_CROSS_X, 3)], axis=1)),
    "ring": (("ring", "hoop"), [(0, 1, 255), (0, 0.55, 0)]),
    "moon": (("crescent", "moon", "crescent moon"), [(0, 1, 255), (0.5, 0.85, 0)]),
}
_COLOURS = {
    "red": ((214, 44, 46), ("red", "red", "crimson", "bright red")),
    "orange": ((242, 132, 28), ("orange", "orange", "tangerine")),
    "yellow": ((246, 206, 40), ("yellow", "yellow", "golden")),
    "green": ((40, 152, 76), ("green", "green", "emerald", "dark green")),
    "blue": ((38, 92, 208), ("blue", "blue", "royal blue", "deep blue")),
    "purple": ((126, 62, 176), ("purple", "purple", "violet")),
    "pink": ((242, 104, 170), ("pink", "pink", "rose")),
    "brown": ((128, 80, 44), ("brown", "brown", "chocolate brown")),
    "black": ((34, 34, 40), ("black", "black", "jet black")),
    "white": ((252, 252, 250), ("white", "white", "snow white")),
}
_BACKGROUNDS = {
    "white": ((240, 240, 238), ("white", "plain white", "off-white")),
    "grey": ((164, 168, 174), ("grey", "gray", "silver")),
    "green": ((178, 222, 172), ("light green", "pale green", "green", "mint")),
    "blue": ((168, 210, 242), ("light blue", "pale blue", "blue", "sky blue")),
    "pink": ((250, 206, 214), ("light pink", "pale pink", "pink", "pinkish")),
    "yellow": ((250, 238, 178), ("light yellow", "cream", "yellow", "beige")),
    "purple": ((208, 192, 236), ("light purple", "lavender", "purple", "lilac")),
    "dark": ((56, 60, 78), ("dark", "dark grey", "nearly black", "night-dark")),
}
_PATTERNS = {"plain": ("",), "stripes": ("striped", "stripy"), "dots": ("dotted", "spotted")}
_SIZES = {
    "small": (0.135, ("small", "little", "tiny")),
    "medium": (0.18, ("medium-sized", "mid-sized")),
    "large": (0.23, ("large", "big", "huge")),
}
_NUMBERS = {2: ("two", "two", "a pair of"), 3: ("three", "three", "a trio of"), 4: ("four",)}
_OPENINGS = ("a picture of ", "an image of ", "there is ", "I see ", "a drawing of ", "here we have ", "this shows ")
_WITH_SETTING = (
    "{opening}{content} on {background}",
    "{opening}{content} in front of {background}",
    "{opening}{content} against {setting}",
    "{opening}{content} on {setting}",
    "on {background}, {content}",
    "{content}; the background is {setting}",
    "the background is {setting}, with {content} on it",
    "{setting} background with {content}",
)


class Thing(NamedTuple):
    kind: tuple[str, str, str]  # shape, colour, size
    x: float  # of the centre; all three in parts of the picture's side, y downwards
    y: float
    radius: float


class Scene(NamedTuple):
    background: str
    pattern: str
    things: list[Thing]  # one to four that do not touch


def random_scene(rng: np.random.Generator) -> Scene:
    """Invent one scene; the things keep apart, and none of them has the background's tone."""
    background = _pick(rng, _BACKGROUNDS)
    colours = [colour for colour in _COLOURS if (background, colour) not in (("white", "white"), ("dark", "black"))]
    count = rng.choice([1, 2, 3, 4], p=[0.08, 0.42, 0.35, 0.15])
    kinds = [(_pick(rng, _SHAPES), _pick(rng, colours), _pick(rng, _SIZES)) for _ in range(count)]
    if len(kinds) < 3 and rng.random() < 0.4:  # a few of the same, so that there is something to count
        kinds += [kinds[0]] * rng.integers(1, 3)
    scale = 1.0
    while True:
        things = []
        for kind in kinds:
            radius = scale * _SIZES[kind[2]][0] * rng.uniform(0.92, 1.08)
            x, y = rng.uniform(radius + 0.02, 0.98 - radius, 2)
            things.append(Thing(kind, x, y, radius))
        if all(np.hypot(a.x - b.x, a.y - b.y) > 1.08 * (a.radius + b.radius) for a, b in combinations(things, 2)):
            return Scene(background, _pick(rng, ("plain", "plain", "stripes", "dots")), things)
        scale *= 0.995  # a crowd gets smaller until it fits


def paint(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene as a picture, (IMAGE_SIZE, IMAGE_SIZE, 3) uint8: shaded things with soft shadows, slightly grainy."""
    side = 3 * IMAGE_SIZE  # scaled down in the end, for smooth edges
    rows, columns = np.mgrid[:side, :side] / side
    tone = np.array(_BACKGROUNDS[scene.background][0]) + rng.normal(0, 4, 3)
    shade = rng.uniform(-14, 14) * (rows - 0.5) + rng.uniform(-14, 14) * (columns - 0.5)
    waves, phase = rng.uniform(6, 8) * 2 * np.pi, rng.uniform(0, 2 * np.pi, 2)
    if scene.pattern == "stripes":
        shade -= 24 * (np.sin(waves * (rows + columns) + phase[0]) > 0)
    elif scene.pattern == "dots":
        shade -= 34 * (np.sin(waves * rows + phase[0]) + np.sin(waves * columns + phase[1]) > 1.1)
    canvas = Image.fromarray(np.clip(tone + shade[:, :, None], 0, 255).astype(np.uint8))
    for (shape, colour, _), x, y, relative_radius in scene.things:
        radius = round(relative_radius * side)
        corner = (round(x * side) - 2 * radius, round(y * side) - 2 * radius)
        mask = _silhouette(shape, radius).rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
        shadow = ImageChops.offset(mask, radius // 10, radius // 7).filter(ImageFilter.GaussianBlur(radius / 9))
        canvas.paste((20, 20, 30), corner, shadow.point(lambda value: value * 0.45))
        tone = np.array(_COLOURS[colour][0]) + rng.normal(0, 7, 3)
        light = np.linspace(22, -26, 4 * radius)[:, None, None]  # from above
        body = np.clip(tone + light, 0, 255).astype(np.uint8).repeat(4 * radius, axis=1)
        canvas.paste(Image.fromarray(body), corner, mask)
    picture = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), np.float32)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def _silhouette(shape: str, radius: int) -> Image.Image:
    """Greyscale mask of 4 x 4 radii with the shape in its middle."""
    mask = Image.new("L", (4 * radius, 4 * radius))
    draw, outline = ImageDraw.Draw(mask), _SHAPES[shape][1]
    if isinstance(outline, np.ndarray):
        draw.polygon((radius * (2 + outline)).ravel().tolist(), fill=255)
    else:
        for x, size, grey in outline:
            draw.ellipse([radius * edge for edge in (2 + x - size, 2 - size, 2 + x + size, 2 + size)], fill=grey)
    return mask


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence about the scene: which facts it names, in which words and order, is drawn from `rng`."""
    kinds = dict.fromkeys(thing.kind for thing in scene.things)
    groups = [[thing for thing in scene.things if thing.kind == kind] for kind in kinds]
    order = rng.permutation(len(groups))
    told = [groups[i] for i in order[: max(2, len(order) - (rng.random() < 0.35))]]
    phrases = [_noun_phrase(group[0].kind, len(group), rng) for group in told]
    setting = ""
    if len(told) == 1 or rng.random() < 0.7:  # a single group says too little alone
        pattern = _pick(rng, _PATTERNS[scene.pattern]) if rng.random() < 0.75 else ""
        setting = f"{pattern} {_pick(rng, _BACKGROUNDS[scene.background][1])}".strip()
    if len(told) == 1:
        content = phrases[0] + (_whereabouts(told[0][0], rng) if len(told[0]) == 1 else "")
    elif len(told[0]) == len(told[1]) == 1 and rng.random() < 0.65:
        content = f"{phrases[0]} {_relation(told[0][0], told[1][0], rng)} {phrases[1]}"
        content += "".join(_pick(rng, (" and ", ", with ", ", plus ")) + more for more in phrases[2:])
    else:
        joint = _pick(rng, (" and ", " and ", " with ", " together with ", " as well as "))
        content = ", ".join(phrases[:-1]) + joint + phrases[-1]
    opening = _pick(rng, ("", "", "", "", *_OPENINGS))
    if opening == "there is " and not content.startswith(("a ", "an ", "one ")):
        opening = "there are "
    template = _pick(rng, _WITH_SETTING) if setting else "{opening}{content}"
    background = _with_article(f"{setting} background")
    text = template.format(opening=opening, content=content, setting=setting, background=background)
    return text[0].upper() + text[1:] + _pick(rng, (".", ".", ""))


def _noun_phrase(kind: tuple[str, str, str], count: int, rng: np.random.Generator) -> str:
    """What people call `count` things of a kind: "a big red star", "two rings"."""
    shape, colour, size = kind
    words = [_pick(rng, _SIZES[size][1])] if rng.random() < (0.08 if size == "medium" else 0.5) else []
    vague = rng.random()
    if vague > 0.06:
        words.append(_pick(rng, _COLOURS[colour][1]))
    noun = _pick(rng, _SHAPES[shape][0])
    if vague > 0.94:
        noun = "shape" if count > 1 else _pick(rng, ("shape", "thing"))
    if count > 1:
        return " ".join([_pick(rng, _NUMBERS[count]), *words, noun + ("es" if noun[-1] in "sx" else "s")])
    phrase = " ".join([*words, noun])
    return f"one {phrase}" if _pick(rng, ("a", "a", "a", "one")) == "one" else _with_article(phrase)


def _relation(a: Thing, b: Thing, rng: np.random.Generator) -> str:
    """How `a` stands to `b`, along the axis on which they are further apart."""
    if rng.random() < 0.25:
        return _pick(rng, ("next to", "beside", "near"))
    across, down = b.x - a.x, b.y - a.y
    if abs(across) > abs(down):
        return _pick(rng, ("{} of", "to the {} of", "on the {} of")).format("left" if across > 0 else "right")
    return _pick(rng, ("above", "over", "higher than") if down > 0 else ("below", "under", "underneath"))


def _whereabouts(thing: Thing, rng: np.random.Generator) -> str:
    """Where one thing is in the picture: " in the top left corner", or nothing."""
    row, column = ("top", "", "bottom")[int(3 * thing.y)], ("left", "", "right")[int(3 * thing.x)]
    if row and column:
        return _pick(rng, (f" in the {row} {column} corner", f" at the {row} {column}", ""))
    if row or column:
        return _pick(rng, (f" at the {row}" if row else f" on the {column} side", ""))
    return _pick(rng, (" in the middle", " in the center", ""))


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _pick(rng: np.random.Generator, options: Collection[str]) -> str:
    return tuple(options)[rng.integers(len(options))]
