"""What the layers of a dense model read in a calibration text, summed up: kept in a small file, added, looked up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .blocks import is_finite
from .files import settle
from .reporting.identity import difference, tensor_bytes
from .reporting.records import recorded
from .reporting.report import gib

FORMAT, VERSION = "wanda_nb calibration", 1
IDENTITY = ("class", "config", "weights")
SHIPPED = {"smollm2-135m": "results/norms.safetensors"}  # made by the command in data/README.md


class Calibration(Mapping):
    """The norm of every input channel of each linear layer in a dense model, over a calibration text.

    ``calibration["model.layers.3.mlp.down_proj"]`` is ``X.norm(dim=0)``, (in,) float32, of all X (tokens, in) that the
    layer read; KeyError if the model has no such layer, or if it saw no token. ``prune(model, calibration=...)`` prunes
    by them. ``a + b`` is the calibration of both texts, or of two machines' shares of one; it raises ValueError unless
    both are of the same model and statistic. Made by ``calibrate`` and ``load_calibration``.
    Introduced in notebook 01, "Calibrate once"; the norms of equation 1 of the paper.
    """

    def __init__(self, about: dict, sums: dict[str, torch.Tensor], tokens: dict[str, int]):
        #: "name" and "revision" of the model, "model" (``model_identity``), "statistic", and "texts", a dict for each.
        self.about = about
        #: Sums of squares (in,), or XᵀX (in, in), float64, by layer. Layers that read the same input share a tensor.
        self.sums = dict(zip(sums, shared(sums.values()), strict=True))
        #: How many tokens each layer read: 0 for an expert that was never chosen.
        self.tokens = tokens

    @property
    def statistic(self) -> str:
        """``"norm"`` or ``"gram"``."""
        return self.about["statistic"]

    def __getitem__(self, name: str) -> torch.Tensor:
        sums = self.sums[name]
        return (sums.diagonal() if self.statistic == "gram" else sums).sqrt().float()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sums)

    def __len__(self) -> int:
        return len(self.sums)

    def gram(self, name: str) -> torch.Tensor:
        """XᵀX (in, in) float32 of a layer's inputs. Raises ValueError if only norms were kept."""
        if self.statistic != "gram":
            raise ValueError('This calibration holds norms alone: calibrate with statistic="gram".')
        return self.sums[name].float()

    def __add__(self, other: Calibration) -> Calibration:
        if not isinstance(other, Calibration):
            return NotImplemented
        self.check(other.about["model"])
        if self.statistic != other.statistic:
            raise ValueError(
                f"A calibration of {self.statistic}s and one of {other.statistic}s: expected the same statistic."
            )
        sums = {name: self.sums.get(name, other.sums.get(name)) for name in self.tokens}
        sums = {name: tensor for name, tensor in sums.items() if tensor is not None}
        for name in self.sums.keys() & other.sums.keys():
            sums[name] = self.sums[name] + other.sums[name]
        tokens = {name: count + other.tokens[name] for name, count in self.tokens.items()}
        return Calibration({**self.about, "texts": self.about["texts"] + other.about["texts"]}, sums, tokens)

    def check(self, model: dict) -> None:
        """Raise ValueError unless this calibration is of the model with that ``model_identity``."""
        if differs := difference(self.about["model"], model):
            raise ValueError(
                f"The calibration is of another model than {model['class']}, which differs in {differs}. Expected the "
                "same dense model, in any dtype but float16 for float32. Calibrate this one."
            )

    @property
    def nbytes(self) -> int:
        """The size of all sums in bytes."""
        return sum(tensor.nbytes for tensor in distinct(self.sums).values())

    def __repr__(self) -> str:
        texts = "; ".join(", ".join(f"{key} {value}" for key, value in text.items()) for text in self.texts())
        name = self.about["name"] or self.about["model"]["class"]
        return (
            f"{self.statistic}s of {len(self)} layers of {name} over "
            f"{max(self.tokens.values()):,} tokens, {gib(self.nbytes)}: {texts}"
        )

    def texts(self) -> list[dict]:
        """What the norms were taken of, as the model card says it: for each text, what is known of it."""
        return [text["text"] for text in self.about["texts"]]

    def digest(self) -> str:
        """A sha256 over everything in it: 64 hexadecimal digits."""
        return _digest(*self._content())

    def _content(self) -> tuple[str, dict[str, torch.Tensor]]:
        first = {id(tensor): name for name, tensor in reversed(self.sums.items())}
        layers = {n: [first[id(self.sums[n])] if n in self.sums else None, count] for n, count in self.tokens.items()}
        return json.dumps({**self.about, "layers": layers}), distinct(self.sums)

    def save(self, path) -> int:
        """Write it to one safetensors file, whole or not at all; returns its size in bytes.

        Sums that several layers share are stored once. Introduced in notebook 01, "Calibrate once".
        """
        path = Path(path)
        about, tensors = self._content()
        temporary = path.with_name(path.name + ".tmp")
        metadata = {"format": FORMAT, "version": str(VERSION), "about": about, "sha256": _digest(about, tensors)}
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, metadata)
            os.chmod(temporary, mode)  # of any new file; safetensors makes it readable by its owner alone
            return settle(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def load_calibration(path) -> Calibration:
    """The calibration that ``save`` stored, bit for bit.

    path: a file; or ``"smollm2-135m"``, for the norms of that model over 128 windows of 256 tokens of C4, which the
    package brings.
    Raises ValueError for a file of another kind, of a newer format, or one that is damaged, cut short or altered, and
    for sums that are negative or not finite. Whether it fits a model, ``prune`` checks.
    Introduced in notebook 01, "Calibrate once".
    """
    path = recorded(SHIPPED[str(path)]) if str(path) in SHIPPED else path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} holds no calibration: expected a file that Calibration.save wrote.")
            if metadata.get("version") != str(VERSION):
                raise ValueError(
                    f"{path} is of version {metadata.get('version')} of its format: this wanda_nb reads {VERSION}. "
                    "Use the wanda_nb that wrote it, or a newer one."
                )
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): make or fetch it again.") from error
    about = metadata.get("about", "")
    if metadata.get("sha256") != _digest(about, tensors):
        raise ValueError(f"{path} was altered after it was written, or is damaged: make or fetch it again.")
    try:
        about = json.loads(about)
        layers = about.pop("layers")
        sums = {name: tensors[stored] for name, (stored, _) in layers.items() if stored is not None}
        calibration = Calibration(about, sums, {name: int(count) for name, (_, count) in layers.items()})
        _ = [about["name"], calibration.statistic, calibration.texts()], [about["model"][key] for key in IDENTITY]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: what it says of its sums cannot be read ({error!r}).") from error
    for name, tensor in tensors.items():
        squares = tensor.diagonal() if tensor.ndim == 2 else tensor
        if tensor.ndim != {"norm": 1, "gram": 2}.get(calibration.statistic) or tensor.dtype != torch.float64:
            raise ValueError(f"{path}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, which no sum of it is.")
        if not is_finite(tensor) or bool((squares < 0).any()):
            raise ValueError(f"{path}: {name} has sums of squares that are negative or not finite.")
    return calibration


def shared(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The same tensors in order, each that equals the one before it replaced by that one: q, k and v read one input."""
    found: list[torch.Tensor] = []
    for tensor in tensors:
        same = found and found[-1].shape == tensor.shape and torch.equal(found[-1], tensor)
        found.append(found[-1] if same else tensor)
    return found


def distinct(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once, by the first name that it has."""
    found: dict[int, str] = {}
    for name, tensor in sums.items():
        found.setdefault(id(tensor), name)
    return {name: sums[name] for name in found.values()}


def _digest(about: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
