"""Invented scenes for the embedded sample: what is in a picture, how it is painted, how people describe it.

A scene is one to four coloured shapes in front of a background. `random_scene` invents it, `paint` renders it and
`describe` says a sentence about it; each draws its own variety from the generator that it is given, so one scene
has many pictures and many captions. Captions name some of the facts and leave others out, as people do: several
scenes may fit one caption, and no caption says everything.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

IMAGE_SIZE = 96  # pixels a side
_OVERSAMPLING = 3  # painted this much larger and scaled down, for smooth edges

# The first word is the plain one, the others are what people say now and then.
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
_SHAPES = {
    "circle": (("circle", "disc", "ball"), ("circles", "discs", "balls")),
    "square": (("square", "square", "box"), ("squares", "squares", "boxes")),
    "triangle": (("triangle",), ("triangles",)),
    "star": (("star", "five-pointed star"), ("stars", "five-pointed stars")),
    "heart": (("heart",), ("hearts",)),
    "diamond": (("diamond", "rhombus"), ("diamonds", "rhombuses")),
    "cross": (("cross", "plus sign"), ("crosses", "plus signs")),
    "ring": (("ring", "hoop"), ("rings", "hoops")),
    "moon": (("crescent", "moon", "crescent moon"), ("crescents", "moons", "crescent moons")),
}
_SIZES = {
    "small": (0.135, ("small", "little", "tiny")),
    "medium": (0.18, ("medium-sized", "mid-sized")),
    "large": (0.23, ("large", "big", "huge")),
}
_OPENINGS = ("a picture of ", "an image of ", "there is ", "I see ", "a drawing of ", "here we have ", "this shows ")
_NUMBERS = {2: ("two", "two", "a pair of"), 3: ("three", "three", "a trio of"), 4: ("four",)}


@dataclass(frozen=True)
class Thing:
    """One coloured shape: centre `x`, `y` and `radius` in parts of the picture's side, y downwards."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A background colour, its pattern, and one to four things that do not touch."""

    background: str
    pattern: str
    things: tuple[Thing, ...]


def random_scene(rng: np.random.Generator) -> Scene:
    """Invents one scene; the things keep apart, and none of them has the background's tone."""
    background = _pick(rng, list(_BACKGROUNDS))
    unseen = {"white": "white", "dark": "black"}.get(background)
    colours = [colour for colour in _COLOURS if colour != unseen]
    kinds = [
        (_pick(rng, list(_SHAPES)), _pick(rng, colours), _pick(rng, list(_SIZES)))
        for _ in range(rng.choice([1, 2, 3, 4], p=[0.08, 0.42, 0.35, 0.15]))
    ]
    if len(kinds) < 3 and rng.random() < 0.4:  # a few of the same, so that there is something to count
        kinds += [kinds[0]] * rng.integers(1, 3)
    scale = 1.0
    while True:
        things = [_place(*kind, scale, rng) for kind in kinds]
        if all(
            np.hypot(a.x - b.x, a.y - b.y) > 1.08 * (a.radius + b.radius)
            for i, a in enumerate(things)
            for b in things[:i]
        ):
            return Scene(background, _pick(rng, ["plain", "plain", "stripes", "dots"]), tuple(things))
        scale *= 0.995  # a crowd gets smaller until it fits


def _place(shape: str, colour: str, size: str, scale: float, rng: np.random.Generator) -> Thing:
    """A thing somewhere within the picture."""
    radius = scale * _SIZES[size][0] * rng.uniform(0.92, 1.08)
    x, y = rng.uniform(radius + 0.02, 0.98 - radius, 2)
    return Thing(shape, colour, size, x, y, radius)


# ---------------------------------------------------------------------------------------------- painting


def paint(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene as a picture, (IMAGE_SIZE, IMAGE_SIZE, 3) uint8: shaded things with soft shadows, slightly grainy."""
    side = IMAGE_SIZE * _OVERSAMPLING
    canvas = Image.fromarray(_backdrop(scene, side, rng))
    for thing in scene.things:
        radius = round(thing.radius * side)
        corner = (round(thing.x * side) - 2 * radius, round(thing.y * side) - 2 * radius)
        mask = _silhouette(thing.shape, radius, rng.uniform(-12, 12))
        shadow = ImageChops.offset(mask, radius // 10, radius // 7).filter(ImageFilter.GaussianBlur(radius / 9))
        canvas.paste((20, 20, 30), corner, shadow.point(lambda value: value * 0.45))
        tone = np.array(_COLOURS[thing.colour][0]) + rng.normal(0, 7, 3)
        light = np.linspace(22, -26, 4 * radius)[:, None, None]  # lit from above
        body = np.clip(np.broadcast_to(tone + light, (4 * radius, 4 * radius, 3)), 0, 255).astype(np.uint8)
        canvas.paste(Image.fromarray(body), corner, mask)
    picture = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), np.float32)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def _backdrop(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8: the background's tone with a slant of light and, maybe, a faint pattern."""
    rows, columns = np.mgrid[:side, :side] / side
    tone = np.array(_BACKGROUNDS[scene.background][0]) + rng.normal(0, 4, 3)
    shade = rng.uniform(-14, 14) * (rows - 0.5) + rng.uniform(-14, 14) * (columns - 0.5)
    waves, phase = rng.uniform(6, 8) * 2 * np.pi, rng.uniform(0, 2 * np.pi, 2)
    if scene.pattern == "stripes":
        shade -= 24 * (np.sin(waves * (rows + columns) + phase[0]) > 0)
    elif scene.pattern == "dots":
        shade -= 34 * (np.sin(waves * rows + phase[0]) + np.sin(waves * columns + phase[1]) > 1.1)
    return np.clip(tone + shade[:, :, None], 0, 255).astype(np.uint8)


def _silhouette(shape: str, radius: int, tilt: float) -> Image.Image:
    """Greyscale mask of 4 x 4 radii with the shape in its middle, tilted by some degrees."""
    mask = Image.new("L", (4 * radius, 4 * radius))
    draw = ImageDraw.Draw(mask)

    def disc(size: float, value: int, shift: float = 0.0) -> None:
        left, top, right, bottom = 2 + shift - size, 2 - size, 2 + shift + size, 2 + size
        draw.ellipse([radius * edge for edge in (left, top, right, bottom)], fill=value)

    if shape in ("circle", "ring", "moon"):
        disc(1.0, 255)
        if shape == "ring":
            disc(0.55, 0)
        elif shape == "moon":
            disc(0.85, 0, shift=0.5)
    else:
        draw.polygon([(radius * (2 + x), radius * (2 + y)) for x, y in _outline(shape)], fill=255)
    return mask.rotate(tilt, Image.Resampling.BICUBIC)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit circle, y downwards."""
    if shape == "heart":
        turn = np.linspace(0, 2 * np.pi, 60)
        up = (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 16
        return list(zip(np.sin(turn) ** 3, -up, strict=True))
    if shape == "cross":
        arm = 0.33
        quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)])
        turned = [quarter @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return [tuple(corner) for corner in np.concatenate(turned)]
    corners, first, inner = {
        "square": (4, 45, 1),
        "triangle": (3, 90, 1),
        "diamond": (4, 90, 1),
        "star": (10, 90, 0.42),
    }[shape]
    angles = np.radians(first + np.arange(corners) * 360 / corners)
    reach = np.where(np.arange(corners) % 2, inner, 1.0)
    narrow = 0.72 if shape == "diamond" else 1.0
    return list(zip(narrow * reach * np.cos(angles), -reach * np.sin(angles), strict=True))


# -------------------------------------------------------------------------------------------- describing


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence about the scene: which facts it names, in which words and order, is drawn from `rng`."""
    groups = _groups(scene)
    order = rng.permutation(len(groups))
    told = [groups[i] for i in order[: max(2, len(order) - (rng.random() < 0.35))]]
    phrases = [_phrase(group, rng) for group in told]
    # A single group says too little alone: then the background always comes with it.
    setting = _setting(scene, rng) if len(told) == 1 or rng.random() < 0.7 else ""
    if len(told) == 1:
        content = phrases[0] + (_whereabouts(told[0][0], rng) if len(told[0]) == 1 else "")
    elif len(told[0]) == len(told[1]) == 1 and rng.random() < 0.65:
        content = f"{phrases[0]} {_relation(told[0][0], told[1][0], rng)} {phrases[1]}"
        content += "".join(_pick(rng, (f" and {more}", f", with {more}", f", plus {more}")) for more in phrases[2:])
    else:
        joint = _pick(rng, (" and ", " and ", " with ", " together with ", " as well as "))
        content = ", ".join(phrases[:-1]) + joint + phrases[-1]
    return _sentence(content, setting, many=len(told) > 1 or len(told[0]) > 1, rng=rng)


def _groups(scene: Scene) -> list[list[Thing]]:
    """Things that look alike, together."""
    groups: dict[tuple, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault((thing.shape, thing.colour, thing.size), []).append(thing)
    return list(groups.values())


def _phrase(group: list[Thing], rng: np.random.Generator) -> str:
    """ "a big red star", "two rings": the noun phrase of one group."""
    thing, count = group[0], len(group)
    words = [_pick(rng, _SIZES[thing.size][1])] if rng.random() < (0.08 if thing.size == "medium" else 0.5) else []
    vague = rng.random()
    if vague > 0.06:
        words.append(_pick(rng, _COLOURS[thing.colour][1]))
    noun = _pick(rng, _SHAPES[thing.shape][count > 1])
    if vague > 0.94:
        noun = "shapes" if count > 1 else _pick(rng, ("shape", "thing"))
    words.append(noun)
    if count > 1:
        return " ".join([_pick(rng, _NUMBERS[count]), *words])
    article = _pick(rng, ("a", "a", "a", "one"))
    return " ".join(["an" if article == "a" and words[0][0] in "aeiou" else article, *words])


def _relation(a: Thing, b: Thing, rng: np.random.Generator) -> str:
    """How `a` stands to `b`, along the axis on which they are further apart."""
    if rng.random() < 0.25:
        return _pick(rng, ("next to", "beside", "near"))
    across, down = b.x - a.x, b.y - a.y
    if abs(across) > abs(down):
        side = "left" if across > 0 else "right"
        return _pick(rng, (f"{side} of", f"to the {side} of", f"on the {side} of"))
    return _pick(rng, ("above", "over", "higher than") if down > 0 else ("below", "under", "underneath"))


def _whereabouts(thing: Thing, rng: np.random.Generator) -> str:
    """ " in the top left corner", or nothing: where one thing is in the picture."""
    rows, columns = ("top", "", "bottom"), ("left", "", "right")
    row, column = rows[min(int(thing.y * 3), 2)], columns[min(int(thing.x * 3), 2)]
    if not row and not column:
        return _pick(rng, (" in the middle", " in the center", ""))
    if row and column:
        return _pick(rng, (f" in the {row} {column} corner", f" at the {row} {column}", ""))
    return _pick(rng, (f" at the {row}" if row else f" on the {column} side", ""))


def _setting(scene: Scene, rng: np.random.Generator) -> str:
    """ "striped light green": the background's words."""
    pattern = _pick(rng, _PATTERNS[scene.pattern]) if rng.random() < 0.75 else ""
    return f"{pattern} {_pick(rng, _BACKGROUNDS[scene.background][1])}".strip()


def _sentence(content: str, setting: str, many: bool, rng: np.random.Generator) -> str:
    """Puts content and setting into one of the ways in which people say it, with or without a full stop."""
    opening = _pick(rng, ("", "", "", "", *_OPENINGS))
    if opening == "there is " and many and not content.startswith(("a ", "an ", "one ")):
        opening = "there are "
    if setting:
        article = "an" if setting[0] in "aeiou" else "a"
        ways = (
            f"{opening}{content} on {article} {setting} background",
            f"{opening}{content} in front of {article} {setting} background",
            f"{opening}{content} against {setting}",
            f"{opening}{content} on {setting}",
            f"on {article} {setting} background, {content}",
            f"{content}; the background is {setting}",
            f"the background is {setting}, with {content} on it",
            f"{setting} background with {content}",
        )
        text = _pick(rng, ways)
    else:
        text = opening + content
    return text[0].upper() + text[1:] + _pick(rng, (".", ".", ""))


def _pick(rng: np.random.Generator, options):
    """One of the options."""
    return options[rng.integers(len(options))]
