"""Driving scenes: the facts of a scene, what the car should do in it and why, and the scene told in English.

Answers follow from the facts of a `Scene`; nothing reads them back from its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
LIGHTS = ("red", "yellow", "green")
ROADS = ("dry", "wet", "icy")
SIDES = ("on the left", "on the right")
PLACES = ("ahead", "behind", *SIDES)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight",
           "nine", "ten", "eleven", "twelve", "thirteen")  # fmt: skip

# Singular to plural. People stand in the order in which they matter to the rules.
PEOPLE = {"child": "children", "pedestrian": "pedestrians", "cyclist": "cyclists"}
VEHICLES = {"car": "cars", "truck": "trucks", "bus": "buses", "van": "vans", "motorcycle": "motorcycles"}
EMERGENCY = {"ambulance": "ambulances", "fire engine": "fire engines"}
KINDS = PEOPLE | VEHICLES | EMERGENCY


@dataclass(frozen=True)
class Group:
    """Some of one kind in one place: two white trucks on the left, one child crossing from the right."""

    count: int
    kind: str
    place: str
    colour: str = ""  # of vehicles, but not of emergency vehicles
    crossing: bool = False  # of people, who wait otherwise

    @property
    def name(self) -> str:
        return self.kind if self.count == 1 else KINDS[self.kind]

    def __str__(self) -> str:
        words = " ".join(word for word in (self.colour, self.name) if word)
        return a(words) if self.count == 1 else f"{NUMBERS[self.count]} {words}"


@dataclass(frozen=True)
class Scene:
    """The facts of a scene; ``None`` where it does not say. Speeds are in km/h. There is at most one group of each kind."""

    light: str | None
    road: str | None
    groups: tuple[Group, ...]  # in the order of KINDS
    speed: int | None
    limit: int | None

    @property
    def facts(self) -> str:
        """The facts as text: equal for scenes that differ only in wording."""
        return json.dumps(asdict(self))

    @property
    def people(self) -> list[Group]:
        return [group for group in self.groups if group.kind in PEOPLE]

    @property
    def vehicles(self) -> list[Group]:
        return [group for group in self.groups if group.kind not in PEOPLE]

    @property
    def too_fast(self) -> bool:
        return self.speed is not None and self.limit is not None and self.speed > self.limit

    def group(self, kind: str) -> Group | None:
        return next((group for group in self.groups if group.kind == kind), None)


def _crossing(scene: Scene) -> str | None:
    return next((f"{group} {is_are(group)} crossing" for group in scene.people if group.crossing), None)


def _siren(scene: Scene) -> str | None:
    return next((f"{group} is behind" for group in scene.vehicles if group.kind in EMERGENCY), None)


def _waiting(scene: Scene) -> str | None:
    return next((f"{group} {is_are(group)} waiting" for group in scene.people), None)


# What the car should do: the first rule that gives a reason.
RULES: tuple[tuple[str, Callable[[Scene], str | None]], ...] = (
    ("Stop", _crossing),
    ("Stop", lambda scene: "the light is red" if scene.light == "red" else None),
    ("Pull over", _siren),
    ("Brake", lambda scene: "the light is yellow" if scene.light == "yellow" else None),
    ("Slow down", _waiting),
    ("Slow down", lambda scene: "the car is too fast" if scene.too_fast else None),
    ("Slow down", lambda scene: "the road is icy" if scene.road == "icy" else None),
    ("Drive on", lambda scene: "the light is green" if scene.light == "green" else "the way is clear"),
)


def action(scene: Scene) -> str:
    """What the car should do and why: ``Stop, because the light is red.``"""
    return next(f"{what}, because {reason}." for what, why in RULES if (reason := why(scene)))


def random_scene(rng: Random) -> Scene:
    """A scene with two facts or more."""
    people = [
        Group(rng.choice((1, 1, 1, 2, 2, 3, 4)), kind, rng.choice(SIDES), crossing=rng.random() < 0.3)
        for kind in _some(rng, PEOPLE, rng.choice((0, 0, 0, 1, 1, 2)))
    ]
    places = rng.sample(PLACES, k=len(PLACES))  # every vehicle has a place of its own
    emergency = []
    if rng.random() < 0.15:
        places.remove("behind")
        emergency = [Group(1, rng.choice(list(EMERGENCY)), "behind")]
    vehicles = [
        Group(rng.choice((1, 1, 1, 2, 2, 3, 4)), kind, place, rng.choice(COLOURS))
        for kind, place in zip(_some(rng, VEHICLES, rng.choice((0, 1, 1, 2, 2, 3))), places, strict=False)
    ]
    limit = rng.choice((None, 30, 50, 60, 80, 100, 120))
    scene = Scene(
        light=rng.choice((None, None, *LIGHTS)),
        road=rng.choice((None, None, *ROADS)),
        groups=(*people, *vehicles, *emergency),
        speed=limit and limit + rng.choice((-20, -15, -10, -5, 0, 5, 10, 15, 20, 25)),
        limit=limit,
    )
    facts = sum(fact is not None for fact in (scene.light, scene.road, scene.limit)) + len(scene.groups)
    return scene if facts >= 2 else random_scene(rng)


def describe(scene: Scene, rng: Random) -> str:
    """The scene in English, one sentence per fact, in a wording and order chosen by ``rng``."""
    sentences = [_describe_group(group, rng) for group in scene.groups]
    if scene.light:
        forms = ("The light ahead is {}", "The traffic light is {}", "The light is {}", "We come to a {} light")
        sentences.append(rng.choice(forms).format(scene.light))
    if scene.road:
        sentences.append(rng.choice(("The road is {}", "It is {} on the road", "The street is {}")).format(scene.road))
    if scene.limit:
        forms = (
            "The limit is {limit} km/h and the car drives at {speed} km/h",
            "The car drives at {speed} km/h where {limit} km/h are allowed",
            "The speed is {speed} km/h, the limit {limit} km/h",
        )
        sentences.append(rng.choice(forms).format(speed=scene.speed, limit=scene.limit))
    rng.shuffle(sentences)
    return " ".join(f"{capital(sentence)}." for sentence in sentences)


def _describe_group(group: Group, rng: Random) -> str:
    one = group.count == 1
    if group.kind in EMERGENCY:
        forms = ("{it} comes from behind", "{it} is behind", "behind there is {it} with its siren on")
    elif group.crossing:
        forms = ("{it} cross{es} from {side}", "{it} {are} crossing from {side}", "from {side} {it} cross{es} the road")
    elif group.kind in PEOPLE:
        forms = ("{it} wait{s} {place}", "{place} {it} {are} waiting", "there {are} {it} waiting {place}")
    else:
        forms = ("{it} {are} {place}", "there {are} {it} {place}", "{place} there {are} {it}", "we see {it} {place}")
    return rng.choice(forms).format(
        it=group,
        are=is_are(group),
        place=group.place,
        side=group.place.removeprefix("on "),
        s="s" if one else "",
        es="es" if one else "",
    )


def is_are(group: Group) -> str:
    return "is" if group.count == 1 else "are"


def a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _some(rng: Random, kinds: dict[str, str], count: int) -> list[str]:
    """``count`` different kinds, in the order of ``kinds``."""
    chosen = rng.sample(list(kinds), count)
    return [kind for kind in kinds if kind in chosen]
