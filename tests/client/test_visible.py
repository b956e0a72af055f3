"""What is shown is what is there: nothing is removed, what cannot be seen is escaped, honest text stays as it is."""

# ruff: noqa: RUF001  # letters that look like others are what this is about

from __future__ import annotations

import pytest
from agent_client.visible import visible, visible_line
from hypothesis import example, given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://docs.example\x1b]:x@127.0.0.1:9/x", "https://docs.example\\x1b]:x@127.0.0.1:9/x"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("safe\rrm", "safe\\rrm".replace("\\r", "\\x0d")),
        ("a\x00b\x08c\x7f", "a\\x00b\\x08c\\x7f"),
        ("ls\u200b -a", "ls\\u200b -a"),
        ("pass\u00adword", "pass\\xadword"),
        ("if (x\u202e) {", "if (x\\u202e) {"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("hi\U000e0072\U000e006d", "hi\\U000e0072\\U000e006d"),
        ("\U0001f3f4\U000e0072\U000e006d\U000e007f", "\U0001f3f4\\U000e0072\\U000e006d\\U000e007f"),
        ("a\ufe01b\U000e0101", "a\\ufe01b\\U000e0101"),
        ("\U0001f600\ufe0f\ufe0f", "\U0001f600\ufe0f\\ufe0f"),
        ("rm\u00a0-rf", "rm\\xa0-rf"),
        ("a\u2028b", "a\\u2028b"),
        ("\u3164x\u2800", "\\u3164x\\u2800"),
        ("a\u200db", "a\\u200db"),
        ("p\u0430ypal", "p\\u0430ypal"),
        ("G\u03bf\u03bfgle", "G\\u03bf\\u03bfgle"),
        ("https://\u0430\u0440\u0440\u04cf\u0435.com/a", "https://\\u0430\\u0440\\u0440\\u04cf\\u0435.com/a"),
        ("docs.example\u2215evil", "docs.example\\u2215evil"),
        ("e" + "\u0301" * 30, "e" + "\u0301" * 6 + "\\u0301" * 24),
        ("\U0010ffff\ue000", "\\U0010ffff\\ue000"),
    ],
)
def test_what_cannot_be_seen_or_misleads_is_escaped(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "שלום עולם, מה שלומך?",
        "בְּרֵאשִׁ֖ית",
        "你好，世界：一／二　三",
        "使用HTTP：そしてＡＢＣ",
        "مرحبا بالعالم",
        "می\u200cخواهم",
        "क्\u200dष",
        "Привет, мир! git-коммит и Wi-Fi",
        "Ελληνικά: Δt = 5 μs, kΩ",
        "naïve café Ünïcödé Straße ﬁn",
        "e\u0301",
        "👩\u200d👩\u200d👧 👍🏽 🏳️\u200d🌈 👩🏽\u200d💻 ❤️\u200d🔥 🧑\u200d⚕️ 1️⃣ ©️ 🇩🇪",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "葛\U000e0100城",
        "“quotes” – dashes — … it’s 50 % → ✓",
        "tab\there\nand a line",
        "한국어 ไทย தமிழ்",
    ],
)
def test_honest_text_stays_as_it_is(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1f\U0001d400", "\\x1f\U0001d400"),
        ("\x1b\u043f\u0440\u0438\u0432\u0435\u0442", "\\x1b\u043f\u0440\u0438\u0432\u0435\u0442"),
        ("\x1f\u2024a", "\\x1f\u2024a"),
        ("a\uff21\u3000", "a\\uff21\\u3000"),
    ],
    ids=["letter", "word", "dot", "space"],
)
def test_what_stands_behind_an_escape_is_judged_by_itself(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text())
@example("\x1f\U0001d400")
def test_what_is_shown_controls_nothing_and_shows_all(text):
    shown = visible(text)
    assert visible(shown) == shown
    assert not any((each < " " and each not in "\n\t") or "\x7f" <= each <= "\x9f" for each in shown)
    assert len(shown) >= len(text.replace("\r\n", "\n"))


def test_a_line_is_one_line_and_hides_no_break():
    assert visible_line(" a\nb\tc ") == "a\\nb\\tc"
