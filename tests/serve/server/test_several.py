"""Two servers on one folder of bundles behind a balancer; and the application under Ray Serve."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, Server, started

from recalign.files import read_json, write_json
from recalign.seals import seal
from recalign.serve.feedback.log import COLUMNS, read, reading
from recalign.serve.server import load_bundle
from recalign.serve.server.about import ABOUT, current, point
from recalign.serve.server.command import bind_socket
from recalign.serve.server.decisions import DecisionLog

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'recalign[serve]'")

ROOT = Path(__file__).parents[3]
KEY = "a-key-of-this-test-0123456789"
PAGE = (ROOT / "docs" / "several-servers.md").read_text(encoding="utf-8")


@contextmanager
def balanced(servers: list[Server]) -> Iterator[Server]:
    """A balancer: each server in turn, and the next one where one does not answer."""
    turns = itertools.cycle(servers)

    class Balancer(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            for server in itertools.islice(turns, len(servers)):
                try:
                    status, headers, said = server.ask(self.path, body, self.command)
                except (OSError, http.client.HTTPException):
                    continue
                text = (json.dumps(said) if isinstance(said, dict) else said).encode()
                self.send_response(status)
                self.send_header("Content-Type", headers["content-type"])
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return
            self.send_error(502)

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Balancer) as balancer:
        threading.Thread(target=balancer.serve_forever).start()
        yield Server(servers[0].process, balancer.server_port)
        balancer.shutdown()


def joined(folders: list[Path], out: Path) -> None:
    """Bring the logs of decisions of several servers together, by the SQL of the page."""
    found = re.search(r'"ATTACH \'(.*?)\' AS other;\s+(INSERT .*?;)"', PAGE, re.DOTALL)
    assert found
    out.mkdir(mode=0o700)
    (out / "decisions.sqlite").touch(0o600)
    with closing(sqlite3.connect(out / "decisions.sqlite")) as all_of_them:
        with closing(sqlite3.connect(folders[0] / "decisions.sqlite")) as first:
            first.backup(all_of_them)
        for folder in folders[1:]:
            with all_of_them:
                all_of_them.execute("ATTACH ? AS other", (str(folder / "decisions.sqlite"),))
                all_of_them.execute(found[2])


@pytest.mark.slow
def test_two_servers_are_one_behind_a_balancer(bundled, tmp_path):
    for name in ("one", "two"):
        folder = shutil.copytree(current(bundled), tmp_path / "bundles" / name)
        write_json(folder / ABOUT, read_json(folder / ABOUT) | {"version": name})
        seal(folder)
    point(tmp_path / "bundles", "one")
    logs = [tmp_path / "log-1", tmp_path / "log-2"]
    servers = [started(tmp_path / "bundles", "--decisions", str(log), RECALIGN_DECISIONS_KEY=KEY) for log in logs]
    known = {}

    def asked(user: int) -> Any:
        status, _, answer = balancer.ask("/recommend", {**ASKED, "user": user})
        assert status == 200
        known[answer["decision"]] = user
        return answer

    try:
        with balanced(servers) as balancer:
            answers = [asked(user) for user in range(10)]
            own = [one.item for one in load_bundle(bundled).recommend(ASKED).items]
            assert [[one["item"] for one in answer["items"]] for answer in answers] == [own] * 10
            point(tmp_path / "bundles", "two")
            end = time.monotonic() + 20
            while {server.ask("/ready", method="GET")[2]["version"] for server in servers} != {"two"}:
                assert time.monotonic() < end
                asked(10)  # nobody waits for a change
            servers[0].process.kill()
            servers[0].process.communicate()
            answers = [asked(user) for user in range(11, 15)]
            assert {answer["version"] for answer in answers} == {"two"}
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate()
    joined(logs, tmp_path / "all")
    with reading(tmp_path / "all", KEY) as log:
        decisions, damaged, *_ = read(log)
    assert not damaged
    assert set(decisions["decision"]) == {*known}
    assert decisions["user"].n_unique() == 15
    assert set(decisions["version"]) == {"one", "two"}
    for folder in logs:  # both have answered
        with reading(folder, KEY) as log:
            assert 0 < len(read(log)[0]) < len(known)


def test_two_servers_of_a_machine_may_share_a_log(tmp_path):
    logs = [DecisionLog(tmp_path, KEY) for _ in range(2)]
    record = dict.fromkeys((*COLUMNS, "log_probs")) | {"items": [3], "seen": "exclude", "version": "v"}
    record |= dict.fromkeys(("time", "k", "hidden", "blocked", "boosts"), 1)

    def write(place: int) -> None:
        for n in range(20):
            logs[place].append([{**record, "user": f"{place}", "decision": f"{place} {n}"}])

    writers = [threading.Thread(target=write, args=(place,)) for place in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with reading(tmp_path, KEY) as log:
        decisions, *wrong = read(log)
    assert set(decisions["decision"]) == {f"{place} {n}" for place in range(2) for n in range(20)}
    assert wrong == [0] * len(wrong)


RAY = """
import json, sys, urllib.request
import ray
from ray import serve
from ray_serve import app

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[1])})
serve.run(app)

def ask(path, body=None):
    asked = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}{path}", body, {"Content-Type": "application/json"})
    return urllib.request.urlopen(asked).read().decode()

answers = [json.loads(ask("/recommend", sys.argv[2].encode())) for _ in range(20)]
started = {line for _ in range(20) for line in ask("/metrics").splitlines() if line.startswith("process_start_time")}
print(json.dumps([[[one["item"] for one in answer["items"]] for answer in answers], len(started)]))
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.long
def test_the_application_runs_under_ray_serve(bundled, tmp_path):
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
    with bind_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "RECALIGN_BUNDLES": str(bundled)}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    (tmp_path / "ray_serve.py").write_text(code[1])
    words = [sys.executable, "-c", RAY, str(port), json.dumps(ASKED)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [said] = [line for line in done.stdout.splitlines() if line.startswith("[[[")]
    lists, replicas = json.loads(said)
    assert lists == [[one.item for one in load_bundle(bundled).recommend(ASKED).items]] * 20
    assert replicas == 2
