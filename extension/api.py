"""The loop over HTTP: train, status, stop, preview, analyze, bake, report."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from ..core.config import PreviewConfig, Recipe, from_mapping
from ..core.errors import ConfigError, TrainerError
from ..core.session import workbench
from .desk import Desk
from .jobs import Job
from .places import network_file
from .redraw import Easel
from .study import Study

PREFIX = "/lora-loop/v1"


def guard(login: tuple[str, str] | None, names: Sequence[str] | None) -> list[Any]:
    """Dependencies that let through who may: with the login, if there is one.

    names: the only names by which the server may be called, so that a page elsewhere on the web
    whose name was made to mean this machine gets no answer; None for every name.
    """

    def check_origin(request: Request) -> None:
        if names is not None and (request.url.hostname or "") not in names:
            raise HTTPException(403, "this server answers on this machine alone")
        origin = request.headers.get("origin")
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            raise HTTPException(403, "requests from other pages are refused")

    if login is None:
        return [Depends(check_origin)]
    basic = HTTPBasic()

    def check_login(given: HTTPBasicCredentials = Depends(basic)) -> None:  # noqa: B008 - FastAPI's way
        right = [
            secrets.compare_digest(one.encode(), other.encode())
            for one, other in zip((given.username, given.password), login, strict=True)
        ]
        if not all(right):
            raise HTTPException(401, "wrong user or password", {"WWW-Authenticate": "Basic"})

    return [Depends(check_origin), Depends(check_login)]


def only_from_here(request: Request) -> None:
    """Refuse other machines: a server that asks for no login serves its owner alone."""
    client = request.client.host if request.client else ""
    if client not in ("127.0.0.1", "::1"):
        raise HTTPException(403, "without a login this API answers on its own machine alone")


def add_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes to an application, behind the host's own guards. Bodies are JSON objects."""
    guards = desk.host.api_dependencies() or [Depends(only_from_here)]
    router = APIRouter(prefix=PREFIX, dependencies=[*guards])
    routes = Routes(desk)
    for name, method in (("status", "GET"), ("status/{number}", "GET")):
        router.add_api_route(f"/{name}", routes.status, methods=[method])
    for name, work in (
        ("train", routes.train),
        ("stop", routes.stop),
        ("preview", routes.preview),
        ("analyze", routes.analyze),
        ("bake", routes.bake),
        ("report", routes.report),
    ):
        router.add_api_route(f"/{name}", work, methods=["POST"])
    app.include_router(router)


class Routes:
    """Handlers; each answers with JSON, or with the error's text and status 422."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._easel = desk, Easel(desk)

    def status(self, number: int | None = None) -> Any:
        """All jobs, or one with its losses."""
        if number is None:
            return {"jobs": [_facts(job) for job in self._desk.board.jobs()]}
        job = self._desk.board.job(number)
        if job is None:
            raise HTTPException(404, f"there is no job {number}")
        now = job.progress.snapshot()
        return {**_facts(job), "losses": now.losses, "files": [str(path) for path in now.files]}

    async def train(self, request: Request) -> Any:
        """{"recipe": {...}, "start": "new" | "resume" | "restart"} -> the job."""
        body = await _body(request)
        return await _answer(self._train, body)

    def _train(self, body: dict[str, Any]) -> Any:
        recipe = from_mapping(Recipe, _mapping(body, "recipe", self._desk.fixed()))
        start = body.get("start", "new")
        if start not in ("new", "resume", "restart"):
            raise ConfigError(f'start is {start!r}; it must be "new", "resume" or "restart"')
        return _facts(self._desk.train(recipe, start))

    async def stop(self, request: Request) -> Any:
        """{"job": 1} -> the job; what was trained is kept."""
        body = await _body(request)
        job = self._desk.board.job(body.get("job", 0))
        if job is None:
            raise HTTPException(404, f"there is no job {body.get('job')}")
        self._desk.board.stop(job.number)
        return _facts(job)

    async def preview(self, request: Request) -> Any:
        """{"weights": "NOFACE", "preview": {"prompts": [...], ...}} -> the first picture as PNG."""
        body = await _body(request)
        return await _answer(self._preview, body)

    def _preview(self, body: dict[str, Any]) -> Response:
        preview = from_mapping(PreviewConfig, _mapping(body, "preview", {}), "preview")
        weights = self._easel.weights(str(body.get("weights", "ALL")), preview.seed)
        job = self._easel.redraw(weights, preview)
        drawn = job.take()
        if job.error or drawn is None:
            raise ConfigError(job.error or "stopped before it was drawn")
        return Response(workbench.png(drawn.chosen[0]), media_type="image/png")

    async def analyze(self, request: Request) -> Any:
        """{"samples": 8, "pictures": false} -> what each block does, as a table and a chart."""
        body = await _body(request)
        return await _answer(self._analyze, body)

    def _analyze(self, body: dict[str, Any]) -> Any:
        samples = body.get("samples", 8)
        if not isinstance(samples, int):
            raise ConfigError(f"samples is {samples!r}; it must be a whole number")
        study = Study(self._easel, self._desk.host.language())
        job = study.measure(samples, on_pictures=bool(body.get("pictures", False)))
        answer = job.take()
        if job.error or answer is None:
            raise ConfigError(job.error or "stopped before it was measured")
        return {"text": answer.text, "files": [str(path) for path in answer.files]}

    async def bake(self, request: Request) -> Any:
        """{"file": "x.safetensors", "weights": "NOFACE", "name": "x-noface"} -> the new file.

        "seed": for random weights, that of the preview; 1 where it is left out.
        """
        body = await _body(request)
        return await _answer(self._bake, body)

    def _bake(self, body: dict[str, Any]) -> Any:
        source = network_file(self._desk.host.folders(), str(body.get("file", "")))
        seed = body.get("seed", 1)
        if not isinstance(seed, int):
            raise ConfigError(f"seed is {seed!r}; it must be a whole number")
        weights, name = str(body.get("weights", "")), str(body.get("name", ""))
        baked = self._desk.bake(source, weights, name, seed)
        return {
            "file": str(baked.file.path),
            "findings": [finding.text for finding in baked.findings],
        }

    async def report(self, request: Request) -> Any:
        """{"recipe": {...}} -> the plan and the dataset's report."""
        body = await _body(request)
        return await _answer(self._report, body)

    def _report(self, body: dict[str, Any]) -> Any:
        recipe = from_mapping(Recipe, _mapping(body, "recipe", self._desk.fixed()))
        plan = self._desk.plan(recipe)
        event = asdict(plan.event())
        event["findings"] = [
            {"level": finding.level, "text": finding.text, "path": str(finding.path or "")}
            for finding in plan.findings
        ]
        return event


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; pages elsewhere could send other types, which are refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    try:
        body = await request.json()
    except ValueError as error:
        raise HTTPException(400, f"this is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "send a JSON object: {...}")
    return body


async def _answer(work: Any, body: dict[str, Any]) -> Any:
    """What `work` gives, made in a thread beside the server's."""
    from anyio import to_thread

    try:
        return await to_thread.run_sync(work, body)
    except TrainerError as error:
        return JSONResponse({"error": str(error)}, status_code=422)


def _mapping(body: dict[str, Any], name: str, fixed: dict[str, str]) -> dict[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"{name} is missing; send it as an object: {{...}}")
    for key, value in fixed.items():
        section, _, setting = key.partition(".")
        own = found.get(section, {})
        if isinstance(own, dict):  # what is none is refused where the recipe is read
            found[section] = {**own, setting: value}
    return found


def _facts(job: Job) -> dict[str, Any]:
    now = job.progress.snapshot()
    return {
        "job": job.number,
        "kind": job.kind,
        "title": job.title,
        "state": job.state,
        "error": job.error,
        "phase": now.phase,
        "done": now.done,
        "total": now.total,
        "step": now.step,
        "steps": now.steps,
        "loss": now.losses[-1] if now.losses else None,
        "seconds_left": now.seconds_left,
    }
