"""Applies the changes of an update request to an entity."""

from collections.abc import Collection, Iterable
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
        values: an entity with the new values.
        fields: the fields to change.
        whole: whether metadata is replaced, as with an update_mask (AIP-134), or merged (RFC 7396).
    """

    values: Entity
    fields: frozenset[str]
    whole: bool

    def apply(self, entity: Entity) -> list[Violation]:
        """Changes ``entity`` in place; returns the rules that the result breaks."""
        for field in self.fields - {"metadata"}:
            setattr(entity, field, getattr(self.values, field))
        if "metadata" not in self.fields:
            return []
        if self.whole:
            entity.ClearField("metadata")
            if self.values.HasField("metadata"):
                entity.metadata.CopyFrom(self.values.metadata)
            return []  # the new metadata was checked with the request
        entity.metadata.SetInParent()
        metadata_rules.merge(entity.metadata, self.values.metadata)
        return list(dict.fromkeys(metadata_rules.violations(entity.metadata, "metadata")))

    def added(self) -> Entity:
        """Returns the entity that an update adds if there is none: it has all values of the request."""
        new = type(self.values)()
        new.CopyFrom(self.values)
        if not self.whole and self.values.HasField("metadata"):
            new.ClearField("metadata")
            new.metadata.SetInParent()
            metadata_rules.merge(new.metadata, self.values.metadata)
        return new


def values_of(entity: type[Entity], request: Message, fields: Iterable[str]) -> Entity:
    """Returns an entity that has the values of these fields of a request."""
    values = entity()
    for field in fields:
        if field != "metadata":
            setattr(values, field, getattr(request, field))
        elif request.HasField(field):
            values.metadata.CopyFrom(getattr(request, field))
    return values


def patch_of(entity: type[Entity], request: Message, mutable: Collection[str], mask: frozenset[str]) -> Patch[Entity]:
    """Returns the patch that a request describes.

    Args:
        entity: User or Session.
        request: an UpdateUserRequest or UpdateSessionRequest.
        mutable: the fields that a request of this kind can change.
        mask: the fields in its update_mask. If it is empty, the request changes the fields that are present in it.
    """
    fields = mask or frozenset(field for field in mutable if request.HasField(field))
    return Patch(values_of(entity, request, mutable), fields, whole=bool(mask))
