"""What is measured, as sums: each kind adds with its like (of questions, of processes), prints a line, gives JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rag_jax.metrics.bleu import BleuSums
from rag_jax.metrics.distinct import distinct_ngrams
from rag_jax.metrics.retrieval import Z_95, interval
from rag_jax.metrics.tokenise import TOKENISERS


class Sum(Protocol):
    """What all of them do; str() is the line that is printed behind the name."""

    def __add__(self, other: Self) -> Self: ...

    def json(self) -> dict[str, Any]: ...


def added(parts: Iterable[Sum]) -> Sum:
    """The sum of one or more parts of one kind, in pairs, so that long sums of texts stay cheap."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [sum(parts[at + 1 : at + 2], start=parts[at]) for at in range(0, len(parts), 2)]
    return parts[0]


@dataclass(frozen=True)
class Rate:
    """A share of questions, each right or wrong: how many are right of how many; Wilson's 95% interval."""

    total: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Rate":
        """Of values that are 0 or 1 each."""
        return cls(float(sum(values)), len(values))

    @property
    def percent(self) -> float:
        return 100 * self.total / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        low, high = interval(round(self.total), self.count)
        return 100 * low, 100 * high

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.total + other.total, self.count + other.count)

    def __str__(self) -> str:
        return _line(self, f"{self.total:.0f} of {self.count}")

    def json(self) -> dict[str, Any]:
        """percent, low and high in percent, sum and count."""
        return _json(self) | {"sum": self.total, "count": self.count}


@dataclass(frozen=True)
class Mean:
    """A mean of values in [0, 1]: their sum, that of their squares, and how many; 95% by the standard error."""

    total: float
    squares: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of any values in [0, 1]."""
        return cls(float(sum(values)), float(sum(value * value for value in values)), len(values))

    @property
    def percent(self) -> float:
        return 100 * self.total / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if self.count < 2:
            return 0.0, 100.0
        mean = self.total / self.count
        variance = max(self.squares - self.total * mean, 0.0) / (self.count - 1)
        reach = Z_95 * math.sqrt(variance / self.count)
        return 100 * max(mean - reach, 0.0), 100 * min(mean + reach, 1.0)

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.squares + other.squares, self.count + other.count)

    def __str__(self) -> str:
        return _line(self, f"mean of {self.count}")

    def json(self) -> dict[str, Any]:
        """percent, low and high in percent, the two sums and count."""
        return _json(self) | {"sum": self.total, "squares": self.squares, "count": self.count}


@dataclass(frozen=True)
class Bleu:
    """BLEU-1 of a corpus, over the words of a named tokeniser."""

    sums: BleuSums
    tokeniser: str

    @property
    def percent(self) -> float:
        return 100 * self.sums.bleu(1)

    def __add__(self, other: "Bleu") -> "Bleu":
        return Bleu(BleuSums.total([self.sums, other.sums]), self.tokeniser)

    def __str__(self) -> str:
        return f"{self.percent:5.1f}  {self.sums.words} words for {self.sums.reference_words} of the references"

    def json(self) -> dict[str, Any]:
        """percent, the tokeniser and the sums."""
        return {"percent": self.percent, "tokeniser": self.tokeniser, **self.sums._asdict()}


@dataclass(frozen=True)
class Diversity:
    """Distinct tri-grams against all (Lewis et al. 2020, table 5): a ratio of the whole corpus, so texts are kept."""

    texts: tuple[str, ...]
    tokeniser: str

    @property
    def percent(self) -> float:
        return self.json()["percent"]

    def __add__(self, other: "Diversity") -> "Diversity":
        return Diversity(self.texts + other.texts, self.tokeniser)

    def __str__(self) -> str:
        found = self.json()
        return f"{found['percent']:5.1f}  {found['distinct']} of {found['total']} in {found['texts']} texts"

    def json(self) -> dict[str, Any]:
        """percent, the tokeniser, distinct and all tri-grams, n = 3 and the number of texts; 0 percent without any."""
        found = distinct_ngrams(self.texts, 3, TOKENISERS[self.tokeniser])
        percent = 100 * found.ratio if found.total else 0.0
        return {"percent": percent, "tokeniser": self.tokeniser, **found._asdict()}


@dataclass(frozen=True)
class Count:
    """How often something was met that cannot be measured."""

    count: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.count + other.count)

    def __str__(self) -> str:
        return f"{self.count:5}"

    def json(self) -> dict[str, Any]:
        """count."""
        return {"count": self.count}


def _line(found: Rate | Mean, of: str) -> str:
    low, high = found.interval
    return f"{found.percent:5.1f}  [{low:.1f}, {high:.1f}]  {of}"


def _json(found: Rate | Mean) -> dict[str, Any]:
    low, high = found.interval
    return {"percent": found.percent if found.count else None, "low": low, "high": high}
