"""TLS, client certificates and keys with clients that contain no code of this project."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from harness.credentials import Identity, TlsFiles, authority, issued, new_key, private
from harness.foreign import ForeignClient
from harness.services import Service
from harness.stores import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # the first test builds the clients

ROOT, CALLERS = authority(), authority("callers")
SPIFFE = "spiffe://example.org/ns/jobs/export"


@dataclass(frozen=True)
class Site:
    service: Service
    folder: Path
    lister: str
    reader: str

    def outcome(self, client: ForeignClient, *, root: Identity = ROOT, caller: Identity | None, token: str = "") -> str:
        """Makes two calls of ListUsers; returns the code and reason of both."""
        environment = {"TLS_CA": str(private(self.folder / "root", root.certificate.public_bytes(Encoding.PEM)))}
        if caller is not None:
            files = TlsFiles(self.folder).write(caller)
            environment |= {"TLS_CERT": str(files.folder / "tls.crt"), "TLS_KEY": str(files.folder / "tls.key")}
        if token:
            environment |= {"TOKEN": token}
        found = client.run("idle", self.service.address, 0, environment=environment)
        [outcome] = {" ".join(filter(None, (one["code"], one.get("reason")))) for one in found["outcomes"]}
        return outcome


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("server")
    files, keys, ca = TlsFiles(folder).write(issued(ROOT, kind="rsa")), folder / "keys.toml", folder / "ca.crt"
    lister, reader = new_key(keys, "users.list"), new_key(keys, "users.read")
    private(keys, f'{keys.read_text()}\n[certificates."{SPIFFE}"]\nscopes = ["users.list"]\n')
    private(ca, CALLERS.certificate.public_bytes(Encoding.PEM), 0o644)
    options: list[str | Path] = [*files.arguments, "--tls-client-ca", ca, "--tls-client-auth", "require"]
    options += ["--auth", "mtls,keys", "--keys-file", keys]
    with Store() as store, Service(*options, redis_url=store.url) as service:
        yield Site(service, tmp_path_factory.mktemp("client"), lister, reader)
        assert service.stop() == 0


def test_certificates_and_keys_identify_callers(client: ForeignClient, site: Site) -> None:
    known, unmapped = issued(CALLERS, [SPIFFE]), issued(CALLERS, ["someone.example.org"])
    assert site.outcome(client, caller=known) == "OK"
    assert site.outcome(client, caller=unmapped) == "UNAUTHENTICATED CREDENTIALS_INVALID"
    assert site.outcome(client, caller=unmapped, token=site.lister) == "OK"
    assert site.outcome(client, caller=known, token=site.reader) == "PERMISSION_DENIED SCOPE_MISSING"


def test_connections_with_an_untrusted_certificate_fail(client: ForeignClient, site: Site) -> None:
    strangers: list[tuple[Identity, Identity | None]] = [
        (authority("another"), issued(CALLERS, [SPIFFE])),
        (ROOT, issued(authority("another"), [SPIFFE])),
        (ROOT, None),
    ]
    for root, caller in strangers:
        outcome = site.outcome(client, root=root, caller=caller)
        assert outcome in {"UNAVAILABLE", "INTERNAL", "CANCELED", "UNKNOWN"}
