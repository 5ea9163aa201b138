"""A web service on top of the User service.

Run: uvicorn app:app

All requests share one manager. It opens its connection at the first call and retries while the service restarts.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from userservice import (
    InvalidArgumentError,
    UnavailableError,
    UserAlreadyExistsError,
    UserManager,
    UserNotFoundError,
    UserServiceError,
)

ADDRESS = os.environ.get("USERSERVICE_ADDRESS", "localhost:50051")
STATUS_BY_ERROR: dict[type[UserServiceError], int] = {
    InvalidArgumentError: 422,
    UserNotFoundError: 404,
    UserAlreadyExistsError: 409,
    UnavailableError: 503,
}


class NewUser(BaseModel):
    """The body of a request that adds a user."""

    user_id: str
    email: str = ""
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
    return JSONResponse({"error": error.reason or error.code.name}, status)


@app.post("/users", status_code=201)
async def add_user(body: NewUser, users: Users) -> dict[str, Any]:
    """Adds a user."""
    user = await users.add(body.model_dump())
    return {"user_id": user.user_id, "created_at": user.created_at}


@app.get("/users/{user_id}")
async def get_user(user_id: str, users: Users) -> dict[str, Any]:
    """Returns a user."""
    user = await users.get(user_id)
    return {"user_id": user.user_id, "email": user.email, "metadata": user.metadata}


@app.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: str, users: Users) -> None:
    """Deletes a user with all sessions."""
    if user_id == "root":
        raise HTTPException(403, "this user cannot be deleted")
    await users.delete(user_id)
