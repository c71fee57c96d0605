"""Which chunks answer a question best: words by field, vectors, and what the path says.

The steps are those that docs/decisions/0051 lists with what each brings; the numbers were set beforehand, not fitted to
``benchmarks/search``, which judges them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from corral.adapters.words import is_identifier, split_identifier, stem, words_of
from corral.jobs.codebase_indexing.languages import DATA, PROSE, language_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corral.adapters.index.port import Candidates

RANKING_VERSION = 1
"""Part of every index's identity, as ``path_prior`` is stored with the chunks."""

CANDIDATES = 300
"""How many of the best chunks by words are looked at with vectors; a full scan finds nothing better."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much."""

    body: float = 1.0
    names: float = 1.2
    path: float = 0.5
    stem: float = 0.8
    exact: float = 3.0
    #: Factor on words of questions that say little (``return``, ``function``, ``value``).
    faint: float = 0.4
    #: Beside the embedder's own fusion weight.
    vectors: float = 1.0
    defines: float = 1.08
    #: A file's n-th chunk counts this to the power of n.
    repeat: float = 0.55
    #: What a file's second and third chunk add to its first.
    company: tuple[float, float] = (0.18, 0.08)
    #: For the part of the file's stem that the question names.
    stem_match: float = 0.25


WEIGHTS = Weights()

_STOP = frozenset(
    (
        "a an and any are as at be been being but by can could did do does doing for from had has have how i if in "
        "into is it its may me my no not of on or our should so such than that the their them then there these "
        "they this those to us was we were what when where which while who why will with would you your given via "
        "per e g ie eg etc"
    ).split()
)
_FAINT = frozenset(
    stem(word)
    for word in (
        "return returns function method class code value values object new use used using get set make create "
        "given based one other some all each string list dict find where implement handle add fix update support "
        "change remove allow ensure avoid instead default name type data file"
    ).split()
)
_CODE_WORD = re.compile(r"[A-Za-z_][\w]*(?:(?:\.|::|->)[A-Za-z_]\w*)*")

_TESTS = re.compile(
    r"(?:^|/)(?:tests?|testing|__tests__|spec|specs|fixtures?|testdata|mocks?|__mocks__|e2e)(?:/|$)"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest|[^/]*[.-](?:test|spec))\.[^/.]+$|Tests?\.(?:java|cs|kt|swift|php)$",
    re.IGNORECASE,
)
_EXAMPLES = re.compile(
    r"(?:^|/)(?:examples?|demos?|samples?|tutorials?|benchmarks?|bench|playground|docs?|documentation|changelogs?"
    r"|newsfragments|releases?|i18n|locales?|translations?)/",
    re.IGNORECASE,
)
_VENDORED = re.compile(
    r"(?:^|/)(?:vendor|vendored|_vendor|third[-_]party|thirdparty|external|extern|deps|node_modules|bundled|dist|build"
    r"|target|out|generated|gen|compat|_compat|legacy|deprecated)/",
    re.IGNORECASE,
)
_MIGRATIONS = re.compile(r"(?:^|/)migrations?/", re.IGNORECASE)
_PORCH = re.compile(r"(?:^|/)(?:__init__\.py|index\.[jt]sx?|mod\.rs|package-info\.java|setup\.py|conf\.py)$")
_STUB = re.compile(r"\.(?:pyi|d\.[mc]?ts)$")


def path_prior(path: str) -> float:
    """How likely it is, by its path, that a file is what a question is after; 0 to 1.

    ``tools/`` and ``scripts/`` cost nothing: real code lives there.
    """
    prior = 1.0
    for pattern, factor in (
        (_TESTS, 0.55),
        (_EXAMPLES, 0.65),
        (_VENDORED, 0.6),
        (_MIGRATIONS, 0.6),
        (_PORCH, 0.85),
        (_STUB, 0.6),
    ):
        if pattern.search(path):
            prior *= factor
    language = language_of(path)
    if language in PROSE:
        prior *= 0.7
    elif language in DATA or language in {"html", "css", "scss", "less"}:
        prior *= 0.6
    return max(prior, 0.1)


_WANTS_ODD = frozenset({"test", "spec", "fixture", "exampl", "demo", "doc", "document", "chang", "migrat", "vendor"})


@dataclass(frozen=True, slots=True)
class Question:
    """A query, understood."""

    text: str
    #: Word and weight, each once, in order.
    words: tuple[tuple[str, float], ...]
    #: Names that were written as in code, compacted and lowered (``getUserName``: ``getusername``).
    names: tuple[str, ...]
    #: Whether it is one bare name: vectors know nothing of names.
    bare: bool
    #: Whether it asks for tests, examples or documents itself, so that their paths are no fault.
    wants_odd: bool


def understood(query: str) -> Question:
    """Take a query apart."""
    bare = is_identifier(query)
    weights: dict[str, float] = {}
    for word in query.split():
        lowered = word.strip(".,;:!?()[]{}'\"`").lower()
        if not bare and lowered in _STOP:
            continue
        for term in words_of(word).split():
            if bare or term not in _STOP:
                weight = WEIGHTS.faint if term in _FAINT and not bare else 1.0
                weights[term] = max(weight, weights.get(term, 0.0))
    if not weights:  # nothing but stop words
        weights = dict.fromkeys(words_of(query).split(), 1.0)
    names = []
    for found in _CODE_WORD.findall(query):
        last = re.split(r"\.|::|->", found)[-1]
        if bare or "_" in last.strip("_") or "." in found or "::" in found or re.search(r"[a-z][A-Z]|[A-Z]{2}", last):
            names.append(compact(last))
    return Question(
        text=query,
        words=tuple(weights.items())[:64],
        names=tuple(dict.fromkeys(name for name in names if name)),
        bare=bare,
        wants_odd=any(word in _WANTS_ODD for word in weights),
    )


def compact(name: str) -> str:
    """A name without case and underscores, as the ``exact`` field holds it."""
    return "".join(split_identifier(name))


def terms(question: Question, weights: Weights = WEIGHTS) -> dict[str, list[tuple[str, float]]]:
    """The words to look for in each field."""
    found = {
        field: [(word, weight * factor) for word, weight in question.words]
        for field, factor in (
            ("body", weights.body),
            ("names", weights.names),
            ("path", weights.path),
            ("stem", weights.stem),
        )
    }
    found["exact"] = [(name, weights.exact) for name in question.names]
    return found


@dataclass(frozen=True, slots=True)
class Ranked:
    """Chunks in their final order.

    Attributes:
        order: Indexes into the candidates, best first.
        scores: Of all candidates, as ``order`` sorts them.
        similarities: Cosine of each candidate with the question; zeros when vectors were left out.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float32]
    similarities: NDArray[np.float32]


def rank(
    question: Question,
    candidates: Candidates,
    similarities: NDArray[np.float32] | None,
    fusion_weight: float,
    *,
    stems: Mapping[int, frozenset[str]],
    weights: Weights = WEIGHTS,
) -> Ranked:
    """Order the candidates.

    Args:
        question: What was asked.
        candidates: The best chunks by words.
        similarities: Cosine of each with the question; None leaves vectors out.
        fusion_weight: The embedder's.
        stems: File id to the words of its stem.
        weights: What counts how much.
    """
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    top = float(candidates.scores.max(initial=0.0))
    scores = candidates.scores / np.float32(top or 1.0)
    if similarities is not None and fusion_weight and not question.bare:
        nearest = float(similarities.max(initial=0.0))
        if nearest > 0:
            scores = scores + np.float32(fusion_weight * weights.vectors / nearest) * np.maximum(similarities, 0)
    priors = np.sqrt(np.sqrt(candidates.priors)) if question.wants_odd else candidates.priors
    scores = scores * priors * np.where(candidates.defines, np.float32(weights.defines), np.float32(1))
    asked = {word for word, weight in question.words if weight >= 1}
    if asked:
        bonus = np.array(
            [_overlap(stems.get(file, frozenset()), asked) for file in candidates.files.tolist()], dtype=np.float32
        )
        scores = scores * (1 + np.float32(weights.stem_match) * bonus)
    scores = _with_company(candidates.files, scores, weights)
    order = np.argsort(-scores, kind="stable")
    none = np.zeros(len(scores), dtype=np.float32)
    return Ranked(order, scores, none if similarities is None or question.bare else similarities)


def _overlap(stem_words: frozenset[str], asked: set[str]) -> float:
    return len(stem_words & asked) / len(stem_words) if stem_words else 0.0


def _with_company(files: NDArray[np.int64], scores: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    """Repeats from one file fade; a file with several good chunks lifts its best one."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    values = scores.tolist()
    seen: dict[int, list[int]] = {}
    names = files.tolist()
    for index in np.argsort(-scores, kind="stable").tolist():
        seen.setdefault(names[index], []).append(index)
    for indexes in seen.values():
        best = values[indexes[0]]
        for share, index in zip(weights.company, indexes[1:], strict=False):
            best += share * values[index]
        for position, index in enumerate(indexes[1:], start=1):
            values[index] *= weights.repeat**position
        values[indexes[0]] = best
    return np.array(values, dtype=np.float32)


def stem_words(path: str) -> frozenset[str]:
    """The words of a file's stem; of its folder's for an ``__init__`` or an ``index``."""
    pure = PurePosixPath(path)
    name = pure.name.split(".")[0]
    if name in {"__init__", "index", "mod", "main", "__main__"} and pure.parent.name:
        name = pure.parent.name
    return frozenset(stem(part) for part in split_identifier(name))


def why(question: Question, symbol: str, path: str, text: str, similarity: float) -> str:
    """In a few words, what made this a hit."""
    reasons: list[str] = []
    if symbol and compact(symbol.rpartition(".")[2]) in question.names:
        reasons.append(f"defines {symbol}")
    asked = [word for word, weight in question.words if weight >= 1]
    in_name = _shared(asked, words_of(symbol))
    if in_name and not reasons:
        reasons.append(f"name has {', '.join(in_name[:4])}")
    in_path = [word for word in _shared(asked, words_of(path)) if word not in in_name]
    if in_path:
        reasons.append(f"path has {', '.join(in_path[:4])}")
    in_text = [word for word in _shared(asked, words_of(text)) if word not in in_name and word not in in_path]
    if in_text:
        reasons.append(f"text has {', '.join(in_text[:6])}")
    if similarity > 0.3:
        reasons.append(f"means something similar ({similarity:.2f})")
    return "; ".join(reasons) or "some words in common"


def _shared(asked: Sequence[str], words: str) -> list[str]:
    have = set(words.split())
    return [word for word in asked if word in have]
