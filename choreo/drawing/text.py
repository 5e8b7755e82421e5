"""Text from outside, made fit to be shown.

Saga ids, event types, errors, notes and log lines come from other programs. Shown as they are, they
could move the cursor, recolour or retitle the terminal, reverse the order of what follows, or look
like something else than they are. So nothing from outside is shown but through this module, and
never as markup: what is made of it are :class:`rich.text.Text` objects.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Characters of one piece of text that are shown; an ellipsis stands for the rest.
LIMIT = 400
#: Lines of a longer text (a traceback) that are shown.
MAX_LINES = 200

#: Accents that one letter may carry. More of them run over the lines above and below.
_MAX_MARKS = 2
#: Invisible, though Unicode does not class them with the control and format characters.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_NOT_PLAIN = re.compile("[^\n -~]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def clean(text: str, limit: int = LIMIT) -> str:
    """``text`` as one line of printable characters, at most ``limit`` of them shown.

    What would not print stands there as an escape (``\\x1b``, ``\\u202e``), so that it can be seen.
    """
    shown = text[:limit]
    if not (shown.isascii() and shown.isprintable()):
        shown = _escape(shown)
    return f"{shown}…" if len(text) > limit else shown


def clean_lines(text: str, limit: int = LIMIT) -> list[str]:
    """``text`` line by line, each cleaned; of very many lines only the last ones."""
    lines = text.expandtabs(4).split("\n")
    shown = [clean(line.removesuffix("\r"), limit) for line in lines[-MAX_LINES:]]
    left_out = len(lines) - len(shown)
    return [f"… {left_out} more lines", *shown] if left_out else shown


def count(number: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def escape_json(text: str) -> str:
    """JSON that means the same as ``text``, with an escape for every character that would not print."""
    return _NOT_PLAIN.sub(lambda found: _json_escape(found[0]), text)


def _escape(text: str) -> str:
    shown: list[str] = []
    marks = _MAX_MARKS  # a mark without a letter would sit on what stands before the text
    for each in text:
        is_mark = unicodedata.category(each) in ("Mn", "Me")
        marks = marks + 1 if is_mark else 0
        shown.append(_visible(each, fits=marks <= _MAX_MARKS))
    return "".join(shown)


def _visible(character: str, *, fits: bool) -> str:
    if character.isprintable() and fits and not _INVISIBLE.match(character):
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    digits = f"x{code:02x}" if code < 0x100 else f"u{code:04x}" if code < 0x10000 else f"U{code:08x}"
    return _SHORT.get(character, f"\\{digits}")


def _json_escape(character: str) -> str:
    if character.isprintable():
        return character
    encoded = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{encoded[at : at + 4]}" for at in range(0, len(encoded), 4))
