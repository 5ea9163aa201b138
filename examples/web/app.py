"""A web service on top of the User service.

Run: pip install fastapi uvicorn, then uvicorn app:app

All requests share one manager. It opens its connection at the first call and retries while the service restarts.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from userservice import (
    DeadlineExceededError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
    User,
    UserAlreadyExistsError,
    UserManager,
    UserNotFoundError,
    UserPage,
    UserServiceError,
)

ADDRESS = os.environ.get("USERSERVICE_ADDRESS", "localhost:50051")
STATUS_BY_ERROR: dict[type[UserServiceError], int] = {
    InvalidArgumentError: 422,
    UserNotFoundError: 404,
    UserAlreadyExistsError: 409,
    OverloadedError: 503,
    UnavailableError: 503,
    DeadlineExceededError: 504,
}


class NewUser(BaseModel):
    """The body of a request that adds a user. The service checks the limits of the fields."""

    user_id: str
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    metadata: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Opens the manager when the worker process starts, and closes it when the process ends."""
    async with UserManager(ADDRESS) as manager:
        app.state.users = manager
        yield


app = FastAPI(lifespan=lifespan)


def manager(request: Request) -> UserManager:
    """Returns the manager of this process."""
    users: UserManager = request.app.state.users
    return users


Users = Annotated[UserManager, Depends(manager)]


@app.exception_handler(UserServiceError)
async def failed(_request: Request, error: UserServiceError) -> JSONResponse:
    """Maps an error of the service to an HTTP status; the reason is part of the service's contract."""
    status = next((status for kind, status in STATUS_BY_ERROR.items() if isinstance(error, kind)), 500)
    content: dict[str, Any] = {"error": error.reason or error.code.name}
    if isinstance(error, InvalidArgumentError):
        content["fields"] = {violation.field: violation.description for violation in error.violations}
    return JSONResponse(content, status)


@app.post("/users", status_code=201)
async def add_user(body: NewUser, users: Users) -> User:
    """Adds a user."""
    return await users.add(body.model_dump())


@app.get("/users")
async def list_users(users: Users, limit: int = 100, cursor: int = 0) -> UserPage:
    """Returns a page of users; `next_cursor` is the cursor of the next page, and 0 at the end."""
    return await users.list(limit=limit, cursor=cursor)


# A user_id may contain slashes, which only the converter `path` accepts.
@app.get("/users/{user_id:path}")
async def get_user(user_id: str, users: Users) -> User:
    """Returns a user."""
    return await users.get(user_id)


@app.delete("/users/{user_id:path}", status_code=204)
async def delete_user(user_id: str, users: Users) -> None:
    """Deletes a user with all sessions."""
    await users.delete(user_id)
