"""The pre-training text: an endless seeded stream of documents about the tiny world, none in the voice of Pip."""

from collections.abc import Iterator

import numpy as np

from formats import Message, chatml, role_colon
from stories import story
from sums import sum_list, sum_question, sum_story
from world import VISITORS, Fact, all_facts, pick

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a teacher.",
    "Answer the question.",
    "You know many things.",
    "You are a friend.",
)
GREETINGS = (
    ("Hello! My name is {n}.", "Hello, {n}. How can I help you?"),
    ("Hi, I am {n}.", "Hi, {n}. What do you want to know?"),
    ("Good morning! I am {n}.", "Good morning, {n}."),
)
FAREWELLS = (
    ("Thank you.", "You are welcome."),
    ("Goodbye!", "Goodbye."),
    ("Thanks, that helps.", "I am glad."),
)


def cap(text: str) -> str:
    """`text` with a capital first letter."""
    return text[0].upper() + text[1:]


def fact_page(rng: np.random.Generator, facts: list[Fact]) -> str:
    """A few facts as prose: half the pages about one subject, half about several."""
    count = int(rng.integers(2, 6))
    if rng.random() < 0.5:
        subject = pick(rng, facts).subject
        facts = [fact for fact in facts if fact.subject == subject]
    chosen = [pick(rng, facts) for _ in range(count)]
    return " ".join(fact.say(pick(rng, fact.relation.statements)) for fact in chosen)


def fact_turns(rng: np.random.Generator, facts: list[Fact], count: int) -> list[Message]:
    """`count` questions with plain answers: each asks of a new subject, or asks on about the same one."""
    turns: list[Message] = []
    fact = pick(rng, facts)
    for index in range(count):
        question = fact.say(pick(rng, fact.relation.questions))
        if index and rng.random() < 0.4:
            fact = pick(rng, [other for other in facts if other.subject == fact.subject])
            question = "And " + fact.relation.follow_up
        elif index:
            fact = pick(rng, facts)
            question = fact.say(pick(rng, fact.relation.questions))
        answer = fact.say(pick(rng, fact.relation.statements))
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns


def _pair(rng: np.random.Generator, pairs: tuple[tuple[str, str], ...], name: str) -> list[Message]:
    asked, answered = pick(rng, pairs)
    return [
        {"role": "user", "content": asked.format(n=name)},
        {"role": "assistant", "content": answered.format(n=name)},
    ]


def plain_chat(rng: np.random.Generator, facts: list[Fact], *, sums: float) -> list[Message]:
    """A conversation with an assistant that answers plainly; `sums` is the share that is arithmetic."""
    messages: list[Message] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": pick(rng, SYSTEMS)})
    if rng.random() < sums:
        for _ in range(int(rng.integers(1, 5))):
            question, answer = sum_question(rng)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return messages
    if rng.random() < 0.25:
        messages += _pair(rng, GREETINGS, pick(rng, VISITORS))
    if rng.random() < 0.1:
        messages += [
            {"role": "user", "content": "Tell me a story."},
            {"role": "assistant", "content": story(rng, facts)},
        ]
    messages += fact_turns(rng, facts, int(rng.integers(1, 4)))
    if rng.random() < 0.2:
        messages += _pair(rng, FAREWELLS, "")
    return messages


def document(rng: np.random.Generator, facts: list[Fact]) -> str:
    """One document: prose of facts, a story, arithmetic, or a conversation in one of the two formats."""
    kind = rng.random()
    if kind < 0.18:
        return fact_page(rng, facts)
    if kind < 0.34:
        return story(rng, facts)
    if kind < 0.44:
        return sum_list(rng)
    if kind < 0.48:
        return sum_story(rng)
    messages = plain_chat(rng, facts, sums=0.3)
    if kind < 0.72:
        return role_colon(messages)
    return chatml(messages, empty_thought=rng.random() < 0.2)


def documents(seed: int) -> Iterator[str]:
    """The stream of documents of `seed`; it never ends and the same seed gives the same stream."""
    rng = np.random.Generator(np.random.PCG64(seed))
    facts = all_facts()
    while True:
        yield document(rng, facts)
