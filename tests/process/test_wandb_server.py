"""A Weights & Biases that hangs or dies never stops a run."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from application import Run, without_account
from checkout import QUICK

from goc.tracking.__main__ import run_folders


class Server(ThreadingHTTPServer):
    """A W&B server: `reply` gets a GraphQL query and its variables, and returns the data, or None to die."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> None:
        self.reply = reply
        self.queries: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def die(self) -> None:
        self.socket.close()
        threading.Thread(target=self.shutdown, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            self.send_error(404)
            return
        request = json.loads(body)
        self.server.queries.append(request["operationName"])
        data = self.server.reply(request["operationName"], request.get("variables", {}))
        if data is None:
            self.close_connection = True
            self.server.die()
            return
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


VIEWER = {"id": "1", "entity": "me", "username": "me", "email": "m@e", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "UA==", "name": "goc", "entity": {"id": "RQ==", "name": "me"}}


def hangs(query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    threading.Event().wait(60)  # longer than the run waits
    return None


def dies_once_it_has_accepted_the_run(query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    if query == "Viewer":
        return {"viewer": VIEWER}
    if query == "UpsertBucket" and "accepted" not in variables:
        bucket = {"id": "QQ==", "name": variables["name"], "displayName": "x", "config": "{}", "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    return None


@pytest.mark.parametrize(
    ("reply", "last_answered"),
    [
        pytest.param(hangs, None, marks=pytest.mark.nightly),
        (dies_once_it_has_accepted_the_run, "UpsertBucket"),
    ],
)
def test_a_server_that_hangs_or_dies_costs_a_run_one_warning(
    reply: Any,
    last_answered: str | None,
    run_here: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    without_account(monkeypatch, tmp_path_factory.mktemp("home"))
    with Server(reply) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)  # logged in, so online without being told to be
        finished = run_here("method=none", *QUICK, "tracker=wandb", "wandb.timeout_s=7")
        server.shutdown()
        serving.join()
    assert server.queries
    assert last_answered in (None, *server.queries)
    (folder,) = run_folders([tmp_path])
    assert "fid" in json.loads((folder / "result.json").read_text())["metrics"]
    (warning,) = [line for line in finished.stderr.splitlines() if line and "img/s" not in line]
    assert warning.startswith("WARNING: tracker=wandb: not logged: ")
    assert f"to log it later: python -m goc.tracking {folder} " in warning
