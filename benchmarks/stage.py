"""Runs the servers and stores for most of the figures."""

from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Self

from benchmarks import engines, go_peers, programs, rows, stores
from benchmarks.missing import Missing
from benchmarks.population import user_id
from benchmarks.programs import Program
from benchmarks.sizes import Size
from benchmarks.stores import Store


class Stage:
    """Runs servers and stores for the duration of the ``with`` block.

    Attributes:
        size: the size of the benchmark.
        folder: the folder for files of stores and servers.
        missing: the contestants and figures that cannot be measured.
        programs: the servers, by contestant.
        stores: the store of each contestant that has one.
        payload: bytes of all records.
        store_memory: memory of each contestant's store, relative to the encoded users.
        probe: user_id of a user of average size, for loads that repeat one call.
    """

    def __init__(self, size: Size, folder: Path, port: int, missing: Missing) -> None:
        self.size = size
        self.folder = folder
        self.missing = missing
        self.programs: dict[str, Program] = {}
        self.stores: dict[str, Store] = {}
        self.store_memory: dict[str, float] = {}
        self._port = port
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Fills the stores and starts the servers."""
        with ExitStack() as stack:
            store = self.filled("users", self.size.users, stack)
            encoded_bytes = store.encoded_bytes()
            records = store.records()
            self.payload = sum(map(len, records))
            average = mean(map(len, records))
            probe = min(range(len(records)), key=lambda number: abs(len(records[number]) - average))
            self.probe = user_id(probe)
            self._start_services(store, stack)
            self._start_constants(records[probe], stack)
            self._start_peers(records, stack)
            for contestant, its_store in self.stores.items():
                self.store_memory[contestant] = its_store.memory_taken() / encoded_bytes
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stops the servers and stores."""
        self._stack.close()

    @property
    def service(self) -> Program:
        """The service with its default settings."""
        return self.programs[rows.SERVICE]

    def filled(self, name: str, count: int, stack: ExitStack) -> Store:
        """Starts and fills another store."""
        store = stack.enter_context(stores.running(self.folder / name))
        store.fill(count)
        return store

    def present(self, *contestants: str) -> list[str]:
        """Returns the contestants that are running."""
        return [contestant for contestant in contestants if contestant in self.programs]

    def _start_services(self, store: Store, stack: ExitStack) -> None:
        url, folder = store.url, self.folder
        services = {
            rows.SERVICE: programs.service("service", url, folder, port=self._port),
            rows.QUIET: programs.service("quiet", url, folder, "--access-log", "false"),
            rows.TWO: programs.service("two", url, folder, "--workers", "2"),
            rows.SERVICE_DEFAULT_ENGINE: programs.service("default", url, folder, engine=engines.DEFAULT),
        }
        for contestant, program in services.items():
            self._start(contestant, program, store, stack)

    def _start_constants(self, record: bytes, stack: ExitStack) -> None:
        constants = {
            rows.CONSTANT: engines.SERVICE,
            rows.CONSTANT_DEFAULT_ENGINE: engines.DEFAULT,
            rows.CONSTANT_TUNED_ENGINE: engines.TUNED,
        }
        for contestant, engine in constants.items():
            program = programs.constant(f"constant-{engine}", record, self.size.users, self.folder, engine)
            self._start(contestant, program, None, stack)

    def _start_peers(self, records: list[bytes], stack: ExitStack) -> None:
        hashes = stack.enter_context(stores.running(self.folder / "hashes"))
        hashes.fill_baseline(self.size.users)
        self._start(rows.BASELINE, programs.baseline(hashes.url, self.folder), hashes, stack)
        try:
            built = go_peers.build()
        except go_peers.NotBuiltError as error:
            self.missing.add(rows.PLAIN, str(error))
            self.missing.add(rows.ENCODED, str(error))
            return
        encoded = stack.enter_context(stores.running(self.folder / "encoded"))
        encoded.fill_encoded(records)
        for contestant, name, store in ((rows.PLAIN, "plain", hashes), (rows.ENCODED, "encoded", encoded)):
            self._start(contestant, programs.go_peer(name, built[name], store.path, self.folder), store, stack)

    def _start(self, contestant: str, program: Program, store: Store | None, stack: ExitStack) -> None:
        self.programs[contestant] = stack.enter_context(program)
        if store:
            self.stores[contestant] = store
