"""How an update changes an entity."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from google.protobuf.message import Message

from userservice_server.domain import metadata as metadata_rules
from userservice_server.errors import Violation
from userservice_server.wire.records import Entity


@dataclass(frozen=True, slots=True)
class Patch(Generic[Entity]):
    """New values for some fields of an entity.

    Attributes:
        values: carries the new values.
        fields: the fields to change.
        whole: whether metadata is replaced, as an update_mask asks for (AIP-134), or merged (RFC 7396).
    """

    values: Entity
    fields: frozenset[str]
    whole: bool

    def apply(self, entity: Entity) -> list[Violation]:
        """Changes ``entity`` in place; returns which rules the result breaks."""
        for field in self.fields - {"metadata"}:
            setattr(entity, field, getattr(self.values, field))
        if "metadata" not in self.fields:
            return []
        if self.whole:
            entity.ClearField("metadata")
            if self.values.HasField("metadata"):
                entity.metadata.CopyFrom(self.values.metadata)
            return []  # checked with the request
        entity.metadata.SetInParent()
        metadata_rules.merge(entity.metadata, self.values.metadata)
        return list(dict.fromkeys(metadata_rules.violations(entity.metadata, "metadata")))


def patched_fields(request: Message, fields: Iterable[str]) -> frozenset[str]:
    """The fields that a request without update_mask changes: those that are present."""
    return frozenset(field for field in fields if request.HasField(field))
