"""What a formatter makes of things, as plain text; and which characters no output may hold."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import strategies as st
from rich.console import Console, RenderableType

#: Characters that people use to break or deceive a terminal, besides any that happens to come up.
DANGEROUS = (
    "\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\x9d\u061c\u200b\u200d\u200e\u200f"
    "\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800\U000e0041"
)

hostile = st.text(
    st.sampled_from(DANGEROUS) | st.sampled_from("[]/\\bred:smile") | st.characters(), max_size=60
)


def draw(renderable: RenderableType, width: int = 80, *, colour: bool = False) -> str:
    """``renderable`` as a terminal of ``width`` columns would get it."""
    console = Console(
        file=io.StringIO(), width=width, highlight=False, force_terminal=colour,
        color_system="truecolor" if colour else None,
    )  # fmt: skip
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def unfit(shown: str) -> list[str]:
    """The characters of ``shown``, beside newlines, that a terminal may not get from outside."""
    return [
        each
        for each in shown
        if each != "\n"
        and (each in DANGEROUS or unicodedata.category(each)[0] == "C" or each in "\u2028\u2029")
    ]
