"""Goal: the OpenAPI document says what the node does: every path is served, every answer fits its schema.

Method: a real node on a loopback port. Every path of the document is asked, as somebody who may ask it; the answers are
checked against the document's own schemas with a JSON Schema validator that is not ours. A resource's answer is
compared with the query it stands for.
"""

import asyncio
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from carechain.chain.queries import QUERIES, QueryCode
from carechain.chain.questions import TimelinePage
from carechain.contracts.access import RequestAccess
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Purpose
from carechain.node.openapi import document
from carechain.node.rest import PATHS, arguments
from carechain.node.wire import plain
from carechain.sdk.answers import ROWS
from served_node import JSON, served
from world import record_id, scope_of

DOCUMENT = document()


def fits(schema: dict[str, Any], value: object) -> None:
    """The value fits a schema of the document; raises ``jsonschema_rs.ValidationError``."""
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole).validate(value)


def answer_schema(path: str, method: str, status: str = "200") -> dict[str, Any]:
    content = DOCUMENT["paths"][path][method]["responses"][status]["content"]
    return dict(content["application/json"]["schema"])


def test_document_is_served_and_its_schemas_are_schemas(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            assert (await node.http.get("/v1/openapi.json")).json() == DOCUMENT

    asyncio.run(main())
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def test_every_query_is_described_and_all_but_one_are_resources() -> None:
    assert {f"/v1/query/{name}" for name in QUERIES} <= set(DOCUMENT["paths"])
    assert set(ROWS) == set(QUERIES)
    assert set(QUERIES) - set(PATHS.values()) == {"access.may_read"}
    assert set(PATHS) <= set(DOCUMENT["paths"])


def test_resources_answer_what_their_queries_answer_and_as_described(tmp_path: Path) -> None:
    """Everybody asks everything: allowed and refused answers alike."""

    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            ask = RequestAccess(pseudonym=net.steve.id, scope=scope_of(Category.RESULT), purpose=Purpose.TREAT)
            (decided,) = await net.run(ask, by=net.bert)
            ids = {
                "pseudonym": net.steve.id.hex(),
                "record": record_id("r1").hex(),
                "ticket": decided.ticket.hex(),
                "party": net.bert.id.hex(),
                "grantee": net.bert.id.hex(),
                "organisation": net.a.id.hex(),
            }
            answered = set()
            for who in (net.steve, net.carl, net.bert, net.a, net.gita):
                headers = {**JSON, **await node.session(who)}
                for path, name in PATHS.items():
                    fields = {part[1:-1]: ids[part[1:-1]] for part in path.split("/") if part.startswith("{")}
                    resource = await node.http.get(path.format(**fields), headers=headers)
                    query = await node.http.post(f"/v1/query/{name}", json=fields, headers=headers)
                    assert (resource.status_code, resource.json()) == (query.status_code, query.json()), path
                    status = "200" if resource.status_code == 200 else "4XX"
                    fits(answer_schema(path, "get", status), resource.json())
                    if resource.status_code == 200:
                        answered.add(path)
            # There is no consortium key here, no stored summary and no erasure: that is answered with 404.
            assert set(PATHS) - answered == {
                "/v1/keyring/key",
                "/v1/patients/{pseudonym}/summary",
                "/v1/patients/{pseudonym}/records/{record}/erasure",
            }

    asyncio.run(main())


def test_arguments_in_a_path_are_typed_like_those_in_a_body() -> None:
    first, second = bytes(31) + b"\1", bytes(31) + b"\2"
    asked = arguments("records.timeline", {"pseudonym": first.hex()}, [("after", f"{second.hex()},3"), ("prove", "1")])
    assert asked == TimelinePage(pseudonym=first, after=(second, 3))
    assert plain(asked)["pseudonym"] == first.hex()


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ({"pseudonym": "00"}, []),
        ({"pseudonym": "zz" * 32}, []),
        ({}, []),
        ({"pseudonym": "00" * 32}, [("pseudonym", "00" * 32)]),
        ({"pseudonym": "00" * 32}, [("ticket", "1")]),
        ({"pseudonym": "00" * 32}, [("after", "00" * 32)]),
        ({"pseudonym": "00" * 32}, [("after", "00" * 32 + ",x")]),
        ({"pseudonym": "00" * 32}, [("after", "00" * 32 + ",-1")]),
        ({"pseudonym": "00" * 32}, [("after", "00" * 32 + ",3,4")]),
        ({"pseudonym": "00" * 32}, [("unknown", "1")]),
        ({"pseudonym": "00" * 32}, [("ticket", "00" * 32), ("ticket", "00" * 32)]),
    ],
)
def test_arguments_that_do_not_fit_are_refused(path: dict[str, str], query: list[tuple[str, str]]) -> None:
    with pytest.raises(Rejected) as refused:
        arguments("records.timeline", path, query)
    assert refused.value.code is QueryCode.ARGUMENTS_MALFORMED
