"""The small file gives back every bit, or says why it does not."""

import pytest
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

import wanda_nb as wn
from wanda_nb.checkpoint.compressed import compressed_bytes

WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a, b) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(WHOLE[a.itemsize]), b.view(WHOLE[b.itemsize]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_compressed_gives_back_every_bit(architecture, dtype, tokens, tmp_path):
    model = tiny_model(architecture, dtype)
    wn.prune(model, tokens, sparsity=0.6)
    layer = next(iter(wn.linear_layers(wn.decoder_blocks(model)[0]).values()))
    layer.weight.data[0, :3] = torch.tensor([-0.0, torch.finfo(dtype).tiny / 2, -1.0])  # signed zero, subnormal
    size = wn.save_compressed(model, tmp_path / "small.safetensors")
    assert size == (tmp_path / "small.safetensors").stat().st_size
    empty = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    again = wn.load_compressed(empty, tmp_path / "small.safetensors").state_dict()
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name].view(bits), tensor.view(bits)), name


def test_the_size_shows_the_sparsity(tokens, tmp_path):
    sizes, pruned = {}, 0
    for sparsity in (0, 0.25, 0.5, 0.75):
        model = tiny_model(hidden_size=128, intermediate_size=256, num_attention_heads=4, head_dim=32)
        wn.prune(model, tokens, sparsity=sparsity)
        sizes[sparsity] = wn.save_compressed(model, tmp_path / f"{sparsity}.safetensors")
        pruned = sum(m.weight.numel() for b in wn.decoder_blocks(model) for m in wn.linear_layers(b).values())
    bitmask = pruned / 8
    for sparsity in (0.25, 0.5, 0.75):
        saved = sizes[0] - sizes[sparsity]
        assert saved == pytest.approx(4 * sparsity * pruned - bitmask, rel=0.02)  # and a few hundred bytes of names


def test_tied_weights_are_stored_once(tokens, tmp_path):
    tied, loose = (tiny_model(tie_word_embeddings=tie) for tie in (True, False))
    sizes = [wn.save_compressed(model, tmp_path / "x.safetensors") for model in (tied, loose)]
    assert sizes[1] - sizes[0] >= 96 * 32 * 4
    wn.save_compressed(tied, tmp_path / "tied.safetensors")
    again = wn.load_compressed(tiny_model(tie_word_embeddings=True, num_hidden_layers=3), tmp_path / "tied.safetensors")
    assert torch.equal(again.lm_head.weight, tied.lm_head.weight)


def test_files_that_do_not_fit(model, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="was not written by save_compressed"):
        wn.load_compressed(model, tmp_path / "other.safetensors")
    wn.save_compressed(model, tmp_path / "small.safetensors")
    for other in (tiny_model(num_hidden_layers=4), tiny_model(intermediate_size=64)):
        with pytest.raises(ValueError, match="does not fit"):
            wn.load_compressed(other, tmp_path / "small.safetensors")


# ---- any tensor


class Buffers(nn.Module):
    def __init__(self, fill=False):
        super().__init__()
        for name, dtype in KINDS.items():
            values = torch.zeros(16, 24)
            if fill:
                values[:, ::5] = torch.arange(1, 81).view(16, 5)[:, : values[:, ::5].shape[1]] % 7
            self.register_buffer(f"a_{name}", values.to(dtype))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("empty2", torch.zeros(0, 3))
        self.register_buffer("flat", torch.arange(5.0) * fill)
        self.register_buffer("part", self.a_float32[:4])  # a view that begins where the whole does


KINDS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float32, torch.float64),
        torch.complex64,
    )
}


def test_a_buffer_of_any_dtype_comes_back(tmp_path):
    full = Buffers(fill=True)
    wn.save_compressed(full, tmp_path / "small.safetensors")
    again = wn.load_compressed(Buffers(), tmp_path / "small.safetensors").state_dict()
    for name, tensor in full.state_dict().items():
        assert same_bits(again[name], tensor) and bool(tensor.view(torch.uint8).any()) == (tensor.numel() > 0), name
    assert "a_int8:bitmask" in load_file(tmp_path / "small.safetensors")


def test_nothing_is_left_where_it_cannot_be_written(model, tmp_path, monkeypatch):
    wn.save_compressed(model, tmp_path / "small.safetensors")
    before = (tmp_path / "small.safetensors").read_bytes()

    def fails(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("wanda_nb.checkpoint.compressed.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        wn.save_compressed(model, tmp_path / "small.safetensors")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


# ---- a model without weights


@pytest.mark.parametrize("tied", [False, True])
def test_into_a_model_on_the_meta_device(tied, tokens, tmp_path):
    full = tiny_model(tie_word_embeddings=tied)
    wn.prune(full, tokens)
    wn.save_compressed(full, tmp_path / "small.safetensors")
    with init_empty_weights(include_buffers=False):
        empty = AutoModelForCausalLM.from_config(full.config, dtype=torch.float32)
    again = wn.load_compressed(empty, tmp_path / "small.safetensors").eval()
    assert all(same_bits(again.state_dict()[name], tensor) for name, tensor in full.state_dict().items())
    assert torch.equal(again(tokens).logits, full(tokens).logits)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert again.lm_head.weight.requires_grad


def test_buffers_on_the_meta_device_are_refused(model, tmp_path):
    wn.save_compressed(model, tmp_path / "small.safetensors")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model.config)
    with pytest.raises(ValueError, match=r"inv_freq is on the meta device.*include_buffers=False"):
        wn.load_compressed(empty, tmp_path / "small.safetensors")
    assert empty.lm_head.weight.is_meta


def test_weights_on_the_meta_device_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="weight is on the meta device: load all weights"):
        wn.save_compressed(nn.Linear(3, 3, device="meta"), tmp_path / "small.safetensors")


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize(
    ("stored", "built"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16")]
)
def test_no_dtype_is_changed_in_silence(stored, built, meta, tokens, tmp_path):
    full = tiny_model(dtype=getattr(torch, stored))
    wn.save_compressed(full, tmp_path / "small.safetensors")
    with init_empty_weights(include_buffers=False) if meta else torch.device("cpu"):
        other = AutoModelForCausalLM.from_config(full.config, dtype=getattr(torch, built))
    before = None if meta else other.lm_head.weight.clone()
    with pytest.raises(ValueError, match=rf"Build the model with dtype=torch.{stored}"):
        wn.load_compressed(other, tmp_path / "small.safetensors")
    assert other.lm_head.weight.is_meta if meta else torch.equal(other.lm_head.weight, before)


# ---- files that nobody vouches for

NAME = "model.layers.1.mlp.up_proj.weight"


def crafted(tokens, path, edit):
    """A file of save_compressed after somebody has edited it, and a model for it."""
    model = tiny_model()
    wn.prune(model, tokens)
    wn.save_compressed(model, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    found = load_file(path)
    edit(found)
    save_file(found, path, metadata=metadata)
    return tiny_model()


def put(part, value):
    return lambda found: found.update({NAME + part: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(":shape", torch.tensor([2**23, 2**23])), r"up_proj.weight is \(8388608, 8388608\) there and \(48, 32\)"),
        (put(":shape", torch.tensor([[48, 32], [1, 1]])), "another shape"),
        (put(":bitmask", torch.full((48, 4), 255, dtype=torch.uint8)), r"has 768 values for 1536 bits"),
        (put(":bitmask", torch.zeros(48, 4, dtype=torch.uint8)), r"has 768 values for 0 bits"),
        (put(":bitmask", torch.zeros(48, 5, dtype=torch.uint8)), r"bitmask .* is \(48, 5\)"),
        (put(":bitmask", torch.zeros(48, 4)), "of torch.float32"),
        (put(":values", torch.ones(700)), "has 700 values for 768 bits"),
        (put(":values", torch.ones(24, 32)), "damaged"),
        (put(":values", torch.ones(768).double()), "dtype=torch.float64"),
        (lambda found: found.pop(NAME + ":values"), "lacks a part of"),
        (lambda found: found.pop(NAME + ":bitmask"), "lacks a part of"),
        (lambda found: found.pop(NAME + ":shape"), "lacks a part of"),
        (lambda found: found.update({"more.weight": torch.zeros(2)}), "more.weight missing or unknown"),
        (lambda found: found.pop("model.norm.weight"), "model.norm.weight missing or unknown"),
        (lambda found: found.update({"model.norm.weight": torch.zeros(31)}), "another shape"),
    ],
)
def test_a_file_that_contradicts_itself_or_the_model_is_refused(edit, message, tokens, tmp_path):
    model = crafted(tokens, tmp_path / "small.safetensors", edit)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        wn.load_compressed(model, tmp_path / "small.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a tensor in it", None])
def test_a_damaged_file_is_refused(content, model, tmp_path):
    wn.save_compressed(model, tmp_path / "small.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "small.safetensors").write_bytes(whole[:-9] if content is None else content)
    with pytest.raises(ValueError, match=r"small.safetensors is damaged or cut short"):
        wn.load_compressed(model, tmp_path / "small.safetensors")


def test_compressed_bytes():
    assert compressed_bytes(1024, torch.float16, "dense") == 2048
    assert compressed_bytes(1024, torch.float16, "2:4") == 1024 + 128  # 0.5625 of dense, as the vendor says
    assert compressed_bytes(1024, torch.bfloat16, "bitmask") == 1024 + 128
    assert compressed_bytes(1024, torch.float32, "csr", sparsity=0.75) == 256 * 8
    with pytest.raises(ValueError, match="kind='zip': expected one of dense, 2:4"):
        compressed_bytes(8, torch.float16, "zip")


def test_csr_bytes_are_what_torch_stores():
    W = wn.prune_mask(torch.rand(64, 256)).logical_not().float()
    csr = W.to_sparse_csr()
    stored = csr.values().nbytes + csr.col_indices().int().nbytes
    assert stored == compressed_bytes(W.numel(), torch.float32, "csr")
