"""Write the descriptor set that reflection serves: descriptors.py SET DESTINATION.

Of the source info only the comments are kept: positions without a comment are a quarter of the file, and no tool that
reads descriptors by reflection uses them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet


def main(source: Path, destination: Path) -> None:
    """Copy a descriptor set without the positions that have no comment."""
    files = FileDescriptorSet.FromString(source.read_bytes())
    for file in files.file:
        locations = file.source_code_info.location
        commented = [
            each
            for each in locations
            if each.leading_comments or each.trailing_comments or each.leading_detached_comments
        ]
        kept = type(file.source_code_info)(location=commented)
        file.source_code_info.CopyFrom(kept)
    destination.write_bytes(files.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
