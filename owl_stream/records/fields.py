"""The closed vocabulary of fields: honoured, harmless, or refused by name. Anything else is unknown and is counted.

A field that is empty (null, "", [], {}, or only such things) says nothing: tables write one where a row has no value.
Names are compared by their letters and digits, so `rejectedResponse` is `rejected_response`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.records.notes import note
from owl_stream.records.options import RecordOptions

CONVERSATIONS = ("messages", "conversations")
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
IMAGES = ("images", "image", "image_path", "image_paths", "image_file", "image_files", "img", "imgs", "img_path")
VIDEOS = ("videos", "video")
VIDEO_FILES = ("video_path", "video_paths", "video_file", "video_files")
LITERAL = "literal_markers"
TOOLS = "tools"
CALLS = "tool_calls"
REASONING = ("reasoning_content", "thinking", "reasoning")
"""What transformers takes for the thoughts of an answer."""
RESULT = ("tool_call_id", "name")
"""Of a tool's turn: which call it answers."""
ROLE = ("role", "from")
TEXT = ("content", "value")
LEARNED = (
    "loss",
    "weight",
    "loss_scale",
    "loss_weight",
    "loss_mask",
    "train",
    "training",
    "trainable",
    "supervised",
)
MOST_FIELDS = 256
"""Of a record or a turn: each unknown one is compared with all that are known."""
REMOTE_IMAGES = ("image_url", "image_urls")
FILE_NAMES = ("file_name", "filename")
"""Of a picture, where folders of images keep their metadata; of anything else, harmless."""

_PAIR = "it belongs to a preference pair, and pairs are not built: write one record per answer that is to be learned"
_TOOLS = "write schemas in `tools` of the record, and calls in `tool_calls` of the turn that makes them"
_THINKING = "write it as `reasoning_content` in the turn of the answer that it belongs to, or remove the field"
_AUDIO = "audio is not read: remove it, and its markers"
_VIDEO_FILE = 'video files are not read: extract frames as images, and list them as `"videos": [["0.jpg", "1.jpg"]]`'
_MASK = 'labels are made from turns: write `"loss": false` on each answer that is not to be learned'
_WEIGHT = "a record cannot be weighted: repeat or leave out records instead"
_TEMPLATE = "no chat template takes it here: remove it"
_IN_TURN = "media are listed for the whole record, not in a turn: move the names to `images`, and mark the place"


class Refusal(NamedTuple):
    """Why a field cannot be honoured. `reason` is for counting; `neutral`: values that change nothing."""

    reason: str
    remedy: str
    neutral: tuple[object, ...] = ()


def _refusals(refusal: Refusal, names: str) -> dict[str, Refusal]:
    return {_folded(name): refusal for name in names.split()}


@lru_cache(maxsize=4096)
def _folded(name: str) -> str:
    return "".join(letter for letter in name[:64].lower() if letter.isalnum())


_PREFERENCES = _refusals(
    Refusal("preference_pair", _PAIR),
    "rejected rejected_response rejected_responses rejected_messages rejected_images rejected_videos chosen"
    " chosen_response chosen_responses chosen_messages chosen_images chosen_videos preferred dispreferred"
    " preferred_output non_preferred_output positive_messages negative_messages kto_tag is_rejected desirable",
)
_ALWAYS = {
    **_PREFERENCES,
    **_refusals(Refusal("loss_mask", _MASK, (False,)), "mask_history"),
    **_refusals(
        Refusal("tools_unsupported", _TOOLS, ("none", "auto", False)),
        "functions function function_call function_calls tool_choice tool_responses",
    ),
    **_refusals(
        Refusal("thinking_unsupported", _THINKING, (False,)),
        "reasoning_details thoughts thought think chain_of_thought",
    ),
    **_refusals(Refusal("media_unsupported", _AUDIO), "audio audios audio_path audio_paths audio_file input_audio"),
    **_refusals(
        Refusal("loss_mask", _MASK),
        "label_mask response_mask completion_mask assistant_masks loss_masks train_on_inputs train_on_prompt"
        " train_detail training_detail",
    ),
}
_RECORD_REFUSED = {
    **_ALWAYS,
    **_refusals(Refusal("tools_unsupported", _TOOLS), f"{CALLS} tool_call_id"),
    **_refusals(Refusal("thinking_unsupported", _THINKING, (False,)), " ".join(REASONING)),
    **_refusals(Refusal("media_unsupported", _VIDEO_FILE), " ".join(VIDEO_FILES)),
    **_refusals(
        Refusal("record_weight", _WEIGHT, (True, 1)),
        "loss weight loss_scale loss_weight loss_mask sample_weight train trainable",
    ),
    **_refusals(
        Refusal("template_unsupported", _TEMPLATE, (False,)), "chat_template chat_template_kwargs enable_thinking"
    ),
}
_TURN_REFUSED = {
    **_ALWAYS,
    **_refusals(Refusal("tools_unsupported", _TOOLS), TOOLS),
    **_refusals(Refusal("loss_mask", _MASK), "mask masked masks ignore ignored no_loss exclude"),
    **_refusals(
        Refusal("media_in_turn", _IN_TURN),
        "images image image_url image_urls image_path img videos video video_path media path",
    ),
}

_HARMLESS_ANYWHERE = (
    "id idx index uid uuid key message_id turn_id source url timestamp time date created_at updated_at lang language"
    " model author tokens num_tokens n_tokens length score scores rating quality meta metadata info extra extra_info"
)
_RECORD_HARMLESS = frozenset(
    _folded(name)
    for name in (
        _HARMLESS_ANYWHERE + " __key__ __url__ ids sample_id question_id image_id video_id conversation_id doc_id"
        " sources dataset dataset_name data_source origin urls link license licence split subset category categories"
        " topic task task_type type domain tags meta_info channel similarity clip_score clip_similarity aesthetic_score"
        " aesthetic nsfw punsafe pwatermark width height image_width image_height image_size original_width"
        " original_height size sha256 md5 hash phash status error_message exif version num_turns file_name filename"
        " page title objects"
    ).split()
)
_TURN_HARMLESS = frozenset(_folded(name) for name in _HARMLESS_ANYWHERE.split())

_ASKED = ("query", "response", "history")
_HONOURED = (*CONVERSATIONS, *SYSTEM, *IMAGES, *VIDEOS, *REMOTE_IMAGES, LITERAL, TOOLS, *_ASKED)
_TURN_HONOURED = (*ROLE, *TEXT, *LEARNED, CALLS, *REASONING, "tool_call_id")
_RESULT_HONOURED = (*ROLE, *TEXT, *LEARNED, CALLS, *REASONING, *RESULT)
_NAMED = frozenset((*_HONOURED, *_TURN_HONOURED))
_RECORD_KNOWN = _RECORD_HARMLESS | {"label"} | set(_RECORD_REFUSED)
_TURN_KNOWN = _TURN_HARMLESS | set(_TURN_REFUSED)
_MISSPELT = 0.86
"""`difflib`'s ratio: `sytem` is 0.91 like `system`, `imageset` 0.857 like `images`."""


def judge_record(fields: Mapping[str, Any], options: RecordOptions) -> tuple[str, ...]:
    """Notes about the unknown fields of a record.

    Raises:
        SampleError: a field that changes what the record means and cannot be honoured, or looks like a misspelt one.
    """
    _refuse(fields, "", _RECORD_REFUSED)
    return tuple(_unknown(fields, "", _HONOURED, _RECORD_KNOWN, options))


def judge_caption(fields: Mapping[str, Any], options: RecordOptions) -> tuple[str, ...]:
    """Notes about the fields beside a caption, which has room for no conversation.

    Raises:
        SampleError: as `judge_record`; or a field that only a conversation can honour.
    """
    for name in (*CONVERSATIONS, *SYSTEM, *IMAGES, *VIDEOS, TOOLS, *_ASKED):
        if not is_empty(fields.get(name)):
            raise SampleError("record_ambiguous", f"both a caption and `{name}`; write the record as `messages`")
    return judge_record(fields, options)


def refuse_turn(turn: Mapping[str, Any], where: str) -> None:
    """Raise for a field of a turn that cannot be honoured; errors call the turn `where`.

    Raises:
        SampleError: there is one.
    """
    _refuse(turn, where, _TURN_REFUSED)


def judge_turn(turn: Mapping[str, Any], where: str, options: RecordOptions, *, result: bool = False) -> Iterator[str]:
    """Notes about the unknown fields of a turn. `result`: it is a tool's, whose `name` is known.

    Raises:
        SampleError: one looks like a misspelt field, or `options` refuse unknown ones.
    """
    return _unknown(turn, where, _RESULT_HONOURED if result else _TURN_HONOURED, _TURN_KNOWN, options)


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, an empty text or list, an object or list of such things."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        return all(is_empty(part) for part in value.values())
    if isinstance(value, list):
        return all(is_empty(part) for part in value)
    return value is None


def nearest(valid: Sequence[str], fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what was written, what was meant), for a field that is spelt almost like a valid one and is no other field."""
    written = [name for name in list(fields)[:64] if len(name) <= 64 and name not in _NAMED]
    for candidate in written:
        for name in valid:
            if _folded(candidate) == _folded(name):
                return candidate, name
    unknown = [name for name in written if _folded(name) not in _RECORD_KNOWN]
    for name in valid:
        if near := difflib.get_close_matches(name, unknown, n=1, cutoff=0.7):
            return near[0], name
    return None


def names(fields: Mapping[str, Any]) -> str:
    """The fields there are, for an error."""
    return ", ".join(f"`{name[:40]}`" for name in list(fields)[:8]) or "no field at all"


def _refuse(fields: Mapping[str, Any], where: str, refused: Mapping[str, Refusal]) -> None:
    if len(fields) > MOST_FIELDS:
        raise SampleError("record_field", f"{where}{len(fields)} fields, more than {MOST_FIELDS}")
    for name, value in fields.items():
        refusal = refused.get(_folded(name))
        if refusal is not None and not is_empty(value) and value not in refusal.neutral:
            raise _refused(name, value, refusal, where)
        if _folded(name) == "label" and str(value).lower() in ("true", "false"):
            raise _refused(name, value, _PREFERENCES["ktotag"], where)


def _unknown(
    fields: Mapping[str, Any], where: str, honoured: tuple[str, ...], known: frozenset[str], options: RecordOptions
) -> Iterator[str]:
    for name, value in fields.items():
        if name in honoured or is_empty(value) or _folded(name) in known:
            continue
        if meant := _misspelt(name, honoured):
            raise SampleError("record_field", f"{where}got `{name[:64]}`: did you mean `{meant}`?")
        if options.on_unknown_field == "refuse":
            detail = f"{where}unknown field `{name[:64]}`; remove it, or set `on_unknown_field: count`"
            raise SampleError("unknown_field", detail)
        yield note("unknown_turn_field" if where else "unknown_field", name)


@lru_cache(maxsize=4096)
def _misspelt(name: str, honoured: tuple[str, ...]) -> str:
    same = next((valid for valid in honoured if _folded(valid) == _folded(name)), "")
    near = difflib.get_close_matches(name[:64], honoured, n=1, cutoff=_MISSPELT)
    return same or (near[0] if near else "")


def _refused(name: str, value: object, refusal: Refusal, where: str) -> SampleError:
    shown = f": {str(value).lower()}" if isinstance(value, bool | int | float) else ""
    return SampleError(refusal.reason, f"{where}`{name[:64]}{shown}` cannot be honoured: {refusal.remedy}")
