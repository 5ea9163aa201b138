"""The benchmarks that call scripts of the service directly give them the keys and arguments that they expect."""

from harness.stores import Store as OwnStore

from benchmarks.imports import script_rate
from benchmarks.stores import Store
from userservice_server.check import check
from userservice_server.store import scripts

_ADDED, _IMPORTED = 3, 400


def test_the_scripts_that_add_and_import_users_write_a_consistent_store() -> None:
    with OwnStore() as own:
        store = Store(own.url)
        store.fill(_ADDED)
        store.redis.script_load(scripts.IMPORT.text)  # in the benchmark, the service does this
        assert script_rate(store, "x", _IMPORTED) > 0
        report = check(own.url, "userservice", 5)
        assert (report.users, report.findings) == (_ADDED + _IMPORTED, [])
        assert store.memory_of_emails() > 0
        store.redis.close()
