"""ONNX models made by hand, run by onnxruntime."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.svd import decompose
from rmt_compress.layers import as_matrix
from rmt_compress.layers.splitting import factor_tensors, split_refusal

FLOAT = TensorProto.FLOAT


def model(nodes, tensors, inputs, outputs=("y",), *, opset=17, ir=8, name="g", kind=FLOAT, **more):
    """A model of these nodes.

    Args:
        nodes: from `onnx.helper.make_node`.
        tensors: name -> array, or a finished TensorProto.
        inputs: name -> shape.
        outputs: names.
        opset: of ONNX's own operators.
        ir: the IR version.
        kind: element type of inputs and outputs.
    """
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, kind, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, kind, None) for key in outputs],
        [proto(key, value) for key, value in tensors.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)
    # The checker wants shapes of the outputs.
    inferred = onnx.shape_inference.infer_shapes(built)
    for entry, known in zip(built.graph.output, inferred.graph.output, strict=True):
        entry.CopyFrom(known)
    return built


def proto(name, value):
    return value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value, order="C"), name)


def saved(built, path):
    path.write_bytes(built.SerializeToString())
    return path


def session(path):
    """onnxruntime with one thread: more would wait for one another in a loop where two tests run at once."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, feeds):
    return session(path).run(None, feeds)


def split_all(path, target, *, rank=None):
    """Split every weight that can be split, at full rank unless another is given; the names of those that were."""
    done = []
    with open_checkpoint(path) as checkpoint:
        editor = checkpoint.editor()
        for layer in checkpoint.layers():
            if layer.skip_reason(min_size=1) is not None or split_refusal(layer) is not None:
                continue
            matrix = as_matrix(layer, checkpoint.read(layer.tensor))
            found = decompose(matrix, rank)
            editor.replace(layer, factor_tensors(layer, *found.factors(found.rank)))
            done.append(layer.name)
        editor.write(target, target=target, metadata={"made": "by a test"}, sparse=False)
    return done


def nodes_of(path):
    return {node.name: node for node in onnx.load(path, load_external_data=False).graph.node}
