"""Inputs per runtime: what is accepted, and that a refusal names the field."""

import base64

import pytest

from affinity.errors import InvalidInput
from models.entry import ModelEntry, SyntheticOptions
from models.inputs import MAX_PCM_BYTES, SentenceInput, SyntheticWork, VoiceInput, parse_input, validate_input

EMBED = ModelEntry("embed", "sentence-embedding")
VOICE = ModelEntry("voice", "voice-activity")
CLASS = ModelEntry("class", "torch")
PIPE = ModelEntry("pipe", "transformers")
SLOW = ModelEntry("slow", "synthetic", options=SyntheticOptions(exec_s=1))
ECHO = ModelEntry("echo", "synthetic", options=SyntheticOptions(echo=True))


def pcm(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (EMBED, {"texts": ["a"]}),
        (EMBED, {"texts": ["x" * 8192] * 256}),
        (EMBED, {"texts": [""]}),
        (VOICE, {"pcm16_base64": pcm(2)}),
        (VOICE, {"pcm16_base64": pcm(MAX_PCM_BYTES), "threshold": 0.3}),
        (CLASS, {}),
        (CLASS, {"anything": [1, {"deep": None}]}),
        (PIPE, {"inputs": "one"}),
        (PIPE, {"inputs": ["one", "two"], "parameters": {"top_k": 2}}),
        (SLOW, {}),
        (SLOW, {"fail": "hang", "exec_s": 0, "left": "alone"}),
        (SLOW, {"fail": None, "exec_s": None}),
        (ECHO, None),
        (ECHO, [1, "x"]),
        (ECHO, {"fail": "not heeded here", "exec_s": "nor here"}),
        (ECHO, {"processing_time": 300}),
    ],
)
def test_a_good_input_is_accepted(entry: ModelEntry, value: object):
    validate_input(entry, value)


@pytest.mark.parametrize(
    ("entry", "value", "field", "said"),
    [
        (EMBED, None, "input", "must be a JSON object"),
        (EMBED, ["a"], "input", "must be a JSON object"),
        (EMBED, {}, "input.texts", "is missing"),
        (EMBED, {"texts": "a"}, "input.texts", "must be a valid list"),
        (EMBED, {"texts": []}, "input.texts", "must have at least 1 item"),
        (EMBED, {"texts": ["a"] * 257}, "input.texts", "must have at most 256 items"),
        (EMBED, {"texts": ["a", 3]}, "input.texts[1]", "must be a valid string"),
        (EMBED, {"texts": ["a", "x" * 8193]}, "input.texts[1]", "must have at most 8192 characters"),
        (EMBED, {"texts": ["\ud800"]}, "input.texts[0]", "valid Unicode"),
        (EMBED, {"texts": ["a"], "text": "b"}, "input.text", "is not a field here; there are: texts"),
        (EMBED, {"texts": [1, 2, 3]}, "input.texts[0]", "(and 2 more)"),
        (VOICE, {}, "input.pcm16_base64", "is missing"),
        (VOICE, {"pcm16_base64": [1]}, "input.pcm16_base64", "must be a string of base64"),
        (VOICE, {"pcm16_base64": "!!!!"}, "input.pcm16_base64", "must be base64"),
        (VOICE, {"pcm16_base64": "AAA"}, "input.pcm16_base64", "must be base64"),
        (VOICE, {"pcm16_base64": "AA\nAA"}, "input.pcm16_base64", "must be base64"),
        (VOICE, {"pcm16_base64": "é" * 4}, "input.pcm16_base64", "must be base64"),
        (VOICE, {"pcm16_base64": ""}, "input.pcm16_base64", "at least 2"),
        (VOICE, {"pcm16_base64": pcm(3)}, "input.pcm16_base64", "even number of bytes"),
        (VOICE, {"pcm16_base64": pcm(MAX_PCM_BYTES + 2)}, "input.pcm16_base64", "at most 10 minutes"),
        (VOICE, {"pcm16_base64": pcm(2 * MAX_PCM_BYTES)}, "input.pcm16_base64", "at most 10 minutes"),
        (VOICE, {"pcm16_base64": pcm(2), "threshold": 1}, "input.threshold", "must be less than 1"),
        (VOICE, {"pcm16_base64": pcm(2), "threshold": True}, "input.threshold", "must be a valid number"),
        (CLASS, "text", "input", "must be a JSON object"),
        (PIPE, {"inputs": []}, "input.inputs", "at least 1 item"),
        (PIPE, {"inputs": ["a", None]}, "input.inputs[1]", "must be a valid string"),
        (PIPE, {"inputs": 3}, "input.inputs", "must be a valid list"),
        (PIPE, {"inputs": "a", "parameters": []}, "input.parameters", "must be a table"),
        (
            PIPE,
            {"inputs": "a", "parameters": {"trust_remote_code": True}},
            "input.parameters",
            "has no trust_remote_code",
        ),
        (PIPE, {"inputs": "a", "parameters": {"custom_generate": "x/y"}}, "input.parameters", "has no custom_generate"),
        (SLOW, 3, "input", "must be a JSON object"),
        (SLOW, {"fail": "explode"}, "input.fail", "must be 'error', 'oom', 'crash' or 'hang'"),
        (SLOW, {"exec_s": -1}, "input.exec_s", "must be greater than or equal to 0"),
        (SLOW, {"exec_s": "1"}, "input.exec_s", "must be a valid number"),
        (SLOW, {"exec_s": 3601}, "input.exec_s", "must be less than or equal to 3600"),
        (ECHO, {"processing_time": 301}, "input.processing_time", "must be less than or equal to 300"),
        (ECHO, {"processing_time": "2"}, "input.processing_time", "must be a valid number"),
    ],
)
def test_a_bad_input_is_refused_with_the_field_named(entry: ModelEntry, value: object, field: str, said: str):
    with pytest.raises(InvalidInput) as caught:
        validate_input(entry, value)
    assert caught.value.field == field
    assert said in caught.value.message
    assert caught.value.message.startswith(field + ": ")


def test_a_refusal_does_not_quote_what_may_be_private():
    with pytest.raises(InvalidInput) as caught:
        validate_input(SLOW, {"fail": "my password"})
    assert "password" not in caught.value.message


def test_inputs_arrive_at_the_runtime_typed():
    assert parse_input(EMBED, {"texts": ["a"]}) == SentenceInput(texts=["a"])
    voice = parse_input(VOICE, {"pcm16_base64": base64.b64encode(b"\x01\x00\x02\x00").decode()})
    assert isinstance(voice, VoiceInput)
    assert (voice.pcm16_base64, voice.threshold) == (b"\x01\x00\x02\x00", 0.5)
    assert parse_input(SLOW, {"exec_s": 2, "fail": "oom"}) == SyntheticWork({"exec_s": 2, "fail": "oom"}, 2, "oom")
    assert parse_input(ECHO, {"processing_time": 2}) == SyntheticWork({"processing_time": 2}, 2)
