"""Short stories of the tiny world: an opening, a wish, a hindrance, a helper, an end, each from several wordings."""

import numpy as np

from world import ANIMALS, THINGS, VISITORS, Fact, people, pick

OPENINGS = (
    "One day {a} walked {p}.",
    "Once upon a time {a} lived {p}.",
    "It was a sunny morning, and {a} sat {p}.",
    "On a cold evening {a} came home and found nobody {p}.",
    "Long ago {a} went for a walk and stopped {p}.",
)
WISHES = (
    "{a} wanted to find {t}.",
    "{a} was looking for {t}.",
    "{a} needed {t} for a friend.",
    "{a} had lost {t} and felt sad.",
    "{a} wished to give {t} to {b}.",
)
TROUBLES = (
    "But it began to rain.",
    "But the path was long and dark.",
    "But the wind was too strong.",
    "But a big stone blocked the way.",
    "But nobody knew where it was.",
)
HELPS = (
    'Then {b} came by and said, "I will help you."',
    '"Do not worry," said {b}. "We can do it together."',
    '{b} asked, "Why are you sad?" and listened.',
    '{b} smiled and said, "I know where to look."',
    "{b} heard the noise and ran to help.",
)
DEEDS = (
    "They looked {q} and found {t}.",
    "Together they carried {t} home.",
    "They worked until the sun went down, and there was {t}.",
    "{b} climbed up, saw {t}, and laughed.",
    "So they went back and saw {t} {q}.",
)
ENDS = (
    "{a} was very happy and said thank you.",
    "They shared a cake and were friends from that day on.",
    "After that they went to sleep.",
    "{a} and {b} danced all night.",
    "And {a} never forgot the kind help of {b}.",
)


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


def story(rng: np.random.Generator, facts: list[Fact]) -> str:
    """One story. A fact about its hero is told in about half of them, so that stories carry knowledge too."""
    beasts = [row.split("|") for row in ANIMALS.strip().splitlines()]
    things = [row.split("|") for row in THINGS.strip().splitlines()]
    names = [*people(), *VISITORS]
    hero, helper = ("the " + pick(rng, beasts)[0] if rng.random() < 0.5 else pick(rng, names) for _ in "ab")
    thing = pick(rng, things)
    slots = {
        "a": hero,
        "b": helper,
        "t": "the " + thing[0],
        "p": pick(rng, beasts)[1],
        "q": thing[3],
    }
    told = [fact for fact in facts if fact.subject == hero] if rng.random() < 0.5 else []
    parts = [_cap(pick(rng, OPENINGS).format(**slots))]
    if told:
        fact = pick(rng, told)
        parts.append(fact.say(pick(rng, fact.relation.statements)))
    parts.append(_cap(pick(rng, WISHES).format(**slots)))
    if rng.random() < 0.7:
        parts.append(pick(rng, TROUBLES))
    parts += [_cap(pick(rng, stage).format(**slots)) for stage in (HELPS, DEEDS, ENDS)]
    return " ".join(parts)
