"""The descriptors of protos/ with their comments, for the generators beside this file."""

import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]


def compiled(*protos: str) -> FileDescriptorSet:
    """Returns the descriptors of these files and of their imports."""
    with tempfile.NamedTemporaryFile() as output:
        arguments = ["--include_imports", "--include_source_info", f"-o{output.name}", *protos]
        include = Path(protoc.__file__).parent / "_proto"
        if protoc.main(["protoc", f"-I{include}", f"-I{ROOT / 'protos'}", *arguments]) != 0:
            raise SystemExit(1)
        return FileDescriptorSet.FromString(Path(output.name).read_bytes())
