"""The pinned vision transformer is the one in its ONNX file: the same features as the runtime for such files gives."""

import builtins

import pytest
import torch

import wanda_nb as wn
from wanda_nb.inputs import assets, vision

onnx = pytest.importorskip("onnx", reason="the vision model is read with it: pip install wanda-nb[images]")
LAST = "/backbone/layernorm/Add_1_output_0"  # what leaves the backbone


def opened():
    (path,) = assets.fetch("vision").values()
    return onnx.load(path)


@pytest.fixture(scope="module")
def model():
    return wn.load_vision_model()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features(model, images):
    return model(images).last_hidden_state


@pytest.fixture(scope="module")
def expected(images):
    runtime = pytest.importorskip("onnxruntime", reason="it is what the features are compared with")
    graph = opened()
    graph.graph.output.append(onnx.helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([LAST], {"input_image": images.numpy()})[0])


def test_features_are_those_of_onnxruntime(model, images, expected):
    assert features(model, images).shape == expected.shape == (2, 257, 384)
    assert expected.std() > 0.5
    torch.testing.assert_close(features(model, images), expected, atol=2e-4, rtol=1e-3)


def test_that_comparison_sees_one_exchanged_pair_of_weights(model, images, expected):
    attention = model.encoder.layer[5].attention
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    try:
        assert (features(model, images) - expected).abs().max() > 1e-2
    finally:
        attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj


def test_it_is_a_vit_s_14_and_ready_to_be_pruned(model):
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 384, 6)
    assert (config.patch_size, config.image_size, config.layer_norm_eps) == (14, 518, pytest.approx(1e-6))
    assert not model.training and len(wn.decoder_blocks(model)) == 12
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a bias dropped", r"encoder\.layer\.3\.mlp\.fc1\.bias is missing"),
        ("a product dropped", r"encoder\.layer\.3\.mlp\.fc2\.weight is missing"),
        ("a weight more", r"encoder\.layer\.3\.mlp\.gate\.weight is \(1536, 384\), expected no such weight"),
        ("positions dropped", r"expected two parts, Concat and Reshape, found \['Concat'\]"),
    ],
)
def test_a_changed_graph_is_refused(change, message):
    graph = opened().graph
    named = {node.name: node for node in graph.node}
    if change == "a bias dropped":
        named["/backbone/encoder/layer.3/mlp/fc1/Add"].input[0] = "nothing"
    elif change == "a product dropped":
        graph.node.remove(named["/backbone/encoder/layer.3/mlp/fc2/MatMul"])
    elif change == "a weight more":
        more = graph.node.add()
        more.CopyFrom(named["/backbone/encoder/layer.3/mlp/fc1/MatMul"])
        more.name = "/backbone/encoder/layer.3/mlp/gate/MatMul"
    else:
        graph.node.remove(named["/backbone/embeddings/Reshape_1"])
    with pytest.raises(ValueError, match=message):
        vision.dinov2_from(graph)


def test_without_onnx_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_onnx(name, *rest):
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_onnx)
    with pytest.raises(ImportError, match=r'pip install onnx, or .*pip install "wanda-nb\[images\]"'):
        wn.load_vision_model()
