"""Random operations on the service and on a dict: after each step both are equal, and `check` finds nothing."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from userservice import (
    EtagMismatchError,
    SessionAlreadyExistsError,
    SessionNotFoundError,
    SyncSessionManager,
    SyncUserManager,
    User,
    UserAlreadyExistsError,
    UserNotFoundError,
)
from userservice_server.check import check

USER_IDS = st.sampled_from(["ada", "bob", "日本", "a:b", "{0}"])
SESSION_IDS = st.sampled_from(["s", "t", "u"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(st.sampled_from(["a", "b", "c", ""]), VALUES, max_size=3)
FIELDS = ("email", "first_name", "last_name")


def merged(target: Any, patch: Any) -> Any:
    """Merges as in the pseudo-code of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged(target.get(name), value)
    return target


class Model(RuleBasedStateMachine):
    """The service, and the users and sessions that it should contain, in order of creation."""

    store: Store
    users: SyncUserManager
    sessions: SyncSessionManager

    @initialize()
    def empty(self) -> None:
        with self.store.client() as client:
            client.flushall()
        self.expected: dict[str, dict[str, Any]] = {}
        self.expected_sessions: dict[str, dict[str, Any]] = {}
        self.etags: dict[str, str] = {}

    @rule(user_id=USER_IDS, metadata=METADATA, text=TEXTS)
    def add(self, user_id: str, metadata: dict[str, Any], text: str) -> None:
        if user_id in self.expected:
            with pytest.raises(UserAlreadyExistsError):
                self.users.add(user_id=user_id)
            return
        user = self.users.add(user_id=user_id, metadata=metadata, email=text)
        self.expected[user_id] = {"email": text, "first_name": "", "last_name": "", "metadata": metadata}
        self.expected_sessions[user_id] = {}
        self.etags[user_id] = user.etag

    @rule(user_id=USER_IDS, patch=METADATA, fields=st.dictionaries(st.sampled_from(FIELDS), TEXTS))
    def update(self, user_id: str, patch: dict[str, Any], fields: dict[str, str]) -> None:
        if user_id not in self.expected:
            with pytest.raises(UserNotFoundError):
                self.users.update(user_id=user_id, email="x")
            return
        update: dict[str, Any] = {"user_id": user_id, "metadata": patch, **fields}
        user = self.users.update(update)
        old = self.expected[user_id]
        self.expected[user_id] = {**old, **fields, "metadata": merged(old["metadata"], patch)}
        self._assert_same(user)
        assert user.etag != self.etags[user_id]
        self.etags[user_id] = user.etag

    @rule(user_id=USER_IDS, metadata=METADATA, mask=st.lists(st.sampled_from([*FIELDS, "metadata"]), min_size=1))
    def replace(self, user_id: str, metadata: dict[str, Any], mask: list[str]) -> None:
        if user_id not in self.expected:
            return
        values: dict[str, Any] = {"email": "e", "first_name": "f", "last_name": "l", "metadata": metadata}
        request: dict[str, Any] = {"user_id": user_id, "update_mask": mask, **values}
        user = self.users.update(request)
        self.expected[user_id] |= {name: values[name] for name in mask}
        self.etags[user_id] = user.etag

    @rule(user_id=USER_IDS, metadata=METADATA)
    def write_with_an_old_etag(self, user_id: str, metadata: dict[str, Any]) -> None:
        if user_id not in self.expected:
            return
        with pytest.raises(EtagMismatchError):
            self.users.update(user_id=user_id, metadata=metadata, etag="another")
        with pytest.raises(EtagMismatchError):
            self.users.delete(user_id, etag="another")

    @rule(user_id=USER_IDS)
    def delete(self, user_id: str) -> None:
        if user_id not in self.expected:
            with pytest.raises(UserNotFoundError):
                self.users.delete(user_id)
            return
        self.users.delete(user_id, etag=self.etags.pop(user_id))
        del self.expected[user_id], self.expected_sessions[user_id]

    @rule(user_id=USER_IDS, session_id=SESSION_IDS, metadata=METADATA)
    def add_session(self, user_id: str, session_id: str, metadata: dict[str, Any]) -> None:
        if user_id not in self.expected:
            with pytest.raises(UserNotFoundError):
                self.sessions.add(user_id=user_id, session_id=session_id)
        elif session_id in self.expected_sessions[user_id]:
            with pytest.raises(SessionAlreadyExistsError):
                self.sessions.add(user_id=user_id, session_id=session_id)
        else:
            self.sessions.add(user_id=user_id, session_id=session_id, metadata=metadata)
            self.expected_sessions[user_id][session_id] = metadata

    @rule(user_id=USER_IDS, session_id=SESSION_IDS, patch=METADATA)
    def update_session(self, user_id: str, session_id: str, patch: dict[str, Any]) -> None:
        known = self.expected_sessions.get(user_id, {})
        if session_id not in known:
            with pytest.raises(SessionNotFoundError if user_id in self.expected else UserNotFoundError):
                self.sessions.update(user_id=user_id, session_id=session_id, metadata=patch)
            return
        self.sessions.update(user_id=user_id, session_id=session_id, metadata=patch)
        known[session_id] = merged(known[session_id], patch)

    @rule(user_id=USER_IDS, session_id=SESSION_IDS)
    def delete_session(self, user_id: str, session_id: str) -> None:
        if session_id in self.expected_sessions.get(user_id, {}):
            self.sessions.delete(user_id, session_id)
            del self.expected_sessions[user_id][session_id]

    @rule(user_ids=st.lists(USER_IDS, min_size=1, max_size=4))
    def batch_get(self, user_ids: list[str]) -> None:
        batch = self.users.batch_get(user_ids)
        assert [user.user_id for user in batch] == [user_id for user_id in user_ids if user_id in self.expected]
        assert list(batch.missing_user_ids) == [user_id for user_id in user_ids if user_id not in self.expected]

    @rule(size=st.integers(1, 4))
    def pages_and_chunks(self, size: int) -> None:
        seen: list[str] = []
        cursor = 0
        while True:
            page = self.users.list(limit=size, cursor=cursor)
            seen += [user.user_id for user in page]
            cursor = page.next_cursor
            if not cursor:
                break
        assert seen == list(self.expected)
        assert [user.user_id for chunk in self.users.list_chunked(chunk_size=size) for user in chunk] == seen

    @invariant()
    def service_and_model_are_the_same(self) -> None:
        listed = self.users.list(limit=100)
        assert [user.user_id for user in listed] == list(self.expected)
        for user in listed:
            self._assert_same(user)
            sessions = self.users.get_sessions(user.user_id)
            assert {session.session_id: session.metadata for session in sessions} == self.expected_sessions[
                user.user_id
            ]
        assert check(self.store.url, "userservice", 5).findings == []

    def _assert_same(self, user: User) -> None:
        assert {name: getattr(user, name) for name in (*FIELDS, "metadata")} == self.expected[user.user_id]


@pytest.fixture
def model() -> Iterator[type[Model]]:
    with (
        Store() as store,
        Service("--log-level", "error", redis_url=store.url) as service,
        SyncUserManager(service.address) as users,
        SyncSessionManager(service.address) as sessions,
    ):
        yield type("ModelOfAService", (Model,), {"store": store, "users": users, "sessions": sessions})


@pytest.mark.timeout(300)
def test_the_service_behaves_like_a_dict(model: type[Model], seed: int) -> None:
    hypothesis.seed(seed)(model)
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=sized(15, 150),
            stateful_step_count=sized(20, 40),
            deadline=None,
            derandomize=False,
            database=None,
            phases=[Phase.generate],  # no shrinking: a failing run has to end in time
            suppress_health_check=list(HealthCheck),
        ),
        _min_steps=0,
    )
