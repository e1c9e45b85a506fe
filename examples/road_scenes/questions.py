"""Questions about road scenes and their answers, in three splits whose images are drawn from different seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from examples.road_scenes.scene import LIGHTS, OBSTACLES, SIZES, TIMES, Scene, random_scene, render

SPLITS = ("train", "validation", "test")
NUMBERS = ("None.", "One.", "Two.", "Three.", "Four.")

ASKED = {
    "light": ("What colour is the traffic light?", "Which light is on?", "What does the traffic light show?"),
    "count": ("How many cars are there?", "Count the cars.", "How many cars are on the road?"),
    "obstacle": ("Which obstacle is there?", "What lies in or beside the road?", "Name the obstacle."),
    "side": (
        "Where is the obstacle?",
        "On which side is the obstacle?",
        "Left, middle or right: where is the obstacle?",
    ),
    "time": ("What time of day is it?", "Is it day, dusk or night?"),
    "action": ("What should the car do, and why?", "Should the car stop? Why?", "May we drive on? Give the reason."),
    "describe": ("Describe the picture.", "What do you see?"),
}
SIDE_ANSWERS = {
    "none": "There is none.", "left": "On the left.", "middle": "In the middle.", "right": "On the right."
}  # fmt: skip
TEXT_ASKED = (
    ("What does a red light mean?", "Stop."),
    ("What does an amber light mean?", "Slow down."),
    ("What does a green light mean?", "Drive on."),
    ("Which light comes after red?", "Green."),
    ("Which light comes before red?", "Amber."),
    ("May we pass a cone in the middle of the road?", "No."),
)


@dataclass(frozen=True)
class Picture:
    """A scene, and the parameters to draw an image of it."""

    scene: Scene
    size: tuple[int, int]
    seed: int

    def image(self) -> Image.Image:
        return render(self.scene, self.size, self.seed)


@dataclass(frozen=True)
class Example:
    """One question: its kind, the images before it (none, one or two), its text and the one right answer."""

    kind: str
    pictures: tuple[Picture, ...]
    question: str
    answer: str

    def messages(self) -> list[dict[str, Any]]:
        """The chat as the chat template takes it; each image is an item without its data."""
        text = {"type": "text", "text": self.question}
        return [{"role": "user", "content": [{"type": "image"} for _ in self.pictures] + [text]}]


def action(scene: Scene) -> str:
    """What the car should do, and why: what blocks the road comes first, then the light."""
    if scene.blocked:
        return f"Stop: a {scene.obstacle} blocks the road."
    if scene.light == "red":
        return "Stop: the light is red."
    if scene.light == "amber":
        return "Slow down: the light is amber."
    if scene.light == "green":
        return "Drive on: the light is green."
    return "Drive on: the road is clear."


def describe(scene: Scene) -> str:
    """A short caption of all that a scene has."""
    light = "no light" if scene.light == "none" else f"{scene.light} light"
    cars = f"{NUMBERS[scene.cars][:-1].lower()} car" + "s" * (scene.cars != 1) if scene.cars else "no cars"
    where = {"none": "", "left": " on the left", "middle": " in the middle", "right": " on the right"}[scene.side]
    obstacle = "no obstacle" if scene.obstacle == "none" else f"a {scene.obstacle}{where}"
    return f"{scene.time.capitalize()}, {light}, {cars}, {obstacle}."


def answer(kind: str, scene: Scene) -> str:
    """The answer to the questions of a kind in `ASKED`."""
    if kind == "light":
        return "There is no traffic light." if scene.light == "none" else f"{scene.light.capitalize()}."
    if kind == "count":
        return NUMBERS[scene.cars]
    if kind == "obstacle":
        return "There is none." if scene.obstacle == "none" else f"A {scene.obstacle}."
    if kind == "side":
        return SIDE_ANSWERS[scene.side]
    if kind == "time":
        return f"{scene.time.capitalize()}."
    return action(scene) if kind == "action" else describe(scene)


def one_picture(rng: random.Random, scene: Scene, kind: str) -> tuple[str, str]:
    """A question of a kind in `ASKED`, and its answer."""
    return rng.choice(ASKED[kind]), answer(kind, scene)


def two_pictures(rng: random.Random, first: Scene, second: Scene) -> tuple[str, str]:
    """A question about two images, which differ in what it asks; one of them is the answer."""
    asked = [
        *((f"Which picture has the {x} light?", first.light == x, second.light == x) for x in LIGHTS[1:]),
        *((f"Which picture has a {x}?", first.obstacle == x, second.obstacle == x) for x in OBSTACLES[1:]),
        *((f"Which picture shows the {x}?", first.time == x, second.time == x) for x in TIMES),
    ]
    asked.append(("Which picture has more cars?", first.cars > second.cars, second.cars > first.cars))
    possible = [(question, in_first) for question, in_first, in_second in asked if in_first != in_second]
    if not possible:
        return "Do both pictures have the same light?", "Yes."
    question, in_first = rng.choice(possible)
    return question, "The first." if in_first else "The second."


def random_for(split: str, seed: int) -> random.Random:
    """A separate generator for each split and seed."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return random.Random(f"road scenes {split} {seed}")


def random_picture(rng: random.Random, size: tuple[int, int] | None = None) -> Picture:
    """An image of a random scene, not drawn yet."""
    return Picture(random_scene(rng), size or rng.choice(SIZES), rng.getrandbits(48))


def examples(split: str, count: int, seed: int = 0) -> list[Example]:
    """``count`` questions with their images; kinds alternate."""
    return [example for example, _ in zip(_examples(split, seed), range(count), strict=False)]


def _examples(split: str, seed: int) -> Iterator[Example]:
    rng = random_for(split, seed)
    while True:
        for kind in (*ASKED, "two", "text"):
            if kind == "text":
                yield Example(kind, (), *rng.choice(TEXT_ASKED))
            elif kind == "two":
                size = rng.choice(SIZES)
                first, second = random_picture(rng, size), random_picture(rng, size)
                yield Example(kind, (first, second), *two_pictures(rng, first.scene, second.scene))
            else:
                picture = random_picture(rng)
                yield Example(kind, (picture,), *one_picture(rng, picture.scene, kind))
