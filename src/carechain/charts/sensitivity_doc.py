"""The page ``docs/concepts/sensitivity.md``, written from the rule table so that the two cannot differ."""

from collections import defaultdict

from carechain.charts.sensitivity import Rule, Table, table

INTRODUCTION = """# How sensitive a record is

This page is generated from `carechain/charts/data/sensitivity.json` by `carechain.charts.sensitivity_doc`.

Every record on the ledger carries one grade, the HL7 confidentiality grade of the most sensitive resource in it:
**U** unrestricted, **L** low, **M** moderate, **N** normal, **R** restricted, **V** very restricted. A grant names
the highest grade it covers, so a grant with ceiling N never reaches anything graded R or V.

## How a resource gets its grade

1. Every code in the resource (contained resources included) is looked up in the rules below, and so are the words in
   its short texts: `display`, `text`, `description`, `title`, `summary`, `conclusion`, `valueString`. A code without
   a system is looked up in every system.
2. Labels in `meta.security` count too: a confidentiality code counts as itself, a sensitivity label as the grade in
   the second table. A label can raise a grade; it never lowers one below what the rules say.
3. The highest grade wins. What no rule and no label speaks of is N.
4. A resource that refers to a more sensitive one takes over its grade: a prescription names its diagnosis, a claim
   its services, a report its results.
5. A resource graded above the encounter, report or claim it stands in becomes a record of its own, in the same
   category. The rest stays together and can be shared under a lower ceiling.
6. A record's grade never falls from one version to the next, because its older versions stay readable. When a
   correction shows that an older version held something more sensitive, that version is served under the new grade.

## What this cannot see

Narrative (`text.div`), attachments and scanned documents are not read: label them. Local codes without a known system
are found by their words only. The lists are a starting point with real codes of each terminology, not the whole of
it; an organisation reviews them with its privacy officer and extends the file.
"""


def render() -> str:
    """The page as Markdown, ending in one newline."""
    rules = table()
    parts = [INTRODUCTION, _labels(rules), _systems(rules), "## Rules\n", *(_rule(rules, one) for one in rules.rules)]
    return "\n".join(parts).rstrip() + "\n"


def _labels(rules: Table) -> str:
    by_grade: dict[str, list[str]] = defaultdict(list)
    for label, grade in sorted(rules.labels.items()):
        by_grade[grade].append(f"`{label}`")
    rows = [f"| {grade} | {' '.join(by_grade[grade])} |" for grade in sorted(by_grade, reverse=True)]
    return "\n".join(["## Labels\n", "| at least | sensitivity labels (HL7 v3-ActCode) |", "|---|---|", *rows, ""])


def _systems(rules: Table) -> str:
    rows = [
        f"| {system.title} | {'whole code' if system.match == 'code' else 'beginning of the code'} "
        f"| {' '.join(f'`{url}`' for url in system.urls)} |"
        for system in rules.systems.values()
    ]
    return "\n".join(["## Code systems\n", "| system | matched by | addresses |", "|---|---|---|", *rows, ""])


def _rule(rules: Table, rule: Rule) -> str:
    lines = [f"### {rule.id}: label `{rule.label}`, grade {rule.grade}\n", f"{rule.why}\n"]
    for name, system in rules.systems.items():
        codes = rule.codes.get(name)
        if codes:
            listed = "; ".join(f"{code} {meaning}" for code, meaning in codes.items())
            lines.append(f"- **{system.title}**: {listed}")
    if rule.words:
        lines.append(f"- **Words**: {', '.join(rule.words)}")
    return "\n".join([*lines, ""])
