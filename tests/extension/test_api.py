"""The loop over HTTP, and who is let in."""

import argparse
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_loop.core.config import to_mapping
from lora_loop.core.errors import ConfigError
from lora_loop.extension import ui
from lora_loop.extension.api import PREFIX, add_routes, guard
from lora_loop.extension.server import make_app

HERE = "http://127.0.0.1:7861"


class Called:
    """An application as it is called from an address; older test clients can't be told theirs."""

    def __init__(self, app, client):
        self._app, self._client = app, client

    async def __call__(self, scope, receive, send):
        await self._app({**scope, "client": self._client}, receive, send)


def client_of(desk, guards, base_url=HERE, client=("127.0.0.1", 50000)):
    desk.host._guards = guards
    app = FastAPI()
    add_routes(app, desk)
    return TestClient(Called(app, client), base_url=base_url)


@pytest.fixture
def client(desk):
    return client_of(desk, guard(None, ("127.0.0.1", "localhost")))


def test_train_watch_draw_and_bake(client, recipe):
    planned = client.post(f"{PREFIX}/report", json={"recipe": to_mapping(recipe)})
    assert planned.json()["steps"] == 2
    started = client.post(f"{PREFIX}/train", json={"recipe": to_mapping(recipe)}).json()
    job = {"state": "queued", "error": "it never ended", "losses": [], "files": []}
    for _ in range(4000):
        job = client.get(f"{PREFIX}/status/{started['job']}").json()
        if job["state"] in ("done", "failed"):
            break
        time.sleep(0.05)
    assert (job["state"], job["error"], len(job["losses"])) == ("done", "", 2)
    assert next(Path(file).name for file in job["files"]) == "momo.safetensors"
    body = {"weights": "NONE", "preview": {"prompts": ["momo"], "steps": 1}}
    drawn = client.post(f"{PREFIX}/preview", json=body)
    assert drawn.content.startswith(b"\x89PNG")
    measured = client.post(f"{PREFIX}/analyze", json={"samples": 1}).json()
    assert "OUT03" in measured["text"]
    assert Path(measured["files"][0]).is_file()
    assert client.post(f"{PREFIX}/analyze", json={"samples": "x"}).status_code == 422
    body = {"file": "momo.safetensors", "weights": "MIDD", "name": "momo-midd"}
    baked = client.post(f"{PREFIX}/bake", json=body).json()
    assert Path(baked["file"]).is_file()
    assert baked["findings"] == []
    assert client.post(f"{PREFIX}/bake", json={**body, "seed": "x"}).status_code == 422
    assert client.post(f"{PREFIX}/bake", json=body).status_code == 422


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("train", {}, "recipe is missing"),
        ("train", {"recipe": {"dataset": {"folder": "/x"}, "netwrok": {}}}, "did you mean"),
        ("train", {"recipe": {"base": "x"}}, 'recipe.base is "x"'),
        ("report", {"recipe": {"dataset": {"folder": "/no/such"}}}, "there is no folder"),
        ("bake", {"file": "../../x.safetensors", "weights": "ALL", "name": "x"}, "no network file"),
        ("preview", {"preview": {"prompts": ["x"]}}, "no network in memory"),
    ],
)
def test_errors_are_told(client, name, body, words):
    answer = client.post(f"{PREFIX}/{name}", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_a_wrong_recipe_is_told_also_where_the_host_has_the_checkpoint(client, host, monkeypatch):
    monkeypatch.setattr(host, "checkpoints", lambda: ())
    monkeypatch.setattr(host, "loaded_checkpoint", lambda: "/models/x.safetensors")
    for name in ("train", "report"):
        answer = client.post(f"{PREFIX}/{name}", json={"recipe": {"base": "x"}})
        assert answer.status_code == 422
        assert 'recipe.base is "x"' in answer.json()["error"]


def test_what_is_no_json_object_is_refused(client):
    assert client.post(f"{PREFIX}/train", content="{}").status_code == 415
    assert client.post(f"{PREFIX}/train", json=[1]).status_code == 400
    headers = {"content-type": "application/json"}
    assert client.post(f"{PREFIX}/train", content="{", headers=headers).status_code == 400
    assert client.post(f"{PREFIX}/stop", json={"job": 99}).status_code == 404
    assert client.get(f"{PREFIX}/status/99").status_code == 404


def test_pages_elsewhere_are_refused(client, desk):
    status = f"{PREFIX}/status"
    assert client.get(status).status_code == 200
    assert client.get(status, headers={"origin": HERE}).status_code == 200
    assert client.get(status, headers={"origin": "https://evil.example"}).status_code == 403
    rebound = client_of(desk, guard(None, ("127.0.0.1",)), base_url="http://evil.example")
    assert rebound.get(status).status_code == 403


def test_a_login_is_asked_for_and_compared(desk):
    client = client_of(desk, guard(("ann", "secret"), None))
    status = f"{PREFIX}/status"
    assert client.get(status).status_code == 401
    assert client.get(status, auth=("ann", "wrong")).status_code == 401
    assert client.get(status, auth=("ann", "secret")).status_code == 200


def test_a_host_without_a_login_answers_its_own_machine_alone(desk):
    status = f"{PREFIX}/status"
    assert client_of(desk, []).get(status).status_code == 200
    assert client_of(desk, [], client=("192.0.2.7", 50000)).get(status).status_code == 403


def options(*arguments):
    parser = argparse.ArgumentParser()
    ui.add_options(parser)
    return parser.parse_args(arguments)


def test_other_machines_need_a_login_or_an_explicit_word(tmp_path):
    with pytest.raises(ConfigError, match="--auth USER:PASSWORD"):
        make_app(options("--output", str(tmp_path), "--host", "0.0.0.0"))
    with pytest.raises(ConfigError, match="of the form USER:PASSWORD"):
        make_app(options("--output", str(tmp_path), "--auth", "ann"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_served(tmp_path, language):
    app = make_app(options("--output", str(tmp_path), "--language", language))
    client = TestClient(Called(app, ("127.0.0.1", 50000)), base_url=HERE)
    page = client.get("/")
    assert page.status_code == 200
    assert ("数据集" if language == "zh" else "Dataset") in page.text
    assert client.get(f"{PREFIX}/status").json() == {"jobs": []}


def test_an_address_that_cannot_be_listened_on_is_named_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port} .* choose another --port"):
            ui.run(options("--port", str(port), "--output", str(tmp_path)))
    for wrong in ("-1", "65536"):
        with pytest.raises(ConfigError, match=f"--port {wrong}: it must be 0 .* to 65535"):
            ui.run(options("--port", wrong, "--output", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
