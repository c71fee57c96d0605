"""How the local index packs texts."""

from __future__ import annotations

from corral.adapters.index.local_text import TextCodec

_LICENCE = b"Permission is hereby granted to whoever has a copy of this, under the terms of the licence: %d\n" * 3


def texts(count: int) -> list[bytes]:
    return [
        _LICENCE % (n, n, n) + b"".join(b"value_%d = compute(%d)\n" % (k * n, k) for k in range(40))
        for n in range(count)
    ]


def test_what_texts_have_in_common_is_stored_once() -> None:
    samples = texts(200)
    codec = TextCodec.trained(samples)
    assert codec.dictionary
    plain = TextCodec()
    new = texts(203)[-3:]
    assert sum(len(codec.compress(text)) for text in new) < sum(len(plain.compress(text)) for text in new) * 0.8
    again = TextCodec(codec.dictionary)
    assert [again.decompress(codec.compress(text)) for text in new] == new


def test_few_texts_make_no_dictionary() -> None:
    assert not TextCodec.trained(texts(3)).dictionary
    assert not TextCodec.trained([b""] * 400).dictionary


def test_texts_with_nothing_in_common_are_packed_all_the_same() -> None:
    samples = [bytes((n * k * 7919) % 251 for k in range(1, 300)) for n in range(100)]
    codec = TextCodec.trained(samples)
    assert codec.decompress(codec.compress(samples[5])) == samples[5]
