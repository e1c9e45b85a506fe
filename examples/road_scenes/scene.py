"""Road scenes: a random choice of what is on the road, and an image of it. The right answers follow from the choice.

A scene looks along a road of two lanes. It may have a traffic light, up to four cars, and an obstacle at the roadside or
in the middle of the road.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

LIGHTS = ("none", "red", "amber", "green")
OBSTACLES = ("none", "cone", "box", "barrel")
SIDES = ("left", "middle", "right")
TIMES = ("day", "dusk", "night")
MOST_CARS = 4
SIZES = ((140, 196), (168, 196), (196, 140), (168, 224))  # (height, width) in pixels, whole numbers of 28

_SCALE = 2  # images are drawn this many times larger, and then averaged
_SKY = {
    "day": ((96, 160, 226), (204, 228, 244)),
    "dusk": ((92, 74, 132), (246, 166, 104)),
    "night": ((8, 12, 34), (40, 50, 84)),
}
_SHADE = {"day": 1.0, "dusk": 0.8, "night": 0.5}
_LAMPS = {"red": (255, 48, 40), "amber": (255, 186, 20), "green": (40, 240, 100)}
_PAINTS = ((200, 36, 44), (36, 92, 190), (238, 238, 240), (228, 186, 40), (30, 128, 84), (140, 70, 160), (90, 96, 104))

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What an image shows. ``side`` is where the obstacle is, or "none" if ``obstacle`` is "none"."""

    light: str
    cars: int
    obstacle: str
    side: str
    time: str

    @property
    def blocked(self) -> bool:
        return self.obstacle != "none" and self.side == "middle"


def random_scene(rng: random.Random) -> Scene:
    """A scene; each value of each property is about equally frequent."""
    obstacle = rng.choice(OBSTACLES)
    side = "none" if obstacle == "none" else rng.choice(SIDES)
    return Scene(rng.choice(LIGHTS), rng.randint(0, MOST_CARS), obstacle, side, rng.choice(TIMES))


def random_size(rng: random.Random) -> tuple[int, int]:
    """One of `SIZES`."""
    return rng.choice(SIZES)


def _shade(color: Color, factor: float) -> Color:
    return tuple(max(0, min(255, round(part * factor))) for part in color)  # type: ignore[return-value]


class _Painter:
    """Draws one scene on a canvas of ``height`` by ``width`` pixels, `_SCALE` times larger."""

    def __init__(self, scene: Scene, height: int, width: int, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.height, self.width = height * _SCALE, width * _SCALE
        self.horizon = self.height * rng.uniform(0.36, 0.44)
        self.middle = self.width * rng.uniform(0.46, 0.54)  # of the road, at the horizon
        self.shade = _SHADE[scene.time] * rng.uniform(0.92, 1.08)
        self.image = Image.fromarray(self._sky())
        self.draw = ImageDraw.Draw(self.image)

    def _sky(self) -> np.ndarray:
        top, bottom = (np.array(color, np.float32) for color in _SKY[self.scene.time])
        depth = np.clip(np.arange(self.height, dtype=np.float32) / self.horizon, 0, 1)[:, None]
        rows = (top + (bottom - top) * depth).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(rows[:, None], (self.height, self.width, 3)))

    def paint(self, color: Color) -> Color:
        return _shade(color, self.shade)

    def row(self, depth: float) -> float:
        """The y of the road at ``depth``: 0 is the lower edge of the image, 1 the horizon."""
        return self.height - (self.height - self.horizon) * depth

    def across(self, depth: float, side: float) -> float:
        """The x at ``depth``, for ``side`` from -1 (left edge of the road) to 1 (right edge)."""
        centre = self.width / 2 + (self.middle - self.width / 2) * depth
        return centre + side * self.road(depth)

    def road(self, depth: float) -> float:
        """Half the width of the road at ``depth``."""
        return self.width * (0.45 - 0.39 * depth)

    def backdrop(self) -> None:
        rng, draw, width = self.rng, self.draw, self.width
        if self.scene.time == "night":
            for _ in range(rng.randint(12, 26)):
                x, y = rng.uniform(0, width), rng.uniform(0, self.horizon * 0.8)
                draw.ellipse((x, y, x + 2, y + 2), fill=(190, 196, 220))
        else:
            cloud = (250, 250, 252) if self.scene.time == "day" else (240, 190, 170)
            for _ in range(rng.randint(0, 2)):
                x, y, size = rng.uniform(0, width), rng.uniform(8, self.horizon * 0.5), rng.uniform(10, 22)
                for shift, grow in ((-1.1, 0.7), (0, 1.0), (1.1, 0.75)):
                    half = size * grow
                    draw.ellipse((x + shift * size - half, y - half / 2, x + shift * size + half, y + half / 2), cloud)
        tops = [self.horizon - rng.uniform(0.02, 0.16) * self.height for _ in range(6)]
        hills = [(0.0, self.horizon), *((width * step / 5, top) for step, top in enumerate(tops))]
        draw.polygon([*hills, (width, self.horizon)], fill=self.paint((112, 138, 128)))
        ground = rng.choice(((104, 150, 76), (126, 150, 82), (150, 140, 92)))
        draw.rectangle((0, self.horizon, width, self.height), fill=self.paint(ground))
        corners = [(self.across(depth, side), self.row(depth)) for depth, side in ((0, -1), (1, -1), (1, 1), (0, 1))]
        draw.polygon(corners, fill=self.paint(_shade((86, 88, 94), rng.uniform(0.85, 1.15))))
        line = self.paint((236, 236, 228))
        for side in (-0.95, 0.95):
            draw.line([(self.across(0, side), self.row(0)), (self.across(1, side), self.row(1))], fill=line, width=3)
        depth = rng.uniform(-0.1, 0.05)
        while depth < 0.95:
            end = depth + 0.12 * (1.1 - depth)
            draw.polygon(
                [
                    (self.across(at, half), self.row(at))
                    for at, half in ((depth, -0.02), (end, -0.02), (end, 0.02), (depth, 0.02))
                ],
                fill=line,
            )
            depth = end + 0.09 * (1.1 - depth)

    def traffic_light(self) -> None:
        if self.scene.light == "none":
            return
        rng, draw = self.rng, self.draw
        side = rng.choice((-1, 1))
        depth = rng.uniform(0.45, 0.65)
        high = self.height * rng.uniform(0.22, 0.28)
        wide = high * 0.42
        x = self.across(depth, side * rng.uniform(1.12, 1.3))
        x = min(max(x, wide), self.width - wide)
        top = self.height * rng.uniform(0.06, 0.14)
        draw.rectangle((x - 3, top + high, x + 3, self.row(depth)), fill=self.paint((70, 72, 78)))
        draw.rounded_rectangle(
            (x - wide / 2, top, x + wide / 2, top + high), wide * 0.2, fill=(26, 28, 32), outline=(120, 122, 126)
        )
        radius = high * 0.135
        for place, name in enumerate(("red", "amber", "green")):
            y = top + high * (0.19 + 0.31 * place)
            lit = name == self.scene.light
            if lit:
                draw.ellipse(
                    (x - radius * 1.25, y - radius * 1.25, x + radius * 1.25, y + radius * 1.25),
                    _shade(_LAMPS[name], 0.55),
                )
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius), _LAMPS[name] if lit else _shade(_LAMPS[name], 0.22)
            )

    def car(self, depth: float, side: float) -> None:
        rng, draw = self.rng, self.draw
        half = self.road(depth) * rng.uniform(0.3, 0.34)
        x, y = self.across(depth, side), self.row(depth)
        paint = _shade(rng.choice(_PAINTS), max(self.shade, 0.6))
        body, roof = half * 0.75, half * 0.62
        draw.ellipse((x - half * 1.1, y - half * 0.12, x + half * 1.1, y + half * 0.14), fill=self.paint((48, 50, 54)))
        for wheel in (-0.72, 0.72):
            draw.rectangle(
                (x + wheel * half - half * 0.16, y - half * 0.3, x + wheel * half + half * 0.16, y + half * 0.06),
                (20, 20, 22),
            )
        draw.polygon(
            [
                (x - half * 0.72, y - body),
                (x - half * 0.52, y - body - roof),
                (x + half * 0.52, y - body - roof),
                (x + half * 0.72, y - body),
            ],
            paint,
        )
        draw.polygon(
            [
                (x - half * 0.6, y - body),
                (x - half * 0.45, y - body - roof * 0.82),
                (x + half * 0.45, y - body - roof * 0.82),
                (x + half * 0.6, y - body),
            ],
            self.paint((64, 84, 104)),
        )
        draw.rounded_rectangle(
            (x - half, y - body, x + half, y - half * 0.12), half * 0.2, fill=paint, outline=_shade(paint, 0.6)
        )
        lamp = (255, 244, 190) if side < 0 else (230, 40, 36)  # oncoming cars show headlights, those ahead tail lights
        for place in (-0.74, 0.74):
            draw.ellipse(
                (x + place * half - half * 0.17, y - body * 0.78, x + place * half + half * 0.17, y - body * 0.38), lamp
            )
        draw.rectangle(
            (x - half * 0.25, y - body * 0.42, x + half * 0.25, y - body * 0.22), self.paint((225, 225, 215))
        )

    def obstacle(self) -> None:
        if self.scene.obstacle == "none":
            return
        rng, draw = self.rng, self.draw
        size = self.width * rng.uniform(0.07, 0.095)
        if self.scene.side == "middle":
            x, y = self.across(0.12, rng.uniform(-0.08, 0.08)), self.row(rng.uniform(0.06, 0.16))
        else:
            depth = rng.uniform(0.18, 0.5)
            sign = -1 if self.scene.side == "left" else 1
            x, y = self.across(depth, sign * rng.uniform(1.15, 1.4)), self.row(depth)
            x = min(max(x, size * 0.9), self.width - size * 0.9)
        draw.ellipse((x - size * 0.8, y - size * 0.16, x + size * 0.8, y + size * 0.16), fill=self.paint((52, 54, 52)))
        shade = max(self.shade, 0.65)
        if self.scene.obstacle == "cone":
            orange, white = _shade((250, 118, 24), shade), _shade((245, 245, 245), shade)
            draw.rectangle((x - size * 0.75, y - size * 0.18, x + size * 0.75, y), orange)
            for low, high, color in ((0.15, 0.65, orange), (0.65, 1.0, white), (1.0, 1.8, orange)):
                wide = [0.5 * (1 - at / 2) * size for at in (low, high)]
                draw.polygon(
                    [
                        (x - wide[0], y - low * size),
                        (x - wide[1], y - high * size),
                        (x + wide[1], y - high * size),
                        (x + wide[0], y - low * size),
                    ],
                    color,
                )
        elif self.scene.obstacle == "box":
            brown = _shade((186, 136, 80), shade)
            draw.rectangle(
                (x - size * 0.75, y - size * 1.2, x + size * 0.75, y), brown, outline=_shade(brown, 0.6), width=2
            )
            draw.polygon(
                [
                    (x - size * 0.75, y - size * 1.2),
                    (x - size * 0.5, y - size * 1.5),
                    (x + size * 0.95, y - size * 1.5),
                    (x + size * 0.75, y - size * 1.2),
                ],
                _shade(brown, 1.2),
            )
            draw.rectangle((x - size * 0.12, y - size * 1.2, x + size * 0.12, y), _shade(brown, 0.78))
        else:
            blue = _shade((44, 108, 176), shade)
            draw.ellipse((x - size * 0.6, y - size * 0.25, x + size * 0.6, y + size * 0.1), blue)
            draw.rectangle((x - size * 0.6, y - size * 1.6, x + size * 0.6, y - size * 0.1), blue)
            for band in (0.5, 1.1):
                draw.rectangle(
                    (x - size * 0.62, y - size * (band + 0.16), x + size * 0.62, y - size * band),
                    _shade((240, 240, 240), shade),
                )
            draw.ellipse(
                (x - size * 0.6, y - size * 1.8, x + size * 0.6, y - size * 1.4),
                _shade(blue, 1.3),
                outline=_shade(blue, 0.6),
            )

    def cars(self) -> None:
        """Each car has its own place, lane by depth, far ones first. No two hide each other."""
        near = [] if self.scene.blocked else [(0.1, -0.52), (0.1, 0.52)]
        places = [*near, (0.43, -0.52), (0.43, 0.52), (0.7, -0.52), (0.7, 0.52)]
        for depth, side in sorted(self.rng.sample(places, self.scene.cars), reverse=True):
            self.car(depth + self.rng.uniform(-0.03, 0.03), side + self.rng.uniform(-0.05, 0.05))

    def finish(self) -> Image.Image:
        """The image in its final size, with camera noise."""
        pixels = np.asarray(self.image.reduce(_SCALE), np.float32)
        noise = np.random.default_rng(self.rng.getrandbits(32)).standard_normal(pixels.shape, np.float32)
        return Image.fromarray(np.clip(pixels + noise * self.rng.uniform(0, 5), 0, 255).astype(np.uint8))


def render(scene: Scene, size: tuple[int, int], seed: int) -> Image.Image:
    """An image of ``scene``, ``size`` (height, width) in pixels. The seed determines places, colours and noise."""
    painter = _Painter(scene, *size, random.Random(seed))
    painter.backdrop()
    painter.traffic_light()
    painter.cars()
    painter.obstacle()
    return painter.finish()
