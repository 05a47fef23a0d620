"""Which image a Docker archive holds, told by its manifest.

Knows the layout that ``docker save`` writes. Must not know engines.
"""

from __future__ import annotations

import json
import os
import tarfile

from toilcache.errors import ContainerImageError, show


def archive_digest(path: str) -> str:
    """Return the id of the image in an archive: the digest of its configuration, by which its file is named.

    :raises ContainerImageError: there is no such file, or it is no archive of an image.
    """
    advice = "make it with 'docker save'"
    try:
        with tarfile.open(path) as archive:
            manifest = archive.extractfile("manifest.json")
            config = json.load(manifest)[0]["Config"] if manifest else ""
    except (OSError, tarfile.TarError, ValueError, LookupError) as error:
        raise ContainerImageError(f"cannot read image {show(path)}: {error}; {advice}") from None
    plain = os.path.basename(str(config)).removesuffix(".json")
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise ContainerImageError(f"cannot read image {show(path)}: its manifest names no digest; {advice}")
    return f"sha256:{plain}"
