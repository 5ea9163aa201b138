"""Encodes the requests of loads in advance."""

from random import Random
from uuid import UUID

from google.protobuf.message import Message

from benchmarks.population import user_id, users
from loadgen.h2load import grpc_frame
from loadgen.http2 import Request, header_block
from userservice.v1 import user_service_pb2 as pb

_GET, _UPDATE, _ADD = (header_block(f"UserService/{name}") for name in ("GetUser", "UpdateUser", "AddUser"))
_GET_SHARE, _UPDATE_SHARE = 0.80, 0.15  # the shares in the mixed load; the remaining calls are adds
_STRIDE = 7919  # a prime, so that consecutive updates change different users


class Requests:
    """Makes requests. Each new user and each request_id occurs once."""

    def __init__(self, users_present: int) -> None:
        self._users = users_present
        self._numbers = iter(range(users_present, 1 << 40))

    def adds(self, count: int) -> list[Request]:
        """Returns requests that add users."""
        return [self._add() for _ in range(count)]

    def updates(self, count: int) -> list[Request]:
        """Returns requests that change a name and a value in the metadata of many users in turn."""
        return [self._update() for _ in range(count)]

    def mixed(self, count: int) -> tuple[list[Request], int]:
        """Returns 80 % GetUser, 15 % UpdateUser and 5 % AddUser in random order, and the number of users they add."""
        random = Random(count)
        made, added = [], 0
        for _ in range(count):
            share = random.random()
            if share < _GET_SHARE:
                made.append(_encoded(_GET, pb.GetUserRequest(user_id=user_id(random.randrange(self._users)))))
            elif share < _GET_SHARE + _UPDATE_SHARE:
                made.append(self._update())
            else:
                made.append(self._add())
                added += 1
        return made, added

    def gets(self, count: int) -> list[Request]:
        """Returns GetUser requests for random users."""
        random = Random(count)
        numbers = (random.randrange(self._users) for _ in range(count))
        return [_encoded(_GET, pb.GetUserRequest(user_id=user_id(number))) for number in numbers]

    def last_update(self) -> pb.UpdateUserRequest:
        """Returns the last request that changed a user."""
        return self._last_update

    def _add(self) -> Request:
        number, request_id = self._next()
        (user,) = users(1, number)
        user.request_id = request_id
        return _encoded(_ADD, user)

    def _update(self) -> Request:
        number, request_id = self._next()
        update = pb.UpdateUserRequest(user_id=user_id(number * _STRIDE % self._users), request_id=request_id)
        update.first_name = f"Name {number % 1000}"
        update.metadata.update({"logins": number})
        self._last_update = update
        return _encoded(_UPDATE, update)

    def _next(self) -> tuple[int, str]:
        number = next(self._numbers)
        return number, str(UUID(int=number, version=4))


def _encoded(headers: bytes, message: Message) -> Request:
    return Request(headers, grpc_frame(message))
