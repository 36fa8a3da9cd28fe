"""Images of colored shapes, numbers and words, with questions and their right answers."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .lexicon import COLORS, SHAPES, SHORT_WORDS, UNKNOWN, article, number
from .split import Split

Pixels = NDArray[np.uint8]
Question = tuple[str, str]
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/Library/Fonts"), Path("C:/Windows/Fonts"))
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_UNREADABLE = ("symbol", "emoji", "math", "dingbat", "braille", "icon", "music", "noto", "thin", "hairline")


@dataclass(frozen=True)
class Shape:
    name: str
    color: str
    large: bool
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """An image and its content: shapes, or a colored text."""

    pixels: Pixels
    background: str
    shapes: tuple[Shape, ...] = ()
    text: str = ""
    text_color: str = ""
    letters: tuple[tuple[float, float], ...] = ()
    """The center of each character of the text."""


def shapes_scene(rng: Random, split: Split, most: int = 6) -> Scene:
    """One to `most` shapes that do not overlap, on a plain background of another color."""
    while True:
        count = rng.choice((1, 1, 2, 2, 3, 4, 5, 6)[: most + 2])
        background = rng.choice(list(COLORS))
        colors = [c for c in COLORS if c != background]
        kinds = [(rng.choice(SHAPES), rng.choice(colors), rng.random() < 0.5) for _ in range(count)]
        if split.holds("scene", background, *sorted(kinds)):
            return _draw_shapes(rng, background, kinds)


def text_scene(rng: Random, split: Split) -> Scene:
    """A number or a short word."""
    while True:
        digits = rng.random() < 0.6
        text = "".join(rng.choices("0123456789", k=rng.randint(1, 4))) if digits else rng.choice(SHORT_WORDS)
        if split.holds(text) or (digits and len(text) == 1):
            break
    background, color = rng.sample(list(COLORS), 2)
    while _contrast(background, color) < 180:
        background, color = rng.sample(list(COLORS), 2)
    return _draw_text(rng, split, background, text if digits or rng.random() < 0.6 else text.upper(), color)


def _canvas(rng: Random, background: str) -> Image.Image:
    width = height = 96
    if rng.random() < 0.5:
        width, height = rng.randint(64, 320), rng.randint(64, 320)
    return Image.new("RGB", (width, height), _shade(rng, background))


def _draw_shapes(rng: Random, background: str, kinds: list[tuple[str, str, bool]]) -> Scene:
    image = _canvas(rng, background)
    width, height = image.size
    unit = min(width, height)
    while True:
        placed: list[Shape] = []
        for name, color, large in kinds:
            radius = (
                unit * (rng.uniform(0.2, 0.28) if large else rng.uniform(0.09, 0.13)) * (0.8 if len(kinds) > 3 else 1)
            )
            spot = _free_spot(rng, width, height, radius, placed)
            if spot is None:
                break
            placed.append(Shape(name, color, large, *spot, radius))
        if len(placed) == len(kinds):
            break
        kinds = [(name, color, large and rng.random() < 0.5) for name, color, large in kinds]
    draw = ImageDraw.Draw(image)
    for shape in placed:
        _draw(rng, draw, shape, _shade(rng, shape.color), image.getpixel((0, 0)))
    return Scene(_finish(rng, image), background, tuple(placed))


def _free_spot(rng: Random, width: int, height: int, radius: float, placed: list[Shape]) -> tuple[float, float] | None:
    for _ in range(40):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if all(math.hypot(x - s.x, y - s.y) > (radius + s.radius) * 1.08 for s in placed):
            return x, y
    return None


def _draw(rng: Random, draw: ImageDraw.ImageDraw, shape: Shape, fill: tuple[int, ...], back: object) -> None:
    x, y, r = shape.x, shape.y, shape.radius
    turn = rng.uniform(-0.25, 0.25)

    def corners(angles: list[float], radii: list[float]) -> list[tuple[float, float]]:
        return [(x + q * math.sin(a + turn), y - q * math.cos(a + turn)) for a, q in zip(angles, radii, strict=True)]

    match shape.name:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "ring":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            q = r * rng.uniform(0.45, 0.6)
            draw.ellipse((x - q, y - q, x + q, y + q), fill=back)  # type: ignore[arg-type]
        case "square":
            draw.polygon(corners([math.pi * (i / 2 + 0.25) for i in range(4)], [r] * 4), fill=fill)
        case "diamond":
            draw.polygon([(x, y - r), (x + r * 0.7, y), (x, y + r), (x - r * 0.7, y)], fill=fill)
        case "triangle":
            draw.polygon(corners([i * math.tau / 3 for i in range(3)], [r] * 3), fill=fill)
        case "star":
            draw.polygon(corners([i * math.pi / 5 for i in range(10)], [r, r * 0.42] * 5), fill=fill)
        case "cross":
            q = r * rng.uniform(0.28, 0.38)
            draw.rectangle((x - q, y - r, x + q, y + r), fill=fill)
            draw.rectangle((x - r, y - q, x + r, y + q), fill=fill)
        case "heart":
            points = [i * math.tau / 24 for i in range(24)]
            outline = [
                (16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                for t in points
            ]
            draw.polygon([(x + a * r / 16, y - b * r / 16) for a, b in outline], fill=fill)


def _draw_text(rng: Random, split: Split, background: str, text: str, color: str) -> Scene:
    image = _canvas(rng, background)
    width, height = image.size
    font = rng.choice(fonts(split))
    for size in range(int(height * rng.uniform(0.4, 0.75)), 5, -2):
        face = _face(font, size)
        left, top, right, bottom = face.getbbox(text)
        if right - left <= width * 0.92 and bottom - top <= height * 0.92:
            break
    x, y = rng.uniform(0, width - (right - left)), rng.uniform(0, height - (bottom - top))
    ImageDraw.Draw(image).text((x - left, y - top), text, font=face, fill=_shade(rng, color))
    ends = [face.getlength(text[:i]) for i in range(len(text) + 1)]
    middles = tuple((x - left + (a + b) / 2, y + (bottom - top) / 2) for a, b in itertools.pairwise(ends))
    return Scene(_finish(rng, image), background, text=text, text_color=color, letters=middles)


@cache
def _face(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@cache
def fonts(split: Split) -> tuple[Path, ...]:
    """The installed upright Latin fonts of this split; Pillow's default font for training if there are none."""
    found = sorted(p for folder in FONT_FOLDERS for p in folder.rglob("*.[to]tf") if _readable(p.name.lower()))
    mine = tuple(p for p in found if split.holds("font", p.stem.split("-")[0]))
    if not mine:
        raise FileNotFoundError(
            "no fonts for pictures of text were found; install some, as with "
            "apt-get install fonts-dejavu fonts-liberation fonts-freefont-ttf fonts-roboto-unhinted fonts-ubuntu"
        )
    return mine


def _readable(name: str) -> bool:
    return not any(word in name for word in _UNREADABLE)


def _shade(rng: Random, color: str) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-12, 12))) for value in COLORS[color])
    return red, green, blue


def _contrast(one: str, other: str) -> int:
    return sum(abs(a - b) for a, b in zip(COLORS[one], COLORS[other], strict=True))


def _finish(rng: Random, image: Image.Image) -> Pixels:
    """Adds camera noise to some images."""
    pixels = np.asarray(image)
    if rng.random() < 0.3:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 10), pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


FACTS = (
    *(f"{color} {shape}" for color in COLORS for shape in SHAPES),
    *(f"background {color}" for color in COLORS),
    *(f"text {color}" for color in COLORS),
    *(f"{count} shapes" for count in range(7)),
    *(f"{at} {letter}" for at in range(5) for letter in LETTERS),
)
"""All labels that `facts` can return."""

MARKS = (*SHAPES, *COLORS, *LETTERS)
"""All labels that `marks` can return."""


def facts(scene: Scene) -> tuple[str, ...]:
    """Labels of a scene: its shapes with their colors, their number, its characters in order."""
    shapes = {f"{s.color} {s.name}" for s in scene.shapes}
    letters = [f"{at} {letter}" for at, letter in enumerate(scene.text.lower())]
    colors = [f"background {scene.background}", *([f"text {scene.text_color}"] if scene.text else [])]
    return (*sorted(shapes), *colors, f"{len(scene.shapes)} shapes", *letters)


def marks(scene: Scene) -> tuple[tuple[float, float, str], ...]:
    """Labels with positions: shapes, their colors and characters, at their centers in pixels."""
    shapes = [(s.x, s.y, label) for s in scene.shapes for label in (s.name, s.color)]
    return (*shapes, *((x, y, letter) for (x, y), letter in zip(scene.letters, scene.text.lower(), strict=True)))


def ask_about_shapes(rng: Random, scene: Scene) -> tuple[str, str, str]:
    """A task's name, a question and its answer, from those that fit this scene."""
    tasks: list[Callable[[Random, Scene], Question | None]] = [
        count, count, count_kind, color_of, color_of, shape_of, shape_of, size_of, background_of, where, beside,
        is_there, as_json, beyond,
    ]  # fmt: skip
    while True:
        task = rng.choice(tasks)
        question = task(rng, scene)
        if question is not None:
            return task.__name__, *question


def ask_about_text(rng: Random, scene: Scene) -> tuple[str, str, str]:
    kind = "number" if scene.text.isdigit() else "word"
    match rng.randrange(8):
        case 0:
            return "text_color", f"What color is the {rng.choice(('text', kind))}?", scene.text_color.capitalize() + "."
        case 1:
            return "background_of", "What is the background color?", scene.background.capitalize() + "."
        case 2:
            return f"read_{kind}_as_json", "Read the text. Answer in JSON.", json.dumps({"text": scene.text})
        case _:
            asked = rng.choice(("Read the text.", f"What {kind} is shown?", "What does it say?", f"Read the {kind}."))
            return f"read_{kind}", asked, scene.text


def count(rng: Random, scene: Scene) -> Question | None:
    asked = rng.choice(("How many shapes are there?", "Count the shapes.", "How many shapes do you see?"))
    return asked, number(len(scene.shapes)) + "."


def count_kind(rng: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) < 2:
        return None
    picked = rng.choice(scene.shapes)
    if rng.random() < 0.5:
        what, found = f"{picked.name}s", [s for s in scene.shapes if s.name == picked.name]
        what = what.replace("crosss", "crosses")
    else:
        what, found = f"{picked.color} shapes", [s for s in scene.shapes if s.color == picked.color]
    return rng.choice((f"How many {what} are there?", f"How many {what} do you see?")), number(len(found)) + "."


def _unique(rng: Random, values: list[str]) -> str | None:
    once = [value for value, times in Counter(values).items() if times == 1]
    return rng.choice(sorted(once)) if once else None


def color_of(rng: Random, scene: Scene) -> Question | None:
    name = _unique(rng, [s.name for s in scene.shapes])
    if name is None:
        return None
    color = next(s.color for s in scene.shapes if s.name == name)
    asked = (f"What color is the {name}?", "What color is the shape?")[rng.random() < 0.3 and len(scene.shapes) == 1]
    return asked, color.capitalize() + "."


def shape_of(rng: Random, scene: Scene) -> Question | None:
    color = _unique(rng, [s.color for s in scene.shapes])
    if color is None:
        return None
    name = next(s.name for s in scene.shapes if s.color == color)
    if len(scene.shapes) == 1 and rng.random() < 0.7:
        return rng.choice(
            ("Which shape do you see?", "What shape is this?", "What shape is it?")
        ), name.capitalize() + "."
    return rng.choice((f"Which shape is {color}?", f"What shape is {color}?")), name.capitalize() + "."


def size_of(rng: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) != 1:
        return None
    return "Is the shape large or small?", "Large." if scene.shapes[0].large else "Small."


def background_of(rng: Random, scene: Scene) -> Question | None:
    return rng.choice(
        ("What is the background color?", "What color is the background?")
    ), scene.background.capitalize() + "."


def where(rng: Random, scene: Scene) -> Question | None:
    name = _unique(rng, [s.name for s in scene.shapes])
    if name is None:
        return None
    shape = next(s for s in scene.shapes if s.name == name)
    height, width, _ = scene.pixels.shape
    across, down = shape.x / width - 0.5, shape.y / height - 0.5
    if abs(across) < 0.08 or abs(down) < 0.08:
        return None
    place = f"{'Top' if down < 0 else 'Bottom'} {'left' if across < 0 else 'right'}."
    return f"Where is the {name}?", place


def beside(rng: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) != 2 or scene.shapes[0].name == scene.shapes[1].name:
        return None
    one, other = rng.sample(scene.shapes, 2)
    gap = max(one.radius, other.radius)
    if abs(one.x - other.x) > max(gap, abs(one.y - other.y)):
        side = "left of" if one.x < other.x else "right of"
    elif abs(one.y - other.y) > max(gap, abs(one.x - other.x)):
        side = "above" if one.y < other.y else "below"
    else:
        return None
    return f"What is {side} the {other.name}?", f"{article(one.color).capitalize()} {one.name}."


def is_there(rng: Random, scene: Scene) -> Question | None:
    shape = rng.choice(scene.shapes)
    name, color = shape.name, shape.color
    if rng.random() < 0.5:
        name, color = rng.choice(SHAPES), rng.choice(list(COLORS))
    if rng.random() < 0.5:
        return f"Is there {article(name)}?", "Yes." if any(s.name == name for s in scene.shapes) else "No."
    found = any((s.name, s.color) == (name, color) for s in scene.shapes)
    return f"Is there {article(color)} {name}?", "Yes." if found else "No."


def as_json(rng: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) != 1:
        return rng.choice(("How many shapes? Answer in JSON.", "Count the shapes as JSON.")), json.dumps(
            {"count": len(scene.shapes)}
        )
    shape = scene.shapes[0]
    asked = rng.choice(("Describe the shape as JSON.", "Describe the picture as JSON."))
    return asked, json.dumps({"shape": shape.name, "color": shape.color})


def beyond(rng: Random, scene: Scene) -> Question | None:
    if rng.random() < 0.5:
        return None
    asked = (
        "Who is in the picture?",
        "Where was this picture taken?",
        "What is the person doing?",
        "What animal is this?",
    )
    return rng.choice(asked), UNKNOWN
