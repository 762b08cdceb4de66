"""Inference on a processor by ONNX Runtime, 1.7 times as fast as by PyTorch, which trains and is the reference.

Both compute in float32 and differ in the sixth digit, so what is made with one is never mixed with the other's:
`pmm.run.experiment` writes the engine's name into the settings of the stages that it makes.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from pmm.errors import InputError, MissingDependency
from pmm.threads import available_threads, run_parallel

PACKAGES = ("onnxruntime", "onnx")  # the second checks what torch writes
OPSET = 17  # of ONNX; onnxruntime 1.17 and torch 2.4 know it
TRACED, CHECKED = (96, 128), (160, 64)  # heights and widths: one to convert a network with, another to prove it
TOLERANCE = 1e-4  # largest difference from PyTorch, as a share of the largest output


def choose_engine(asked: str, device: torch.device) -> str:
    """Return which engine computes, `torch` or `onnxruntime`; `auto` takes the latter on a processor, if installed.

    Raises:
        InputError: ONNX Runtime is asked for on a GPU.
        MissingDependency: it is asked for, and not installed; `auto` prints that and takes PyTorch.
    """
    if asked == "torch" or (asked == "auto" and device.type != "cpu"):
        return "torch"
    if device.type != "cpu":
        raise InputError(f"inference = onnxruntime: it computes on the processor, not on {device.type}; take auto")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if not missing:
        return "onnxruntime"
    hint = f"pip install {' '.join(missing)}"
    if asked == "onnxruntime":
        raise MissingDependency(f"inference = onnxruntime: {' and '.join(missing)} not installed; {hint}")
    print(f"inference: by PyTorch; ONNX Runtime takes less time on a processor: {hint}", flush=True)
    return "torch"


def accelerate(model: nn.Module, engine: str) -> nn.Module:
    """Return the network as the engine runs it; the network itself for `torch`, and, aloud, where it is refused.

    Args:
        model: in evaluation mode; a classifier gives its `maps`, a segmentation model its logits.
        engine: as `choose_engine` says.
    """
    if engine == "torch":
        return model
    try:
        return OnnxNetwork(model)
    except Exception as error:  # a converter may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        print(f"inference: by PyTorch; ONNX Runtime does not take this network ({reason})", flush=True)
        return model


class OnnxNetwork(nn.Module):
    """A network's pass for images of any size: it stands in for the model in `pmm.networks.inference`.

    Every image is computed alone and by one thread, so that the result depends neither on the number of threads nor
    on its neighbours, and its arrays stay longer in the caches. Callers on several threads share it; a batch that
    comes from the main thread is spread over the cores.

    Args:
        model: as in `accelerate`; its weights are copied.

    Raises:
        ValueError: the converted network does not compute what the model does.
        Exception: whatever the converter raises.
    """

    memory_format = torch.contiguous_format

    def __init__(self, model: nn.Module):
        super().__init__()
        import onnxruntime

        self.model = model  # tells the device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        passes = _Pass(model).eval()
        self._session = onnxruntime.InferenceSession(_to_onnx(passes), options, providers=["CPUExecutionProvider"])
        _check_equal(passes, self)

    def __reduce__(self) -> tuple[type, tuple[nn.Module]]:
        """Travel to another process as the model, which is converted anew there: a session cannot travel."""
        return OnnxNetwork, (self.model,)

    def maps(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) float32 to the classifier's class maps (N,C,h,w)."""
        return self(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) float32 to what the model gives for them."""
        outputs = run_parallel(available_threads(), self._alone, images.contiguous().split(1))
        return torch.cat(outputs)

    def _alone(self, image: Tensor) -> Tensor:
        (output,) = self._session.run(None, {"images": image.numpy()})
        return torch.from_numpy(output)


class _Pass(nn.Module):
    """What inference asks of a network, as a forward pass, which is what a converter reads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) float32 to class maps or logits."""
        return self.model.maps(images) if hasattr(self.model, "maps") else self.model(images)


@torch.no_grad()
def _to_onnx(passes: nn.Module) -> bytes:
    """Trace a network and write it as ONNX, for any number of images of any size; batch norms are folded."""
    file = io.BytesIO()
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["maps"]}
    names["dynamic_axes"] = {name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in ("images", "maps")}
    with warnings.catch_warnings(), _muted():
        warnings.simplefilter("ignore")  # the tracer sees sizes that do not depend on the image; `_check_equal` judges
        # dynamo=True, the newer exporter, needs two more packages and many times as long
        torch.onnx.export(passes, (_noise(*TRACED),), file, opset_version=OPSET, dynamo=False, **names)
    return file.getvalue()


@contextmanager
def _muted() -> Iterator[None]:
    """Send what the process writes to its standard streams nowhere.

    Where the converter refuses a network it prints the whole graph, and holds the interpreter's lock meanwhile; in a
    notebook the reader of that pipe waits for the lock, and both would wait for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        yield
    finally:
        with suppress(OSError, AttributeError):  # what C keeps in its buffers goes the same way
            ctypes.CDLL(None).fflush(None)
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
        for copy in (nowhere, *kept):
            os.close(copy)


@torch.inference_mode()
def _check_equal(passes: nn.Module, converted: nn.Module) -> None:
    """Compare on an image of another size than the traced one: a size that became a constant shows."""
    image = _noise(*CHECKED)
    expected, found = passes(image), converted(image)
    if found.shape != expected.shape:
        raise ValueError(f"its output is {tuple(found.shape)}, not {tuple(expected.shape)}")
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not off <= TOLERANCE:
        raise ValueError(f"its output is off by {off:.1e}")


def _noise(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
