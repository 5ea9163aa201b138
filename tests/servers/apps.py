"""The applications that run under each server: WSGI, ASGI, FastAPI and Celery.

The address of the service is in USERSERVICE_ADDRESS; Celery's files are in CELERY_FOLDER.
"""

import os
import warnings
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from userservice import Session, SessionPage, SyncUserManager, User, UserBatch, UserManager, UserPage

ADDRESS = os.environ["USERSERVICE_ADDRESS"]

# Made when the module is imported, which is before the fork where a server preloads applications.
blocking = SyncUserManager(ADDRESS, timeout=5)
users = UserManager(ADDRESS, timeout=5)


def wsgi(_environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    try:
        body = blocking.get("ada").to_json()
    except Exception as error:  # noqa: BLE001 - every failure is reported
        body = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{os.getpid()} {body}".encode()]


async def asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await users.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{os.getpid()} {(await users.get('ada')).to_json()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def make_fastapi() -> Any:
    from fastapi import FastAPI  # noqa: PLC0415 - the other applications do without

    app = FastAPI()

    @app.get("/annotated")
    async def annotated() -> User:
        return await users.get("ada")

    @app.get("/list")
    async def listed() -> list[User]:
        return await users.list()

    @app.get("/page")
    async def page() -> UserPage:
        return await users.list()

    @app.get("/batch")
    async def batch() -> UserBatch:
        return await users.batch_get(["ada", "nobody"])

    @app.get("/sessions")
    def session_page() -> SessionPage:
        return SessionPage([Session(session_id="s", user_id="ada")], next_cursor=1, total_size=2)

    @app.get("/plain")
    async def plain():  # type: ignore[no-untyped-def]  # noqa: ANN202 - FastAPI decides by the annotation
        return await users.get("ada")

    @app.get("/text")
    def text() -> str:
        return f"{os.getpid()} {blocking.get('ada').to_json()}"

    return app


def make_celery() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from celery import Celery  # noqa: PLC0415 - as above

    folder = os.environ["CELERY_FOLDER"]
    app = Celery("apps", broker="filesystem://", backend=f"file://{folder}/results")
    app.conf.broker_transport_options = {
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
    }

    @app.task(name="get")  # type: ignore[untyped-decorator, unused-ignore]
    def get() -> str:
        return f"{os.getpid()} {blocking.get('ada').to_json()}"

    return app


if "CELERY_FOLDER" in os.environ:
    celery = make_celery()
if "WITH_FASTAPI" in os.environ:
    fastapi = make_fastapi()
