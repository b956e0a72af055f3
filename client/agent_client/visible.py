"""Text of strangers → text that shows what it is: nothing is removed, what cannot be seen or misleads is escaped.

Used for all that people read: prompts, lists, titles, questions, answers, errors. A terminal obeys none of its output.
Honest text in any script stays as it is, emoji sequences and the joiners of Persian and Indic scripts included.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MARKS_IN_A_ROW = 6
"""Combining marks on one letter; pointed Hebrew has up to 4, stacks that cover other lines have more."""

# Shown blank, or as part of what stands before, although their categories are those of letters and symbols.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U0001d159")
# Format characters that are seen: Arabic and Indic signs around numbers.
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})

# Scripts with letters that look like Latin ones; a word that has both is marked where it is not Latin.
_LOOK_ALIKE_SCRIPTS = ("CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "FULLWIDTH LATIN", "MATHEMATICAL")
# Of Greek only those that look like Latin: micro, ohm, delta and lambda stand in honest words of units and formulas.
_LOOK_ALIKES = frozenset("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγεηικνορστυχϲϳϹͿɑɡɩʋⅰⅴⅹⅼⅽⅾⅿⅠⅤⅩⅬⅭⅮⅯ")
# Dots, slashes, colons, hyphens and the like; only between ASCII letters, since elsewhere they are what they are.
_PUNCTUATION = (
    "\u2024\uff0e\u2044\u2215\u29f8\uff0f\u02d0\u05c3\u2236\ua789\uff1a"
    "\u2010\u2011\u2212\ufe63\uff0d\uff20\uff03\uff1f\u037e"
)

_JOINING: tuple[str, ...] = (
    "ARABIC",
    "SYRIAC",
    "DEVANAGARI",
    "BENGALI",
    "GURMUKHI",
    "GUJARATI",
    "ORIYA",
    "TAMIL",
    "TELUGU",
    "KANNADA",
)
_JOINING += ("MALAYALAM", "SINHALA", "KHMER", "MYANMAR", "TIBETAN", "MONGOLIAN", "NKO")

# A flag of a region is a black flag and invisible letters; these three are the only ones in use.
_FLAGS = re.compile(
    "\U0001f3f4(?:"
    + "|".join("".join(chr(0xE0000 + ord(each)) for each in f"gb{name}") for name in ("eng", "sct", "wls"))
    + ")\U000e007f"
)
_WORD = re.compile(r"[^\W_]+")
_HOST = re.compile(r"(?<=://)[^\s/?#\\]+")
_BETWEEN_ASCII = re.compile(f"(?<=[A-Za-z0-9])[{_PUNCTUATION}](?=[A-Za-z0-9])")
# The letters of an escape are no part of the word behind it: an honest word after a control character stays as it is.
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_ASCII_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def visible(text: str) -> str:
    """Return text with all that misleads escaped, such as `\\x1b` or `\\u202e`; newlines and tabs stay.

    Applied twice it changes nothing more. A carriage return before a newline is a part of it.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii():
        return _ASCII_CONTROLS.sub(lambda found: escaped(found[0]), text)
    while (shown := _escape(text)) != text:  # what stands beside an escaped character may be misleading now
        text = shown
    return text


def _escape(text: str) -> str:
    misleading = _look_alikes(text)
    flags = {place for flag in _FLAGS.finditer(text) for place in range(*flag.span())}
    return "".join(
        escaped(each) if place in misleading or (place not in flags and _is_hidden(text, place, each)) else each
        for place, each in enumerate(text)
    )


def visible_line(text: str) -> str:
    """Return visible text on one line: newlines and tabs are escaped, too."""
    return visible(text.strip(" \n\t")).replace("\n", "\\n").replace("\t", "\\t")


def escaped(character: str) -> str:
    """Return a character as Python would write it in ASCII."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_hidden(text: str, place: int, character: str) -> bool:
    if character < "\x7f":
        return character < " " and character not in "\n\t"
    if character in _BLANK:
        return True
    category = _category(character)
    if category in {"Mn", "Me"}:
        return (_is_variation(character) and not _varies(text, place)) or _is_stacked(text, place)
    if category not in _HIDDEN_CATEGORIES or character in _SEEN:
        return False
    if character in "\u200c\u200d":
        return not _joins(text, place)
    # Chinese and Japanese indent and separate with a space as wide as their letters.
    return not (character == "\u3000" and any(_is_wide(each) for each in _around(text, place)))


def _joins(text: str, place: int) -> bool:
    """Return whether a joiner stands where one belongs: within an emoji, or between letters that join."""
    before, after = _around(text, place)
    if text[place] == "\u200d" and _is_emoji(after) and _is_emoji(_base(text, place)):
        return True
    return _is_joining(before) and (_is_joining(after) or not after.isalnum())


def _is_variation(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _varies(text: str, place: int) -> bool:
    """Return whether a variation selector stands behind what it can vary."""
    before, after = _around(text, place)
    if text[place] in "\ufe0e\ufe0f":
        return (
            _is_emoji(before)
            or before in "\u00a9\u00ae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299"
            or after == "\u20e3"
        )
    return text[place] > "\ufe0f" and _name(before).startswith("CJK")


def _is_stacked(text: str, place: int) -> bool:
    """Return whether a mark is one too many, or has no letter to stand on."""
    first = place
    while first > 0 and place - first <= MARKS_IN_A_ROW and _category(text[first - 1]) in {"Mn", "Me"}:
        first -= 1
    return first == 0 or place - first >= MARKS_IN_A_ROW


def _base(text: str, place: int) -> str:
    """Return the emoji before a joiner, behind its variation selector or skin colour."""
    place -= 1
    while place > 0 and (text[place] == "\ufe0f" or "\U0001f3fb" <= text[place] <= "\U0001f3ff"):
        place -= 1
    return text[place] if place >= 0 else ""


def _around(text: str, place: int) -> tuple[str, str]:
    return text[place - 1 : place], text[place + 1 : place + 2]


def _look_alikes(text: str) -> set[int]:
    """Return the places of letters and signs that look like those of the Latin word or host they stand in."""
    text = _ESCAPE.sub(lambda found: " " * len(found[0]), text)
    places = {found.start() for found in _BETWEEN_ASCII.finditer(text)}
    for pattern in (_WORD, _HOST):
        for word in pattern.finditer(text):
            if not word[0].isascii() and re.search("[A-Za-z]", word[0]):
                places |= {word.start() + at for at, each in enumerate(word[0]) if _looks_latin(each)}
    return places


@lru_cache(4096)
def _looks_latin(character: str) -> bool:
    return character in _LOOK_ALIKES or _name(character).startswith(_LOOK_ALIKE_SCRIPTS)


def _is_joining(character: str) -> bool:
    return _name(character).startswith(_JOINING)


def _is_emoji(character: str) -> bool:
    return bool(character) and (
        "\U0001f000" <= character <= "\U0001faff" or (character > "\u2189" and _category(character) in {"So", "Sm"})
    )


def _is_wide(character: str) -> bool:
    return bool(character) and unicodedata.east_asian_width(character) in "WF"


@lru_cache(4096)
def _category(character: str) -> str:
    return unicodedata.category(character)


@lru_cache(4096)
def _name(character: str) -> str:
    return unicodedata.name(character, "") if character else ""
