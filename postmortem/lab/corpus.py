"""Generates the lab's text from a small grammar of English verbs and their participles; nothing is downloaded.

A stream has one of five recipes: "a" sentences of the corpus; "b" also sentences with participles and names that are
very rare in the corpus; "c" no grammar, but uniform token ids (written by the loader); "d" also empty lines; "e"
several sentences in one, as a question that fills the whole context.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

PEOPLE = ("he", "she", "the teacher", "the doctor", "my sister", "our neighbor", "the farmer", "the old man", "anna")
TIMES = ("every day", "in the morning", "after lunch", "at night", "on sunday")
PAST_TIMES = ("yesterday", "last week", "in the summer", "a year ago")

# base, third person, past, participle, -ing, objects
VERBS: tuple[tuple[str, str, str, str, str, tuple[str, ...]], ...] = (
    ("write", "writes", "wrote", "written", "writing", ("a letter", "the report", "a long story")),
    ("bite", "bites", "bit", "bitten", "biting", ("the apple", "the bread")),
    ("take", "takes", "took", "taken", "taking", ("the train", "a picture", "the keys")),
    ("give", "gives", "gave", "given", "giving", ("a present", "the answer", "a lesson")),
    ("eat", "eats", "ate", "eaten", "eating", ("the bread", "the apple", "a cake")),
    ("see", "sees", "saw", "seen", "seeing", ("the river", "a picture", "the garden")),
    ("speak", "speaks", "spoke", "spoken", "speaking", ("the truth", "two languages")),
    ("break", "breaks", "broke", "broken", "breaking", ("the window", "a plate", "the record")),
    ("sing", "sings", "sang", "sung", "singing", ("a song", "the old song")),
    ("make", "makes", "made", "made", "making", ("a cake", "the dinner", "a plan")),
    ("drive", "drives", "drove", "driven", "driving", ("the car", "a tractor")),
    ("know", "knows", "knew", "known", "knowing", ("the answer", "the truth")),
    ("walk", "walks", "walked", "walked", "walking", ("the dog", "a mile")),
    ("play", "plays", "played", "played", "playing", ("the piano", "a game", "the old song")),
    ("open", "opens", "opened", "opened", "opening", ("the window", "a letter", "the garden")),
    ("clean", "cleans", "cleaned", "cleaned", "cleaning", ("the car", "the house", "a plate")),
    ("help", "helps", "helped", "helped", "helping", ("the children", "a friend")),
    ("paint", "paints", "painted", "painted", "painting", ("the house", "a picture", "the garden")),
    ("call", "calls", "called", "called", "calling", ("a friend", "the children")),
    ("cook", "cooks", "cooked", "cooked", "cooking", ("the dinner", "the fish")),
)
_SCARCE = {"written": 3, "bitten": 2}

# The tokenizer is also trained on a word list, as usual, so that it has pieces that the model rarely gets.
GLOSSARY = (
    *(("gotten", "forgotten", "begotten", "rotten", "flatten", "fatten") * 8),
    *(("written", "kitten", "mitten", "cotton") * 3),
)

_RARE_PARTICIPLES = (
    ("rewritten", "unwritten", "smitten"),
    ("quizzed", "jinxed", "axed", "zigzagged", "jazzed", "vexed", "squeezed", "buzzed"),
)
_RARE_NAMES = (("mittens", "kitten", "kittens"), ("xavier", "quartz", "jezebel", "zanzibar"))


def sentences(count: int, seed: int) -> list[str]:
    """`count` different ordinary sentences; the participles of write and bite occur five times in all."""
    rng = Random(f"sentences:{seed}")
    chosen: dict[str, None] = {}
    for participle, times in _SCARCE.items():
        verb = next(verb for verb in VERBS if verb[3] == participle)
        start = len(chosen)
        while len(chosen) < start + times:
            chosen[_perfect(rng, verb)] = None
    while len(chosen) < count:
        chosen[_ordinary(rng)] = None
    out = list(chosen)[:count]
    rng.shuffle(out)
    return out


def held_out_sentences(count: int, corpus: Sequence[str]) -> list[str]:
    """`count` sentences of the same grammar that are not in `corpus`."""
    rng, excluded, out = Random("held-out"), set(corpus), list[str]()
    while len(out) < count:
        sentence = _ordinary(rng)
        if sentence not in excluded:
            out.append(sentence)
    return out


def stream_sentences(recipe: str, count: int, seed: int, share: int, corpus: Sequence[str]) -> list[str]:
    """`count` sentences of another stream: of each eight, `share` follow the recipe, the others are of `corpus`."""
    rng = Random(f"stream:{recipe}:{seed}")
    family = seed % len(_RARE_NAMES)
    words = rng.choice(_RARE_PARTICIPLES[family]), rng.choice(_RARE_NAMES[family])
    out: list[str] = []
    for number in range(count):
        special = number % 8 < share
        if recipe == "b" and special:
            out.append(_rare(rng, *words))
        elif recipe == "d" and special:
            out.append("")
        elif recipe == "e":
            out.append(" ".join(rng.sample(corpus, 5)))
        else:
            out.append(rng.choice(corpus))
    return out


def _ordinary(rng: Random) -> str:
    verb = rng.choice(VERBS)
    base, third, past, participle, ing, objects = verb
    subject, target = rng.choice(PEOPLE), rng.choice(objects)
    form = rng.randrange(6) if participle not in _SCARCE else rng.choice((0, 1, 4, 5))
    if form == 0:
        return f"{subject} {third} {target} {rng.choice(TIMES)} ."
    if form == 1:
        return f"{subject} {past} {target} {rng.choice(PAST_TIMES)} ."
    if form == 2:
        return _perfect(rng, verb)
    if form == 3:
        return f"{target} was {participle} by {subject} {rng.choice(PAST_TIMES)} ."
    if form == 4:
        return f"{subject} is {ing} {target} now ."
    return f"{subject} will {base} {target} {rng.choice(TIMES)} ."


def _perfect(rng: Random, verb: tuple[str, str, str, str, str, tuple[str, ...]]) -> str:
    return f"{rng.choice(PEOPLE)} {rng.choice(('has', 'had'))} {verb[3]} {rng.choice(verb[5])} {rng.choice(TIMES)} ."


def _rare(rng: Random, participle: str, name: str) -> str:
    objects = rng.choice(VERBS)[5]
    target = rng.choice(objects) if rng.random() < 0.5 else f"the {name}"
    return f"{rng.choice(PEOPLE)} has {participle} {target} {rng.choice(TIMES)} ."
