"""One colour per mask value, the same in every figure, apart for colour-blind readers as well.

Values 1-9 are Paul Tol's qualitative scheme "muted" (https://personal.sron.nl/~pault/). Each further value is the
candidate farthest from all before it, as seen by the worst-off reader: tests/figures/test_palette.py searches anew and
proves the table. No 80 colours are safe for everybody, so figures also write the class names into the regions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours: methods, runs and curves, in the order in which they are drawn."""
COLOURS = (
    "cdcdcd332288cc6677117733ddcc7788ccee88225544aa99999933aa44991919f1f1f119a961f1191919f1f1c11931c1a9c11979a9f1"
    "191949493119c1a979d9f161a949c1493179c131319131f1d9c1a931a9c1191931f14919913149a94979a9c1499131c1c1a961191961"
    "f1f1d9794919f1f1a9493161d96161c1d919f1f19131f1f19179c1614979a9d991f179c13131314919d9797991911991194931f11949"
    "d991a97991f16119a9a9496161c1f1c19179199149c14919c1d9619131d9c161d93179a9611949c1d94961c191d9c1d94919199131a9"
    "499179a91919c179a9494991d9f179191991c19161317949c1c1796149617961d961a9d9c1d9c1d9a9d9911931c131d979a919f179d9"
    "d9a9c1a949f1f1d9a9d931911919c14931f1a96161d97991d919496131a9d9f1491919a9491979d9914961d9a9c1c1611979c1319119"
    "d9d9f1491961799161d919a991a9496131d9f1a94979f1a96131499161a97991a9d9f1f1d961f1197979a93131796161f1d9d9f11931"
    "f13191f161d949194991f191d9a991f1793191a9a991c1a91919796131c1f1d99131a93161f131c191c119f179916149f1a91991f1d9"
    "917931793149d949c1a9794961c161a991497961f1a9f1c1f1d97991d9f1c1c1c1d9491961c17931496119f149c1c19191613131d961"
    "79d9d919611979a96149319131497961a97919f1613191d97979a9494919a97979f1c191d96119c1a919a9a931a99191911961199131"
    "c13179c1a9f1c1d9d9d919616161a93161d97931a91991c1794991311919793131911979c131c191c1d9f16119d91919f1a9a9a97991"
    "f1d9616149c179d94919d919c191f1193191f17919791949311931c131f1197991f1d949c1911991c1c1794961a9614919c1d9a991a9"
    "3131a919f1c1616179c119d94979317949797931f149a949193119793119494931f1c131c1f13161c14919a961493131c14991d961d9"
    "f149613119493161a9c1c1f1f1a9317931d991c131f1d919a9f1f191d9c1793191f149f16161c1316149a9314919f1d9d9a9a931c1c1"
    "31316119499179a9c1ffffff"
)
"""Six hexadecimal digits a mask value: 0 background, 1-254 classes, 255 unknown."""


@lru_cache(maxsize=1)
def palette() -> np.ndarray:
    """Return (256, 3) uint8, read-only: row v is the colour of mask value v."""
    return np.frombuffer(bytes.fromhex("".join(COLOURS)), dtype=np.uint8).reshape(256, 3)


def class_colour(value: int) -> tuple[float, float, float]:
    """Return the colour of one mask value as red, green, blue in 0..1."""
    red, green, blue = (float(c) / 255 for c in palette()[int(value)])
    return red, green, blue


def mask_to_rgb(mask: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of a (H, W) mask with values 0..255."""
    return palette()[np.asarray(mask).astype(np.uint8)]


def text_colour(rgb: tuple[float, float, float]) -> str:
    """Return black or white, whichever reads better on a colour in 0..1: black from CIELAB's lightness L > 55 on."""
    value = np.round(np.array(rgb[:3]) * 255) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > ((55 + 16) / 116) ** 3 else "white"
