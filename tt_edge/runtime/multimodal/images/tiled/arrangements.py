"""How many rows and columns of tiles an image gets: the rules of transformers' image processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

#: Columns and rows of tiles.
Arrangement = tuple[int, int]
Size = tuple[int, int]
#: Height and width of an image and of a tile, the least and the most tiles: the arrangement that suits.
Choice = Callable[[Size, Size, int, int], Arrangement]


@lru_cache(maxsize=256)
def nearest_ratio(size: Size, tile: Size, least: int, most: int, longest: int = 1 << 30) -> Arrangement:
    """The arrangement nearest to the image's proportions; of equals the larger, while half of its pixels are in the image.

    It has at most ``longest`` rows or columns.
    """
    return _nearest(size, tile, [pair for pair in _by_count(least, most) if max(pair) <= longest])


def nearest_ratio_in_a_set(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """As ``nearest_ratio``, where equals with as many tiles come as in a Python set."""
    return _nearest(size, tile, _by_count_in_a_set(least, most))


def _nearest(size: Size, tile: Size, every: Sequence[Arrangement]) -> Arrangement:
    ratio, pixels = size[1] / size[0], size[0] * size[1]
    best, distance = (1, 1), float("inf")
    for columns, rows in every:
        apart = abs(ratio - columns / rows)
        if apart < distance or (apart == distance and pixels > 0.5 * tile[0] * tile[1] * columns * rows):
            best, distance = (columns, rows), apart
    return best


def nearest_ratio_of_16(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """As ``nearest_ratio``, of at most 16 rows and 16 columns."""
    return nearest_ratio(size, tile, least, most, 16)


@lru_cache(maxsize=256)
def ratio_and_area(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """The arrangement whose proportions are the image's and whose pixels are three fifths of the image's or more."""
    ratio, pixels = size[1] / size[0], size[0] * size[1]

    def suits(arrangement: Arrangement) -> float:
        own = arrangement[0] / arrangement[1]
        return min(_count(arrangement) * tile[0] * tile[1] / pixels, 0.6) * min(own / ratio, ratio / own)

    return max(_by_count_in_a_set(least, most), key=suits)


@lru_cache(maxsize=256)
def least_upscaling(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """The arrangement that the image fits into enlarged by least; or else, reduced by least. ``least`` is not followed."""
    del least

    def scale(arrangement: Arrangement) -> float:
        columns, rows = arrangement
        return min(columns * tile[0] / size[1], rows * tile[0] / size[0])

    every = _by_count(1, most)
    larger = [each for each in every if scale(each) >= 1]
    return min(larger, key=scale) if larger else max(every, key=scale)


@lru_cache(maxsize=256)
def largest_canvas(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """Of the arrangements that the image fits into, that in which its shorter side becomes longest; or else of its proportions."""
    del least
    (height, width), side = size, tile[0]
    by_ratio: dict[float, list[Arrangement]] = {}
    for count in range(most, 0, -1):
        for columns in (each for each in range(1, count + 1) if count % each == 0):
            by_ratio.setdefault(columns / (count // columns), []).append((columns, count // columns))
    ratio, best, longest = width / height, None, 0.0
    for columns, rows in (pair for pairs in by_ratio.values() for pair in pairs):
        if columns * side < width or rows * side < height:
            continue
        scale = min(columns * side / width, rows * side / height)
        if ratio > 1:
            shorter: float = int(scale * width / ratio)
        else:
            own = scale * height
            shorter = int(own * ratio) if ratio < 1 else own
        if best is None or shorter >= longest:
            best, longest = (columns, rows), shorter
    if best is not None:
        return best
    if ratio >= 1:
        near = min((each for each in by_ratio if each <= ratio), key=lambda each: abs(each - ratio))
        return max(by_ratio[near], key=lambda pair: pair[0])
    near = min((each for each in by_ratio if each > ratio), key=lambda each: abs(1 / each - 1 / ratio))
    return max(by_ratio[near], key=lambda pair: pair[1])


@lru_cache(maxsize=256)
def covering(size: Size, tile: Size, least: int, most: int) -> Arrangement:
    """The fewest tiles that hold nine tenths of the image's pixels; or else those that hold most."""
    del least
    (height, width), side = size, tile[0]

    def covered(pair: Arrangement) -> float:
        rows, columns = pair  # transformers has them in this order here, and as columns and rows in what is returned
        tall, wide, found = height // rows, width // columns, 0.0
        for row, column in product(range(rows), range(columns)):
            own = (
                width - column * wide if column == columns - 1 else wide,
                height - row * tall if row == rows - 1 else tall,
            )
            longer, shorter = max(own), float(min(own))
            if longer > side:
                longer, shorter = side, shorter / longer * side
            found += longer * shorter
        return found / (width * height)

    every = [(pair, covered(pair)) for pair in _by_count(1, most)]
    if enough := [each for each in every if each[1] > 0.9]:
        return min(enough, key=lambda each: (_count(each[0]), -each[1]))[0]
    return min(every, key=lambda each: (-each[1], _count(each[0])))[0]


def _by_count(least: int, most: int) -> list[Arrangement]:
    sides = range(1, most + 1)
    return sorted((pair for pair in product(sides, sides) if least <= _count(pair) <= most), key=_count)


@lru_cache(maxsize=256)
def _by_count_in_a_set(least: int, most: int) -> tuple[Arrangement, ...]:
    """As ``_by_count``; those of as many tiles in the order of the Python set in which some processors have them.

    Pairs of integers hash the same everywhere, and what else decides is the order in which they come.
    """
    every: set[Arrangement] = set()
    for sides in (range(1, side + 1) for side in range(least, most + 1)):
        every.update(pair for pair in product(sides, sides) if least <= _count(pair) <= most)
    return tuple(sorted(every, key=_count))


def _count(arrangement: Arrangement) -> int:
    return arrangement[0] * arrangement[1]
