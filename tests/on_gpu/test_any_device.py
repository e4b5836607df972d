"""Whatever the accelerator is called: found, named, waited for, accounted for, and refused clearly."""

import json
from types import SimpleNamespace
from unittest.mock import patch

import pretended_gpu
import pytest
import torch
import torch.distributed as dist
from package import LITTLE, assert_same, at_home, files, inner, nothing_left, saved, text, weights
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.__main__ import main, parser

ANY = pytest.mark.parametrize("gpu", pretended_gpu.DEVICE_TYPES, indirect=True)
OTHERS = pytest.mark.parametrize("gpu", ["xpu", "mps"], indirect=True)


@OTHERS
def test_pruning_on_other_devices(tokens, tmp_path, gpu):
    kind = gpu.device.type
    expected, visiting, whole = (tiny_model() for _ in range(3))
    whole.to(kind)
    wn.prune(expected, tokens)
    wn.prune(visiting, tokens, device=kind)
    wn.prune(whole, tokens)
    assert at_home(visiting) and gpu.peak > 0
    assert_same(weights(visiting), weights(expected))
    assert_same(weights(whole), weights(expected))
    saved(tmp_path / "dense")
    for name in ("cpu", kind):
        wn.prune_checkpoint(tmp_path / "dense", tmp_path / name, tokens, device=name)
    assert files(tmp_path / "cpu") == files(tmp_path / kind)
    del whole
    assert nothing_left(gpu)


@ANY
def test_auto_takes_the_best_there_is(tokens, tmp_path, gpu):
    kind, dense = gpu.device.type, saved(tmp_path / "dense")
    for call in (
        lambda: wn.prune(tiny_model(), tokens, device="auto"),
        lambda: wn.owl_sparsity(tiny_model(), tokens, device="auto"),
        lambda: wn.prune_checkpoint(dense, tmp_path / "out", tokens, device="auto"),
        lambda: inner("join_processes")[0].join_processes("auto"),
    ):
        gpu.peak = 0
        call()
        assert gpu.peak > 0
    with patch("wanda_nb.inputs.loading.AutoTokenizer"):
        assert wn.load_model(str(dense), device="auto")[0].device == gpu.device
    assert parser().parse_args(["evaluate", "model"]).device == kind
    assert inner("best_device")[0].best_device() == torch.device(kind)


def test_auto_is_the_cpu_where_there_is_nothing_else():
    assert inner("usable_device")[0].usable_device("auto") == torch.device("cpu")
    assert parser().parse_args(["evaluate", "model"]).device == "cpu"


@ANY
def test_it_is_recorded_by_its_name(tokens, tmp_path, gpu):
    saved(tmp_path / "dense")
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", None, "magnitude", device=gpu.device.type)
    assert json.loads((tmp_path / "out" / "pruning.json").read_text())["device"] == "Pretended GPU"


@OTHERS
def test_device_memory_is_the_devices(tokens, gpu):
    torch.ones(2**20, device=gpu.device.type)  # an earlier peak is not this run's
    report = wn.prune(tiny_model(), tokens, device=gpu.device.type)
    assert 0 < report.peak_memory <= 2**20  # mps tells only what is in use, so a peak that is sampled
    gpu.peak = 0
    wn.prune(tiny_model(), tokens, device=gpu.device.type)
    assert gpu.device.type == "mps" or report.peak_memory == gpu.peak


@ANY
@pytest.mark.parametrize("free", [None, 1000])
def test_as_many_windows_at_a_time_as_the_device_has_room_for(free, tokens, gpu):
    windows, block = inner("windows_at_a_time")[0].windows_at_a_time, wn.decoder_blocks(tiny_model())[0]
    with patch.object(torch.mps, "current_allocated_memory", lambda: 0 if free is None else gpu.total - free):
        gpu.free = free
        assert windows(None, 12, block, gpu.device) == (8192 // 12 if free is None else 1)
        buffer = inner("allocator")[0].allocator(gpu.device)((3, 4, 32), torch.float32)
        assert buffer.device.type == ("cpu" if free else gpu.device.type)


@pytest.mark.parametrize("gpu", ["mps"], indirect=True)
def test_a_device_in_the_machines_memory_has_no_more_free_than_the_machine(gpu, monkeypatch):
    free_memory = inner("free_memory")[0].free_memory
    assert free_memory(gpu.device) <= gpu.total
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=123))
    assert free_memory(gpu.device) == free_memory(torch.device("cpu")) == 123


@OTHERS
def test_times_include_the_work_of_the_device(gpu):
    x = torch.ones(3, device=gpu.device.type)

    def launch():
        x.add_(1)

    def phase():
        with inner("Clock")[0].Clock(gpu.device)("select"):
            launch()

    for measure in (
        phase,
        lambda: (launch(), inner("wait_for")[0].wait_for(gpu.device)),
        lambda: inner("paired_seconds")[0].paired_seconds(launch, launch, repeats=1),
        lambda: inner("_product_seconds")[0]._product_seconds(4, gpu.device, torch.float32),
    ):
        measure()
        assert gpu.host == gpu.launched  # nothing is under way


@ANY
def test_a_gpus_dtype_is_one_that_its_hardware_has(gpu):
    native = inner("native_dtype")[0].native_dtype
    assert native(gpu.device) == (torch.float16 if gpu.device.type == "mps" else torch.bfloat16)
    assert native(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(
    ("gpu", "device", "backend"),
    [("cuda", "cuda:0", "nccl"), ("xpu", "xpu:0", "xccl"), ("mps", "mps", "gloo")],
    indirect=["gpu"],
)
def test_processes_are_joined_as_the_device_needs_it(device, backend, gpu, monkeypatch):
    asked, chosen = [], []
    monkeypatch.setattr(dist, "init_process_group", lambda backend: asked.append(backend))
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    join = inner("join_processes")[0].join_processes
    assert join(gpu.device.type) == join("auto") == torch.device(device)
    assert asked == [backend] * 2 and chosen == [torch.device(device)] * 2 * (backend != "gloo")
    assert join("cpu") == torch.device("cpu") and asked[2:] == ["gloo"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    if backend == "gloo":
        assert join("mps") == torch.device("mps")
    else:
        with pytest.raises(
            (ValueError, RuntimeError), match=r"invalid device ordinal|not usable here: expected cpu or"
        ):
            join(gpu.device.type)


@OTHERS
def test_what_processes_sum_up_goes_where_the_backend_reads_it(gpu, monkeypatch):
    backend = {"xpu": "xccl", "mps": "gloo"}[gpu.device.type]

    def all_reduce(tensor):
        assert tensor.device.type == ("cpu" if backend == "gloo" else "xpu")
        tensor.mul_(2)

    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr("wanda_nb.distributed.world", lambda: (0, 2))
    x = torch.arange(3.0).to(gpu.device)
    assert inner("sum_over_ranks")[0].sum_over_ranks(x) is x and x.tolist() == [0, 2, 4]


@pytest.mark.parametrize("gpu", ["mps"], indirect=True)
def test_several_processes_do_not_train_apart(tokens, gpu, monkeypatch):
    model = tiny_model().to("mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes would train 2 models apart: .* on mps:0"):
        wn.recover(model, tokens)


def test_no_float64_where_there_is_none(tokens):
    with pretended_gpu.device("mps", float64=False):
        for how in ({"method": "magnitude"}, {"method": "ria"}, {"method": "sparsegpt"}, {"update": "one-shot"}):
            wn.prune(tiny_model(**LITTLE), text(how, tokens), device="mps", **how)
        wn.owl_sparsity(tiny_model(**LITTLE), tokens, device="mps")
        wn.perplexity(tiny_model(**LITTLE).to("mps"), tokens)


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_float64_weights_are_refused_where_there_is_none(method, tokens, tmp_path):
    model, out, how = tiny_model(dtype=torch.float64), tmp_path / "out", {"method": method, "device": "mps"}
    before, dense = weights(model), saved(tmp_path / "dense", dtype=torch.float64)
    wn.prune(tiny_model(dtype=torch.float64), tokens)  # elsewhere it is a dtype like others
    with pretended_gpu.device("mps", float64=False) as gpu, patch("wanda_nb.inputs.loading.AutoTokenizer"):
        for call in (
            lambda: wn.prune(model, tokens, **how),
            lambda: wn.prune_checkpoint(dense, out, tokens, **how),
            lambda: wn.estimate_checkpoint(dense, tokens, **how),
            lambda: wn.load_model(str(dense), device="mps", dtype=torch.float64),
        ):
            with pytest.raises(ValueError, match=r"mps has no float64: expected float32 weights, or device='cpu'"):
                call()
        assert not gpu.copied("in") and not out.exists()
        if method == "wanda":  # computed in float32, stored as it was
            wn.prune_checkpoint(dense, out, tokens, dtype=torch.float32, **how)
        else:  # scored as it is stored
            with pytest.raises(ValueError, match="no float64"):
                wn.prune_checkpoint(dense, out, None, dtype=torch.float32, **how)
    assert_same(weights(model), before)


@pytest.mark.parametrize(
    ("gpu", "hint"),
    [("mps", ", or set PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts"), ("xpu", "")],
    indirect=["gpu"],
)
def test_an_operator_that_is_not_there_is_named(hint, tokens, tmp_path, gpu):
    model, dense, kind = tiny_model(), saved(tmp_path / "dense"), gpu.device.type
    before, gpu.lacks = weights(model), ("aten::kthvalue",)
    for call in (
        lambda: wn.prune(model, tokens, device=kind),
        lambda: wn.prune_checkpoint(dense, tmp_path / "out", tokens, device=kind),
    ):
        said = rf"^{kind}(:0)? lacks the operator aten::kthvalue: expected .*\. Use device='cpu'{hint}\.$"
        with pytest.raises(ValueError, match=said):
            call()
    assert_same(weights(model), before)


@OTHERS
def test_what_is_not_there_is_said_in_one_line(gpu, capsys):
    kind = gpu.device.type
    for device in ("cuda", "foo"):
        assert main(["evaluate", "nothing", "--device", device]) == 2
        shown = capsys.readouterr()
        expected = (
            f"error: device={device!r} is not usable here: expected cpu or {kind}:0, or auto for the best of them."
        )
        assert not shown.out and shown.err.splitlines() == [expected]


@pytest.mark.parametrize("gpu", ["xpu"], indirect=True)  # mps has no streams
def test_any_device_reads_and_writes_beside_the_computing(tokens, tmp_path, gpu):
    saved(tmp_path / "dense")
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens, device="xpu", batch_size=2)
    assert len(gpu.launched) == 3
