"""The lists of the documentation that come from the code: operations, and every reason for refusing."""

from collections.abc import Sequence

from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.capabilities import (
    INSTANCE_OPERATIONS,
    OWN_OPERATIONS,
    SYSTEM_OPERATIONS,
    TYPE_OPERATIONS,
)
from carechain.gateway.fhir.outcome import refusal


def operations() -> str:
    """A Markdown table of the operations on the charts and where each is defined."""
    rows = [(f"`${name}`", f"[definition]({where})") for name, where in SYSTEM_OPERATIONS.items()]
    rows += [(f"`[type]/[id]/${name}`", f"[definition]({where})") for name, where in INSTANCE_OPERATIONS.items()]
    for resource_type, named in TYPE_OPERATIONS.items():
        at = "Group/[id]" if resource_type == "Group" else resource_type
        for name, where in named.items():
            address = f"Patient/[id]/${name}" if name == "everything" else f"{at}/${name}"
            rows.append((f"`{address}`", f"[definition]({where})"))
    rows += [(f"`{name}`", text) for name, text in OWN_OPERATIONS.items()]
    return _table(("operation", "what it is"), rows)


def refusals() -> str:
    """A Markdown table of the reasons: HTTP status, FHIR issue type, label and what to do."""
    rows = []
    for code in FhirCode:
        problem = refusal(code)
        rows.append((str(problem.status), problem.issues[0].code, f"`{code.label}`", code.reason))
    return _table(("status", "issue", "label", "what it means"), sorted(rows))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
