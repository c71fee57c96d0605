"""Which chunks answer a question best: words by field, vectors, and what the path says.

The steps are those that docs/decisions/0051 lists with what each brings, and on which part of
``benchmarks/search`` the numbers were chosen; the other part judges them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from corral.adapters.words import is_identifier, split_identifier, stem, words_of
from corral.jobs.codebase_indexing.languages import DATA, PROSE, language_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corral.adapters.index.port import Candidates, StoredChunk

RANKING_VERSION = 2
"""Part of every index's identity, as ``path_prior`` is stored with the chunks."""

CANDIDATES = 150
"""How many of the best chunks by words are ranked anew; docs/decisions/0051 has what 100 to 500 give."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much."""

    body: float = 1.0
    names: float = 0.6
    path: float = 0.5
    stem: float = 0.4
    exact: float = 3.0
    #: Factor on words of questions that say little (``return``, ``function``, ``value``).
    faint: float = 0.4
    #: Beside the embedder's own fusion weight.
    vectors: float = 1.0
    defines: float = 1.15
    #: What a chunk loses that has none of the question's words; each word it has gives its part back.
    coverage: float = 0.6
    #: Power of the prior by path, for questions in prose.
    prior: float = 1.5
    #: A file's n-th chunk counts this to the power of n.
    repeat: float = 0.55
    #: What a file's second and third chunk add to its first.
    company: tuple[float, float] = (0.22, 0.1)
    #: For the part of the file's stem that the question names.
    stem_match: float = 0.1


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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the candidates beside their score by words.

    Attributes:
        held: Which of the question's words each has, (candidates, words); a few wrong yes do no harm.
        similarities: Cosine of each with the question; None leaves vectors out.
        fusion_weight: The embedder's.
        stems: File id to the words of its stem.
    """

    held: NDArray[np.bool_]
    similarities: NDArray[np.float32] | None
    fusion_weight: float
    stems: Mapping[int, frozenset[str]]


def rank(question: Question, candidates: Candidates, evidence: Evidence, weights: Weights = WEIGHTS) -> Ranked:
    """Order the candidates."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    one = np.float32(1)
    scores = candidates.scores / np.float32(float(candidates.scores.max(initial=0.0)) or 1.0)
    similarities = None if question.bare else evidence.similarities
    if similarities is not None and evidence.fusion_weight:
        nearest = float(similarities.max(initial=0.0))
        if nearest > 0:
            scores += np.float32(evidence.fusion_weight * weights.vectors / nearest) * np.maximum(similarities, 0)
    scores *= _prior(question, candidates.priors, weights)
    scores *= np.where(candidates.defines, np.float32(weights.defines), one)
    if len(question.words) > 1:
        share = _covered(question, evidence.held)
        scores *= 1 - np.float32(weights.coverage) * (1 - share)
    scores *= 1 + np.float32(weights.stem_match) * _named(question, candidates.files, evidence.stems)
    scores = _with_company(candidates.files, scores, weights)
    order = np.argsort(-scores, kind="stable")
    none = np.zeros(len(scores), dtype=np.float32)
    return Ranked(order, scores, none if similarities is None else similarities)


def _prior(question: Question, priors: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    if question.wants_odd:
        return np.sqrt(np.sqrt(priors))
    # A bare name is where it is, but a question in prose that tests or documents repeat is seldom about them.
    return priors if question.bare else priors ** np.float32(weights.prior)


def _covered(question: Question, held: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Which part of the question each candidate speaks of; words that few candidates have count more."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    weight = np.array([weight for _, weight in question.words], dtype=np.float32)
    weight *= np.log1p(1 / (held.mean(axis=0, dtype=np.float32) + np.float32(1e-3)))
    share: NDArray[np.float32] = held.astype(np.float32) @ (weight / weight.sum())
    return share


def _named(question: Question, files: NDArray[np.int64], stems: Mapping[int, frozenset[str]]) -> NDArray[np.float32]:
    """Which part of its file's stem the question names, for each candidate."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    asked = {word for word, weight in question.words if weight >= 1}
    listed = files.tolist()
    overlap = {file: _overlap(stems.get(file, frozenset()), asked) for file in set(listed)}
    return np.array([overlap[file] for file in listed], dtype=np.float32)


def _overlap(stem_words: frozenset[str], asked: set[str]) -> float:
    return 0.0 if stem_words.isdisjoint(asked) else len(stem_words & asked) / len(stem_words)


def _with_company(files: NDArray[np.int64], scores: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    """Repeats from one file fade; a file with several good chunks lifts its best one."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    order = np.lexsort((-scores, files))  # file by file, its best chunk first
    grouped = files[order]
    begins = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    sizes = np.diff(np.append(begins, len(order)))
    position = np.arange(len(order)) - np.repeat(begins, sizes)
    sorted_scores = scores[order]
    faded = sorted_scores * np.float32(weights.repeat) ** position.astype(np.float32)
    for place, share in enumerate(weights.company, start=1):
        more = begins[sizes > place]
        faded[more] += np.float32(share) * sorted_scores[more + place]
    out = np.empty_like(scores)
    out[order] = faded
    return out


def stem_words(path: str) -> frozenset[str]:
    """The words of a file's stem; of its folder's for an ``__init__`` or an ``index``."""
    folder, _, name = path.rpartition("/")
    name, parent = name.split(".")[0], folder.rpartition("/")[2]
    if name in {"__init__", "index", "mod", "main", "__main__"} and parent:
        name = parent
    return frozenset(stem(part) for part in split_identifier(name))


def why(question: Question, chunk: StoredChunk, held: Sequence[bool], similarity: float) -> str:
    """In a few words, what made this a hit.

    Args:
        question: What was asked.
        chunk: The hit.
        held: Which of the question's words its signature has.
        similarity: Cosine; 0 when vectors were left out.
    """
    reasons: list[str] = []
    if question.names and chunk.symbol and compact(chunk.symbol.rpartition(".")[2]) in question.names:
        reasons.append(f"defines {chunk.symbol}")
    asked = [word for (word, weight), has in zip(question.words, held, strict=True) if has and weight >= 1]
    name_words, path_words = _word_set(chunk.symbol), _word_set(chunk.path)
    in_name = [word for word in asked if word in name_words]
    if in_name and not reasons:
        reasons.append(f"name has {', '.join(in_name[:4])}")
    in_path = [word for word in asked if word in path_words and word not in in_name]
    if in_path:
        reasons.append(f"path has {', '.join(in_path[:4])}")
    text = chunk.text.lower().replace("_", "")
    in_text = [word for word in asked if word not in in_name and word not in in_path and _root(word) in text]
    if in_text:
        reasons.append(f"text has {', '.join(in_text[:6])}")
    if similarity > 0.3:
        reasons.append(f"means something similar ({similarity:.2f})")
    return "; ".join(reasons) or "some words in common"


@lru_cache(maxsize=1 << 14)
def _word_set(text: str) -> frozenset[str]:
    return frozenset(words_of(text).split())


def _root(word: str) -> str:
    """What every spelling of a stem begins with: a ``y`` may stand for ``ies``."""
    return word.removesuffix("y")
