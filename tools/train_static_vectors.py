"""Train the static embedder's vectors: one int8 vector for each stemmed word of code.

Begin from what all-MiniLM-L6-v2 (Apache-2.0) makes of each word, reduce that to ``--trained-dimension`` by PCA, train
by contrast on pairs of a docstring and the code it describes, taken from Python packages under open licences
(``docs/search.md`` lists them), then keep the ``--dimension`` directions in which passages of code differ most.
Packages that a benchmark of ours uses are refused by name.

    python tools/train_static_vectors.py --model model.onnx --tokenizer tokenizer.json --out static_vectors.npz \
        --held-out xarray,tornado  PACKAGE_OR_WHEEL ...

``--trained FILE`` takes vectors that were trained before instead, to keep another number of their directions; it needs
neither model nor tokenizer.

Needs numpy, scipy, onnxruntime and tokenizers; takes some minutes on one core. The same input and seed give the same
vectors up to the arithmetic of the machine.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from corral.adapters.words import WORDS_VERSION, split_identifier, words_of

BENCHMARKED = frozenset(
    (
        "django ansible ansible_core ansible_test buildbot celery mercurial hgext networkx salt sphinx sympy "
        "twisted rxjs typeorm three angular webpack eslint d3 express date_fns zod hono drizzle_orm"
    ).split()
)
"""Never trained on: these are what ``benchmarks/search`` measures with."""

_MAX_WORDS = 48
_TEMPERATURE = 0.05


@dataclass(frozen=True, slots=True)
class Pair:
    """What a definition says it does, and its code without those words."""

    package: str
    question: str
    code: str


def sources(path: Path) -> Iterator[tuple[str, str]]:
    """(package, text) of every Python file of a wheel or a folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(".py"):
                    yield name.split("/")[0], wheel.read(name).decode("utf-8", "replace")
    else:
        for file in sorted(path.rglob("*.py")):
            yield path.name, file.read_text("utf-8", "replace")


def pairs_of(package: str, text: str) -> Iterator[Pair]:
    """Every documented function and class of a file."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        documentation = ast.get_docstring(node)
        if not documentation:
            continue
        question = " ".join(documentation.strip().split("\n\n")[0].split())[:300]
        first = node.body[0]
        code = "\n".join(lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno or 0 : node.end_lineno])
        if len(question) >= 15 and len(code) >= 60:
            yield Pair(package, question, code[:1800])


def collect(paths: list[Path]) -> list[Pair]:
    """All pairs, each once."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    for path in paths:
        for package, text in sources(path):
            if package.lower() in BENCHMARKED or "/test" in package:
                continue
            for pair in pairs_of(package, text):
                key = hashlib.sha256((pair.question + pair.code[:300]).encode("utf-8", "replace")).hexdigest()
                if key not in seen:
                    seen.add(key)
                    pairs.append(pair)
    return pairs


def vocabulary(texts: list[str], size: int) -> tuple[list[str], np.ndarray]:
    """The most widespread words and in how many of the texts they are."""
    spread: Counter[str] = Counter()
    for text in texts:
        spread.update(set(text.split()))
    chosen = [(word, count) for word, count in spread.most_common(size) if count > 2]
    return [word for word, _ in chosen], np.array([count for _, count in chosen], dtype=np.float64)


def surfaces(pairs: list[Pair]) -> dict[str, str]:
    """Stem to the spelling that it most often stands for, so that the teacher is asked about real words."""
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen: set[str] = set()
    for pair in pairs:
        for identifier in (pair.code + " " + pair.question).replace(".", " ").replace("(", " ").split():
            if identifier in seen:
                continue
            seen.add(identifier)
            parts = split_identifier(identifier)
            for part in parts:
                spellings[words_of(part).split(" ")[0]][part] += 1
            if len(parts) > 1:
                spellings["".join(parts)][" ".join(parts)] += 1
    return {stem: counts.most_common(1)[0][0] for stem, counts in spellings.items()}


def teach(words: list[str], model: Path, tokenizer_file: Path) -> np.ndarray:
    """The teacher's vector of each word, (words, 384)."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    names = {entry.name for entry in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    out: list[np.ndarray] = []
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    encoded = tokenizer.encode_batch(words)
    for index, encoding in enumerate(encoded):
        by_length[min(len(encoding.ids), 16)].append(index)
    vectors = np.zeros((len(words), 384), dtype=np.float32)
    for length, indexes in sorted(by_length.items()):
        for begin in range(0, len(indexes), 64):
            part = indexes[begin : begin + 64]
            ids = np.array([encoded[index].ids[:length] for index in part], dtype=np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            hidden = session.run(None, {name: value for name, value in feed.items() if name in names})[0]
            vectors[part] = hidden.mean(axis=1) if hidden.ndim == 3 else hidden
    del out
    return vectors


def reduced(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """The directions that matter most, by PCA; unit length."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred[:: max(1, len(centred) // 8000)], full_matrices=False)
    flat = centred @ axes[:dimension].T
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def incidence(texts: list[str], row_of: dict[str, int], rank: np.ndarray) -> Any:
    """Texts x words, 1 where a text has the word among its most telling ones (those of least ``rank``)."""
    from scipy.sparse import csr_matrix

    indptr, indices = [0], []
    for text in texts:
        rows = sorted(
            {row for word in set(text.split()) if (row := row_of.get(word)) is not None}, key=rank.__getitem__
        )
        indices.extend(rows[:_MAX_WORDS])
        indptr.append(len(indices))
    return csr_matrix((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(texts), len(row_of)))


def _unit(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norms = np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-6)
    return raw / norms, norms


def train(
    vectors: np.ndarray, questions: Any, codes: Any, *, epochs: int, batch: int, rate: float, seed: int
) -> np.ndarray:
    """Contrast each pair with the others of its batch, in both directions (InfoNCE), by Adam."""
    random = np.random.default_rng(seed)
    vectors = vectors.astype(np.float32).copy()
    first, second = np.zeros_like(vectors), np.zeros_like(vectors)
    step = 0
    total = epochs * (questions.shape[0] // batch)
    for epoch in range(epochs):
        order = random.permutation(questions.shape[0])
        losses = []
        for begin in range(0, len(order) - batch + 1, batch):
            part = order[begin : begin + batch]
            asked, found = questions[part], codes[part].copy()
            found.data = found.data * (random.random(len(found.data)) > 0.25)  # words drop out, as in other code
            q, q_norm = _unit(asked @ vectors)
            c, c_norm = _unit(found @ vectors)
            logits = (q @ c.T) / _TEMPERATURE
            by_row = np.exp(logits - logits.max(axis=1, keepdims=True))
            by_row /= by_row.sum(axis=1, keepdims=True)
            by_column = np.exp(logits - logits.max(axis=0, keepdims=True))
            by_column /= by_column.sum(axis=0, keepdims=True)
            losses.append(-np.log(np.maximum(np.diag(by_row), 1e-9)).mean())
            slope = (by_row + by_column - 2 * np.eye(batch, dtype=np.float32)) / (2 * batch * _TEMPERATURE)
            dq, dc = slope @ c, slope.T @ q
            dq = (dq - q * (dq * q).sum(axis=1, keepdims=True)) / q_norm
            dc = (dc - c * (dc * c).sum(axis=1, keepdims=True)) / c_norm
            gradient = asked.T @ dq + found.T @ dc
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient * gradient
            now = rate * (1 - step / total) + rate * 0.02
            corrected = first / (1 - 0.9**step)
            vectors -= now * corrected / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
    return vectors


def reciprocal_rank(vectors: np.ndarray, questions: Any, codes: Any, pool: int = 1000) -> float:
    """Mean reciprocal rank of a pair's code among ``pool`` of them."""
    q, _ = _unit(questions @ vectors)
    c, _ = _unit(codes @ vectors)
    ranks = []
    for begin in range(0, max(len(q) - pool, 0) + 1, pool):
        scores = q[begin : begin + pool] @ c[begin : begin + pool].T
        own = np.diag(scores)[:, None]
        ranks.extend(1.0 / ((scores > own).sum(axis=1) + 1))
    return float(np.mean(ranks))


def cut(vectors: np.ndarray, codes: Any, dimension: int) -> np.ndarray:
    """The vectors in as many directions as lose least of the sums of them over code.

    They are turned at random within these, so that no direction stands out: an index stores a vector in four bits a
    number by its largest.
    """
    found, _ = _unit(codes @ vectors)
    _, axes = np.linalg.eigh(found.T @ found)  # in the order of growing eigenvalues
    turn, _ = np.linalg.qr(np.random.default_rng(dimension).normal(size=(dimension, dimension)))
    kept: np.ndarray = vectors @ (axes[:, -dimension:] @ turn)
    return kept


def load(path: Path) -> tuple[list[str], np.ndarray]:
    """What ``save`` wrote."""
    with np.load(path, allow_pickle=False) as data:
        vectors = data["vectors"].astype(np.float32) * data["scales"].astype(np.float32)[:, None]
        return bytes(data["words"]).decode().split("\n"), vectors


def save(path: Path, words: list[str], vectors: np.ndarray) -> str:
    """Write the vectors, given the most telling first; returns their version."""
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-9) / 127
    small = np.rint(vectors / scales[:, None]).astype(np.int8)
    version = hashlib.sha256(small.tobytes()).hexdigest()[:8]
    names = np.frombuffer("\n".join(words).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        words=names,
        vectors=small,
        scales=scales.astype(np.float16),
        version=np.array(version),
        words_version=np.array(WORDS_VERSION),
    )
    path.write_bytes(buffer.getvalue())
    return version


def counted(words: list[str], texts: list[str]) -> Any:
    """Texts x words, as the embedder counts them; ``words`` the most telling first."""
    row_of = {word: row for row, word in enumerate(words)}
    return incidence([words_of(text) for text in texts], row_of, np.arange(len(words)))


def trained(arguments: argparse.Namespace, kept: list[Pair], tests: list[Pair]) -> tuple[list[str], np.ndarray]:
    """Words and their vectors, the longest (the most telling) first."""
    questions = [words_of(pair.question) for pair in kept]
    codes = [words_of(pair.code) for pair in kept]
    words, spread = vocabulary(questions + codes, arguments.size)
    row_of = {word: row for row, word in enumerate(words)}
    weights = np.log(1 + (2 * len(kept)) / spread)
    spelled = surfaces(kept)
    print(f"{len(words)} words")
    spellings = [spelled.get(word, word) for word in words]
    taught = reduced(teach(spellings, arguments.model, arguments.tokenizer), arguments.trained_dimension)
    vectors = (taught * (weights / weights.mean())[:, None]).astype(np.float32)
    rank = np.argsort(np.argsort(-weights))
    asked, found = incidence(questions, row_of, rank), incidence(codes, row_of, rank)
    if tests:
        test_asked, test_found = (
            incidence([words_of(getattr(pair, side)) for pair in tests], row_of, rank) for side in ("question", "code")
        )
        print(f"before training: MRR {reciprocal_rank(vectors, test_asked, test_found):.3f}")
    vectors = train(
        vectors, asked, found, epochs=arguments.epochs, batch=arguments.batch, rate=arguments.rate, seed=arguments.seed
    )
    order = np.argsort(-np.linalg.norm(vectors, axis=1))
    return [words[index] for index in order], vectors[order]


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--trained", type=Path, help="vectors of all dimensions, trained before")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", default="", help="packages kept out of training, to evaluate on")
    parser.add_argument("--size", type=int, default=18_000)
    parser.add_argument("--trained-dimension", type=int, default=256)
    parser.add_argument("--dimension", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=0.004)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if not arguments.trained and not (arguments.model and arguments.tokenizer):
        parser.error("expected --model and --tokenizer, or --trained")
    pairs = collect(arguments.packages)
    held_out = set(arguments.held_out.split(","))
    kept = [pair for pair in pairs if pair.package not in held_out]
    tests = [pair for pair in pairs if pair.package in held_out]
    print(f"{len(kept)} pairs to train on, {len(tests)} to evaluate on, of {len({p.package for p in pairs})} packages")
    words, vectors = load(arguments.trained) if arguments.trained else trained(arguments, kept, tests)
    fewer = cut(vectors, counted(words, [pair.code for pair in kept]), arguments.dimension)
    if tests:
        asked, found = (counted(words, [getattr(pair, side) for pair in tests]) for side in ("question", "code"))
        for some in (vectors, fewer):
            print(f"{some.shape[1]} dimensions: MRR {reciprocal_rank(some, asked, found):.3f}")
    print(f"version {save(arguments.out, words, fewer)}, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
