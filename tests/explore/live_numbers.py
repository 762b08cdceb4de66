"""The numbers that a page of sliders must show, computed by pmm.method from what the page holds."""

import base64
import io
import json
import zlib
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from pmm.method import IGNORE_INDEX
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.method.metrics import confusion_matrix, iou_per_class, mean_iou
from pmm.method.pseudo_mask import background_score, proportion, threshold_pseudo_mask
from pmm.method.smoothing import coefficient_of_variation, raise_cam, smoothing_exponent


def unpack_bytes(text):
    """Return the bytes of `pack_bytes`, (N,) uint8."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def unpack_maps(text, shape):
    """Return the maps of `pack_maps`, (C, H, W) float32."""
    steps = np.ascontiguousarray(unpack_bytes(text).reshape(2, -1).T).view("<u2").ravel()
    return np.cumsum(steps, dtype=np.uint16).view(np.float16).astype(np.float32).reshape(shape)


def unpack_masks(text, shape):
    """Return the masks of `pack_masks`, (S, A, C, H, W) bool."""
    steps = unpack_bytes(text).reshape(*shape[:3], -1).copy()
    steps[:, 0] = np.bitwise_xor.accumulate(steps[:, 0], axis=0)
    bits = np.bitwise_xor.accumulate(steps, axis=1)
    pixels = shape[3] * shape[4]
    return np.unpackbits(bits, axis=-1, bitorder="little")[..., :pixels].astype(bool).reshape(shape)


class Scene:
    """One scene of a page, unpacked."""

    def __init__(self, grid, packed):
        self.size, self.ids = (packed["height"], packed["width"]), packed["classes"]
        self.image = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed["image"].partition(",")[2]))))
        shape = (len(self.ids), *self.size)
        self.cam = unpack_maps(packed["cam"], shape)
        self.foreground = unpack_masks(packed["foreground"], (len(grid["s"]), len(grid["alpha"]), *shape))
        labels = {name: packed.get(name) for name in ("truth", "learned")}
        self.truth, self.learned = (text and unpack_bytes(text).reshape(self.size) for text in labels.values())
        self.loss = {name: unpack_maps(text, (1, *self.size))[0] for name, text in packed.get("loss", {}).items()}


@lru_cache(maxsize=8)
def _unpacked(text):
    return Scene(*json.loads(text))


def scene_of(data, place):
    """One scene of a page; the last few stay unpacked."""
    return _unpacked(json.dumps([data["grid"], data["scenes"][place]]))


def percent(value):
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def numbers_and_maps(data, view, place, setting):
    """What the page shows for a setting: texts by name, and arrays by name."""
    scene = scene_of(data, place)
    return {"smoothing": _smoothing, "masks": _masks, "underfitting": _underfitting}[view](data, scene, setting)


def _smoothing(data, scene, x):
    before = scene.cam[[scene.ids.index(x["class"])]]
    c_v = coefficient_of_variation(before, x["t"])
    exponent = smoothing_exponent(c_v, x["s"])
    after = raise_cam(before, exponent, x["t"], x["variant"])
    texts = {"c_v": f"{c_v[0]:.3f}", "exponent": f"{exponent[0]:.3f}"}
    texts |= {"covered": percent((after > 0.5).mean()), "covered_before": percent((before > 0.5).mean())}
    return texts, {"after": after}


def _masks(data, scene, x):
    p, channel = data["params"], scene.ids.index(x["class"])
    grid = data["grid"]
    inside = scene.foreground[grid["s"].index(x["s"]), grid["alpha"].index(x["alpha"])]
    exponent = smoothing_exponent(coefficient_of_variation(scene.cam, p["t"]), x["s"])
    smoothed = raise_cam(scene.cam, exponent, p["t"], p["variant"])
    part = inside * proportion(scene.cam, inside, p["variant"])
    mask = np.array([0, *scene.ids])[np.concatenate([np.zeros((1, *scene.size)), part]).argmax(0)].astype(np.uint8)
    plain = threshold_pseudo_mask(scene.cam, scene.ids, x["threshold"])
    texts = {"foreground": percent((mask > 0).mean()), "foreground_plain": percent((plain > 0).mean())}
    if scene.truth is not None:
        both = [confusion_matrix(scene.truth, each, 255) for each in (mask, plain)]
        texts |= {"miou": percent(mean_iou(both[0])), "miou_plain": percent(mean_iou(both[1]))}
        texts |= {f"iou_{i}": percent(iou_per_class(both[0])[i]) for i in (0, *scene.ids)}
    maps = {"smoothed": smoothed[channel], "background": background_score(smoothed[[channel]], x["alpha"])}
    maps |= {"part": part[channel], "mask": mask, "plain": plain, "inside": inside[channel]}
    return texts, maps


def _underfitting(data, scene, x):
    kind, _, variant = x["kind"].partition("-")
    strength = min(x["kappa"], 1.0) if kind == "pow" else x["kappa"]
    doubt = np.float32(1.0 if kind == "pow" else x["kappa"])
    loss, valid = scene.loss[x["checkpoint"]], scene.learned != IGNORE_INDEX
    pus = PretendedUnderfittingLoss(kind, x["beta"], strength, variant or "paper")
    plain = PretendedUnderfittingLoss("none", None, None, variant or "paper")

    def slope(each):
        positive = np.where(loss > 0, loss.clip(1e-6), 0).astype(np.float32)
        pixels = torch.from_numpy(positive).requires_grad_()
        (found,) = torch.autograd.grad(each.reduce(pixels, torch.from_numpy(valid)), pixels)
        return found.numpy()

    weight = np.divide(slope(pus), slope(plain), out=np.zeros_like(loss), where=valid)
    is_open = bool(pus.last_state.is_open)
    reshaped = pus._reshape(torch.from_numpy(loss.copy())).numpy() * valid if is_open else loss
    doubted = (loss >= doubt) & valid
    texts = {
        "mean_loss": f"{float(pus.last_state.mean_loss):.3f}",
        "gate": "open: PUS acts" if is_open else "closed: plain mean",
        "doubted": percent(doubted.mean()),
        "teaches": percent(weight.mean(dtype=np.float64)),
    }
    if scene.truth is not None:
        known = doubted & (scene.truth != IGNORE_INDEX)
        wrong = known & (scene.truth != scene.learned)
        texts["precision"] = percent(wrong.sum() / known.sum() if known.any() else np.nan)
    return texts, {"loss": loss, "reshaped": reshaped, "weight": weight}
