"""What the demonstration reports: steps, each with claims that were computed from what happened."""

from typing import Any

from msgspec import Struct


class Claim(Struct, frozen=True):
    """One promise in plain language, and whether it held just now."""

    says: str
    holds: bool


class Step(Struct, frozen=True, kw_only=True):
    """One step of the story. ``height`` is the ledger's when the step ended; ``lines`` are shown to people as they are.

    A step without claims has shown nothing, so it is not ok.
    """

    name: str
    text: str
    height: int
    seconds: float
    claims: tuple[Claim, ...]
    figures: dict[str, Any]
    lines: tuple[str, ...] = ()
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether every claim held and nothing broke off."""
        return not self.failure and bool(self.claims) and all(one.holds for one in self.claims)

    def to_json(self) -> dict[str, Any]:
        """The step as JSON values."""
        shown: dict[str, Any] = {
            "name": self.name,
            "ok": self.ok,
            "height": self.height,
            "text": self.text,
            "claims": [{"says": one.says, "holds": one.holds} for one in self.claims],
            "figures": self.figures,
            "seconds": round(self.seconds, 3),
        }
        return shown | {"failure": self.failure} if self.failure else shown


class Notes:
    """What a step writes down while it runs."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.figures: dict[str, Any] = {}
        self.lines: list[str] = []
        self.text = ""

    def claim(self, says: str, *, holds: bool) -> None:
        """Note whether something held."""
        self.claims.append(Claim(says, holds))


class Summary(Struct, frozen=True, kw_only=True):
    """The whole run. ``resources`` and ``records`` are the patients', directory entries and Steve Apple's apart."""

    network: dict[str, Any]
    patients: int
    resources: int
    records: int
    height: int
    app_hash: str
    steps: tuple[Step, ...]
    seconds: float
    memory_mb: int

    @property
    def ok(self) -> bool:
        """Whether every step was."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """The one object that ``--json`` prints."""
        return {
            "ok": self.ok,
            "network": self.network,
            "patients": self.patients,
            "resources": self.resources,
            "records": self.records,
            "height": self.height,
            "app_hash": self.app_hash,
            "steps": [step.to_json() for step in self.steps],
            "seconds": round(self.seconds, 3),
            "memory_mb": self.memory_mb,
        }
