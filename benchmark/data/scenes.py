"""Seeded renderer of the scenes behind the embedded sets: pixels, visible masks and background kinds.

A scene carries what the paper is about: a large, redundant background (sky, buildings, trees, ground;
gradients, soft texture and a little noise) and a few objects of very different sizes whose class shows only
in fine detail: outlines and colours are shared, the inner pattern differs. `Style` has the knobs. It knows no file
format (that is `embedded`), and draws random numbers from one counter-based generator per image, so an image depends
on its key alone.

Pictures are painted channel by channel, ``(3, H, W)``, and each layer only in the rows and columns that it touches:
with the channels last, NumPy's inner loops would be three values long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import UsageError

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
BACKGROUNDS = ("sky", "building", "vegetation", "road", "sidewalk", "terrain", "ego vehicle", "traffic light", "pole")
#: What looks like an object but for its pattern, which is no class of the scenes; a kind of background.
CLUTTER = "traffic light"

FAINTNESS = (0.0, 0.8)  # smallest and largest share of a pattern's contrast that is taken away
OBJECT_SHARES = (0.13, 0.33)  # smallest and largest side of a single object over the picture's
OBJECT_FAINTNESS = (0.4, 0.98)  # of single objects: with nothing to be found but the class, their patterns show less
NOISE = (1.5, 4.0)  # deviation of the sensor noise, of 255

SMALL, LARGE = 32**2, 96**2  # COCO's size classes by area, in pixels
#: How objects' sides are spread over their range of shares: the logarithm goes with this power of a uniform draw, which
#: makes 4 of 10 small, 3 medium and 3 large over the range 0.02 to 0.7; COCO has 41, 34 and 24 of 100.
SKEW = 1.3


@dataclass(frozen=True)
class Style:
    """How the objects of a scene look: the knobs of the renderer beside its size in pixels.

    Attributes
    ----------
    shares : (float, float) or None
        Smallest and largest side of an object over the image's shorter side; spread like COCO's, many small and few
        large. None: small or medium by COCO's classes, equally often, and now and then a large one.
    period : float or None
        Pixels after which the detail that tells the class repeats, on objects of every size. None: it grows with the
        root of the side.
    smallest : float
        Side of the smallest objects, pixels; no share makes one smaller.
    faint : (float, float)
        Smallest and largest share of a pattern's contrast that is taken away.
    poles : bool
        Whether street scenes have poles: a class a few pixels thin.
    """

    shares: tuple[float, float] | None = None
    period: float | None = None
    smallest: float = 15
    faint: tuple[float, float] = FAINTNESS
    poles: bool = False

    def __post_init__(self) -> None:
        if self.shares is not None and not 0 < self.shares[0] < self.shares[1] <= 1:
            raise UsageError(
                f"objects of {self.shares[0]:g} to {self.shares[1]:g} of the image: give 0 < smaller < larger <= 1"
            )
        if self.period is not None and self.period < 2:
            raise UsageError(f"detail of {self.period:g} pixels: pixels show none that repeats after fewer than 2")

    def draw_side(self, rng: np.random.Generator, shorter: int) -> float:
        """Draw the side of an object in pixels, in an image whose shorter side has so many."""
        if self.shares is not None:
            least = max(self.shares[0] * shorter, self.smallest)
            return least * max(self.shares[1] * shorter / least, 1.0) ** (rng.uniform() ** SKEW)
        if rng.uniform() < 0.5:
            return float(rng.uniform(self.smallest, 31))
        return float(36 * (min(0.5 * shorter, 100) / 36) ** rng.uniform())

    def label(self, shorter: int) -> str:
        """Return period and median side, in pixels of an image with such a shorter side, as sets' names have them."""
        period = "" if self.period is None else f"period{self.period:g}"
        if self.shares is None:
            return period
        least = max(self.shares[0] * shorter, self.smallest)
        return f"{period}-side{least * max(self.shares[1] * shorter / least, 1.0) ** (0.5**SKEW):.0f}"

    def needed(self, area: float) -> float:
        """Return how many of an object's pixels others and the picture's edge must leave in sight."""
        half = max(40.0, 0.5 * area)
        return LARGE + 1 if area > LARGE and self.shares is None else half


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


@dataclass
class _Canvas:
    """A picture under way, and what was laid on it from back to front.

    Attributes
    ----------
    picture : ndarray, float32, (3, H, W)
        Values from 0 to 255.
    layers : list of (kind, mask)
        As in `Scene`.
    """

    picture: FloatArray
    layers: list[tuple[int, BoolArray]]

    def lay(self, kind: str, window: tuple[slice, slice], mask: BoolArray, colours: NDArray[np.floating]) -> None:
        """Paint ``colours``, which fit ``(3, h, w)``, where a mask (h, w) of a window of the picture is set."""
        whole = np.zeros(self.picture.shape[1:], bool)
        whole[window] = mask
        self.layers.append((BACKGROUNDS.index(kind), whole))
        np.copyto(self.picture[(slice(None), *window)], colours, where=mask)


def _paint_background(rng: np.random.Generator, height: int, width: int, hood: bool) -> _Canvas:
    """Draw sky, skyline and ground."""
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    light = rng.uniform(0.8, 1.1)
    horizon = height * rng.uniform(0.3, 0.55) + (x - width / 2) * rng.uniform(-0.04, 0.04)
    canvas = _Canvas(np.empty((3, height, width), np.float32), [])
    everywhere = (slice(None), slice(None))
    # The ground hides all below the horizon: what stands on it need not be painted further down.
    above = slice(0, min(height, int(horizon.max()) + 3))
    below = slice(max(0, int(horizon.min())), height)

    top, bottom = _SKIES[rng.integers(len(_SKIES))]
    blend = np.clip(y[above] / horizon, 0, 1)
    sky = _planes(top) * (1 - blend) + _planes(bottom) * blend
    clouds = np.clip(_texture(rng, height, width, rng.uniform(2, 4))[above] + rng.uniform(-0.6, 0.2), 0, 1)
    canvas.picture[:, above] = sky + (_planes(_colour(246, 246, 248)) - sky) * (0.6 * clouds)
    canvas.layers.append((BACKGROUNDS.index("sky"), np.ones((height, width), bool)))

    style = rng.uniform()
    if style < 0.75:  # trees
        # Of the whole map, because a mean rounds by the number of its terms.
        middle = np.ascontiguousarray(np.broadcast_to(horizon, (height, width))).mean()
        edge = _skyline(rng, width, float(middle), height)
        leaves = _texture(rng, height, width, 9)[above] + 0.5 * _texture(rng, height, width, 22)[above]
        green = _hsv(rng.uniform(0.24, 0.36), rng.uniform(0.35, 0.55), rng.uniform(0.36, 0.52))
        trees = (y[above] >= edge) & (y[above] <= horizon + 1)
        canvas.lay("vegetation", (above, slice(None)), trees, _planes(green) * (1 + 0.16 * leaves))
    if style > 0.4:
        _paint_buildings(rng, canvas, horizon, above)

    ground = y[below] > horizon
    depth = np.clip((y[below] - horizon) / (height - horizon), 0, 1)
    if rng.uniform() < 0.5:
        grain = _texture(rng, height, width, 14)[below]
        colour = _hsv(rng.uniform(0.13, 0.22), rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.7))
        canvas.lay("terrain", (below, slice(None)), ground, _planes(colour) * (0.86 + 0.18 * depth + 0.05 * grain))
    else:
        colour = _hsv(rng.uniform(0.04, 0.12), rng.uniform(0.06, 0.16), rng.uniform(0.62, 0.74))
        joints = np.abs(np.sin(9 / (depth + 0.25))) < 0.12
        canvas.lay("sidewalk", (below, slice(None)), ground, _planes(colour) * (0.88 + 0.14 * depth - 0.05 * joints))
    vanishing = width * rng.uniform(0.3, 0.7)
    centre = width * rng.uniform(0.3, 0.7)
    middle = vanishing + (centre - vanishing) * depth
    half = height * (0.03 + rng.uniform(0.5, 0.8) * depth)
    asphalt = _hsv(rng.uniform(0.55, 0.7), rng.uniform(0.02, 0.1), rng.uniform(0.36, 0.46))
    lane = (np.abs(x - middle) < 0.03 * half) & (np.sin(7 / (depth + 0.2) + rng.uniform(0, 6)) > 0.2)
    tint = 0.94 + 0.12 * depth + 0.03 * _texture(rng, height, width, 5)[below] + 0.5 * lane
    canvas.lay("road", (below, slice(None)), ground & (np.abs(x - middle) < half), _planes(asphalt) * tint)
    if hood:  # what the camera sees of its own car; Cityscapes ignores it
        rise = height * (0.04 - 0.05 * ((x - width / 2) / width * 2) ** 2)
        canvas.lay(
            "ego vehicle", everywhere, y > height - rise, _planes(_colour(46, 48, 54)) * (1.3 - 0.3 * y / height)
        )
    canvas.picture *= np.float32(light)
    return canvas


def _paint_buildings(rng: np.random.Generator, canvas: _Canvas, horizon: FloatArray, above: slice) -> None:
    """Draw a row of houses with gaps, down to the horizon (1, W)."""
    height, width = canvas.picture.shape[1:]
    y = np.arange(height, dtype=np.float32)[above, None]
    left = -rng.uniform(0, 0.2) * height
    while left < width:
        across = height * rng.uniform(0.16, 0.42)
        if rng.uniform() < 0.7:
            columns = slice(max(0, int(left)), min(width, int(left + across) + 2))
            x = np.arange(width, dtype=np.float32)[None, columns]
            edge = horizon[:, columns]
            roof = edge - height * rng.uniform(0.1, 0.27)
            wall = (x >= left) & (x < left + across) & (y >= roof) & (y <= edge + 1)
            base = _hsv(rng.uniform(0.02, 0.13), rng.uniform(0.05, 0.35), rng.uniform(0.5, 0.78))
            pitch = height * rng.uniform(0.035, 0.055)
            windows = (((x - left) % pitch) > 0.45 * pitch) & (((y - roof) % (1.4 * pitch)) > 0.8 * pitch)
            shade = 1 - 0.16 * windows - 0.12 * (x - left) / across
            canvas.lay("building", (above, columns), wall, _planes(base) * shade)
        left += across


def _planes(colour: FloatArray) -> FloatArray:
    """Shape a colour (3,) to go with maps (H, W)."""
    return colour[:, None, None]


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
    rng: np.random.Generator, label: str, side: float, centre: tuple[float, float], style: Style = Style()
) -> _Shape:
    """Draw the look of an object of about `side` pixels; its class shows in none of what is drawn here."""
    aspect = rng.uniform(0.88, 1.14)
    # Unless a style fixes it, patterns grow slower than their objects, so that large ones hang on fine detail too.
    period = (style.period or 5.2 * (side / 15) ** 0.5) * (1.2 if label.endswith("dots") else 1.0)
    hue = rng.uniform()
    dark = _hsv(hue, rng.uniform(0.6, 0.95), rng.uniform(0.28, 0.5))
    light = _hsv((hue + rng.uniform(0.1, 0.6)) % 1, rng.uniform(0.05, 0.35), rng.uniform(0.9, 1.0))
    faintness = np.float32(rng.uniform(*style.faint))  # some patterns stand out less than others
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
    reach = 1.2 * max(shape.half) + margin  # a tilted tile reaches out by 1.14
    x, y = shape.centre

    def span(middle: float, extent: int) -> slice:
        first = min(max(0, int(middle - reach)), extent)
        return slice(first, max(first, min(extent, int(middle + reach) + 1)))

    return span(y, height), span(x, width)


def _local(shape: _Shape, window: tuple[slice, slice], shift: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Coordinates of the window's pixels in the object's own frame, in pixels."""
    rows, columns = (np.arange(part.start, part.stop, dtype=np.float32) for part in window)
    x, y = (columns - np.float32(shape.centre[0]))[None, :], (rows - np.float32(shape.centre[1] + shift))[:, None]
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


@dataclass
class _Patch:
    """A mask where it can be set: the pixels (h, w) of a window of a picture."""

    window: tuple[slice, slice]
    mask: BoolArray

    def whole(self, height: int, width: int) -> BoolArray:
        """Return it for the whole picture, (H, W)."""
        mask = np.zeros((height, width), bool)
        mask[self.window] = self.mask
        return mask


def _coverage(shape: _Shape, height: int, width: int) -> _Patch:
    """Pixels that the object covers."""
    window = _window(shape, height, width, 1)
    return _Patch(window, _distance(shape, *_local(shape, window)) < 0)


def _paint(picture: FloatArray, shape: _Shape) -> None:
    """Draw the object and its soft shadow into `picture`, (3, H, W), in place."""
    height, width = picture.shape[1:]
    side = min(shape.half)
    window = _window(shape, height, width, 0.3 * side + 2)
    drop = 0.16 * side
    blur = 0.25 * side + 1
    part = picture[(slice(None), *window)]
    part *= 1 - 0.32 * np.clip(0.5 - _distance(shape, *_local(shape, window, drop)) / blur, 0, 1)

    u, v = _local(shape, window)
    distance = _distance(shape, u, v)
    share = _pattern(shape, u, v)
    body = _planes(shape.colours[0]) * (1 - share) + _planes(shape.colours[1]) * share
    rim = np.clip(distance + 0.1 * side + 0.5, 0, 1)  # a plain rim, the same for all classes
    body = body + (_planes(_colour(38, 36, 40)) - body) * (0.55 * rim)
    shade = 1.06 - 0.16 * (0.5 * u / shape.half[0] + v / shape.half[1])
    part += np.clip(0.5 - distance, 0, 1) * (body * shade - part)


def _finish(rng: np.random.Generator, picture: FloatArray) -> NDArray[np.uint8]:
    """Add sensor noise to a picture (3, H, W), which it changes, and round it to bytes, (H, W, 3)."""
    noise = rng.standard_normal(picture.shape[1:], np.float32) * np.float32(rng.uniform(*NOISE))
    picture += noise
    np.clip(np.rint(picture, out=picture), 0, 255, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0))


# --- scenes -------------------------------------------------------------------------------------------------


class _InSight:
    """Which pixels of objects are seen while others are put in front of them, one after the other."""

    def __init__(self) -> None:
        self.patches: list[_Patch] = []
        self.needed: list[float] = []
        self._seen: list[tuple[_Patch, int]] = []

    def add(self, patch: _Patch, needed: float) -> bool:
        """Put an object in front, unless it or one behind it would show fewer pixels than it needs; return whether."""
        seen = [_behind(old, pixels, patch) for old, pixels in self._seen]
        seen.append((patch, int(patch.mask.sum())))
        if any(pixels < least for (_, pixels), least in zip(seen, [*self.needed, needed], strict=True)):
            return False
        self._seen = seen
        self.patches.append(patch)
        self.needed.append(needed)
        return True

    def masks(self) -> list[_Patch]:
        """Return what is seen of each object, in the order in which they were put."""
        return [patch for patch, _ in self._seen]


def _behind(patch: _Patch, pixels: int, front: _Patch) -> tuple[_Patch, int]:
    """Return what is seen of a patch behind another, and in how many pixels; before, it was seen in ``pixels``."""
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(patch.window, front.window, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return patch, pixels
    here, there = (
        (slice(rows.start - y.start, rows.stop - y.start), slice(columns.start - x.start, columns.stop - x.start))
        for y, x in (patch.window, front.window)
    )
    mask = patch.mask.copy()
    mask[here] &= ~front.mask[there]
    return _Patch(patch.window, mask), int(mask.sum())


def _paint_clutter(rng: np.random.Generator, canvas: _Canvas, style: Style) -> None:
    """Draw up to three things that only their pattern tells from objects; they are layers of background."""
    height, width = canvas.picture.shape[1:]
    for _ in range(int(rng.integers(0, 4))):
        side = style.draw_side(rng, min(height, width))
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0.2, 1) * height))
        shape = _draw_shape(rng, CLUTTER_CLASSES[rng.integers(len(CLUTTER_CLASSES))], side, centre, style)
        _paint(canvas.picture, shape)
        patch = _coverage(shape, height, width)
        if patch.mask.any():
            canvas.layers.append((BACKGROUNDS.index(CLUTTER), patch.whole(height, width)))


def _paint_poles(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Draw up to four poles, which stand on the ground and reach above the horizon."""
    height, width = canvas.picture.shape[1:]
    for _ in range(int(rng.integers(0, 5))):
        foot, across = rng.uniform(0.55, 0.95) * height, height * rng.uniform(0.01, 0.022)
        left, top = rng.uniform(0, width - across), foot - height * rng.uniform(0.3, 0.6)
        columns = slice(round(left), min(width, round(left) + max(2, round(across))))
        window = (slice(max(0, round(top)), round(foot)), columns)
        mask = np.ones((window[0].stop - window[0].start, columns.stop - columns.start), bool)
        canvas.lay("pole", window, mask, _planes(_hsv(rng.uniform(), 0.06, rng.uniform(0.25, 0.7))))


def _draw_sides(rng: np.random.Generator, shorter: int, style: Style) -> list[float]:
    """Draw the sides of one to six objects, in pixels, the largest first."""
    wanted = int(rng.integers(1, 7))
    sides = sorted((style.draw_side(rng, shorter) for _ in range(wanted)), reverse=True)
    if style.shares is None and rng.uniform() < 0.1 and shorter > 120:  # one large object, as far as there is room
        return [float(rng.uniform(114, min(170, 0.97 * shorter))), *sides[: min(2, wanted - 1)]]
    return sides


def render_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    crowds: bool = True,
    hood: bool = False,
    style: Style = Style(),
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
    style : Style
        How objects look.

    Returns
    -------
    Scene
        At least half of every object is in sight; without `Style.shares`, of a large one more than `LARGE` pixels.
    """
    canvas = _paint_background(rng, height, width, hood)
    if style.poles:
        _paint_poles(rng, canvas)
    _paint_clutter(rng, canvas, style)
    shorter = min(height, width)
    shapes: list[_Shape] = []
    sight = _InSight()
    for side in _draw_sides(rng, shorter, style):
        label = SCENE_CLASSES[rng.integers(len(SCENE_CLASSES))]
        for _ in range(12):
            shape = _draw_shape(rng, label, side, _draw_centre(rng, height, width, side, shapes), style)
            area = 3.1 * shape.half[0] * shape.half[1]
            if sight.add(_coverage(shape, height, width), style.needed(area)):
                shapes.append(shape)
                break
    outlines = [patch.whole(height, width) for patch in sight.patches]
    masks = [patch.whole(height, width) for patch in sight.masks()]
    instances = [
        Instance(SCENE_CLASSES.index(shape.label), mask, False, outline)
        for shape, mask, outline in zip(shapes, masks, outlines, strict=True)
    ]
    for shape in shapes:
        _paint(canvas.picture, shape)
    if crowds and rng.uniform() < 0.08:
        taken = np.logical_or.reduce([np.zeros((height, width), bool), *outlines])
        group = _crowd(rng, taken)
        if group:
            for shape in group:
                _paint(canvas.picture, shape)
            heap = np.logical_or.reduce([_coverage(shape, height, width).whole(height, width) for shape in group])
            instances.append(Instance(SCENE_CLASSES.index(group[0].label), heap, True, heap))
    background = np.zeros((height, width), np.uint8)
    for kind, mask in canvas.layers:
        background[mask] = kind
    return Scene(_finish(rng, canvas.picture), background, canvas.layers, instances)


def _draw_centre(
    rng: np.random.Generator, height: int, width: int, side: float, others: list[_Shape]
) -> tuple[float, float]:
    """Draw where an object stands, x and y in pixels: often beside another, so that overlap is common."""
    margin = min((0.5 if side > 110 else 0.42) * side, 0.49 * min(height, width))
    centre = (float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin)))
    if not others or rng.uniform() >= 0.25:
        return centre
    other = others[rng.integers(len(others))]
    turn, reach = rng.uniform(0, 6.28), 0.8 * (max(other.half) + side / 2)
    return (
        float(np.clip(other.centre[0] + reach * np.cos(turn), 0.3 * side, width - 0.3 * side)),
        float(np.clip(other.centre[1] + reach * np.sin(turn), 0.3 * side, height - 0.3 * side)),
    )


def _crowd(rng: np.random.Generator, taken: BoolArray) -> list[_Shape]:
    """Draw a heap of tiny objects of one class that leaves what is taken (H, W) in sight; empty if there is no room."""
    height, width = taken.shape
    label = SCENE_CLASSES[rng.integers(len(SCENE_CLASSES))]
    centre = np.array([rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.9) * height])
    spread = rng.uniform(9, 15)
    group = []
    for _ in range(int(rng.integers(9, 16))):
        place = centre + rng.standard_normal(2) * spread * np.array([1.3, 0.7])
        shape = _draw_shape(rng, label, rng.uniform(7, 11), (float(place[0]), float(place[1])))
        covered = _coverage(shape, height, width)
        if covered.mask.sum() >= 12 and not (covered.mask & taken[covered.window]).any():
            group.append(shape)
    return group if len(group) >= 5 else []


def render_object(
    rng: np.random.Generator, size: int, label: int, style: Style = Style(shares=OBJECT_SHARES, faint=OBJECT_FAINTNESS)
) -> NDArray[np.uint8]:
    """Render a picture (size, size, 3) of one object, of class `label` of `OBJECT_CLASSES`.

    Its side is a share of the picture's that is drawn evenly from the style's range.
    """
    canvas = _paint_background(rng, size, size, hood=False)
    side = size * rng.uniform(*(style.shares or OBJECT_SHARES))
    margin = 0.5 * side
    centre = (float(rng.uniform(margin, size - margin)), float(rng.uniform(margin, size - margin)))
    _paint(canvas.picture, _draw_shape(rng, OBJECT_CLASSES[label], side, centre, style))
    return _finish(rng, canvas.picture)
