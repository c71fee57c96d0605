"""Which chunks answer a question best: words by field, vectors, and what the path says.

The steps are those that docs/decisions/0051 lists with what each brings, and on which part of
``benchmarks/search`` the numbers were chosen; the other part judges them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
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

_PARTS = re.compile(r"\.|::|->")
_CASE_CHANGE = re.compile(r"[a-z][A-Z]|[A-Z]{2}")

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
    #: Of the words that say something: place among all, word, and its root.
    telling: tuple[tuple[int, str, str], ...]


def understood(query: str) -> Question:
    """Take a query apart."""
    bare = is_identifier(query)
    weights: dict[str, float] = {}
    names: dict[str, None] = {}
    if bare:
        names.update(_names(query, bare=True))
    else:
        for part in query.split():
            weighed, named = _taken(part)
            for term, weight in weighed:
                weights[term] = max(weight, weights.get(term, 0.0))
            names.update(named)
    if not weights:  # a bare name, or nothing but stop words
        weights = dict.fromkeys(words_of(query).split(), 1.0)
    words = tuple(weights.items())[:64]
    return Question(
        text=query,
        words=words,
        names=tuple(names),
        bare=bare,
        wants_odd=not _WANTS_ODD.isdisjoint(weights),
        telling=tuple((place, word, _root(word)) for place, (word, weight) in enumerate(words) if weight >= 1),
    )


def _names(text: str, *, bare: bool) -> dict[str, None]:
    """What is written as in code, compacted, each once and in order."""
    names = dict.fromkeys(_name(found, bare=bare) for found in _CODE_WORD.findall(text))
    names.pop("", None)
    return names


def _name(found: str, *, bare: bool) -> str:
    """The last part of what may be a name, compacted; ``""`` for a plain word."""
    if not bare and found.isalpha() and found.islower():
        return ""
    last = _PARTS.split(found)[-1]
    if bare or "_" in last.strip("_") or "." in found or "::" in found or _CASE_CHANGE.search(last):
        return compact(last)
    return ""


@lru_cache(maxsize=1 << 14)
def _taken(part: str) -> tuple[tuple[tuple[str, float], ...], dict[str, None]]:
    """What a part of a question without spaces has: stems with what they count, none of a stop word, and names."""
    names = _names(part, bare=False)
    if part.strip(".,;:!?()[]{}'\"`").lower() in _STOP:
        return (), names
    weighed = tuple(
        (term, WEIGHTS.faint if term in _FAINT else 1.0) for term in words_of(part).split() if term not in _STOP
    )
    return weighed, names


@lru_cache(maxsize=1 << 14)
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


class Stems:
    """The words of the stems of an index's files, both ways; filled as files are met. Threads may share it.

    Args:
        paths: Gives each of some files its path.
    """

    def __init__(self, paths: Callable[[Sequence[int]], Mapping[int, str]]) -> None:
        self._paths = paths
        self._words: dict[int, frozenset[str]] = {}
        self._files: dict[str, set[int]] = {}

    def named(self, asked: Iterable[str], files: Iterable[int]) -> dict[int, float]:
        """Which part of its file's stem is among some words, for those of some files for which any is."""
        among = set(files)
        self._meet(among.difference(self._words))
        found: dict[int, int] = {}
        for word in asked:
            so_called = self._files.get(word)
            if so_called:
                for file in among & so_called:
                    found[file] = found.get(file, 0) + 1
        return {file: count / len(self._words[file]) for file, count in found.items()}

    def _meet(self, new: set[int]) -> None:
        if not new:
            return
        for file, path in self._paths(list(new)).items():
            words = stem_words(path)
            for word in words:
                self._files.setdefault(word, set()).add(file)
            self._words[file] = words  # last: who sees it here finds it there


@dataclass(frozen=True, slots=True)
class Ranked:
    """Chunks in their final order.

    Attributes:
        order: int64 (n,), indexes into the candidates, best first.
        scores: float64 (n,), of all candidates, as ``order`` sorts them.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64]


def rank(
    question: Question,
    candidates: Candidates,
    stems: Stems,
    fusion_weight: float,
    weights: Weights = WEIGHTS,
) -> Ranked:
    """Order the candidates.

    All of it is done for all of them at once: a loop over a hundred and fifty costs as much as their search by words.

    Args:
        question: What was asked.
        candidates: What was found by its words, told of each of ``question.words``.
        stems: What their files are called.
        fusion_weight: The embedder's.
        weights: What counts how much.
    """
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    best = float(candidates.scores[0]) if len(candidates.scores) else 0.0
    scores = candidates.scores / np.float32(best if best > 0 else 1.0)
    if candidates.similarities is not None and fusion_weight and not question.bare:
        similarities = np.maximum(candidates.similarities, 0)
        nearest = float(np.maximum.reduce(similarities, initial=0.0))
        if nearest > 0:
            similarities *= np.float32(fusion_weight * weights.vectors / nearest)
            scores += similarities
    scores *= _prior(question, candidates.priors, weights)
    scores[candidates.defines] *= np.float32(weights.defines)
    if len(question.words) > 1:
        scores *= _covered(question, candidates.held, weights.coverage)
    final = _together(question, candidates.files, scores, stems, weights)
    return Ranked(np.argsort(-final, kind="stable"), final)


def _prior(question: Question, priors: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    if question.wants_odd:
        return np.sqrt(np.sqrt(priors))
    # A bare name is where it is, but a question in prose that tests or documents repeat is seldom about them.
    return priors if question.bare else priors ** np.float32(weights.prior)


def _covered(question: Question, held: NDArray[np.bool_], coverage: float) -> NDArray[np.float32]:
    """Factors by the part of the question that each candidate speaks of; words that few of them have count more."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    having = np.add.reduce(held, axis=0, dtype=np.int64).tolist()
    rarities = [
        weight * math.log1p(1 / (count / len(held) + 1e-3))
        for (_, weight), count in zip(question.words, having, strict=True)
    ]
    shares = np.array(rarities, dtype=np.float32)
    shares *= np.float32(coverage / sum(rarities))
    factors: NDArray[np.float32] = held @ shares
    factors += np.float32(1 - coverage)
    return factors


def _together(
    question: Question,
    files: NDArray[np.int64],
    scores: NDArray[np.float32],
    stems: Stems,
    weights: Weights,
) -> NDArray[np.float64]:
    """New scores of chunks, (n,), by the files that they are in.

    A file whose stem the question names gains, repeats from one file fade, and several good ones lift the best.
    """
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    count = len(files)
    order = np.lexsort((-scores, files))  # file by file, the best chunk of each first
    sorted_files = files.take(order)
    begins = np.ones(count, dtype=np.bool_)
    np.not_equal(sorted_files[1:], sorted_files[:-1], out=begins[1:])
    file_of = np.add.accumulate(begins, dtype=np.int64)
    file_of -= 1
    starts = begins.nonzero()[0]
    places = np.arange(count)
    places -= starts.take(file_of)
    own = scores.take(order)
    asked = [word for word, weight in question.words if weight >= 1]
    different = sorted_files.take(starts).tolist()
    named = stems.named(asked, different)
    if named:
        shares = np.fromiter(map(named.get, different, repeat(0.0)), np.float32, len(different))
        own *= 1 + np.float32(weights.stem_match) * shares.take(file_of)
    fades, company = _by_place(weights.repeat, weights.company)
    faded = own * fades.take(places, mode="clip")
    faded[starts] += np.add.reduceat(own * company.take(places, mode="clip"), starts)
    final = np.empty_like(faded)
    final[order] = faded
    return final


@lru_cache(maxsize=64)
def _by_place(repeat_weight: float, company: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For a file's best chunk and the next ones: what is left of its own score, and what it adds to the best one's."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    fades = repeat_weight ** np.arange(100.0)
    added = np.zeros(len(fades))
    added[1 : 1 + len(company)] = company
    return fades, added


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
    in_name, in_path, in_text = _places(question, chunk, held)
    reasons: list[str] = []
    if question.names and chunk.symbol and compact(chunk.symbol.rpartition(".")[2]) in question.names:
        reasons.append(f"defines {chunk.symbol}")
    elif in_name:
        reasons.append(f"name has {', '.join(in_name[:4])}")
    if in_path:
        reasons.append(f"path has {', '.join(in_path[:4])}")
    if in_text:
        reasons.append(f"text has {', '.join(in_text[:6])}")
    if similarity > 0.3:
        reasons.append(f"means something similar ({similarity:.2f})")
    if not reasons and not any(held):
        return f"nearest in meaning ({similarity:.2f})"
    return "; ".join(reasons) or "some words in common"


def _places(question: Question, chunk: StoredChunk, held: Sequence[bool]) -> tuple[list[str], list[str], list[str]]:
    """The question's words that are in a chunk's name, else in its path, else in its text."""
    in_name: list[str] = []
    in_path: list[str] = []
    rest: list[tuple[str, str]] = []
    name_words, path_words = _word_set(chunk.symbol), _word_set(chunk.path)
    for place, word, root in question.telling:
        if not held[place]:
            continue
        if word in name_words:
            in_name.append(word)
        elif word in path_words:
            in_path.append(word)
        else:
            rest.append((word, root))
    return in_name, in_path, _in_text(rest, chunk.text) if rest else []


def _in_text(words: Sequence[tuple[str, str]], text: str) -> list[str]:
    """Those of some words, given with their roots, that a text has, whatever the case and the underscores inside."""
    found = [word for word, root in words if root in text]
    if len(found) == len(words):  # as mostly: the text needn't be written anew
        return found
    plain = text.lower().replace("_", "")
    return [word for word, root in words if word in found or root in plain]


@lru_cache(maxsize=1 << 14)
def _word_set(text: str) -> frozenset[str]:
    return frozenset(words_of(text).split())


def _root(word: str) -> str:
    """What every spelling of a stem begins with: a ``y`` may stand for ``ies``."""
    return word.removesuffix("y")
