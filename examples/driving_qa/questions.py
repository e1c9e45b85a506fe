"""Questions about driving scenes, and sums; each with the one answer that follows by rule.

    python -m examples.driving_qa.questions --write-jsonl FILE --count 1000 --split test [--seed 0]

Every line of FILE is an object: `messages` (what the model is asked), `answer` and `kind`.

Train, validation and test splits are chosen by a hash of the *facts*, not of the text. A scene belongs to the same split in
every wording and order of sentences and with every question; two numbers to add or subtract belong to the same split in
every wording, and so do 7 + 12 and 12 + 7. About one in ten is for testing, one in ten for validation, the others for
training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from examples.driving_qa.scene import (
    KINDS,
    LIGHTS,
    NUMBERS,
    PEOPLE,
    PLACES,
    ROADS,
    VEHICLES,
    Scene,
    a,
    action,
    capital,
    describe,
    is_are,
    random_scene,
)

SPLITS = ("train", "validation", "test")
SCENE_KINDS = ("colour", "count", "where", "which", "yes_no", "speed", "action")
ARITHMETIC_KINDS = ("sum", "difference")
QUESTION_KINDS = SCENE_KINDS + ARITHMETIC_KINDS
SYSTEM = "You are a careful driver."

Message = dict[str, str]
Asked = tuple[str, str]  # a question and its answer


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a question, its answer, and the kind of the question."""

    messages: list[Message]
    answer: str
    kind: str


def examples(split: str, count: int, seed: int = 0) -> list[Example]:
    """``count`` single questions of a split, no two alike, the kinds evenly mixed. The same for the same arguments."""
    rng = Random(f"{split} {seed}")
    found: dict[str, Example] = {}
    while len(found) < count:
        kind = QUESTION_KINDS[len(found) % len(QUESTION_KINDS)]
        if kind in ARITHMETIC_KINDS:
            question, answer = arithmetic(kind, split, rng)
        else:
            scene = scene_of(split, rng)
            if (asked := ask(scene, kind, rng)) is None:
                continue
            question, answer = f"{describe(scene, rng)} {asked[0]}", asked[1]
        found.setdefault(question, Example([{"role": "user", "content": question}], answer, kind))
    return list(found.values())


def conversations(split: str, seed: int = 0) -> Iterator[list[Message]]:
    """Conversations to train on, without end: a scene and one to four questions about it, or one to four sums."""
    rng = Random(f"{split} conversations {seed}")
    while True:
        turns = rng.choice((1, 2, 3, 4))
        if rng.random() < 0.3:
            asked = [arithmetic(rng.choice(ARITHMETIC_KINDS), split, rng) for _ in range(turns)]
        else:
            scene = scene_of(split, rng)
            found = (ask(scene, kind, rng) for kind in rng.choices(SCENE_KINDS, k=turns))
            asked = [one for one in found if one] or [ask_action(scene, rng)]
            asked[0] = (f"{describe(scene, rng)} {asked[0][0]}", asked[0][1])
        messages = [{"role": "system", "content": SYSTEM}] if rng.random() < 0.2 else []
        for question, answer in asked:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield messages


def split_of(facts: str) -> str:
    """The split that facts belong to, by their hash."""
    bucket = hashlib.sha256(facts.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def scene_of(split: str, rng: Random) -> Scene:
    """A random scene of a split."""
    while split_of((scene := random_scene(rng)).facts) != split:
        pass
    return scene


def ask(scene: Scene, kind: str, rng: Random) -> Asked | None:
    """A question of a kind about a scene, with its answer, or ``None`` where the scene has nothing to ask for."""
    return _ASK[kind](scene, rng)


def ask_colour(scene: Scene, rng: Random) -> Asked:
    if rng.random() < (0.4 if scene.light else 0.05):
        question = rng.choice(("What colour is the light?", "Which colour does the light show?"))
        return question, sentence(scene.light or "there is no light")
    kind = _kind_to_ask_for(scene, VEHICLES, rng)
    if group := scene.group(kind):
        return f"What colour {is_are(group)} the {group.name}?", sentence(group.colour)
    return f"What colour is the {kind}?", f"There is no {kind}."


def ask_count(scene: Scene, rng: Random) -> Asked:
    if rng.random() < 0.3:
        word, groups = rng.choice((("vehicles", scene.vehicles), ("people", scene.people)))
        count = sum(group.count for group in groups)
    else:
        kind = _kind_to_ask_for(scene, PEOPLE | VEHICLES, rng)
        word, group = KINDS[kind], scene.group(kind)
        count = group.count if group else 0
    question = rng.choice(("How many {} are there?", "How many {} do you see?")).format(word)
    return question, sentence(NUMBERS[count] if count else "none")


def ask_where(scene: Scene, rng: Random) -> Asked:
    kind = _kind_to_ask_for(scene, KINDS, rng)
    if group := scene.group(kind):
        return f"Where {is_are(group)} the {group.name}?", sentence(group.place)
    return f"Where is the {kind}?", f"There is no {kind}."


def ask_which(scene: Scene, rng: Random) -> Asked:
    place = rng.choice(PLACES)
    if scene.vehicles and rng.random() < 0.7:
        place = rng.choice(scene.vehicles).place
    question = rng.choice(("Which vehicles are {}?", "What kind of vehicle is {}?")).format(place)
    return question, sentence(next((str(group) for group in scene.vehicles if group.place == place), "none"))


def ask_yes_no(scene: Scene, rng: Random) -> Asked:
    kind = _kind_to_ask_for(scene, KINDS, rng)
    questions = [(rng.choice((f"Is there {a(kind)}?", f"Do you see {a(kind)}?")), scene.group(kind) is not None)]
    if scene.light:
        light = rng.choice(LIGHTS)
        questions.append((f"Is the light {light}?", light == scene.light))
    if scene.road:
        road = rng.choice(ROADS)
        questions.append((f"Is the road {road}?", road == scene.road))
    if scene.limit:
        questions.append((rng.choice(("Is the car too fast?", "Do we drive too fast?")), scene.too_fast))
    question, true = rng.choice(questions)
    return question, "Yes." if true else "No."


def ask_speed(scene: Scene, rng: Random) -> Asked | None:
    if scene.speed is None or scene.limit is None:
        return None
    questions = [
        (rng.choice(("How fast is the car?", "How fast does the car drive?")), scene.speed),
        (rng.choice(("What is the limit?", "How fast may the car drive?")), scene.limit),
    ]
    if scene.too_fast:
        questions.append(("By how much is the car too fast?", scene.speed - scene.limit))
    question, speed = rng.choice(questions)
    return question, f"{speed} km/h."


def ask_action(scene: Scene, rng: Random) -> Asked:
    questions = ("What should the car do?", "What should the car do, and why?", "What should we do now?")
    return rng.choice(questions), action(scene)


_ASK = {
    "colour": ask_colour,
    "count": ask_count,
    "where": ask_where,
    "which": ask_which,
    "yes_no": ask_yes_no,
    "speed": ask_speed,
    "action": ask_action,
}

_FORMS = {
    "sum": (
        ("{a} + {b} = ?", ""),
        ("What is {a} plus {b}?", ""),
        ("If the car drives {a} metres and then {b} metres, how far does it drive?", "metre"),
        ("The car drives at {a} km/h and then {b} km/h faster. How fast is it now?", "km/h"),
        ("The first trip takes {a} minutes and the second {b} minutes. How long do both take?", "minute"),
    ),
    "difference": (
        ("{a} - {b} = ?", ""),
        ("What is {a} minus {b}?", ""),
        ("The crossing is {a} metres away and the car drives {b} metres. How far is it now?", "metre"),
        ("The car drives at {a} km/h and slows down by {b} km/h. How fast is it now?", "km/h"),
        ("The trip takes {a} minutes and {b} minutes are over. How long does it still take?", "minute"),
    ),
}


def arithmetic(kind: str, split: str, rng: Random) -> Asked:
    """A ``sum`` or ``difference`` of two numbers from 2 to 99, never below zero, with its answer."""
    while True:
        large, small = sorted((rng.randint(2, 99), rng.randint(2, 99)), reverse=True)
        if split_of(f"{kind} {large} {small}") == split:
            break
    if kind == "sum":
        result = large + small
        left, right = rng.sample((large, small), 2)
    else:
        result, left, right = large - small, large, small
    form, unit = rng.choice(_FORMS[kind])
    return form.format(a=left, b=right), quantity(result, unit)


def quantity(number: int, unit: str) -> str:
    """A number on its own, or a sentence with its unit."""
    if not unit:
        return str(number)
    return f"{number} {unit}{'' if number == 1 or unit == 'km/h' else 's'}."


def sentence(words: str) -> str:
    return f"{capital(words)}."


def _kind_to_ask_for(scene: Scene, kinds: dict[str, str], rng: Random) -> str:
    """One of ``kinds``; in four cases of five one that is there, if any is."""
    there = [group.kind for group in scene.groups if group.kind in kinds]
    if there and rng.random() < 0.8:
        return rng.choice(there)
    return rng.choice(list(kinds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-jsonl", type=Path, required=True, metavar="FILE")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with args.write_jsonl.open("w") as file:
        for example in examples(args.split, args.count, args.seed):
            file.write(json.dumps(asdict(example)) + "\n")
    print(f"{args.write_jsonl}: {args.count} examples of the {args.split} split")


if __name__ == "__main__":
    main()
