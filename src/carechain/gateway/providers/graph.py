"""``Patient/$graph``: the patient's knowledge graph of what the caller sees, as nodes and edges in JSON (REC-11)."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Final

import msgspec

from carechain.charts.graph import graph_json
from carechain.charts.repository import Repository
from carechain.gateway.fhir.providing import Handler  # noqa: TC001 - not only a type
from carechain.gateway.principal import Principal, ReadingAudit
from carechain.gateway.providers.patients import Seen, patient_id_of, visible_patient

GRAPH: Final = "$graph"


class GraphProvider:
    """The operation alone; graphs are not stored."""

    def __init__(self, *, charts: Repository, readings: ReadingAudit | None = None, zone: tzinfo = UTC) -> None:
        """``readings`` is told of every record before it is given out.

        ``zone`` is where dates without an offset count.
        """
        self._charts = charts
        self._readings = readings
        self._zone = zone
        self.operations: Final[Mapping[tuple[str, str], Handler]] = {("Patient", GRAPH): self._graph}

    async def _graph(
        self,
        principal: Principal,
        resource_id: str,
        params: Sequence[tuple[str, str]],
        body: bytes,  # noqa: ARG002 - the gateway has read its parameters
    ) -> bytes:
        """A Binary whose data is ``{"nodes": […], "edges": […]}``: FHIR has no resource for a graph."""
        patient_id = patient_id_of(principal, resource_id, params)
        seen = await asyncio.to_thread(self._seen, principal, patient_id)
        if self._readings is not None:
            await self._readings.note(seen.reading(principal, GRAPH))
        drawn = await asyncio.to_thread(graph_json, [seen.patient, *seen.resources])
        data = base64.b64encode(drawn).decode("ascii")
        return msgspec.json.encode({"resourceType": "Binary", "contentType": "application/json", "data": data})

    def _seen(self, principal: Principal, patient_id: str) -> Seen:
        with self._charts.reading() as reader:
            return visible_patient(reader, principal, patient_id, zone=self._zone)
