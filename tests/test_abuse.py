"""Broken files and values of every kind, through the command line: each is refused, in one line that names it.

A case is a line of a table: what is broken, and what lies there instead. None may end in a traceback, hang, run code
out of a file, or write outside the folder that it was given.
"""

import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pmm.cli import main

if not hasattr(os, "mkfifo"):
    pytest.skip("pipes, links and alarms of POSIX", allow_module_level=True)

LIMIT, LONGEST = 20, 900  # seconds of a case, characters of the line without the names of folders
GIVEN: Counter = Counter()  # kind -> cases
REFUSED: Counter = Counter()  # kind -> cases that ended as they must


@pytest.fixture(autouse=True)
def no_run(monkeypatch):
    """Stop a run before its first notebook, and a check before it builds networks that no case is about."""
    monkeypatch.setattr("pmm.run.notebooks._run_each", lambda *_: pytest.fail("the run has begun"))
    monkeypatch.setattr("pmm.run.checks.check_segmenter", lambda *_: "left out")


class Hang(BaseException):
    """Not an Exception, so that nothing on the way takes it for its own."""


def _stop(*_):
    raise Hang(f"more than {LIMIT} s")


def _files(folder):
    """Size and time of all that lies below a folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            state = path.lstat()
            found[str(path)] = (state.st_size, state.st_mtime_ns)
    return found


def refused(kind, folder, arguments, word, code=2, own=()):
    """Call pmm, and check how it refuses; a kind that is empty is of a case that is counted already.

    Args:
        folder: where the case lies; nothing may change there but in the folders `own`.
        word: what the one line holds: the name of the broken file or parameter.
    """
    GIVEN[kind] += 1
    before, handler = _files(folder), signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LIMIT)
    try:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output[-2000:]
    said = [line for line in result.output.replace("\r", "\n").splitlines() if word in line and "%|" not in line]
    lines = [line for line in said if line.startswith(("pmm: ", "FAIL  ")) or code == 1]
    assert len(lines) == 1, f"{len(lines)} lines with {word!r}:\n{result.output[-2000:]}"
    line = lines[0].replace(str(folder), "")
    assert len(line) <= LONGEST and line.isprintable(), line
    assert ";" in line or re.search("write|choose|give|name|but s,", line), f"what is to be done? {line}"
    changed = {path for path, state in _files(folder).items() if before.get(path) != state}
    outside = [path for path in changed if not any(Path(path).is_relative_to(each) for each in own)]
    assert not outside, f"written: {outside}"
    REFUSED[kind] += 1


def put(path, content):
    """Put text, bytes, an array, or what a function makes of the path in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if callable(content):
        content(path)
    elif isinstance(content, np.ndarray):
        np.save(path.open("wb"), content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def table(cases):
    """A test for each case; those that take seconds are slow."""
    marks = {case[0]: pytest.mark.slow if "of zeros" in case[0] else () for case in cases}
    return pytest.mark.parametrize("case", [pytest.param(case, id=case[0], marks=marks[case[0]]) for case in cases])


NO_FILE = [  # in the place of any file
    ("folder", Path.mkdir),
    ("broken link", lambda p: p.symlink_to("nowhere")),
    ("link to itself", lambda p: p.symlink_to(p.name)),
    ("link to a folder", lambda p: p.symlink_to("..")),
    ("pipe", os.mkfifo),
    ("endless device", lambda p: p.symlink_to("/dev/zero")),
]

# ---------------------------------------------------------------- payloads of pickles


class Runs:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Named:
    """Pickled, it asks for a function by name alone."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return self.text


def raw(text):
    """A pickle of protocol 0, as text."""
    return text.encode("latin-1")


ENDLESS = b"N" + b"2\x86" * 60  # a tuple of twice the tuple of twice ...: its hash takes 2^60 steps
WRITES = "open('ran', 'w').close()"
PICKLES = [  # most would make the file ran, the others work for ever or fill the memory
    ("os.system", pickle.dumps(Runs(os.system, "touch ran"))),
    ("os.system in a dict", pickle.dumps({0: Runs(os.system, "touch ran")})),
    ("os.system by old opcodes", raw("(S'touch ran'\nios\nsystem\n.")),
    ("posix.system", raw("cposix\nsystem\n(S'touch ran'\ntR.")),
    ("builtins.eval", pickle.dumps(Runs(eval, WRITES))),
    ("builtins.exec", pickle.dumps(Runs(exec, WRITES))),
    ("builtins.getattr", pickle.dumps(Runs(getattr, {}, "keys"))),
    ("builtins.open", pickle.dumps(Runs(open, "ran", "w"))),
    ("Path.touch", pickle.dumps(Runs(Path.touch, Path("ran")))),
    ("subprocess", raw("csubprocess\nrun\n((lp0\nS'touch'\naS'ran'\natR.")),
    ("numpy.load", raw("cnumpy\nload\n(S'other.npy'\nNI01\ntR.")),
    ("numpy.lib", raw("cnumpy.testing._private.utils\nrunstring\n(S\"open('ran','w')\"\n(dtR.")),
    ("numpy.f2py", raw("cnumpy.f2py.diagnose\nrun_command\n(S'touch ran'\ntR.")),
    ("torch.load", raw("ctorch\nload\n(S'other.pt'\ntR.")),
    ("torch.hub", raw("ctorch.hub\nload\n(S'a/b'\nS'c'\ntR.")),
    ("attribute of a reconstructor", raw("cnumpy.core.multiarray\n_reconstruct.__globals__\n.")),
    ("reconstructor of a subclass", raw("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n(I0\ntS'b'\ntR.")),
    ("state of a function", raw("cnumpy\nndarray\n(dS'_make'\ncos\nsystem\nsb.")),
    ("keys that hash for ever", b"\x80\x02}" + ENDLESS + b"K\x01s."),
    ("keys of an OrderedDict that do", b"\x80\x02ccollections\nOrderedDict\n(]" + ENDLESS + b"K\x01\x86atR."),
    ("set whose items do", b"\x80\x04\x8f(" + ENDLESS + b"\x90."),
    ("persistent id", raw("Pstorage\n.")),
    ("extension", b"\x80\x02\x82\x01."),
    ("lists in lists", b"\x80\x02" + b"](" * 50_000 + b"e" * 50_000 + b"."),
    ("length of 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc."),
    ("length of 2^36", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b"abc."),
    ("number of 10,000 digits", raw(f"I{'9' * 10_000}\n.")),
    ("memo that is not there", b"\x80\x02h\x07."),
    ("empty stack", b"\x80\x02."),
    ("protocol 99", b"\x80\x63N."),
    (
        "array 9,000 times",
        b"\x80\x02](" + pickle.dumps(np.zeros((256, 256)), 2)[2:-1] + b"q\xff" + b"h\xff" * 9000 + b"e.",
    ),
]

# ---------------------------------------------------------------- parameters


def deep(n, left="[", right="]"):
    return left * n + right * n


PARAMETER_FILES = [
    ("alias bomb", "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nclasses: *c\n"),
    ("alias to itself", "classes: &a [*a]\n"),
    ("anchor", "s: &a 0.3\n"),
    ("merge key", "<<: {s: 0.3}\n"),
    ("name twice", "s: 0.3\ns: 0.4\n"),
    ("tab", "s:\t0.3\n\tt: 0.1\n"),
    ("tag that runs code", "s: !!python/object/apply:os.system ['touch ran']\n"),
    ("tag of a function", "s: !!python/name:os.system\n"),
    ("tag of an object", "s: !!python/object/new:pathlib.Path [ran]\n"),
    ("binary tag", "s: !!binary aGVsbG8=\n"),
    ("set tag", "classes: !!set {a, b}\n"),
    ("own tag", "s: !mine 0.3\n"),
    ("tag that lies", "s: !!int abc\n"),
    ("map as timestamp", "seed: !!timestamp 2024-13-01\n"),
    ("month 13", "seed: 2024-13-01\n"),
    ("empty binary number", "seed: 0b_\n"),
    ("empty hexadecimal number", "seed: 0x_\n"),
    ("time of day", "s: 25:00\n"),
    ("5,000 digits", f"seed: {'9' * 5000}\n"),
    ("5,000 hexadecimal digits", f"seed: 0x{'f' * 5000}\n"),
    ("5,000 hexadecimal digits as a name", f"0x{'f' * 5000}: 1\n"),
    ("float of 5,000 digits", f"s: {'9' * 5000}.0\n"),
    ("nested lists", f"classes: {deep(5000)}\n"),
    ("nested maps", f"classes: {deep(5000, '{a: ', '}')}\n"),
    ("nested 200 times", f"classes: {deep(200)}\n"),
    ("NUL", "s: 0.3\0\n"),
    ("NUL in a text", 'data_dir: "a\\0b"\n'),
    ("escape sequence", 'data_name: "\\e[31mred"\n'),
    ("escape sequence in a name", '"\\e[31ms": 1\n'),
    ("lone surrogate", 'data_name: "\\ud800"\n'),
    ("surrogate bytes", b"s: \xed\xa0\x80\n"),
    ("latin-1", "data_name: M\xfcnchen\n".encode("latin-1")),
    ("UTF-16", "s: 0.3\n".encode("utf-16")),
    ("bytes", bytes(range(256))),
    ("mark in the middle", "s: 0.3\n\ufefft: 0.1\n"),
    ("empty", ""),
    ("comment alone", "# nothing\n"),
    ("null", "null\n"),
    ("list", "[s, 0.3]\n"),
    ("number", "3\n"),
    ("text", "just a text\n"),
    ("two documents", "s: 0.3\n---\ns: 0.4\n"),
    ("unclosed list", "cls_crop: [64, 64\n"),
    ("unclosed quote", 'data_name: "abc\n'),
    ("number as name", "1: 2\n"),
    ("null as name", "~: 2\n"),
    ("list as name", "? [a, b]\n: 2\n"),
    ("unknown name", "colour: blue\n"),
    ("name of 5,000 letters", f"{'s' * 5000}: 1\n"),
    ("name with a space", "run name: x\n"),
    ("100,001 characters", "#" * 100_001),
    ("list of 5,000", f"classes: [{', '.join(['a'] * 5000)}]\n"),
    ("nested data", "s: {value: 0.3}\n"),
    ("folder", Path.mkdir),
    ("missing", lambda p: None),
    ("link to itself", lambda p: p.symlink_to(p.name)),
    ("endless device", lambda p: p.symlink_to("/dev/zero")),
    ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ("pickle", lambda p: p.write_bytes(pickle.dumps(Runs(os.system, "touch ran")))),
]


@table(PARAMETER_FILES)
def test_parameter_file(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "p.yaml", case[1])
    refused("parameters", tmp_path, ["run", tmp_path / "p.yaml"], "p.yaml")
    refused("", tmp_path, ["check", tmp_path / "p.yaml"], "p.yaml")


VALUES = [
    *("seed=abc", "seed=1.5", "seed=-1", "seed=true", "seed=[1]", "seed={a: 1}", "seed=", "seed=~", "seed=2147483648"),
    *("s=.nan", "s=.inf", "s=-.inf", "s=-0.1", "s=1e-4", "s=yes", "s=0.3.4", "s=[0.3]", "s=2024-01-01", "s=0x"),
    *("device=tpu", "device=0", "device=[cpu]", "dataset=imagenet", "cam_flip=1", "cam_flip=yes please"),
    *(
        "cls_crop=64",
        "cls_crop=[64]",
        "cls_crop=[64,64,64]",
        "cls_crop=[64,-64]",
        "cls_crop=[64.5,64]",
        "cls_crop=[a,b]",
    ),
    *("cam_scales=[]", "cam_scales=[0]", "cam_scales=[.nan]", "cam_scales=[[1.0]]", "cam_scales={1.0: 1}"),
    *("classes=cat", "classes=[1]", "classes=[~]", "classes=[[cat]]", 'classes=["a\\0"]'),
    *(
        "seg_scale=[2.0,0.5]",
        "n_train=0",
        "n_train=-5",
        "n_train=1_000_000_000",
        "workers=-1",
        "scene_width=0x7fffffff",
    ),
    *("cls_output_stride=12", "backbone=", "train_split=", "ablation_train=[all]", "kappa=0", "crf_iterations=0"),
    *("run_name=", "run_name=..", "run_name=../out", "run_name=a/b", "run_name=/tmp/x", "run_name=a b", "run_name=-x"),
    *(
        f"run_name={'x' * 300}/",
        "run_name=.hidden",
        "run_name=m\xfcnchen",
        'run_name="a\\n"',
        "run_name=[a]",
        "run_name=7",
    ),
    *("dataset=voc", "dataset=folder", "nonsense=1", "=1", "s", "", " =2", "s = [", "s='", "s=!!python/name:os.system"),
    *("s=&a 1", "s=*a", f"s=0x{'f' * 5000}", f"classes={deep(3000)}", f"{'n' * 5000}=1", "pus=on", "data_name=\ud800"),
    *("SEED=1", "cyclic_teacher=best", "seg_batch_size=1", "t=1", "cam_threshold=0", "micro_batches=5"),
]


@pytest.mark.parametrize("value", VALUES, ids=[ascii(value[:30]) for value in VALUES])
def test_parameter_value(value, tmp_path):
    put(tmp_path / "p.yaml", f"run_name: x\nruns_dir: {tmp_path / 'runs'}\n")
    name = value.partition("=")[0].strip()[:60].replace("dataset", "data")
    refused("values", tmp_path, ["run", tmp_path / "p.yaml", "-p", value], name)


PLACES = [  # a folder that cannot be
    ("runs_dir is a file", "runs_dir={0}/file"),
    ("runs_dir below a file", "runs_dir={0}/file/below"),
    ("runs_dir below a device", "runs_dir=/dev/null/runs"),
    ("runs_dir in /proc", "runs_dir=/proc/runs"),
    ("runs_dir in /sys", "runs_dir=/sys/kernel/runs"),
    ("runs_dir of 5,000 characters", "runs_dir={0}/" + "x" * 5000),
    ("runs_dir of 5,000 folders", "runs_dir={0}/" + "x/" * 5000),
    ("runs_dir is a link to itself", "runs_dir={0}/loop"),
    ("runs_dir of nobody", "runs_dir=~nobody_of_this_name/runs"),
    ("run_name of 300 characters", "run_name=" + "x" * 300),
    ("run is a file", "runs_dir={0}/made"),
    ("run is a broken link", "runs_dir={0}/linked"),
]


@table(PLACES)
def test_place_of_a_run(case, tmp_path, monkeypatch):
    put(tmp_path / "file", "")
    put(tmp_path / "made" / "x", "")
    put(tmp_path / "loop", lambda p: p.symlink_to("loop"))
    put(tmp_path / "linked" / "x", lambda p: p.symlink_to("/nowhere/at/all"))
    put(tmp_path / "p.yaml", f"run_name: x\nruns_dir: {tmp_path / 'runs'}\n")
    monkeypatch.setattr("pmm.run.checks.check_backbone", lambda *_: "left out")
    arguments = [tmp_path / "p.yaml", "-p", case[1].format(tmp_path)]
    refused("places", tmp_path, ["run", *arguments], "pmm: ", own=[tmp_path / "runs"])
    refused("", tmp_path, ["check", *arguments], "FAIL  run folder: ")


# ---------------------------------------------------------------- data sets

WIDTH, HEIGHT = 12, 8


def encoded(form, mode="RGB", size=(WIDTH, HEIGHT), value=0, **options):
    data = io.BytesIO()
    Image.new(mode, size, value).save(data, form, **options)
    return data.getvalue()


def png(width, height, depth=8, colour=2, pixels=b""):
    """A PNG that says of itself what it is told to."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels)),
    ]
    made = b"\x89PNG\r\n\x1a\n"
    for name, data in [*parts, (b"IEND", b"")]:
        made += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return made


def texts(image):
    """The PNG with a text of 64 MB, compressed."""
    data = b"Comment\0\0" + zlib.compress(bytes(1 << 26), 1)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return image[:33] + chunk + image[33:]


def bmp(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT * 8, WIDTH * 8, 3), np.uint8)
JPEG, PNG = io.BytesIO(), io.BytesIO()
Image.fromarray(NOISE).save(JPEG, "JPEG")
Image.fromarray(NOISE).save(PNG, "PNG")
JPEG, PNG = JPEG.getvalue(), PNG.getvalue()

IMAGES = [  # in the place of b.jpg
    *NO_FILE,
    ("no byte", b""),
    ("one byte", b"\xff"),
    ("text", "no image at all\n"),
    ("HTML", "<!DOCTYPE html><html>404 Not Found</html>"),
    ("header of a JPEG", JPEG[:20]),
    ("half a JPEG", JPEG[: len(JPEG) // 2]),
    ("JPEG without its end", JPEG[:-200]),
    ("half a PNG", PNG[: len(PNG) // 2]),
    ("PNG with a damaged byte", PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:]),
    ("PNG of 60,000 x 60,000", png(60_000, 60_000)),
    ("PNG of 2^31 x 2^31", png((1 << 31) - 1, (1 << 31) - 1)),
    ("PNG of no column", png(0, 8)),
    ("PNG of no row", png(8, 0)),
    ("PNG without pixels", png(WIDTH, HEIGHT)),
    ("BMP of no row", bmp(1, 0)),
    ("BMP of 60,000 x 60,000", bmp(60_000, 60_000)),
    ("PPM of no row", b"P6 1 0 255\n"),
    ("PPM of 10^9 rows", b"P6 1 1000000000 255\n"),
    ("floating-point TIFF", encoded("TIFF", "F")),
    ("32-bit TIFF", encoded("TIFF", "I", value=1 << 20)),
    ("half a GIF", encoded("GIF", "L", (99, 99))[:-40]),
    ("PNG whose text fills the memory", texts(PNG)),
    ("SVG", '<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\n"),
    ("PDF", b"%PDF-1.4\n"),
    ("array", np.zeros((8, 12, 3), np.uint8)),
    ("zeros", bytes(1000)),
]


def voc_set(root):
    """Images a, b and c of 12 x 8 px with XML and mask in the layout of VOC; all are train, c is val."""
    for name in "abc":
        put(root / "JPEGImages" / f"{name}.jpg", encoded("JPEG"))
        put(root / "Annotations" / f"{name}.xml", "<annotation><object><name>dog</name></object></annotation>")
        put(root / "SegmentationClass" / f"{name}.png", encoded("PNG", "L", value=12))
    put(root / "ImageSets" / "Segmentation" / "train.txt", "a\nb\nc\n")
    put(root / "ImageSets" / "Segmentation" / "val.txt", "c\n")


def folder_set(root):
    """The same as a folder with a table."""
    for name in "abc":
        put(root / "images" / f"{name}.jpg", encoded("JPEG"))
        put(root / "masks" / f"{name}.png", encoded("PNG", "L", value=1))
    put(root / "labels.csv", "image,labels,split\na.jpg,dog,train\nb.jpg,dog,train\nc.jpg,dog,val\n")


COCO = {
    "images": [{"id": i, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT} for i, name in enumerate("abc")],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 18, "iscrowd": 0, "area": 9, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}
        for i in range(3)
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
}


def coco_set(root):
    """The same in COCO's layout; one split, train."""
    for name in "abc":
        put(root / "train" / f"{name}.jpg", encoded("JPEG"))
    put(root / "annotations" / "instances_train.json", json.dumps(COCO))


def check_data(kind, root, word, code, *more, dataset="voc"):
    put(root / "p.yaml", f"run_name: x\ndataset: {dataset}\ndata_dir: {root / 'set'}\nval_split: ''\n")
    options = [part for text in more for part in ("-p", text)]
    refused(kind, root, ["data", "check", root / "p.yaml", *options], word, code)


def test_the_sets_are_sound_before_they_are_broken(tmp_path):
    for dataset, make in {"voc": voc_set, "folder": folder_set, "coco": coco_set}.items():
        make(tmp_path / dataset)
        put(tmp_path / "p.yaml", f"dataset: {dataset}\ndata_dir: {tmp_path / dataset}\nval_split: ''\n")
        result = CliRunner().invoke(main, ["data", "check", str(tmp_path / "p.yaml")])
        assert result.exit_code == 0 and "with masks" in result.output, result.output


@table(IMAGES)
def test_image(case, tmp_path):
    voc_set(tmp_path / "set")
    put(tmp_path / "set" / "JPEGImages" / "b.jpg", case[1])
    check_data("images", tmp_path, "b.jpg", 1)


@table([case for case in IMAGES if case[0] in ("pipe", "text", "PNG of 60,000 x 60,000", "endless device", "folder")])
def test_image_of_a_table(case, tmp_path):
    folder_set(tmp_path / "set")
    put(tmp_path / "set" / "images" / "b.jpg", case[1])
    code = 2 if case in NO_FILE else 1
    check_data("images", tmp_path, "b.jpg", code, dataset="folder")


MASKS = [  # in the place of b.png
    *NO_FILE[:1],
    *NO_FILE[1:],
    ("RGB", encoded("PNG", "RGB")),
    ("RGBA", encoded("PNG", "RGBA")),
    ("grey with alpha", encoded("PNG", "LA")),
    ("16 bits", encoded("PNG", "I;16")),
    ("one bit", encoded("PNG", "1")),
    ("floating point", encoded("TIFF", "F")),
    ("another size", encoded("PNG", "L", (HEIGHT, WIDTH), 12)),
    ("one row more", encoded("PNG", "L", (WIDTH, HEIGHT + 1), 12)),
    ("class 21 of 20", encoded("PNG", "L", value=21)),
    ("value 254", encoded("PNG", "L", value=254)),
    ("255 alone", encoded("PNG", "L", value=255)),
    ("0 and 255 alone", png(WIDTH, HEIGHT, 8, 0, (b"\0" + b"\0" * 6 + b"\xff" * 6) * HEIGHT)),
    ("half a file", encoded("PNG", "L", (WIDTH * 40, HEIGHT * 40), 12)[:60]),
    ("no byte", b""),
    ("text", "12 12 12\n"),
    ("JPEG in colour", encoded("JPEG")),
    ("bomb", png(60_000, 60_000, 8, 0)),
    ("no pixel", png(0, 0, 8, 0)),
]


@table(MASKS)
def test_mask(case, tmp_path):
    voc_set(tmp_path / "set")
    put(tmp_path / "set" / "SegmentationClass" / "b.png", case[1])
    check_data("masks", tmp_path, "b.png", 1)


HEAD = "image,labels,split\n"
TABLES = [
    *NO_FILE,
    ("empty", ""),
    ("header alone", HEAD),
    ("no header", "a.jpg,dog,train\n"),
    ("no column labels", "image,split\na.jpg,train\n"),
    ("no column image", "labels,split\ndog,train\n"),
    ("columns in capitals", "Image,Labels\na.jpg,dog\n"),
    ("column twice", "image,labels,labels\na.jpg,dog,cat\n"),
    ("semicolons", "image;labels\na.jpg;dog\n"),
    ("a cell too many", f"{HEAD}a.jpg,dog,train,more\n"),
    ("a cell too few", f"{HEAD}a.jpg\n"),
    ("image twice", f"{HEAD}a.jpg,dog,train\na.jpg,cat,train\n"),
    ("image twice, once by its stem", f"{HEAD}a.jpg,dog,train\na,cat,train\n"),
    ("unknown image", f"{HEAD}zebra.jpg,dog,train\n"),
    ("no image name", f"{HEAD},dog,train\n"),
    ("background", f"{HEAD}a.jpg,background dog,train\n"),
    ("absolute path", HEAD + "/etc/passwd,dog,train\n"),
    ("path out of the folder", HEAD + "../../outside.jpg,dog,train\n"),
    ("path to another folder", HEAD + "../masks/a.png,dog,train\n"),
    ("folder above", HEAD + "..,dog,train\n"),
    ("NUL in a name", HEAD + "a\0.jpg,dog,train\n"),
    ("NUL in a label", HEAD + "a.jpg,d\0g,train\n"),
    ("escape sequence in a label", HEAD + "a.jpg,\x1b[31mdog,train\n"),
    ("latin-1", (HEAD + "a.jpg,k\xf6ter,train\n").encode("latin-1")),
    ("UTF-16", (HEAD + "a.jpg,dog,train\n").encode("utf-16")),
    ("unclosed quote", HEAD + 'a.jpg,"dog,train\nb.jpg,dog,train\n'),
    ("cell of 200,000 characters", HEAD + f"a.jpg,{'d' * 200_000},train\n"),
    ("300 classes", HEAD + f"a.jpg,{' '.join(f'c{k}' for k in range(300))},train\n"),
    ("bytes", bytes(range(256))),
    ("image", PNG),
    ("other splits alone", HEAD + "a.jpg,dog,test\n"),
]


@table(TABLES)
def test_table(case, tmp_path):
    folder_set(tmp_path / "set")
    put(tmp_path / "outside.jpg", encoded("JPEG"))
    put(tmp_path / "set" / "labels.csv", case[1])
    check_data("tables", tmp_path, "labels.csv", 2, dataset="folder")


CLASS_LISTS = [
    *NO_FILE[:1],
    *NO_FILE[2:],
    ("empty", ""),
    ("name twice", "dog\ndog\n"),
    ("background in the middle", "cat\nbackground\ndog\n"),
    ("dog is missing", "cat\nsheep\n"),
    ("300 names", "".join(f"c{k}\n" for k in range(300))),
    ("latin-1", "dog\nk\xf6ter\n".encode("latin-1")),
    ("escape sequence", "dog\n\x1b[31mcat\n"),
    ("pickle", PICKLES[0][1]),
]


@table(CLASS_LISTS)
def test_list_of_classes(case, tmp_path):
    voc_set(tmp_path / "set")
    put(tmp_path / "classes.txt", case[1])
    folder = tmp_path / "set"
    tables = {"--masks": folder / "SegmentationClass", "--truth": folder / "SegmentationClass"}
    given = [part for pair in tables.items() for part in pair]
    word = "12" if case[0] == "dog is missing" else "classes.txt"
    refused("classes", tmp_path, ["eval", *given, "--classes", tmp_path / "classes.txt"], word)


OBJECT = "<object><name>dog</name></object>"
LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
XML = [  # in the place of b.xml
    *NO_FILE,
    ("empty", ""),
    (
        "billion laughs",
        f'<!DOCTYPE a [<!ENTITY l0 "dog">{LAUGHS}]><annotation><object><name>&l11;</name></object></annotation>',
    ),
    ("external entity", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'),
    ("parameter entity", '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><annotation/>'),
    ("DOCTYPE alone", f"<!DOCTYPE annotation><annotation>{OBJECT}</annotation>"),
    ("doctype in small letters", f"<!doctype annotation><annotation>{OBJECT}</annotation>"),
    ("unknown entity", "<annotation><object><name>&dog;</name></object></annotation>"),
    ("half a file", f"<annotation>{OBJECT}<object><na"),
    ("not closed", f"<annotation>{OBJECT}"),
    ("two roots", "<annotation/><annotation/>"),
    ("text", "dog\n"),
    ("UTF-16", f"<annotation>{OBJECT}</annotation>".encode("utf-16")),
    ("UTF-16 with a DOCTYPE", f"<!DOCTYPE a><annotation>{OBJECT}</annotation>".encode("utf-16-le")),
    ("latin-1", "<annotation><object><name>k\xf6ter</name></object></annotation>".encode("latin-1")),
    ("NUL", "<annotation>\0</annotation>"),
    ("unknown class", "<annotation><object><name>zebra</name></object></annotation>"),
    ("class background", "<annotation><object><name>background</name></object></annotation>"),
    ("class in capitals", "<annotation><object><name>Dog</name></object></annotation>"),
    ("object without name", "<annotation><object/></annotation>"),
    ("name of 100,000 letters", f"<annotation><object><name>{'d' * 100_000}</name></object></annotation>"),
    ("image", PNG),
    ("pickle", PICKLES[0][1]),
]


@table(XML)
def test_annotation(case, tmp_path):
    voc_set(tmp_path / "set")
    put(tmp_path / "set" / "Annotations" / "b.xml", case[1])
    check_data("XML", tmp_path, "b.xml", 1)


SPLITS = [  # in the place of train.txt
    *NO_FILE,
    ("empty", ""),
    ("blank lines", "\n \n\n"),
    ("unknown id", "a\nzebra\n"),
    ("id twice", "a\nb\na\n"),
    ("folder above", "a\n..\n"),
    ("path without a suffix", "../../../etc/passwd\n"),
    ("path of an unknown image", "/JPEGImages/zebra.jpg /SegmentationClass/zebra.png\n"),
    ("latin-1", "a\nm\xfcnchen\n".encode("latin-1")),
    ("UTF-16", "a\nb\n".encode("utf-16")),
    ("bytes", bytes(range(256))),
    ("image", PNG),
    ("NUL", "a\0\n"),
    ("id of 100,000 letters", "a" * 100_000),
    ("commas", "a,b,c\n"),
]


@table(SPLITS)
def test_list_of_a_split(case, tmp_path):
    voc_set(tmp_path / "set")
    put(tmp_path / "set" / "ImageSets" / "Segmentation" / "train.txt", case[1])
    check_data("splits", tmp_path, "train.txt", 2)


def changed(key, index, **values):
    """COCO's content with one entry changed."""
    content = json.loads(json.dumps(COCO))
    content[key][index] |= values
    return json.dumps(content)


def without(key, index, name):
    content = json.loads(json.dumps(COCO))
    del content[key][index][name]
    return json.dumps(content)


def added(key, entry):
    return json.dumps({**COCO, key: [*COCO[key], entry]})


COCO_FILES = [  # in the place of instances_train.json
    *NO_FILE[:1],
    *NO_FILE[2:],
    ("empty", ""),
    ("list", "[]"),
    ("number", "3"),
    ("text", '"images"'),
    ("null", "null"),
    ("object of an annotation", json.dumps(COCO["annotations"][0])),
    ("NaN", "NaN"),
    ("half a file", json.dumps(COCO)[:300]),
    ("comma at the end", json.dumps(COCO)[:-1] + ",}"),
    ("latin-1", b'{"images": "\xfc"}'),
    ("bytes", bytes(range(256))),
    ("100,000 lists", deep(100_000)),
    ("100,000 objects", deep(100_000, '{"a":', "}")),
    ("number of 5,000 digits", '{"images": [{"id": %s}]}' % ("9" * 5000)),
    ("no images", json.dumps({**COCO, "images": []})),
    ("images is a number", json.dumps({**COCO, "images": 3})),
    ("images is an object", json.dumps({**COCO, "images": {"a": 1}})),
    ("images are numbers", json.dumps({**COCO, "images": [1, 2]})),
    ("annotations is text", json.dumps({**COCO, "annotations": "none"})),
    ("annotations are null", json.dumps({**COCO, "annotations": [None]})),
    ("no categories", json.dumps({**COCO, "categories": []})),
    ("300 categories", json.dumps({**COCO, "categories": [{"id": k, "name": f"c{k}"} for k in range(300)]})),
    *((f"no {key}", json.dumps({k: v for k, v in COCO.items() if k != key})) for key in ("images", "annotations")),
    *((f"image without {name}", without("images", 0, name)) for name in ("id", "file_name", "height", "width")),
    *(
        (f"object without {name}", without("annotations", 0, name))
        for name in ("image_id", "category_id", "segmentation")
    ),
    *((f"category without {name}", without("categories", 0, name)) for name in ("id", "name")),
    *((f"height {h!a}", changed("images", 0, height=h)) for h in ("8", "high", -8, 0, 10**6, 1e400, None, [8], 8.5)),
    ("height NaN", changed("images", 0, height=float("nan"))),
    ("width of 5,000 digits", changed("images", 0, width=1).replace('"width": 1,', f'"width": {"9" * 4000},')),
    ("image twice", added("images", COCO["images"][0])),
    ("image twice by another number", added("images", {**COCO["images"][0], "id": 77})),
    ("file name is a number", changed("images", 0, file_name=5)),
    ("file name above", changed("images", 0, file_name="../../outside.jpg")),
    ("file name in another folder", changed("images", 0, file_name="../other/a.jpg")),
    ("absolute file name", changed("images", 0, file_name="/etc/passwd")),
    ("file name with NUL", changed("images", 0, file_name="a\0.jpg")),
    ("file that is not there", changed("images", 0, file_name="zebra.jpg")),
    ("unknown category", changed("annotations", 0, category_id=77)),
    ("category is a list", changed("annotations", 0, category_id=[1])),
    ("unknown image", changed("annotations", 0, image_id=77)),
    ("image is an object", changed("annotations", 0, image_id={"a": 1})),
    ("category twice", added("categories", {"id": 18, "name": "cat"})),
    ("category name twice", added("categories", {"id": 19, "name": "dog"})),
    ("category name is a number", changed("categories", 0, name=5)),
    ("category name is empty", changed("categories", 0, name="")),
    ("category name with an escape sequence", changed("categories", 0, name="\x1b[31m")),
    ("category numbers of two kinds", changed("categories", 0, id="18")),
    ("area is text", changed("annotations", 0, area="large")),
    ("area NaN", changed("annotations", 0, area=float("nan"))),
    ("crowd is text", changed("annotations", 0, iscrowd="0")),
    ("crowd 7", changed("annotations", 0, iscrowd=7)),
    ("polygon of text", changed("annotations", 0, segmentation=[["a"] * 6])),
    ("polygon that is text", changed("annotations", 0, segmentation=["abcdef"])),
    ("polygon of lists", changed("annotations", 0, segmentation=[[[1, 2]] * 6])),
    ("polygon not in a list", changed("annotations", 0, segmentation=[1, 2, 3, 4, 5, 6])),
]


@table(COCO_FILES)
def test_coco_file(case, tmp_path):
    coco_set(tmp_path / "set")
    put(tmp_path / "set" / "other" / "a.jpg", encoded("JPEG"))
    put(tmp_path / "outside.jpg", encoded("JPEG"))
    put(tmp_path / "set" / "annotations" / "instances_train.json", case[1])
    check_data("COCO", tmp_path, "instances_train.json", 2, dataset="coco")


def runs(counts, size=(HEIGHT, WIDTH), **more):
    return changed("annotations", 0, segmentation={"counts": counts, "size": list(size)}, **more)


OUTLINES = [  # of the image a
    ("coordinates NaN", changed("annotations", 0, segmentation=[[float("nan")] * 6])),
    ("coordinates infinite", changed("annotations", 0, segmentation=[[1e400] * 6])),
    ("coordinates of 10^9", changed("annotations", 0, segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]])),
    ("coordinates of -10^300", changed("annotations", 0, segmentation=[[0, 0, -1e300, 0, 1e300, 1e300]])),
    ("seven coordinates", changed("annotations", 0, segmentation=[[2, 2, 6, 2, 6, 6, 2]])),
    ("outline is a number", changed("annotations", 0, segmentation=3)),
    ("outline is text", changed("annotations", 0, segmentation="all")),
    ("outline is null", changed("annotations", 0, segmentation=None)),
    ("empty object", changed("annotations", 0, segmentation={})),
    ("runs of another size", runs([0, 48], (6, 8))),
    ("runs turned", runs([0, 96], (WIDTH, HEIGHT))),
    ("runs too short", runs([0, 12])),
    ("runs too long", runs([0, 12, 10**6])),
    ("runs far too long", runs([0, 4 * 10**9])),
    ("negative runs", runs([-96, 192])),
    ("runs of text", runs(["a", "b"])),
    ("runs with a fraction", runs([0.5, 95.5])),
    ("runs are a number", runs(96)),
    ("runs are null", runs(None)),
    ("no runs", runs([])),
    ("runs in lists", runs([[96]])),
    ("size of text", runs([0, 96], ("8", "12"))),
    ("size of 10^9", runs([0, 96], (10**9, 10**9))),
    ("size of one number", runs([0, 96], (96,))),
    ("coded runs too long", runs("0oooooo0")),
    ("coded runs of other letters", runs("\x7f\x01 %$")),
    ("coded runs outside ASCII", runs("\xfc\xfc")),
    ("coded runs are empty", runs("")),
    ("coded runs without an end", runs("o" * 1000)),
    ("the photograph has another size", json.dumps({**COCO, "images": [{**i, "width": 13} for i in COCO["images"]]})),
]


@table(OUTLINES)
def test_outline(case, tmp_path):
    pytest.importorskip("pycocotools")
    coco_set(tmp_path / "set")
    put(tmp_path / "set" / "annotations" / "instances_train.json", case[1])
    check_data("outlines", tmp_path, "a.jpg", 1, dataset="coco")


# ---------------------------------------------------------------- CAMs

MAP = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def saved(content, **options):
    data = io.BytesIO()
    np.save(data, content, allow_pickle=True)
    return data.getvalue()


def zipped(*arrays, **named):
    data = io.BytesIO()
    np.savez(data, *arrays, **named)
    return data.getvalue()


def bomb(names=("arr_0.npy",), size=1 << 40):
    """A zip whose members claim more than there is."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, saved(np.zeros((1, HEIGHT, WIDTH), np.float32)))
            archive.filelist[-1].file_size = size
    return data.getvalue()


def zeros(gibibytes):
    """A .npz of a few MB whose array of zeros has so many GiB."""
    shape, part = (1, gibibytes << 14, 1 << 14), bytes(1 << 24)
    data, head = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        file.write(head.getvalue())
        for _ in range(gibibytes << 6):
            file.write(part)
    return data.getvalue()


def header(text):
    """A .npy of another header."""
    text = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(100)


def described(shape, kind="<f4"):
    return header(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}")


PAST = MAP.copy()
PAST[3, 3] = np.nan
CAMS = [  # in the place of a.npy
    *NO_FILE,
    ("empty", b""),
    ("text", "0.1 0.2\n"),
    ("image", PNG),
    ("half a .npy", saved(MAP[None])[:200]),
    ("half a dict", saved({0: MAP})[:200]),
    ("half a .npz", zipped(MAP[None])[:200]),
    ("damaged .npz", zipped(MAP[None])[:120] + bytes(40) + zipped(MAP[None])[160:]),
    ("empty .npz", zipped()),
    ("header of 10^12 rows", described((1, 10**12, 12))),
    ("header of a negative shape", described((1, -8, 12))),
    ("header of text", described("'abc'")),
    ("header of code", header("__import__('os').system('touch ran')")),
    ("header of brackets", header(deep(50, "("))),
    ("header of objects", described((1,), "|O")),
    ("header of records", described((1,), "<f4,<f4")),
    ("array of text", saved(np.array(["a", "b"]))),
    ("array of complex numbers", saved(MAP[None].astype(complex))),
    ("array of dates", saved(np.zeros((1, 8, 12), "M8[s]"))),
    ("array of objects", saved(np.array([MAP, None], dtype=object))),
    ("one number", saved(np.float32(1))),
    ("one map without a channel", saved(MAP)),
    ("five dimensions", saved(MAP[None, None, None])),
    ("no row", saved(np.zeros((1, 0, 12), np.float32))),
    ("two maps for one label", saved(np.stack([MAP, MAP]))),
    ("no map", saved(np.zeros((0, 8, 12), np.float32))),
    ("NaN", saved({0: PAST})),
    ("infinity", saved({0: np.where(MAP > 0.5, np.inf, MAP)})),
    ("beyond float32", saved({0: MAP.astype(np.float64) * 1e300})),
    ("class not in the labels", saved({7: MAP})),
    ("negative class", saved({-3: MAP})),
    ("class of 10^30", saved({10**30: MAP})),
    ("class NaN", saved({float("nan"): MAP})),
    ("class by name", saved({"dog": MAP})),
    ("class twice", saved({"keys": [0, 0], "high_res": np.stack([MAP, MAP])})),
    ("keys without maps", saved({"keys": [0]})),
    ("more keys than maps", saved({"keys": [0, 1], "high_res": MAP[None]})),
    ("keys in two dimensions", saved({"keys": [[0]], "high_res": None})),
    ("keys with a fraction", saved({"keys": np.array([0.5]), "high_res": MAP[None]})),
    ("maps of two shapes", saved({0: MAP, 1: MAP[1:]})),
    ("map of three dimensions", saved({0: np.stack([MAP, MAP])})),
    ("map is None", saved({0: None})),
    ("map is text", saved({0: "abc"})),
    ("map is a dict", saved({0: {0: MAP}})),
    ("dict of sets", saved({0: {1, 2}})),
    ("empty dict", saved({})),
    ("list of dicts", saved([{0: MAP}])),
    ("zip that claims a tebibyte", bomb()),
    ("zip of 2,000 members", bomb([f"{k}.npy" for k in range(2000)], 1 << 30)),
    ("zip of 3 GiB of zeros", lambda p: p.write_bytes(zeros(3))),
    ("zip in a zip", zipped().replace(b"\x00", b"\x00") + bomb()[:20]),
    ("zip of text", lambda p: zipfile.ZipFile(p, "w").writestr("arr_0.npy", "no array")),
    (
        "zip of a pickle",
        lambda p: zipfile.ZipFile(p, "w").writestr("arr_0.npy", saved({0: Runs(os.system, "touch ran")})),
    ),
    ("zip with a path", lambda p: zipfile.ZipFile(p, "w").writestr("../../../ran", saved(MAP))),
    ("file of torch.save", lambda p: torch.save({0: torch.ones(8, 12)}, p)),
    ("sparse tensor", saved({0: torch.ones(8, 12).to_sparse()})),
    ("tensor with gradients", saved({0: torch.nn.Parameter(torch.ones(8, 12))})),
    ("date", saved({0: __import__("datetime").date(2024, 1, 1)})),
    *((name, payload) for name, payload in PICKLES),
]


def cam_set(root):
    put(root / "images" / "a.png", encoded("PNG"))
    put(root / "images" / "b.png", encoded("PNG"))
    put(root / "labels.csv", "image,labels\na.png,dog\nb.png,dog\n")
    for name in "ab":
        put(root / "cams" / f"{name}.npy", saved({0: MAP}))
    put(root / "truth" / "a.png", encoded("PNG", "L", value=1))
    return [
        "--cams",
        root / "cams",
        "--images",
        root / "images",
        "--labels",
        root / "labels.csv",
        "--out",
        root / "out",
    ]


@table(CAMS)
def test_cam_file(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = cam_set(tmp_path)
    put(tmp_path / "cams" / "a.npy", case[1])
    command = ["masks", *given, "-p", "method=threshold"]
    refused("CAMs", tmp_path, command, "a.npy", own=[tmp_path / "out"])
    assert not (tmp_path / "ran").exists()


@table(CAMS[::6])
def test_cam_file_of_a_comparison_and_of_a_run(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = cam_set(tmp_path)
    put(tmp_path / "cams" / "a.npy", case[1])
    refused("CAMs compared, and of a run", tmp_path, ["compare", *given], "a.npy", own=[tmp_path / "out"])
    monkeypatch.setattr("pmm.run.checks.check_backbone", lambda *_: "left out")
    folder = f"dataset: folder\ndata_dir: {tmp_path}\nval_split: ''\ncam_dir: {tmp_path / 'cams'}\n"
    put(tmp_path / "p.yaml", f"runs_dir: {tmp_path / 'runs'}\n{folder}")
    late = [tmp_path / "out"]  # another thread of the comparison may still write its mask
    refused("", tmp_path, ["check", tmp_path / "p.yaml"], "FAIL  CAMs: ", own=late)


VECTORS = [  # in the place of cls_labels.npy
    *NO_FILE[:1],
    *NO_FILE[2:],
    ("empty", b""),
    ("array", saved(np.eye(20))),
    ("empty dict", saved({})),
    ("two lengths", saved({"a": np.eye(20)[11], "b": np.eye(21)[11]})),
    ("300 classes", saved({"a": np.eye(300)[11]})),
    ("matrices", saved({"a": np.eye(20)})),
    ("number 2", saved({"a": 2 * np.eye(20)[11]})),
    ("NaN", saved({"a": np.full(20, np.nan)})),
    ("text", saved({"a": "dog"})),
    ("objects", saved({"a": np.array([object()] * 20)})),
    ("None", saved({"a": None})),
    ("class object", saved({"a": Runs(eval, WRITES)})),
    ("half a file", saved({"a": np.eye(20)[11]})[:-30]),
    *PICKLES[:6],
]


@table(VECTORS)
def test_label_vectors(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = cam_set(tmp_path)
    put(tmp_path / "cls_labels.npy", case[1])
    given[given.index("--labels") + 1] = tmp_path / "cls_labels.npy"
    refused("label vectors", tmp_path, ["masks", *given], "cls_labels.npy")


FOLDERS = [  # of `pmm masks`: what is changed of its arguments
    ("no CAMs", "--cams", "nowhere", None),
    ("CAMs is a file", "--cams", "labels.csv", None),
    ("CAMs without a CAM", "--cams", "images", None),
    ("no images", "--images", "nowhere", None),
    ("images of other names", "--images", "truth", "a.png"),
    ("no labels", "--labels", "nowhere.csv", None),
    ("labels is a folder", "--labels", "images", None),
    ("out is a file", "--out", "labels.csv", None),
    ("out below a file", "--out", "labels.csv/out", None),
    ("out holds other masks", "--out", "truth", None),
    ("out in /proc", "--out", "/proc/out", None),
    ("out in /dev/null", "--out", "/dev/null/out", None),
    ("out of 300 characters", "--out", "x" * 300, None),
    ("out of 5,000 folders", "--out", "x/" * 5000, None),
    ("out is a link to itself", "--out", "loop", None),
    ("CAMs is a link to itself", "--cams", "loop", None),
    ("CAMs of 5,000 characters", "--cams", "x" * 5000, None),
    ("a CAM twice", "--cams", "twice", None),
    ("a CAM whose name is no UTF-8", "--cams", "bytes", None),
    ("labels of an unknown form", "--labels", "cams/a.npy", None),
    ("name with spaces and umlauts", "--cams", "k\xf6ter und Katzen \U0001f408", None),
    ("path with ..", "--cams", "images/../../nowhere", None),
]


@table(FOLDERS)
def test_folder_of_cams(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, option, value, removed = case
    given = cam_set(tmp_path)
    put(tmp_path / "loop", lambda p: p.symlink_to("loop"))
    put(tmp_path / "bytes" / os.fsdecode(b"a\xff.npy"), saved({0: MAP}))
    for suffix in (".npy", ".pkl"):
        put(tmp_path / "twice" / f"a{suffix}", saved({0: MAP}))
    if removed:
        (tmp_path / "truth" / removed).rename(tmp_path / "truth" / "zebra.png")
    given[given.index(option) + 1] = value
    refused("folders", tmp_path, ["masks", *given, "-p", "method=threshold"], "pmm: ", own=[tmp_path / "out"])


OPTIONS = [
    "method=",
    "method=best",
    "method=[crf]",
    "method={a: 1}",
    "s=-1",
    "alpha=0",
    "cam_threshold=0.5",
    "scheduler=x",
]


@pytest.mark.parametrize("value", OPTIONS)
def test_option_of_masks(value, tmp_path):
    refused("folders", tmp_path, ["masks", *cam_set(tmp_path), "-p", value], "pmm: ", own=[tmp_path / "out"])


# ---------------------------------------------------------------- weights


def tensors(save, **changes):
    """A state of the embedded network with tensors changed."""

    def write(path):
        from pmm.networks.models import embedded_imagenet_state

        save({**embedded_imagenet_state(), **changes}, path)

    return write


def headed(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


WEIGHTS = [  # file name, content
    *((f"{name}", "w.pt", content) for name, content in NO_FILE),
    ("empty", "w.pt", b""),
    ("text", "w.pt", "no weights\n"),
    ("zeros", "w.pt", bytes(1000)),
    ("image", "w.pth", PNG),
    ("a tensor", "w.pt", lambda p: torch.save(torch.ones(3), p)),
    ("a list", "w.pt", lambda p: torch.save([torch.ones(3)], p)),
    ("names without tensors", "w.pt", lambda p: torch.save({"epoch": 3}, p)),
    ("nested state", "w.pt", lambda p: torch.save({"state_dict": {"a": torch.ones(3)}}, p)),
    ("numbers for names", "w.pt", lambda p: torch.save({1: torch.ones(3)}, p)),
    ("no tensor", "w.pt", lambda p: torch.save({}, p)),
    ("another network", "w.pt", lambda p: torch.save(torch.nn.Linear(3, 3).state_dict(), p)),
    ("whole module", "w.pt", lambda p: torch.save(torch.nn.Linear(3, 3), p)),
    ("array in a pickle", "w.pt", pickle.dumps({"a": np.ones(3)})),
    ("zip without a pickle", "w.pt", zipped(MAP)),
    ("half a zip", "w.pt", lambda p: (torch.save({"a": torch.ones(999)}, p), p.write_bytes(p.read_bytes()[:900]))),
    ("code saved by torch", "w.pt", lambda p: torch.save({"a": Runs(os.system, "touch ran")}, p)),
    ("another shape", "w.pt", tensors(torch.save, **{"conv_stem.weight": torch.ones(32, 3, 5, 5)})),
    ("NaN", "w.pt", tensors(torch.save, **{"conv_stem.weight": torch.full((32, 3, 3, 3), float("nan"))})),
    ("safetensors: empty", "w.safetensors", b""),
    ("safetensors: text", "w.safetensors", "no weights at all\n"),
    ("safetensors: half", "w.safetensors", headed('{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')),
    ("safetensors: header of 2^60", "w.safetensors", headed("{}", 1 << 60)),
    ("safetensors: header cut", "w.safetensors", headed('{"a":', 500)),
    ("safetensors: deep header", "w.safetensors", headed(deep(10_000))),
    ("safetensors: negative shape", "w.safetensors", headed('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}')),
    ("safetensors: a pickle", "w.safetensors", PICKLES[0][1]),
    ("safetensors: folder", "w.safetensors", Path.mkdir),
    *((name, "w.pt", content) for name, content in PICKLES[:20]),
]


@table(WEIGHTS)
def test_weights(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / case[1], case[2])
    put(tmp_path / "p.yaml", f"run_name: x\nn_train: 4\nruns_dir: {tmp_path / 'runs'}\n")
    command = ["check", tmp_path / "p.yaml", "-p", f"weights={tmp_path / case[1]}"]
    refused("weights", tmp_path, command, "FAIL  backbone: ")
    assert not (tmp_path / "ran").exists()


BACKBONES = [
    "nothing",
    "resnet50.nothing",
    "hf-hub:timm/resnet18",
    "local-dir:/tmp",
    "../resnet50",
    "os.system",
    "r\xe9snet",
]


@pytest.mark.parametrize("name", BACKBONES, ids=ascii)
def test_backbone(name, tmp_path):
    put(tmp_path / "p.yaml", f"n_train: 4\nruns_dir: {tmp_path / 'runs'}\n")
    refused("weights", tmp_path, ["check", tmp_path / "p.yaml", "-p", f"backbone={name}"], "FAIL  backbone: ")


# ---------------------------------------------------------------- scores, runs, data sets that are not there

SCORES = [  # what is changed: folder of masks, folder of truth, word
    ("no masks", "nowhere", "truth", {}, "nowhere"),
    ("no truth", "own", "nowhere", {}, "nowhere"),
    ("masks is a file", "own/a.png", "truth", {}, "a.png"),
    ("empty masks", "empty", "truth", {}, "empty"),
    ("empty truth", "own", "empty", {}, "empty"),
    ("no name in both", "own", "truth", {"truth/a.png": None, "truth/z.png": encoded("PNG", "L")}, "truth"),
    ("other sizes", "own", "truth", {"own/a.png": encoded("PNG", "L", (9, 9))}, "a.png"),
    ("truth is unknown", "own", "truth", {"truth/a.png": encoded("PNG", "L", value=255)}, "truth"),
    ("RGB", "own", "truth", {"own/a.png": encoded("PNG")}, "a.png"),
    ("half a file", "own", "truth", {"truth/a.png": PNG[:99]}, "a.png"),
    *((name, "own", "truth", {"own/a.png": content}, "a.png") for name, content in NO_FILE),
]


@table(SCORES)
def test_scores(case, tmp_path):
    _, masks, truth, changes, word = case
    (tmp_path / "empty").mkdir()
    for folder in ("own", "truth"):
        put(tmp_path / folder / "a.png", encoded("PNG", "L", value=1))
    for place, content in changes.items():
        put(tmp_path / place, content or (lambda p: None))
    refused("scores", tmp_path, ["eval", "--masks", tmp_path / masks, "--truth", tmp_path / truth], word)


NO_SET = [
    ("nowhere", lambda p: None),
    ("file", "no folder"),
    ("empty folder", Path.mkdir),
    ("link to itself", lambda p: p.symlink_to(p.name)),
    ("broken link", lambda p: p.symlink_to("nowhere")),
    ("pipe", os.mkfifo),
]


@pytest.mark.parametrize("dataset", ["voc", "coco", "folder"])
@table(NO_SET)
def test_no_data_set(case, dataset, tmp_path):
    put(tmp_path / "set", case[1])
    check_data("no data set", tmp_path, "set", 2, dataset=dataset)


SETTINGS = [
    ("unknown split", "train_split=zebra"),
    ("split that is a path", "train_split=../../../p"),
    ("split of 5,000 letters", "train_split=" + "x" * 5000),
    ("unknown class", "classes=[dgo]"),
    ("class that no image shows", "classes=[cat]"),
    ("background as class", "classes=[background]"),
    ("required class not among classes", "require_any=[cat]"),
    ("folder of nobody", "data_dir=~nobody_of_this_name/x"),
    ("folder of 5,000 letters", "data_dir=" + "x" * 5000),
]


@table(SETTINGS)
def test_setting_of_a_data_set(case, tmp_path):
    voc_set(tmp_path / "set")
    more = ["classes=[dog]"] if "require" in case[1] else []
    check_data("settings", tmp_path, "pmm: ", 2, *more, case[1])


BROKEN = ("", "[]", "3", "{", deep(100_000), "\0", b"\xff\xfe", Path.mkdir)
RECORDS = [  # command, file of the run, content
    *((command, "params.yaml", "colour: 1\n") for command in ("status", "diff")),
    *((command, "params.yaml", b"\xff\xfe") for command in ("report", "status", "diff")),
    *(("status", "dataset/.stage.json", content) for content in BROKEN),
    *(("cams", "cams/.stage.json", content) for content in BROKEN),
    ("cams", "cams/.stage.json", '{"finished": true}'),
    ("cams", "cams/.stage.json", '{"finished": true, "fingerprint": "x", "settings": {}, "facts": {}}'),
    *(("diff", name, content) for name in ("manifest.json", "metrics.json") for content in BROKEN),
    *(("report", "metrics.json", content) for content in BROKEN),
]


@pytest.mark.parametrize("case", RECORDS, ids=[f"{case[0]} {case[1]} {RECORDS.index(case)}" for case in RECORDS])
def test_record_of_a_run(case, tmp_path):
    command, name, content = case
    run = tmp_path / "runs" / "x"
    put(run / "params.yaml", f"run_name: x\nruns_dir: {tmp_path / 'runs'}\nn_train: 4\nn_val: 4\n")
    shutil.copytree(run, tmp_path / "other")
    put(run / name, content)
    more = {"diff": [tmp_path / "other"], "cams": ["--export", "irn", "--out", tmp_path / "out"]}.get(command, [])
    word = "cams" if command == "cams" else name
    refused("records", tmp_path, [command, run, *more], word, own=[run] if command == "report" else [])


# ---------------------------------------------------------------- the count


def test_all_are_refused(request, capsys):
    """The last test of the file."""
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) < 200 or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("a part of the file")
    count, good = (sum(each.values()) - each[""] for each in (GIVEN, REFUSED))
    with capsys.disabled():
        kinds = ", ".join(f"{kind} {number}" for kind, number in GIVEN.items() if kind)
        print(f"\nabuse: {good} of {count} refused in one line ({kinds})")
    assert good == count
    assert count >= 200
