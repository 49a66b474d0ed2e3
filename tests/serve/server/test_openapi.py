"""The OpenAPI page: what it says of the bundle, and clients that are generated from it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import TOKEN, Server, started

from recalign.files import read_json, write_json
from recalign.seals import seal
from recalign.serve.server.about import ABOUT, current

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'recalign[serve]'")


@pytest.fixture(scope="module")
def page(bundled) -> dict[str, Any]:
    from recalign.serve.server.app import make_app

    return make_app(bundled, TOKEN).openapi()


def test_requests_have_no_defaults_and_this_bundles_types(page):
    schemas = page["components"]["schemas"]
    assert "Problem" in schemas
    assert "HTTPValidationError" not in schemas
    for name in ("Request", "Explore", "Boost", "Trial", "Score"):
        assert not [key for key, one in schemas[name]["properties"].items() if "default" in one]
    asked = schemas["Request"]["properties"]
    assert asked["items"]["items"] == {"type": "integer"}
    assert asked["allow"]["anyOf"][0]["items"] == {"type": "integer"}
    assert {one["type"] for one in asked["times"]["items"]["anyOf"]} == {"integer", "number"}
    assert {one["type"] for one in asked["user"]["anyOf"]} == {"integer", "string", "null"}
    assert "the newest 32 are read" in asked["items"]["description"]
    assert asked["k"]["description"] == "default: 10"
    assert schemas["Shown"]["properties"]["item"]["type"] == "integer"
    assert "40 items, whose ids are integers; times in s; the newest 32 events" in page["info"]["description"]


def test_dates_and_texts_are_described_where_the_bundle_has_them(bundled, tmp_path):
    import polars as pl

    from recalign.serve.server.app import make_app
    from recalign.serve.server.bundle import Bundle

    folder = shutil.copytree(current(bundled), tmp_path / "it")
    about = read_json(folder / ABOUT) | {"time_unit": "datetime"}
    write_json(folder / ABOUT, about)
    (folder / "examples.json").write_text("[]")
    table = pl.read_parquet(folder / "items.parquet").with_columns(pl.col("item").cast(pl.String))
    table.write_parquet(folder / "items.parquet")
    seal(folder)
    assert Bundle(folder).recommend({"items": ["3"], "times": ["2026-01-01"], "k": 2}).items
    asked = make_app(folder).openapi()["components"]["schemas"]["Request"]["properties"]
    assert asked["items"]["items"]["type"] == asked["times"]["items"]["type"] == "string"


def test_every_answer_is_described_by_its_status_and_who_needs_the_token(page):
    assert page["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    paths = page["paths"]
    asked, open_to_all = paths["/recommend"]["post"], paths["/health"]["get"]
    assert asked["security"] == [{"token": []}]
    assert open_to_all["security"] == []
    assert set(asked["responses"]) == {str(one) for one in (200, 401, 403, 404, 405, 408, 413, 415, 422, 503)}
    assert set(open_to_all["responses"]) == {"200", "403", "404", "405"}
    assert "Allow" in asked["responses"]["405"]["headers"]
    assert "Retry-After" in asked["responses"]["503"]["headers"]
    assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    said = open_to_all["responses"]["200"]["content"]["application/json"]["schema"]
    assert said == {"$ref": "#/components/schemas/Alive"}
    names = [one["operationId"] for operations in paths.values() for one in operations.values()]
    assert len({*names}) == len(names)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def server(bundled) -> Iterator[Server]:
    found = started(bundled, RECALIGN_TOKEN=TOKEN)
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.fixture
def described(server, tmp_path) -> Path:
    page = server.ask("/openapi.json", method="GET", Authorization=f"Bearer {TOKEN}")[2]
    (tmp_path / "openapi.json").write_text(json.dumps(page))
    return tmp_path / "openapi.json"


TYPESCRIPT = """
import type { components, paths } from "./api";
type Schemas = components["schemas"];
const least: Schemas["Request"] = {};
const asked: Schemas["Request"] = { items: [3, 5], times: [1000, 1060.5], k: 4, explore: { share: 0.5 } };
const scored: Schemas["Score"] = { request: asked, items: [7] };
// @ts-expect-error ids of this bundle are integers
const text: Schemas["Request"] = { items: ["3"] };
// @ts-expect-error there is no such field
const unknown: Schemas["Request"] = { itmes: [3] };
type Answers = paths["/recommend"]["post"]["responses"];
const titles = (answer: Answers[200]["content"]["application/json"]): string[] => answer.items.map((one) => one.title);
const wrong = (said: Answers[422]["content"]["application/json"]): string => said.error;
const version = (alive: paths["/health"]["get"]["responses"][200]["content"]["application/json"]) => alive.version;
export const used = [least, asked, scored, text, unknown, titles, wrong, version];
"""


@pytest.mark.long
def test_a_typescript_client_compiles(described):
    openapi_typescript, tsc, folder = tool("openapi-typescript"), tool("tsc"), described.parent
    subprocess.run([openapi_typescript, described, "-o", folder / "api.d.ts"], check=True, capture_output=True)
    (folder / "use.ts").write_text(TYPESCRIPT)
    words = [tsc, "--noEmit", "--strict", "--exactOptionalPropertyTypes", folder / "use.ts"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


PYTHON = """
import sys
from client import AuthenticatedClient
from client.api.default import health, recommend, score
from client.models import Problem, Request, Score

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
asked = Request(items=[3, 5], times=[1000, 1060], k=4)
answer = recommend.sync(client=client, body=asked)
assert len(answer.items) == 4 and answer.items[0].title, answer
assert answer.version == health.sync(client=client).version
assert score.sync(client=client, body=Score(asked, [7])).log_probs[0] < 0
problem = recommend.sync(client=client, body=Request(items=[3], times=[-1]))
assert isinstance(problem, Problem) and problem.where == "times[0]", problem
"""


@pytest.mark.long
def test_a_python_client_asks(described, server):
    generator, folder = Path(tool("openapi-python-client")), described.parent
    words = [generator, "generate", "--path", described, "--meta", "none", "--output-path", folder / "client"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout.upper()
    python, address = generator.parent / "python", f"http://127.0.0.1:{server.port}"
    asked = subprocess.run([python, "-c", PYTHON, address, TOKEN], cwd=folder, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
