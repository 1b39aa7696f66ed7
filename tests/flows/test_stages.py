import pytest

from flows.stages import markdown_cell


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://evil.example/x.png)",
        "[c](javascript:alert(1))",
        "<script>alert(1)</script>",
        "a|b`c`",
        "\x1b[31m\x00",
    ],
)
def test_nothing_from_a_page_is_mark_up_in_a_table_cell(text: str) -> None:
    cell = markdown_cell(text)
    assert not set("<>[]()!|`\\*_\x1b\x00") & set(cell)


def test_ordinary_words_stay_readable() -> None:
    assert markdown_cell("It's a  café, isn't it?\nYes: 3.5") == "It's a café, isn't it? Yes: 3.5"
