from __future__ import annotations

import pickle

import pytest

from corral.adapters.llm.packed_answer import pack, unpack
from corral.adapters.llm.port import Finish, ModelAnswer, ToolCall, Usage

FULL = ModelAnswer(
    text='ä "quoted"\n\ttext \U0001f600\x00',
    tool_calls=(ToolCall(id="1", name="look", arguments='{"a": "\u20ac"}'), ToolCall(id="2", name="", arguments="")),
    finish=Finish.TOOL_CALLS,
    usage=Usage(input_tokens=310, output_tokens=25, cached_input_tokens=7, usd=0.1 + 0.2),
    model="a model\nof two lines",
    native='{"signed": "\u20ac"}\n2',
    from_cache=True,
)


def test_no_field_is_forgotten_here() -> None:
    assert FULL.model_fields_set == set(ModelAnswer.model_fields)
    assert FULL.usage.model_fields_set == set(Usage.model_fields)
    for part in (FULL, FULL.usage):
        fields = type(part).model_fields
        assert all(getattr(part, name) != fields[name].default for name in fields)


@pytest.mark.parametrize(
    "answer",
    [
        FULL,
        ModelAnswer(text="yes", from_cache=True),
        ModelAnswer(finish=Finish.STOP, native="n", from_cache=True),
        ModelAnswer(text="free", usage=Usage(usd=0.0), from_cache=True),
    ],
)
def test_all_comes_back_as_it_was(answer: ModelAnswer) -> None:
    assert unpack(pack(answer)) == answer
    assert unpack(pack(answer.model_copy(update={"from_cache": False}))) == answer


def test_it_is_as_good_as_one_that_was_checked() -> None:
    read = unpack(pack(FULL))
    assert ModelAnswer.model_validate_json(read.model_dump_json()) == FULL
    assert read.model_dump(exclude_unset=True) == FULL.model_dump(exclude_unset=True)
    assert hash(read) == hash(FULL)
    assert pickle.loads(pickle.dumps(read)) == FULL  # noqa: S301 - made the line before
    assert read.model_copy(update={"text": "other"}).text == "other"
    assert repr(read) == repr(FULL)


@pytest.mark.parametrize("length", range(len(pack(FULL))))
def test_a_part_of_it_is_no_answer(length: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever word is the damaged one
        unpack(pack(FULL)[:length])


@pytest.mark.parametrize(
    "stored",
    [
        b"", b"\n", b"no answer", b"x {}\n", b'9 {"usage": 1}\n',
        b"other 0 1 0 0 1 1 0 -\nx", b"stop 0 x 0 0 1 1 0 -\nx", b"stop 0 1 0 0 1 1 0 free\nx",
        b"stop 0 1 0 0 1 1 0 - 1\nx", b"stop 0 1 0 0 1 1 0\nx", b"stop 0 1 0 0 1 1 0 -\nxy",
        b"stop -3 1 0 3 1 1 0 -\nx", b"stop 0 -1 1 1 1 1 0 -\nx", b"stop 0 9 0 -8 1 1 0 -\nx",
        b"stop 0 1 0 0 1 1 0 -\n\xff", b"tool_calls 0 0 2 0 1 1 0 -\n[1", b'tool_calls 0 0 8 0 1 1 0 -\n[{"a":1}]',
    ],
)  # fmt: skip
def test_what_is_damaged_is_no_answer(stored: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever word is the damaged one
        unpack(stored)
