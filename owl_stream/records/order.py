"""Who speaks behind whom, and calls that are turns of their own, as ms-swift and LLaMA-Factory write them."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.errors import SampleError
from owl_stream.records.tools import Json, check_results
from owl_stream.records.turns import CALL, Message

_NEXT = {
    "": ("user",),
    "user": ("assistant", CALL),
    "assistant": ("user", CALL),
    CALL: ("tool", CALL),
    "tool": ("tool", "assistant", CALL),
}
"""Behind whom who may speak. An assistant's turn with calls counts as `CALL`."""


def check_order(messages: Sequence[Message]) -> None:
    """Optionally a system turn, then user and assistant in turns, the assistant last; behind calls come their results.

    Raises:
        SampleError: another order.
    """
    before = ""
    for at, message in enumerate(messages):
        if at == 0 and message.role == "system":
            continue
        allowed = _NEXT[before]
        if message.role not in allowed:
            expected = " or ".join(role for role in allowed if role != CALL)
            raise SampleError("record_order", f"turn {at}: expected {expected}, got {message.role}")
        before = CALL if message.calls else message.role
    if messages[-1].role not in ("assistant", CALL):
        raise SampleError("record_order", f"expected the last turn to be the assistant's, got {messages[-1].role}")


def merge_calls(messages: Sequence[Message]) -> list[Message]:
    """The turns of an order that was checked, each call in the assistant's turn that makes it.

    Raises:
        SampleError: calls and the words before them are learned in part; a result is of no call.
    """
    merged: list[Message] = []
    for at, message in enumerate(messages):
        last = merged[-1] if merged else None
        if message.role != CALL:
            merged.append(message)
        elif last is None or last.role != "assistant":
            merged.append(message._replace(role="assistant"))
        elif last.learned != message.learned:
            detail = f"turn {at}: a call is learned with the words and calls before it, or not; say the same of both"
            raise SampleError("turn_weight", detail)
        else:
            merged[-1] = last._replace(calls=last.calls + message.calls)
    calls: tuple[Json, ...] = ()
    for at, message in enumerate(merged):
        if message.role == "tool":
            check_results(calls, message.call_id, f"turn {at}")
        else:
            calls = message.calls
    return merged
