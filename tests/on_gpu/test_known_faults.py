"""What the pretended GPU found in the package: a test that is marked fails until the fault is mended."""

import json
from unittest.mock import patch

import pretended_gpu
import pytest
import torch
from package import inner, saved, weights
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.__main__ import parser


def issue(item, error=AssertionError):
    return pytest.mark.xfail(strict=True, raises=error, reason=f"issue item {item}")


@issue(7, RuntimeError)
def test_masks_follow_the_model_to_its_device(gpu):
    model = tiny_model()
    wn.prune(model, None, method="magnitude")
    zeros = {name: weight == 0 for name, weight in weights(model).items()}
    watch = inner("KeepZeros")[0].KeepZeros(model)
    model.to("cuda")  # as the trainer does
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    watch.on_optimizer_step()
    layers = [name for name in zeros if name.endswith("proj.weight")]
    assert layers and not any(weights(model)[name][zeros[name]].any() for name in layers)


@issue(7)
def test_one_process_trains_on_one_device(tokens, tmp_path, gpu):
    settings = {"steps": 1, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "seed": 0}
    with patch.object(torch.cuda, "device_count", lambda: 2):
        model = tiny_model().to("cuda")
        made = inner("trainer")[0].trainer(model, tokens, settings, tmp_path, None, [])
        assert made.args.n_gpu == 1 and made.args.train_batch_size == 2


ANY = pytest.mark.xfail(strict=True, raises=(AssertionError, RuntimeError, ValueError), reason="issue, Any accelerator")
OTHERS = pytest.mark.parametrize("gpu", ["xpu", "mps"], indirect=True)


@ANY
@OTHERS
def test_the_command_line_takes_any_device(gpu):
    assert parser().parse_args(["evaluate", "model"]).device == gpu.device.type


@ANY
@OTHERS
def test_any_device_is_recorded(tokens, tmp_path, gpu):
    saved(tmp_path / "dense")
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", None, "magnitude", device=gpu.device.type)
    assert not json.loads((tmp_path / "out" / "pruning.json").read_text())["device"].startswith("CPU")


@ANY
@OTHERS
def test_device_memory_is_the_devices(tokens, gpu):
    report = wn.prune(tiny_model(), tokens, device=gpu.device.type)
    assert report.peak_memory <= gpu.peak  # mps tells only what is in use, so a peak that is sampled


@ANY
@pytest.mark.parametrize("gpu", ["xpu"], indirect=True)  # mps has no streams
def test_any_device_reads_and_writes_beside_the_computing(tokens, tmp_path, gpu):
    saved(tmp_path / "dense")
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens, device="xpu", batch_size=2)
    assert len(gpu.launched) == 3


@ANY
@pytest.mark.parametrize("gpu", pretended_gpu.DEVICE_TYPES, indirect=True)
def test_auto_takes_the_best_there_is(tokens, gpu):
    wn.prune(tiny_model(), tokens, device="auto")
    assert gpu.peak > 0
