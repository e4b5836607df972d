"""The pretended GPU itself: what it refuses, counts and finds."""

import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pretended_gpu
import pytest
import torch
from accelerate.utils import set_module_tensor_to_device
from pretended_streams import Race
from torch import nn

KIB = 1024


def on_gpu(*shape):
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize("gpu", pretended_gpu.DEVICE_TYPES, indirect=True)
def test_tensors_say_where_they_are_and_have_the_cpus_numbers(gpu):
    kind = gpu.device.type
    x = torch.randn(4, 4)
    y = x.to(kind)
    assert y.device == torch.device(kind, 0) and y.is_cuda == (kind == "cuda") and not x.is_cuda
    assert torch.equal((y @ y.T).relu().cpu(), (x @ x.T).relu()) and y.tolist() == x.tolist()
    assert all(made.device == y.device for made in (torch.tensor([1.0], device=kind), y.clone(), torch.zeros_like(y)))
    assert torch.accelerator.current_accelerator().type == kind and torch.accelerator.is_available()
    assert "on " + kind in repr(y)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(3, 3),
        lambda x: x @ torch.ones(3, 3),
        lambda x: torch.cat([x, torch.ones(3, 3)]),
        lambda x: torch.ones(3)[x[0] > 0],
        lambda x: torch.ones(()).add_(x[0, 0]),
        lambda x: torch.ones(3, 3).mul_(x),
        lambda x: x.masked_fill_(torch.ones(3, 3) > 0, 0),
        lambda x: x.where(x > 0, torch.ones(3, 3)),
        lambda x: nn.functional.linear(x, torch.ones(3, 3)),
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: torch.lt(x, 1, out=torch.empty(3, 3, dtype=torch.bool)),
        lambda x: x.numpy(),
        lambda x: x.pin_memory(),
        lambda x: torch.ones(3, device="cuda:1"),
        lambda x: x.to("cuda:1"),
    ],
)
def test_what_cuda_refuses_is_refused(gpu, wrong):
    with pytest.raises((RuntimeError, TypeError)):
        wrong(on_gpu(3, 3))


def test_what_cuda_allows_is_allowed(gpu):
    x = on_gpu(3, 3)
    x + torch.tensor(2.0)
    x.where(x > 0, torch.tensor(0.0))
    x.masked_fill_(x > 1, torch.tensor(3.0))
    x[torch.tensor([0])] = torch.tensor(5.0)
    x.copy_(torch.zeros(3, 3))
    torch.zeros(3, 3).copy_(x)
    torch.zeros_like(torch.ones(3), device="cuda") + x
    assert x[torch.tensor([0, 2])].shape == (2, 3) and not x.any()


def test_bytes_alive_and_their_peak(gpu):
    x = on_gpu(KIB)
    view, same = x.view(2, -1)[1], x.detach()
    assert gpu.alive == 4 * KIB
    x += x
    assert gpu.peak == 4 * KIB
    y = x + x
    assert gpu.alive == gpu.peak == 8 * KIB == torch.cuda.memory_allocated()
    del x, y, view
    assert (gpu.alive, gpu.peak) == (4 * KIB, 8 * KIB)
    del same
    torch.cuda.reset_peak_memory_stats()
    assert gpu.alive == torch.cuda.max_memory_allocated() == 0


def test_out_of_memory():
    with pretended_gpu.device(total=8 * KIB):
        x = on_gpu(KIB)
        assert torch.cuda.mem_get_info() == (4 * KIB, 8 * KIB)
        with pytest.raises(torch.OutOfMemoryError, match="8192 bytes, 4096 are free"):
            on_gpu(2 * KIB)
        assert on_gpu(KIB).shape == x.shape


def test_bytes_copied_each_way_and_when(gpu):
    x = torch.ones(KIB).cuda()
    x.add_(1)
    x[:256].cpu()
    torch.ones(2).copy_(x[:2])
    x.copy_(torch.zeros(KIB))
    x.bfloat16()
    assert [(copy.way, copy.bytes) for copy in gpu.copies] == [
        ("in", 4 * KIB),
        ("out", KIB),
        ("out", 8),
        ("in", 4 * KIB),
    ]
    assert (gpu.copied("in"), gpu.copied("out")) == (8 * KIB, KIB + 8)
    moments = [copy.moment for copy in gpu.copies]
    assert moments == [0, 2, 3, 4] and all(copy.where.startswith("test_pretended_gpu.py") for copy in gpu.copies)


def test_modules_move_and_keep_their_parameters(gpu):
    module = nn.Linear(3, 3)
    weight, before = module.weight, module.weight.detach().clone()
    module.to("cuda")
    assert module.weight is weight and weight.is_cuda and isinstance(weight, nn.Parameter)
    twin = copy.deepcopy(module)
    assert twin.weight.is_cuda and twin.weight is not weight and isinstance(twin.weight, nn.Parameter)
    set_module_tensor_to_device(module, "weight", "cuda:0", value=torch.zeros(3, 3))
    set_module_tensor_to_device(module, "bias", "meta")
    assert module.weight.is_cuda and not module.weight.any() and module.bias.is_meta
    twin.to("cpu")
    assert torch.equal(twin.weight, before) and type(twin.weight) is nn.Parameter
    del module, weight, twin
    gc.collect()
    assert gpu.alive == 0


def test_other_threads_see_the_device(gpu):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: on_gpu(3).is_cuda).result()
        with pytest.raises(RuntimeError, match="two devices"):
            pool.submit(lambda: on_gpu(3) + torch.ones(3)).result()


def test_streams_belong_to_threads(gpu):
    side, seen = torch.cuda.Stream(), []
    with torch.cuda.stream(side):
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream().number))
        thread.start()
        thread.join()
        assert torch.cuda.current_stream().number == side.number
    assert seen == [0] and torch.cuda.current_stream().number == 0


WAITS = {
    "nothing": lambda side: None,
    "event": lambda side: torch.cuda.current_stream().wait_event(side.record_event()),
    "stream": lambda side: torch.cuda.current_stream().wait_stream(side),
    "host": lambda side: side.synchronize(),
    "device": lambda side: torch.cuda.synchronize(),
    "event on the host": lambda side: side.record_event().synchronize(),
    "the wrong way": lambda side: side.wait_stream(torch.cuda.current_stream()),
    "an event too early": lambda side: torch.cuda.current_stream().wait_event(torch.cuda.Event()),
}


@pytest.mark.parametrize("how", WAITS)
def test_reading_before_waiting_is_a_race(gpu, how):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x = on_gpu(3)
    WAITS[how](side)
    if how in ("nothing", "the wrong way", "an event too early"):
        with pytest.raises(Race, match="stream 0 reads"):
            x + 1
    else:
        x + 1
    torch.cuda.synchronize()


def test_writing_what_another_stream_still_reads_is_a_race(gpu):
    side, x = torch.cuda.Stream(), on_gpu(3)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1
    x + 1  # both may read
    with pytest.raises(Race, match="writes"):
        x.zero_()
    torch.cuda.current_stream().wait_stream(side)
    x.zero_()
    assert y.is_cuda


@pytest.mark.parametrize("how", ["nothing", "record_stream", "wait", "synchronize"])
def test_freeing_what_another_stream_still_reads_is_a_race(how):
    with pretended_gpu.device() as gpu:
        side, x = torch.cuda.Stream(), on_gpu(3)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x + 1
        if how == "record_stream":
            x.record_stream(side)
        elif how == "wait":
            torch.cuda.current_stream().wait_stream(side)
        elif how == "synchronize":
            side.synchronize()
        del x
        if how == "nothing":
            with pytest.raises(Race, match="freed while stream"):
                on_gpu(1)
        on_gpu(1)
        assert gpu.races == []


def test_a_race_in_the_last_line_is_raised_at_the_end():
    with pytest.raises(Race, match="freed"), pretended_gpu.device():
        side = torch.cuda.Stream()
        x = on_gpu(3)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x.add_(1)
        del x


def test_only_pinned_memory_is_copied_behind_the_hosts_back(gpu):
    torch.ones(3).to("cuda", non_blocking=True)
    assert gpu.waits["a stream"] == 1
    pinned = torch.ones(3).pin_memory()
    assert pinned.is_pinned() and torch.empty(3, pin_memory=True).is_pinned() and not torch.ones(3).is_pinned()
    x = pinned.to("cuda", non_blocking=True)
    pinned + 1
    assert gpu.waits["a stream"] == 1
    with pytest.raises(Race, match="the host writes"):
        pinned.zero_()
    x.cpu()
    assert gpu.waits["a stream"] == 2
    pinned.zero_()


def test_the_host_waits_for_what_comes_home_without_blocking(gpu):
    x, buffer = on_gpu(4), torch.empty(8, pin_memory=True)
    buffer[4:].copy_(x, non_blocking=True)  # a view of what is being written is no reading
    home = x.to("cpu", non_blocking=True)
    for early in (lambda: home + 1, lambda: float(buffer[0]), lambda: buffer.clone()):
        with pytest.raises(Race, match="the host reads"):
            early()
    torch.cuda.current_stream().synchronize()
    assert home.tolist() == buffer[4:].tolist() == [1] * 4


def test_answers_on_the_host_make_it_wait(gpu):
    x = on_gpu(3)
    for wait in (
        lambda: bool(x.all()),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: torch.equal(x, x),
        lambda: x.sum().item(),
        lambda: x.tolist(),
    ):
        before = gpu.waits["a stream"]
        wait()
        assert gpu.waits["a stream"] == before + 1
    index, before = x.long(), gpu.waits["a stream"]
    x[index], x.sum(), x[:2]
    assert gpu.waits["a stream"] == before


def test_order_that_rests_on_an_answer_alone_is_a_race_where_it_must_not():
    for answers_wait in (True, False):
        with pretended_gpu.device(answers_wait=answers_wait):
            side, x = torch.cuda.Stream(), on_gpu(3)
            assert bool(x.all())
            if answers_wait:
                with torch.cuda.stream(side):
                    x + 1
                side.synchronize()
            else:
                with pytest.raises(Race, match="reads"), torch.cuda.stream(side):
                    x + 1


def test_a_device_without_float64():
    with pretended_gpu.device("mps", float64=False):
        x = torch.ones(3, device="mps")
        for wrong in (x.double, lambda: torch.zeros(3, dtype=torch.float64, device="mps")):
            with pytest.raises(TypeError, match="float64"):
                wrong()


def test_an_index_before_anything_was_there():
    """torch.cuda initialises itself when asked for "cuda", not for "cuda:0"."""
    with pretended_gpu.device():
        with pytest.raises(RuntimeError, match="did you call init"):
            torch.cuda.reset_peak_memory_stats("cuda:0")
        torch.cuda.reset_peak_memory_stats("cuda")
        torch.cuda.reset_peak_memory_stats("cuda:0")


def test_afterwards_all_is_as_before():
    run, lift = threading.Thread.run, torch._C._only_lift_cpu_tensors()
    with pretended_gpu.device():
        assert torch.cuda.is_available()
    assert threading.Thread.run is run and torch._C._only_lift_cpu_tensors() == lift
    assert not torch.__future__.get_swap_module_params_on_conversion()
    x = torch.ones(3, requires_grad=True)
    x.sum().backward()
    assert x.grad.tolist() == [1] * 3
