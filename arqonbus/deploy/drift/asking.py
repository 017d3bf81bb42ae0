"""All questions to a host in one script, and its answers. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from arqonbus.deploy.drift.model import Difference, Expectation, Machine

_END = "arqonbus-drift-end"
_STARTS = (" restart ", " enable --now ")


class Unanswered(Exception):
    """A host that did not answer every question; the message is a sentence."""


def script(expectations: Sequence[Expectation]) -> str:
    """One line of output for each question, as base64, so that no answer can be taken for another's."""
    lines = ["export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; cd /"]
    for each in expectations:
        lines.append(f"( {each.question}\n) </dev/null 2>&1 | base64 -w 0; echo")
    return "\n".join([*lines, f"echo {_END}"])


def answers(output: str, count: int) -> list[str]:
    """The answer to each question. Raises Unanswered."""
    lines = output.splitlines()
    if len(lines) != count + 1 or lines[-1] != _END:
        raise Unanswered("it did not answer every question; is the user one that may use sudo?")
    try:
        return [base64.b64decode(line, validate=True).decode(errors="replace") for line in lines[:-1]]
    except ValueError:
        raise Unanswered("something else speaks in between; see what a login prints there") from None


def differences(
    machine: Machine, expectations: Sequence[Expectation], said: Sequence[str]
) -> tuple[Difference, ...]:
    """The differences that were found."""
    return tuple(
        Difference(
            each.check,
            machine.name,
            each.subject,
            expected,
            found,
            each.mend if isinstance(each.mend, str) else each.mend(found),
        )
        for each, answer in zip(expectations, said, strict=True)
        for expected, found in each.judge(answer)
    )


def to_type(found: Sequence[Difference], site: str, deploy: str) -> list[str]:
    """Commands that mend the differences, each once, in the order to type them.

    `site` puts files right, once for all of them, and does all that `deploy` does. It comes after what has to
    be out of its way, because it may restart a node, and before what is started by hand and reads them.
    """
    mends = [each.mend for each in found]
    rolled_out = [verb for verb in (site, deploy) if any(mend.endswith(verb) for mend in mends)][:1]
    by_hand = dict.fromkeys(
        mend.removesuffix(site).removesuffix(deploy).removesuffix(" && ") for mend in mends
    )
    later = [mend for mend in by_hand if any(words in mend for words in _STARTS)]
    before = [mend for mend in by_hand if mend and mend not in later]
    return [*before, *rolled_out, *later]


__all__ = ["Unanswered", "answers", "differences", "script", "to_type"]
