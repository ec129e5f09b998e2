"""Large libraries, imported before coverage begins to count; the Makefile sets ``PYTEST_PLUGINS=tests.early``.

Coverage follows every call in them too, which makes their imports three times as long, and the tests need them all.
Processes that run no tests of their own, like the one that hands them out, import nothing.
"""

import importlib
import os

LARGE = (
    *("torch._dynamo", "torch.distributed", "torch.export", "scipy.optimize", "scipy.stats", "sklearn.datasets"),
    *("sklearn.model_selection", "accelerate", "matplotlib.pyplot", "hypothesis", "onnx", "onnxruntime"),
    *("onnxscript", "pandas", "pyarrow.parquet"),
)

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in LARGE:
        importlib.import_module(name)
