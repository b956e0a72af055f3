"""Questions of the agent: what is asked, and which answer goes to which question.

The agent reads answers by the text of their question, and "did not answer" when no key is such a text. So every answer
is matched with a question here, and one that matches none is refused while the interaction stays open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.errors import FieldViolation, InvalidField
from agent_service.options import LOST_KEYS

NOTHING_CHOSEN = frozenset({"", "(notes only)"})
"""Answers that the agent shows the model as no answer."""


def questions_of(tool_input: Mapping[str, Any]) -> list[pb.Question]:
    """The questions in the input of the question tool."""
    return [
        pb.Question(
            text=events.clean(str(question.get("question", ""))),
            header=events.clean(str(question.get("header", ""))),
            multi_select=bool(question.get("multiSelect")),
            options=[
                pb.QuestionOption(
                    label=events.clean(str(option.get("label", ""))),
                    description=events.clean(str(option.get("description", ""))),
                )
                for option in question.get("options") or ()
                if isinstance(option, dict)
            ],
        )
        for question in _asked(tool_input)
    ]


def answered_input(
    tool_input: Mapping[str, Any], answers: Mapping[str, str], updated: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The tool's input with its answers, from `allow.answers` or from the "answers" of `updated_input_json`.

    Raises InvalidField with the questions' texts when a key is no question, an answer is blank, or nothing is answered.
    """
    rest = {key: value for key, value in (updated or {}).items() if key not in ("answers", "questions")}
    wrong = list(_check_questions(tool_input, updated))
    matched: dict[str, str] = {}
    for where, key, value in _given(answers, updated):
        question = _question_named(tool_input, key)
        if question is None:
            wrong.append(FieldViolation(where, f"names no question; {_texts(tool_input)}"))
        elif question in LOST_KEYS:
            wrong.append(FieldViolation(where, f"the agent would drop an answer to {question!r}; deny the question"))
        elif question in matched:
            wrong.append(FieldViolation(where, f"answers {question!r} a second time"))
        elif (text := _text_of(value)) is None:
            wrong.append(FieldViolation(where, "must be a text, or a list of texts, that is not blank"))
        else:
            matched[question] = text
    if not wrong and not matched and not _responds(rest):
        wrong.append(FieldViolation("allow.answers", f"must answer a question; {_texts(tool_input)}"))
    if wrong:
        raise InvalidField(wrong)
    return {**tool_input, **rest, "answers": matched}


def _asked(tool_input: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = tool_input.get("questions")
    return [question for question in asked if isinstance(question, dict)] if isinstance(asked, list) else []


def _text(question: Mapping[str, Any]) -> str:
    return str(question.get("question", ""))


def _texts(tool_input: Mapping[str, Any]) -> str:
    return "the questions are " + ", ".join(json.dumps(_text(question)[:200]) for question in _asked(tool_input))


def _check_questions(tool_input: Mapping[str, Any], updated: Mapping[str, Any] | None) -> Iterator[FieldViolation]:
    """The agent's way of answering repeats the questions; others than those that were asked are refused."""
    if updated is None or "questions" not in updated:
        return
    if [_text(question) for question in _asked(updated)] != [_text(question) for question in _asked(tool_input)]:
        yield FieldViolation(
            "allow.updated_input_json", f'"questions" must be left out or be as asked; {_texts(tool_input)}'
        )


def _given(answers: Mapping[str, str], updated: Mapping[str, Any] | None) -> Iterator[tuple[str, str, object]]:
    """Path, key and value of each answer."""
    for key, value in answers.items():
        yield f"allow.answers[{json.dumps(key)}]", key, value
    inside = (updated or {}).get("answers")
    for key, value in inside.items() if isinstance(inside, dict) else ():
        yield f"allow.updated_input_json.answers[{json.dumps(key)}]", key, value


def _question_named(tool_input: Mapping[str, Any], key: str) -> str | None:
    """The text of the question that `key` names: by its text, or by a header that no other question has."""
    asked = _asked(tool_input)
    for exact in (lambda text: text, lambda text: events.clean(text).strip()):
        named = [_text(question) for question in asked if exact(_text(question)) == exact(key)]
        if named:
            return named[0]
    named = [_text(question) for question in asked if str(question.get("header", "")).strip() == key.strip()]
    return named[0] if len(named) == 1 and key.strip() else None


def _text_of(value: object) -> str | None:
    """An answer as the agent takes it; None when it says nothing."""
    parts = value if isinstance(value, list) and value else [value]
    texts = [part for part in parts if isinstance(part, str) and part.strip() not in NOTHING_CHOSEN]
    return ", ".join(texts) if len(texts) == len(parts) else None


def _responds(rest: Mapping[str, Any]) -> bool:
    """Return whether the rest of the input has text for the model: a response to all questions, or a note on one."""
    response, annotations = rest.get("response"), rest.get("annotations")
    if isinstance(response, str) and response.strip():
        return True
    notes = annotations.values() if isinstance(annotations, dict) else ()
    return any(isinstance(note, dict) and str(note.get("notes") or "").strip() for note in notes)
