"""Seeded renderer of the scenes behind the embedded sets: pixels, visible masks and background kinds.

A scene carries what the paper is about: a large, redundant background (sky, buildings, trees, ground;
gradients, soft texture and a little noise) and a few objects of very different sizes whose class shows only
in fine detail: outlines and colours are shared, the inner pattern differs. It knows no file format (that is
`embedded`), and draws random numbers from one counter-based generator per image, so an image depends on its
key alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

OUTLINES = ("disc", "tile")
PATTERNS = ("bands", "bars", "rings", "dots", "checks")
#: Classes of the scenes: outline by pattern, without ``checks``.
SCENE_CLASSES = tuple(f"{outline}-{pattern}" for outline in OUTLINES for pattern in PATTERNS[:4])
#: Classes of the single-object images.
OBJECT_CLASSES = tuple(f"{outline}-{pattern}" for outline in OUTLINES for pattern in PATTERNS)
#: What lies about in the scenes and is none of their objects.
CLUTTER_CLASSES = tuple(name for name in OBJECT_CLASSES if name not in SCENE_CLASSES)
#: Kinds of background, by the name Cityscapes gives them; their index is the value in `Scene.background`.
BACKGROUNDS = ("sky", "building", "vegetation", "road", "sidewalk", "terrain", "ego vehicle", "traffic light")
#: What looks like an object but for its pattern, which is no class of the scenes; a kind of background.
CLUTTER = "traffic light"

FAINTNESS = (0.0, 0.8)  # smallest and largest share of a pattern's contrast that is taken away
OBJECT_FAINTNESS = (0.4, 0.98)  # of single objects: with nothing to be found but the class, their patterns show less
NOISE = (1.5, 4.0)  # deviation of the sensor noise, of 255

SMALL, LARGE = 32**2, 96**2  # COCO's size classes by area, in pixels


def generator(*key: object) -> np.random.Generator:
    """Return the random generator that belongs to `key` (e.g. seed, split, index) on every platform."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass
class Instance:
    """One annotated object, or a crowd of them.

    Attributes
    ----------
    label : int
        Index into the classes the scene was rendered with.
    mask : ndarray, bool, (H, W)
        The pixels in which it is seen: what lies in front of it is already taken away.
    crowd : bool
        Whether it stands for a group of objects that are not told apart.
    outline : ndarray, bool, (H, W)
        The pixels it would cover if nothing lay in front of it.
    """

    label: int
    mask: BoolArray
    crowd: bool
    outline: BoolArray


@dataclass
class Scene:
    """A rendered scene.

    Attributes
    ----------
    image : ndarray, uint8, (H, W, 3)
        RGB pixels.
    background : ndarray, uint8, (H, W)
        Index into `BACKGROUNDS` of what lies behind the objects.
    layers : list of (kind, mask)
        The background's layers from back to front, each covering what came before.
    instances : list of Instance
        Objects from back to front.
    """

    image: NDArray[np.uint8]
    background: NDArray[np.uint8]
    layers: list[tuple[int, BoolArray]] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)


# --- textures -----------------------------------------------------------------------------------------------


def _texture(rng: np.random.Generator, height: int, width: int, cells: float) -> FloatArray:
    """Smooth noise in about [-1, 1], (H, W), with `cells` bumps along the shorter side."""
    step = min(height, width) / cells
    rows, columns = max(2, round(height / step)), max(2, round(width / step))
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _colour(*rgb: float) -> FloatArray:
    return np.asarray(rgb, np.float32)


def _hsv(hue: float, saturation: float, value: float) -> FloatArray:
    """RGB in 0..255 of a colour given by hue, saturation and value in 0..1."""
    offsets = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    absence = np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    return (255 * value * (1 - saturation * absence)).astype(np.float32)


# --- background ---------------------------------------------------------------------------------------------

_SKIES = (
    (_colour(96, 150, 214), _colour(196, 220, 238)),  # clear day
    (_colour(150, 160, 172), _colour(208, 212, 216)),  # overcast
    (_colour(92, 108, 168), _colour(244, 190, 150)),  # dusk
    (_colour(120, 170, 200), _colour(238, 226, 200)),  # haze
)


def _skyline(rng: np.random.Generator, width: int, horizon: float, height: int) -> FloatArray:
    """Upper edge of a tree line in pixels from the top, (W,)."""
    x = np.arange(width, dtype=np.float32) / height
    edge = np.zeros(width, np.float32)
    for frequency in (1.1, 2.7, 6.1, 13.0):
        edge += np.sin(x * frequency * 6.28 + rng.uniform(0, 6.28)).astype(np.float32) / frequency
    return (horizon - height * (rng.uniform(0.06, 0.16) + 0.04 * edge)).astype(np.float32)


def _paint_background(
    rng: np.random.Generator, height: int, width: int, hood: bool
) -> tuple[FloatArray, list[tuple[int, BoolArray]]]:
    """Draw sky, skyline and ground; return the picture (H, W, 3) and its layers from back to front."""
    kinds = {name: index for index, name in enumerate(BACKGROUNDS)}
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    light = rng.uniform(0.8, 1.1)
    horizon = height * rng.uniform(0.3, 0.55) + (x - width / 2) * rng.uniform(-0.04, 0.04)
    layers: list[tuple[int, BoolArray]] = [(kinds["sky"], np.ones((height, width), bool))]

    top, bottom = _SKIES[rng.integers(len(_SKIES))]
    blend = np.clip(y / horizon, 0, 1)[..., None]
    picture = top * (1 - blend) + bottom * blend
    clouds = np.clip(_texture(rng, height, width, rng.uniform(2, 4)) + rng.uniform(-0.6, 0.2), 0, 1)
    picture = picture + (_colour(246, 246, 248) - picture) * (0.6 * clouds[..., None])

    def lay(kind: str, mask: BoolArray, colours: NDArray[np.floating]) -> None:
        layers.append((kinds[kind], mask))
        picture[mask] = np.broadcast_to(colours, picture.shape)[mask]

    style = rng.uniform()
    if style < 0.75:  # trees
        edge = _skyline(rng, width, float(horizon.mean()), height)
        leaves = _texture(rng, height, width, 9) + 0.5 * _texture(rng, height, width, 22)
        green = _hsv(rng.uniform(0.24, 0.36), rng.uniform(0.35, 0.55), rng.uniform(0.36, 0.52))
        lay("vegetation", (y >= edge) & (y <= horizon + 1), green * (1 + 0.16 * leaves[..., None]))
    if style > 0.4:  # buildings
        left = -rng.uniform(0, 0.2) * height
        while left < width:
            across = height * rng.uniform(0.16, 0.42)
            if rng.uniform() < 0.7:
                roof = horizon - height * rng.uniform(0.1, 0.27)
                wall = (x >= left) & (x < left + across) & (y >= roof) & (y <= horizon + 1)
                base = _hsv(rng.uniform(0.02, 0.13), rng.uniform(0.05, 0.35), rng.uniform(0.5, 0.78))
                pitch = height * rng.uniform(0.035, 0.055)
                windows = (((x - left) % pitch) > 0.45 * pitch) & (((y - roof) % (1.4 * pitch)) > 0.8 * pitch)
                shade = 1 - 0.16 * windows - 0.12 * (x - left) / across
                lay("building", wall, base * shade[..., None])
            left += across

    ground = y > horizon
    depth = np.clip((y - horizon) / (height - horizon), 0, 1)
    if rng.uniform() < 0.5:
        grain = _texture(rng, height, width, 14)
        colour = _hsv(rng.uniform(0.13, 0.22), rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.7))
        lay("terrain", ground, colour * (0.86 + 0.18 * depth + 0.05 * grain)[..., None])
    else:
        colour = _hsv(rng.uniform(0.04, 0.12), rng.uniform(0.06, 0.16), rng.uniform(0.62, 0.74))
        joints = np.abs(np.sin(9 / (depth + 0.25))) < 0.12
        lay("sidewalk", ground, colour * (0.88 + 0.14 * depth - 0.05 * joints)[..., None])
    vanishing = width * rng.uniform(0.3, 0.7)
    centre = width * rng.uniform(0.3, 0.7)
    middle = vanishing + (centre - vanishing) * depth
    half = height * (0.03 + rng.uniform(0.5, 0.8) * depth)
    asphalt = _hsv(rng.uniform(0.55, 0.7), rng.uniform(0.02, 0.1), rng.uniform(0.36, 0.46))
    lane = (np.abs(x - middle) < 0.03 * half) & (np.sin(7 / (depth + 0.2) + rng.uniform(0, 6)) > 0.2)
    tint = 0.94 + 0.12 * depth + 0.03 * _texture(rng, height, width, 5) + 0.5 * lane
    lay("road", ground & (np.abs(x - middle) < half), asphalt * tint[..., None])
    if hood:  # what the camera sees of its own car; Cityscapes ignores it
        rise = height * (0.04 - 0.05 * ((x - width / 2) / width * 2) ** 2)
        bonnet = y > height - rise
        lay("ego vehicle", bonnet, _colour(46, 48, 54) * (1.3 - 0.3 * y / height)[..., None])
    return picture * np.float32(light), layers


# --- objects ------------------------------------------------------------------------------------------------


@dataclass
class _Shape:
    """Where an object lies and how it looks; `centre`, `half` (both x, y) and `period` are in pixels."""

    label: str
    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float
    period: float
    phase: tuple[float, float]
    colours: tuple[FloatArray, FloatArray]


def _draw_shape(
    rng: np.random.Generator,
    label: str,
    side: float,
    centre: tuple[float, float],
    faint: tuple[float, float] = FAINTNESS,
) -> _Shape:
    """Draw the look of an object of about `side` pixels; its class shows in none of what is drawn here."""
    aspect = rng.uniform(0.88, 1.14)
    # Patterns grow slower than their objects, so that large ones hang on fine detail too, not only small ones.
    period = 5.2 * (side / 15) ** 0.5 * (1.2 if label.endswith("dots") else 1.0)
    hue = rng.uniform()
    dark = _hsv(hue, rng.uniform(0.6, 0.95), rng.uniform(0.28, 0.5))
    light = _hsv((hue + rng.uniform(0.1, 0.6)) % 1, rng.uniform(0.05, 0.35), rng.uniform(0.9, 1.0))
    faintness = np.float32(rng.uniform(*faint))  # some patterns stand out less than others
    middle = ((dark + light) / 2).astype(np.float32)
    return _Shape(
        label=label,
        centre=centre,
        half=(side / 2 * aspect, side / 2 / aspect),
        angle=rng.uniform(-0.15, 0.15),
        period=period * rng.uniform(0.92, 1.08),
        phase=(rng.uniform(0, 6.28), rng.uniform(0, 6.28)),
        colours=(dark + faintness * (middle - dark), light + faintness * (middle - light)),
    )


def _window(shape: _Shape, height: int, width: int, margin: float) -> tuple[slice, slice]:
    reach = 1.45 * max(shape.half) + margin
    x, y = shape.centre

    def span(middle: float, extent: int) -> slice:
        first = min(max(0, int(middle - reach)), extent)
        return slice(first, max(first, min(extent, int(middle + reach) + 1)))

    return span(y, height), span(x, width)


def _local(shape: _Shape, window: tuple[slice, slice], shift: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Coordinates of the window's pixels in the object's own frame, in pixels."""
    y, x = np.mgrid[window].astype(np.float32)
    x, y = x - np.float32(shape.centre[0]), y - np.float32(shape.centre[1] + shift)
    cosine, sine = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _distance(shape: _Shape, u: FloatArray, v: FloatArray) -> FloatArray:
    """Signed distance in pixels from the outline, negative inside."""
    a, b = shape.half
    if shape.label.startswith("disc"):
        return ((np.sqrt((u / a) ** 2 + (v / b) ** 2) - 1) * min(a, b)).astype(np.float32)
    corner = 0.3 * min(a, b)
    qu, qv = np.abs(u) - (a - corner), np.abs(v) - (b - corner)
    outside = np.sqrt(np.maximum(qu, 0) ** 2 + np.maximum(qv, 0) ** 2)
    return (outside + np.minimum(np.maximum(qu, qv), 0) - corner).astype(np.float32)


def _pattern(shape: _Shape, u: FloatArray, v: FloatArray) -> FloatArray:
    """Share of the second colour in 0..1 per pixel: the detail that tells the class."""
    per_pixel = 2 * np.pi / shape.period  # how fast the wave turns, so that colours meet within one pixel
    across, down = per_pixel * u + shape.phase[0], per_pixel * v + shape.phase[1]
    waves: dict[str, Callable[[], FloatArray]] = {
        "bands": lambda: np.sin(down),
        "bars": lambda: np.sin(across),
        "rings": lambda: np.sin(per_pixel * _depth(shape, u, v)),
        "dots": lambda: 2.0 - np.hypot(across % 6.2832 - 3.1416, down % 6.2832 - 3.1416),
        "checks": lambda: 1.2 * np.sin(across) * np.sin(down),
    }
    return np.clip(0.5 + waves[shape.label.split("-")[1]]() / per_pixel, 0, 1).astype(np.float32)


def _depth(shape: _Shape, u: FloatArray, v: FloatArray) -> FloatArray:
    """Distance in pixels from the outline inwards, the same curve all the way in (unlike `_distance`)."""
    a, b = shape.half
    if shape.label.startswith("disc"):
        return -_distance(shape, u, v)
    return np.minimum(a - np.abs(u), b - np.abs(v))


def _coverage(shape: _Shape, height: int, width: int) -> BoolArray:
    """Pixels that the object covers, (H, W)."""
    window = _window(shape, height, width, 1)
    covered = np.zeros((height, width), bool)
    covered[window] = _distance(shape, *_local(shape, window)) < 0
    return covered


def _paint(picture: FloatArray, shape: _Shape) -> None:
    """Draw the object and its soft shadow into `picture`, (H, W, 3), in place."""
    height, width = picture.shape[:2]
    side = min(shape.half)
    window = _window(shape, height, width, 0.3 * side + 2)
    drop = 0.16 * side
    blur = 0.25 * side + 1
    shadow = np.clip(0.5 - _distance(shape, *_local(shape, window, drop)) / blur, 0, 1)
    picture[window] *= (1 - 0.32 * shadow)[..., None]

    u, v = _local(shape, window)
    distance = _distance(shape, u, v)
    share = _pattern(shape, u, v)[..., None]
    body = shape.colours[0] * (1 - share) + shape.colours[1] * share
    rim = np.clip(distance + 0.1 * side + 0.5, 0, 1)  # a plain rim, the same for all classes
    body = body + (_colour(38, 36, 40) - body) * (0.55 * rim)[..., None]
    shade = 1.06 - 0.16 * (0.5 * u / shape.half[0] + v / shape.half[1])
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    picture[window] += alpha * (body * shade[..., None] - picture[window])


def _finish(rng: np.random.Generator, picture: FloatArray) -> NDArray[np.uint8]:
    """Add sensor noise and round to bytes."""
    noise = rng.standard_normal(picture.shape[:2], np.float32)[..., None] * np.float32(rng.uniform(*NOISE))
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


# --- scenes -------------------------------------------------------------------------------------------------


def _draw_side(rng: np.random.Generator, shorter: int, smallest: float) -> float:
    """Draw the side of an object in pixels: small or medium by COCO's classes, equally often."""
    if rng.uniform() < 0.5:
        return float(rng.uniform(smallest, 31))
    return float(36 * (min(0.5 * shorter, 100) / 36) ** rng.uniform())


def _needed(shape: _Shape) -> float:
    """Return the pixels of an object that others and the picture's edge must leave in sight."""
    area = 3.1 * shape.half[0] * shape.half[1]
    return LARGE + 1 if area > LARGE else max(40.0, 0.5 * area)


def _visible(outlines: list[BoolArray]) -> list[BoolArray]:
    """Take from each outline what later ones cover."""
    masks: list[BoolArray] = []
    covered: BoolArray | np.bool_ = np.False_
    for outline in reversed(outlines):
        masks.append(outline & ~covered)
        covered = outline | covered
    return masks[::-1]


def _paint_clutter(
    rng: np.random.Generator, picture: FloatArray, shorter: int, smallest: float, faint: tuple[float, float]
) -> list[tuple[int, BoolArray]]:
    """Draw up to three things that only their pattern tells from objects; return them as layers of background."""
    height, width = picture.shape[:2]
    layers = []
    for _ in range(int(rng.integers(0, 4))):
        side = _draw_side(rng, shorter, smallest)
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0.2, 1) * height))
        shape = _draw_shape(rng, CLUTTER_CLASSES[rng.integers(len(CLUTTER_CLASSES))], side, centre, faint)
        _paint(picture, shape)
        layers.append((BACKGROUNDS.index(CLUTTER), _coverage(shape, height, width)))
    return [(kind, mask) for kind, mask in layers if mask.any()]


def render_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    crowds: bool = True,
    hood: bool = False,
    smallest: float = 15,
    faint: tuple[float, float] = FAINTNESS,
) -> Scene:
    """Render one scene with one to six objects, which may overlap and leave the picture.

    Parameters
    ----------
    rng : numpy.random.Generator
        The image's own generator, see `generator`.
    height, width : int
        Size in pixels.
    crowds : bool
        Whether now and then a crowd of tiny objects of one class is added.
    hood : bool
        Whether the bonnet of the camera's car is seen at the lower edge.
    smallest : float
        Side of the smallest objects, pixels.
    faint : tuple of float
        Smallest and largest share of a pattern's contrast that is taken away.

    Returns
    -------
    Scene
        At least half of every object is in sight, and of a large one more than `LARGE` pixels.
    """
    picture, layers = _paint_background(rng, height, width, hood)
    shorter = min(height, width)
    layers += _paint_clutter(rng, picture, shorter, smallest, faint)
    wanted = int(rng.integers(1, 7))
    sides = sorted((_draw_side(rng, shorter, smallest) for _ in range(wanted)), reverse=True)
    if rng.uniform() < 0.1 and shorter > 120:  # one large object, as far as the picture has room
        sides = [float(rng.uniform(114, min(170, 0.97 * shorter))), *sides[: min(2, wanted - 1)]]
    shapes: list[_Shape] = []
    outlines: list[BoolArray] = []
    for side in sides:
        label = SCENE_CLASSES[rng.integers(len(SCENE_CLASSES))]
        for _ in range(12):
            margin = min((0.5 if side > 110 else 0.42) * side, 0.49 * shorter)
            centre = (float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin)))
            if shapes and rng.uniform() < 0.25:  # beside another object, so that overlap is common
                other = shapes[rng.integers(len(shapes))]
                turn, reach = rng.uniform(0, 6.28), 0.8 * (max(other.half) + side / 2)
                centre = (
                    float(np.clip(other.centre[0] + reach * np.cos(turn), 0.3 * side, width - 0.3 * side)),
                    float(np.clip(other.centre[1] + reach * np.sin(turn), 0.3 * side, height - 0.3 * side)),
                )
            shape = _draw_shape(rng, label, side, centre, faint)
            proposal = [*outlines, _coverage(shape, height, width)]
            needed = [_needed(s) for s in [*shapes, shape]]
            seen = [int(mask.sum()) for mask in _visible(proposal)]
            if all(pixels >= least for pixels, least in zip(seen, needed, strict=True)):
                shapes.append(shape)
                outlines = proposal
                break
    labels = [SCENE_CLASSES.index(shape.label) for shape in shapes]
    crowd = [False] * len(shapes)
    for shape in shapes:
        _paint(picture, shape)
    if crowds and rng.uniform() < 0.08:
        group = _crowd(rng, height, width, outlines)
        if group:
            for shape in group:
                _paint(picture, shape)
            outlines.append(np.logical_or.reduce([_coverage(shape, height, width) for shape in group]))
            labels.append(SCENE_CLASSES.index(group[0].label))
            crowd.append(True)
    background = np.zeros((height, width), np.uint8)
    for kind, mask in layers:
        background[mask] = kind
    instances = [
        Instance(label, mask, is_crowd, outline)
        for label, mask, is_crowd, outline in zip(labels, _visible(outlines), crowd, outlines, strict=True)
    ]
    return Scene(_finish(rng, picture), background, layers, instances)


def _crowd(rng: np.random.Generator, height: int, width: int, outlines: list[BoolArray]) -> list[_Shape]:
    """Draw a heap of tiny objects of one class that leaves the others in sight; empty if there is no room."""
    label = SCENE_CLASSES[rng.integers(len(SCENE_CLASSES))]
    taken = np.logical_or.reduce([np.zeros((height, width), bool), *outlines])
    centre = np.array([rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.9) * height])
    spread = rng.uniform(9, 15)
    group = []
    for _ in range(int(rng.integers(9, 16))):
        place = centre + rng.standard_normal(2) * spread * np.array([1.3, 0.7])
        shape = _draw_shape(rng, label, rng.uniform(7, 11), (float(place[0]), float(place[1])))
        covered = _coverage(shape, height, width)
        if covered.sum() >= 12 and not (covered & taken).any():
            group.append(shape)
    return group if len(group) >= 5 else []


def render_object(rng: np.random.Generator, size: int, label: int) -> NDArray[np.uint8]:
    """Render a picture (size, size, 3) of one object, of class `label` of `OBJECT_CLASSES`."""
    picture, _ = _paint_background(rng, size, size, hood=False)
    side = size * rng.uniform(0.13, 0.33)
    margin = 0.5 * side
    centre = (float(rng.uniform(margin, size - margin)), float(rng.uniform(margin, size - margin)))
    _paint(picture, _draw_shape(rng, OBJECT_CLASSES[label], side, centre, OBJECT_FAINTNESS))
    return _finish(rng, picture)
