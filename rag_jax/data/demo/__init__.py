"""The embedded demo: a corpus of true facts, rendered to passages, questions and their split.

A fact is a row of a table beside this file. It becomes one passage and, by its place in the split, questions of one
of the sets: pairs (entity, relation) of the test never occur in training, and the last phrasing of a relation is
asked in the test alone. Offices come in two editions, 20 December 2016 and 20 December 2018: the paper's hot-swap
experiment (Lewis et al. 2020, section 4.5).
"""

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from rag_jax.data.demo.relations import RELATIONS, Relation
from rag_jax.data.formats import Passage, Question
from rag_jax.errors import UserError

EDITIONS = ("2016", "2018")
SPLITS = ("train", "valid", "test", "offices_2016", "offices_2018")
TEST_SHARE, VALID_SHARE = 0.25, 0.08
AN = re.compile(r"\b([Aa]) (?=[aeiou](?!ni|uro|ne\b|se))")  # "a opera" becomes "an opera", "a university" stays


@dataclass(frozen=True)
class Fact:
    """A row of a table: relation, entity, answer with its other accepted forms, and the columns that render it."""

    relation: Relation
    entity: str
    answers: tuple[str, ...]
    columns: dict[str, str]

    @property
    def id(self) -> str:
        return f"{self.relation.name}/{self.entity}"

    def fill(self, template: str) -> str:
        """The template with this fact's columns in it."""
        entity = self.entity
        text = template.format(**self.columns, answer=self.answers[0], entity=entity, Entity=_capital(entity))
        return AN.sub(r"\1n ", " ".join(text.split()))


def passages(edition: str) -> Iterator[Passage]:
    """The corpus of one edition, one passage per fact."""
    if edition not in EDITIONS:
        raise UserError(f"passages: the demo has no edition '{edition}', only {' and '.join(EDITIONS)}")
    for fact in facts(edition):
        template = fact.relation.passages[_draw(fact.id, "passage") % len(fact.relation.passages)]
        text = fact.fill(template)
        yield Passage(id=fact.id, title=_capital(fact.entity), text=_capital(text))


def questions(split: str) -> list[Question]:
    """The questions of a split; offices_YEAR asks for the holders that changed between the editions."""
    if split.startswith("offices_"):
        return _office_questions(split.removeprefix("offices_"))
    if split not in SPLITS:
        raise UserError(f"questions: the demo has no split '{split}', only {', '.join(SPLITS)}")
    return [question for fact in facts("2016") if split_of(fact) == split for question in _ask(fact, split)]


def split_of(fact: Fact) -> str:
    """The set that a fact's questions belong to, a pure function of (entity, relation)."""
    share = _draw(fact.id, "split") / 2**32
    if (
        fact.relation.name == "offices"
    ):  # half of the offices are never seen in training, so that the square has both kinds
        share *= (TEST_SHARE + VALID_SHARE) / 0.5
    return "test" if share < TEST_SHARE else "valid" if share < TEST_SHARE + VALID_SHARE else "train"


@cache
def facts(edition: str) -> tuple[Fact, ...]:
    """Every fact of an edition, in the order of the tables."""
    return tuple(fact for relation in RELATIONS for fact in _table(relation, edition))


def _table(relation: Relation, edition: str) -> Iterator[Fact]:
    text = (resources.files(__package__) / f"{relation.name}.tsv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        answer = row.get("answer") or row[f"holder_{edition}"]
        aliases = row.get("aliases") if "answer" in row else row[f"aliases_{edition}"]
        columns = {name: value or "" for name, value in row.items() if name not in ("entity", "answer")}
        columns["Dated"] = f"It dates from {row['year']}." if row.get("year") else ""
        columns["Found"] = f"It was found in {row['discovered']}." if row.get("discovered") else ""
        columns["Placed"] = f"It can be seen here: {row['place']}." if row.get("place") else ""
        answers = (answer, *filter(None, (aliases or "").split("|")))
        yield Fact(relation, row["entity"], answers, columns)


def _ask(fact: Fact, split: str) -> Iterator[Question]:
    *trained, unseen = fact.relation.questions
    if split == "train":
        chosen = trained
    elif split == "valid" or _draw(fact.id, "phrasing") % 2:
        chosen = [trained[_draw(fact.id, "question") % len(trained)]]
    else:
        chosen = [unseen]
    for template in chosen:
        number = fact.relation.questions.index(template)
        yield Question(f"{fact.id}/{number}", fact.fill(template), fact.answers, (fact.id,), fact.relation.name)


def _office_questions(edition: str) -> list[Question]:
    """Changed offices, asked as the paper asks them; group says whether the 2016 answer was a training target."""
    if edition not in EDITIONS:
        raise UserError(f"questions: the demo has no split 'offices_{edition}', only {', '.join(SPLITS)}")
    offices = [fact for fact in facts(edition) if fact.relation.name == "offices"]
    return [
        Question(
            f"{fact.id}/{edition}",
            f"Who is {fact.entity}?",
            fact.answers,
            (fact.id,),
            "trained" if split_of(fact) == "train" else "never trained",
        )
        for fact in offices
        if fact.columns["holder_2016"] != fact.columns["holder_2018"]
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _draw(*key: str) -> int:
    """A number below 2^32 that depends on the key alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(key).encode()).digest()[:4], "big")
