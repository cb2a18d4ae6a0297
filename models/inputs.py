"""What a job's input must look like, per runtime. No torch: the dispatcher asks before it accepts a job.

The executor asks again, since a foreign AMQP publisher has not been through the dispatcher.
"""

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from affinity.errors import InvalidInput
from models.entry import Failure, ModelEntry, Seconds, SyntheticOptions
from models.problems import path_of, sentence

SAMPLE_RATE = 16_000
MAX_PCM_BYTES = 10 * 60 * SAMPLE_RATE * 2
"""Ten minutes of 16-bit mono."""


def validate_input(entry: ModelEntry, value: object) -> None:
    """Raise ``InvalidInput``, with the field named, unless the model can take this JSON value as its input."""
    parse_input(entry, value)


def parse_input(entry: ModelEntry, value: object) -> object:
    """The input as the runtime's own type (below), or ``InvalidInput`` as for ``validate_input``."""
    return _PARSERS[entry.runtime](entry, value)


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _pcm(value: object) -> bytes:
    """Bytes of 16-bit samples, from base64."""
    if not isinstance(value, str):
        raise PydanticCustomError("pcm", "must be a string of base64")
    if len(value) > MAX_PCM_BYTES // 3 * 4 + 4:
        raise PydanticCustomError("pcm", "must be at most 10 minutes long; send it in pieces")
    try:
        pcm = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise PydanticCustomError("pcm", "must be base64 (RFC 4648, with padding and without line breaks)") from None
    if not pcm or len(pcm) % 2:
        raise PydanticCustomError("pcm", "must hold 16-bit samples: an even number of bytes, at least 2")
    if len(pcm) > MAX_PCM_BYTES:
        raise PydanticCustomError("pcm", "must be at most 10 minutes long; send it in pieces")
    return pcm


class SentenceInput(_Schema):
    """``sentence-embedding``: 1 to 256 texts of at most 8192 characters."""

    texts: Annotated[list[Annotated[str, Field(max_length=8192)]], Field(min_length=1, max_length=256)]


class VoiceInput(_Schema):
    """``voice-activity``: ``pcm16_base64`` is little-endian 16-bit mono at 16 kHz; parsed, it holds the bytes."""

    pcm16_base64: Annotated[bytes, BeforeValidator(_pcm)]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5


PIPELINE_PARAMETERS = frozenset(
    {
        "aggregation_strategy",
        "candidate_labels",
        "do_sample",
        "function_to_apply",
        "hypothesis_template",
        "max_length",
        "max_new_tokens",
        "min_new_tokens",
        "multi_label",
        "no_repeat_ngram_size",
        "num_beams",
        "num_return_sequences",
        "repetition_penalty",
        "return_full_text",
        "stop_strings",
        "targets",
        "temperature",
        "top_k",
        "top_p",
        "truncation",
    }
)
"""Call parameters a caller may set. A list of what is allowed: among the others are some that fetch and run code."""


def _known_parameters(value: dict[str, object]) -> dict[str, object]:
    if unknown := sorted(value.keys() - PIPELINE_PARAMETERS):
        words = {"unknown": unknown[0][:64], "known": ", ".join(sorted(PIPELINE_PARAMETERS))}
        raise PydanticCustomError("parameters", "has no {unknown}; there are: {known}", words)
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class TransformersInput(_Schema):
    """``transformers``: one text or several, and call parameters of the pipeline."""

    inputs: Annotated[
        list[Annotated[str, Field(max_length=65536)]], Field(min_length=1, max_length=256), BeforeValidator(_listed)
    ]
    parameters: Annotated[dict[str, object], AfterValidator(_known_parameters)] = {}


class _SyntheticInput(BaseModel):
    """What a synthetic model heeds in an object; it ignores the rest, as a stand-in for a real model must."""

    model_config = ConfigDict(extra="ignore", strict=True)

    fail: Failure | None = None
    exec_s: Seconds | None = None


class _EchoInput(BaseModel):
    """The older producer's field: how long its consumer pretended to work."""

    model_config = ConfigDict(extra="ignore", strict=True)

    processing_time: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class SyntheticWork:
    """``synthetic``: what one job asks for. ``exec_s`` ``None`` means the catalogue's."""

    value: object
    exec_s: float | None = None
    fail: Failure | None = None


def _by_schema(schema: type[BaseModel]) -> Callable[[ModelEntry, object], object]:
    def parse(_entry: ModelEntry, value: object) -> object:
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            _refuse(error, schema)

    return parse


def _synthetic(entry: ModelEntry, value: object) -> SyntheticWork:
    try:
        if not entry.options_as(SyntheticOptions).echo:
            asked = _SyntheticInput.model_validate(value)
            return SyntheticWork(value, asked.exec_s, asked.fail)
        if isinstance(value, dict) and "processing_time" in value:
            return SyntheticWork(value, _EchoInput.model_validate(value).processing_time)
        return SyntheticWork(value)
    except ValidationError as error:
        _refuse(error, _SyntheticInput)


def _any_object(_entry: ModelEntry, value: object) -> object:
    if not isinstance(value, dict):
        raise InvalidInput("must be a JSON object", "input")
    return value


def _refuse(error: ValidationError, schema: type[BaseModel]) -> NoReturn:
    first, *more = error.errors(include_url=False, include_input=False)
    also = f" (and {len(more)} more)" if more else ""
    raise InvalidInput(sentence(first, schema.model_fields) + also, path_of(("input", *first["loc"]))) from None


_PARSERS: dict[str, Callable[[ModelEntry, object], object]] = {
    "sentence-embedding": _by_schema(SentenceInput),
    "synthetic": _synthetic,
    "torch": _any_object,
    "transformers": _by_schema(TransformersInput),
    "voice-activity": _by_schema(VoiceInput),
}
