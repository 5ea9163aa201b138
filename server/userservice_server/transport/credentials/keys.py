"""Verifies keys and certificate names against the entries of the keys file."""

import hmac
import time
from collections.abc import Iterable

from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.credentials.caller import Caller, Usage
from userservice_server.transport.credentials.key_format import PREFIX, digest_of, key_id_in
from userservice_server.transport.credentials.keys_file import Entry, KeysFile

_NO_ENTRY = Entry(id="", name="", scopes=frozenset(), sha256=bytes(32))  # the decoy if the keys file contains no key


class Keys:
    """The entries of the keys file that are in use.

    Attributes:
        content: the entries; replaced when the file is reloaded.
    """

    def __init__(self, content: KeysFile) -> None:
        self.content = content
        self._decoys = _decoys_in(content)
        self._usages: dict[tuple[str, str], Usage] = {}

    def replace(self, content: KeysFile) -> None:
        """Replaces the entries; keeps the use of the limits by credentials that are still in the file."""
        self.content = content
        self._decoys = _decoys_in(content)
        ids = {("key", key_id) for key_id in content.keys} | {("certificate", name) for name in content.certificates}
        self._usages = {key: usage for key, usage in self._usages.items() if key in ids}

    @staticmethod
    def is_key(token: str) -> bool:
        """Returns whether a bearer token has the prefix of a key."""
        return token.startswith(PREFIX)

    def verify(self, token: str) -> Caller:
        """Returns the caller that a key identifies.

        Raises:
            CredentialsInvalidError: the key is malformed, unknown or not valid now.
        """
        key_id = key_id_in(token)
        if key_id is None:
            raise CredentialsInvalidError("malformed key")
        entry = self.content.keys.get(key_id)
        # For an unknown id, the digest of a decoy entry is compared, so that the time of the rejection does not reveal
        # whether the id is known. Different unknown ids read the memory of different entries, as known ids do.
        decoy = self._decoys[hash(key_id) % len(self._decoys)]
        is_equal = hmac.compare_digest(digest_of(token), (decoy if entry is None else entry).sha256)
        if entry is None or not is_equal:
            raise CredentialsInvalidError("unknown key")
        return self._caller("key", entry)

    def verify_names(self, names: Iterable[str]) -> Caller:
        """Returns the caller that a certificate with these names identifies.

        Raises:
            CredentialsInvalidError: not exactly one of the names is in the keys file, or its entry is not valid now.
        """
        entries = [entry for name in names if (entry := self.content.certificates.get(name))]
        if len(entries) != 1:
            raise CredentialsInvalidError("ambiguous certificate" if entries else "unmapped certificate")
        return self._caller("certificate", entries[0])

    def _caller(self, kind: str, entry: Entry) -> Caller:
        if fault := entry.fault(time.time()):
            raise CredentialsInvalidError(f"{fault} {kind}")
        return Caller(
            kind=kind,
            name=entry.id,
            scopes=entry.scopes,
            expires_at=entry.expires_at,
            verified_by=entry.sha256.hex(),
            calls_per_second=entry.calls_per_second,
            max_streams=entry.max_streams,
            usage=self._usages.setdefault((kind, entry.id), Usage()),
        )

    def fault_of(self, caller: Caller, scope: str) -> str:
        """Returns why a caller that was verified earlier no longer has a scope; empty if the caller has it."""
        entries = self.content.keys if caller.kind == "key" else self.content.certificates
        entry = entries.get(caller.name)
        if entry is None or entry.sha256.hex() != caller.verified_by:  # the id can have another key now
            return f"revoked {caller.kind}"
        if fault := entry.fault(time.time()):
            return f"{fault} {caller.kind}"
        return "scope removed" if scope and scope not in entry.scopes else ""


def _decoys_in(content: KeysFile) -> list[Entry]:
    return list(content.keys.values()) or [_NO_ENTRY]
