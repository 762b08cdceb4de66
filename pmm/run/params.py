"""Every parameter of a run, once: name, type, range, unit and meaning.

A parameter file is one flat YAML; `load_params` reads and checks it, `Params` documents it.
The defaults are those of `params/demo.yaml`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pmm.errors import InputError
from pmm.files import write_text
from pmm.processes import is_first
from pmm.run.folder import RunFolder, located, project_root

GROUPS = {
    "run_name": "the run",
    "dataset": "the data",
    "backbone": "the networks",
    "cls_epochs": "the classifier",
    "multicrop_epochs": "multi-crop training: crops are labelled by rough masks",
    "cam_scales": "the class activation maps",
    "variant": "the pseudo-masks",
    "seg_architecture": "the segmentation model",
    "pixel_loss": "pretended under-fitting",
    "cyclic_rounds": "cyclic pseudo-masks",
    "ablation_seeds": "the longer comparison of notebook 05",
    "ablation_scenes": "the grids of notebook 07",
}
"""First parameter of each group -> what the group is about; a group reaches to the next one."""

DATA = ("dataset", "data_dir", "classes", "require_any")
"""What a run's folder belongs to: these stay, or the run has another name."""
MOST_TEXT, MOST_VALUES = 100_000, 1_000  # characters of a parameter file, and values of a list
SPLITS = ("train_split", "judge_split", "val_split")

Scale = Annotated[float, Field(gt=0, le=8)]
Side = Annotated[int, Field(ge=32, le=4096)]  # of a crop, pixels
Rate = Annotated[int, Field(ge=1, le=64)]
Value = Annotated[float, Field(ge=0, lt=1000)]  # of an axis of a grid
Alpha = Annotated[float, Field(gt=0, le=1000)]
Threshold = Annotated[float, Field(ge=0, lt=1)]
Trained = Literal["methods", "augment", "pus", "cyclic"]


class Params(BaseModel):
    """All parameters of one run; immutable, unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run_name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run folder")
    runs_dir: str = Field("runs", description="folder of all runs; relative to the project's root")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of scenes, weights, batches and augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU if there is one")
    inference: Literal["auto", "torch", "onnxruntime"] = Field(
        "auto", description="computes CAMs and predictions; auto: ONNX Runtime on a processor, if installed"
    )
    workers: int = Field(0, ge=0, le=1024, description="images at a time; 0 means one a core")
    scheduler: str = Field("", description="Dask cluster for work on single images, tcp://host:port; empty: none")
    loader_workers: int = Field(0, ge=0, le=256, description="processes that load training images")

    micro_batches: int = Field(1, ge=1, le=256, description="parts of a training step's images, for little memory")

    dataset: Literal["scenes", "voc", "coco", "folder"] = Field("scenes", description="where images come from")
    data_dir: str = Field("", description="folder of the data set; scenes are composed, they need none")
    data_name: str = Field("", description="what tables and figures call the data; empty: the set's own name")
    classes: list[str] = Field([], description="classes of interest; empty: all; images with others are left out")
    require_any: list[str] = Field([], description="an image must show one of these; empty: no demand")
    train_split: str = Field("train", min_length=1, description="split that trains and gets pseudo-masks")
    judge_split: str = Field("", description="training images that judge pseudo-masks; empty: all with masks")
    val_split: str = Field("val", description="split with masks that measures; empty if there is none")
    n_train: int = Field(240, ge=2, le=100_000, description="composed training scenes")
    n_val: int = Field(80, ge=2, le=100_000, description="composed validation scenes")
    scene_width: int = Field(256, ge=64, le=2048, description="width of a composed scene, pixels")
    scene_height: int = Field(192, ge=64, le=2048, description="height of a composed scene, pixels")

    backbone: str = Field("tf_efficientnet_lite0", min_length=1, description="timm name of the backbone")
    weights: str = Field("", description="local ImageNet weights; empty: embedded, else timm's download")

    cls_epochs: int = Field(8, ge=1, le=1000, description="classifier epochs")
    cls_batch_size: int = Field(16, ge=1, le=4096, description="classifier images a step")
    cls_crop: list[Side] = Field([192, 192], min_length=2, max_length=2, description="crop height, width, pixels")
    cls_optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimiser of the classifier")
    cls_schedule: Literal["onecycle", "poly"] = Field("onecycle", description="learning-rate schedule")
    cls_lr: float = Field(3.0e-4, gt=0, le=10, description="learning rate of the backbone")
    cls_head_lr: float = Field(20.0, gt=0, le=1000, description="learning rate of the head over the backbone's")
    cls_weight_decay: float = Field(5.0e-4, ge=0, le=1, description="weight decay of the classifier")
    cls_output_stride: Literal[8, 16, 32] = Field(16, description="pixels a step of the map in training")
    cls_frozen_stages: int = Field(2, ge=0, le=7, description="first backbone stages that are not trained")
    cls_augment: Literal["weak", "strong"] = Field("strong", description="weak: crop and flip; strong: all")

    multicrop_epochs: int = Field(0, ge=0, le=1000, description="more classifier epochs, on such crops; 0: none")
    multicrop_scale: list[Scale] = Field([0.6, 2.5], min_length=2, max_length=2, description="scale jitter, from-to")
    multicrop_alpha: float = Field(24.0, gt=0, le=1000, description="background exponent of the rough masks, eq. 2")
    multicrop_cam_scales: list[Scale] = Field([0.5, 1.0], min_length=1, description="image scales of their CAMs")

    cam_dir: str = Field("", description="CAMs of another project, a file an image; empty: the classifier's")
    cam_scales: list[Scale] = Field([0.5, 1.0, 1.5, 2.0], min_length=1, description="image scales, summed")
    cam_output_stride: Literal[0, 8, 16, 32] = Field(0, description="pixels a step of the map; 0: as in training")
    cam_flip: bool = Field(True, description="add the mirrored image's maps")
    cam_batch_size: int = Field(0, ge=0, le=4096, description="images of one size a pass; 0: 16 on a GPU, else 1")

    variant: Literal["official", "paper"] = Field("official", description="released code or equations")
    s: float = Field(0.3, ge=0, le=10, description="strength of the variation smoothing, eq. 6")
    t: float = Field(0.05, ge=0, lt=1, description="foreground threshold on the normalised CAM, eq. 5")
    cam_threshold: float = Field(0.5, gt=0, lt=1, description="foreground threshold of the CAM baseline")
    alpha: float = Field(0.5, gt=0, le=1000, description="background exponent of PPMG, eq. 2")
    alpha_crf: float = Field(1.0, gt=0, le=1000, description="background exponent of the joint CRF, eq. 2")
    crf_iterations: int = Field(10, ge=1, le=1000, description="mean-field steps of the dense CRF")
    crf_gauss_sxy: float = Field(3.0, gt=0, le=1000, description="Gaussian kernel: reach, pixels")
    crf_gauss_compat: float = Field(10.0, ge=0, le=1000, description="Gaussian kernel: weight in PPMG")
    crf_joint_gauss_compat: float = Field(3.0, ge=0, le=1000, description="the same in the joint CRF")
    crf_bilateral_sxy: float = Field(80.0, gt=0, le=1000, description="bilateral kernel: reach, pixels")
    crf_bilateral_srgb: float = Field(13.0, gt=0, le=255, description="bilateral kernel: reach in colour")
    crf_bilateral_compat: float = Field(10.0, ge=0, le=1000, description="bilateral kernel: weight")

    seg_architecture: Literal["deeplabv3plus", "pspnet"] = Field("deeplabv3plus", description="its decoder")
    seg_decoder_channels: int = Field(96, ge=8, le=1024, description="channels of the DeepLabV3+ decoder")
    seg_atrous_rates: list[Rate] = Field([2, 3, 4], min_length=3, max_length=3, description="DeepLabV3+ dilations")
    seg_auxiliary: float = Field(0.0, ge=0, le=10, description="weight of a second head in training; 0: none")
    seg_masks: Literal["threshold", "crf", "ppmg_s0", "ppmg"] = Field("ppmg", description="masks it learns from")
    seg_init: Literal["imagenet", "classifier"] = Field("classifier", description="where its encoder starts from")
    seg_epochs: int = Field(4, ge=1, le=1000, description="segmentation epochs")
    seg_batch_size: int = Field(8, ge=2, le=4096, description="segmentation images a step")
    seg_crop: list[Side] = Field([192, 192], min_length=2, max_length=2, description="crop height, width, pixels")
    seg_scale: list[Scale] = Field([0.75, 1.5], min_length=2, max_length=2, description="scale jitter, from-to")
    seg_optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimiser of the segmentation model")
    seg_schedule: Literal["onecycle", "poly"] = Field("onecycle", description="learning-rate schedule")
    seg_lr: float = Field(3.0e-4, gt=0, le=10, description="learning rate of the encoder")
    seg_head_lr: float = Field(10.0, gt=0, le=1000, description="learning rate of the decoder over the encoder's")
    seg_weight_decay: float = Field(5.0e-4, ge=0, le=1, description="weight decay of the segmentation model")
    seg_background_margin: float = Field(1.4, ge=0, le=10, description="background logit added in training; 0: none")
    seg_output_stride: Literal[8, 16, 32] = Field(16, description="pixels a step of the encoder's last map")
    seg_frozen_stages: int = Field(3, ge=0, le=7, description="first encoder stages that are not trained")
    seg_scales: list[Scale] = Field([1.0], min_length=1, description="image scales summed at prediction")
    seg_flip: bool = Field(True, description="add the mirrored image at prediction")
    seg_window: int = Field(0, ge=0, le=4096, description="side of windows at prediction, pixels; 0: none")
    seg_crf: bool = Field(False, description="score val also with a dense CRF, predict with it")

    pixel_loss: Literal["ce", "bce"] = Field("ce", description="cross-entropy, or one-vs-all BCE")
    pus: Literal["none", "clamp", "pow", "ignore"] = Field("clamp", description="the strategy, eq. 11-13")
    pus_variant: Literal["paper", "official"] = Field("paper", description="equations, or the released code")
    beta: float = Field(0.3, ge=0, le=100, description="gate: PUS acts while the mean loss is below it, eq. 10")
    kappa: float = Field(1.0, gt=0, le=100, description="pixel loss from which a label is doubted (pow: exponent)")
    pus_warmup: float = Field(0.0, ge=0, le=1, description="share of the steps before PUS may act")

    cyclic_rounds: int = Field(1, ge=0, le=20, description="rounds after the first training")
    cyclic_teacher: Literal["last", "best_on_val"] = Field(
        "last", description="epoch that predicts; best_on_val: pixel labels of val choose it"
    )
    cyclic_filter: bool = Field(True, description="allow only the classes of the image's labels")
    cyclic_crf: bool = Field(False, description="joint CRF on the predicted masks")
    cyclic_scales: list[Scale] = Field([1.0], min_length=1, description="image scales summed at prediction")

    ablation_seeds: list[int] = Field([], description="seeds of the trained studies; empty: none")

    ablation_scenes: int = Field(12, ge=1, le=1_000_000, description="training images that evaluate pseudo-masks")
    ablation_s: list[Value] = Field([0.0, 0.15, 0.3, 0.6], description="values of s; 0 and the run's s are added")
    ablation_alpha: list[Alpha] = Field([0.25, 0.5, 1.0, 2.0], description="values of alpha; the run's is added")
    ablation_t: list[Threshold] = Field([0.0, 0.05, 0.2, 0.4], description="values of t; the run's is added")
    ablation_crf: list[Value] = Field([0.0, 0.25, 1.0, 4.0], description="factors on the CRF's weights; 0: no CRF")
    ablation_noise: float = Field(0.3, ge=0, le=1, description="share of wrong object pixels in the noisy masks")
    ablation_train: list[Trained] = Field([], description="trained grids to run; empty: none")

    @model_validator(mode="after")
    def _fit_each_other(self) -> Params:
        for name, (low, high) in self.pick("seg_scale", "multicrop_scale").items():
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}]: give the smaller factor first")
        if self.dataset != "scenes" and not self.data_dir:
            raise ValueError(f"data_dir is empty: name the folder of the {self.dataset} data set")
        if self.cyclic_teacher == "best_on_val" and not self.val_split:
            raise ValueError("cyclic_teacher = best_on_val: there is no val_split to choose by; take last")
        if self.seg_batch_size < 2 * self.micro_batches:
            raise ValueError(f"seg_batch_size = {self.seg_batch_size}: give each of micro_batches two images or more")
        if self.pus == "pow" and self.kappa > 1:
            raise ValueError(f"kappa = {self.kappa} with pus = pow: the exponent must be at most 1")
        return self

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> Params:
        """Build Params from a notebook's variables: those that carry a parameter's name.

        A run that exists already supplies what they do not say.

        Raises:
            InputError: a value is wrong, or the run was made with other data or splits.
        """
        said = {k: v for k, v in namespace.items() if k in cls.model_fields}
        params = check_params(said, "notebook parameters")
        known = _read_run(run_path(params))
        if known is None:
            return params
        _check_same(known, params, [name for name in (*DATA, *SPLITS) if name in said])
        return check_params({**known.model_dump(), **said}, "notebook parameters")

    def split_name(self, role: str) -> str:
        """Return the split that does "train", "judge" or "val"; without a `judge_split` the training split judges."""
        return self.judge_split or self.train_split if role == "judge" else getattr(self, f"{role}_split")

    def pick(self, *names: str) -> dict[str, Any]:
        """Return the named parameters; a name ending in `*` stands for all that begin so."""
        picked: dict[str, Any] = {}
        for name in names:
            keys = [k for k in type(self).model_fields if k.startswith(name[:-1])] if name[-1] == "*" else [name]
            picked |= {k: getattr(self, k) for k in keys}
        return picked


def run_path(params: Params) -> Path:
    """Return the folder of a run: below the project's root unless `runs_dir` is absolute."""
    return Path(located(params.runs_dir) or project_root()) / params.run_name


def open_run(params: Params) -> RunFolder:
    """Return the run's folder, with its params.yaml written.

    Raises:
        InputError: the folder belongs to a run on other data; nothing has been moved or written then.
    """
    run = RunFolder(run_path(params))
    known = _read_run(run.path)
    if known is not None:
        _check_same(known, params, DATA)
    if is_first():
        write_text(run.path / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))
    return run


def _read_run(path: Path) -> Params | None:
    """Parameters of a run that exists, None of a new one."""
    if not (path / "params.yaml").is_file():
        return None
    try:
        return load_params(path / "params.yaml")
    except InputError as error:
        raise InputError(f"{error}; if the run is old or damaged, delete this file") from None


def _check_same(known: Params, params: Params, names: Sequence[str]) -> None:
    def value(source: Params, name: str) -> str:
        """Return a parameter; paths as they are found, names without an order."""
        given = located(source.data_dir) if name == "data_dir" else getattr(source, name)
        return ", ".join(sorted(set(given))) if isinstance(given, list) else str(given)

    for name in names:
        old, new = value(known, name), value(params, name)
        if old != new:
            raise InputError(
                f"{name} = {new or repr(new)}: {run_path(params)} was made with {name} = {old or repr(old)}; "
                "give the same, or another run_name"
            )


def load_params(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read a YAML parameter file, apply overrides, check all.

    Args:
        path: flat YAML file of `name: value` lines.
        overrides: values that replace the file's.

    Raises:
        InputError: the file is missing, is no flat YAML, or has an unknown name or a bad value.
    """
    hint = "write one `name: value` a line"
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file such as params/demo.yaml") from None
    except ValueError:  # bytes that are no text, or a NUL in the path
        raise InputError(f"{path}: not valid YAML (no UTF-8 text); {hint}") from None
    values = _read_yaml(text, str(path), hint)
    if values is None:
        raise InputError(f"{path}: holds no parameter; {hint}, or take params/demo.yaml")
    if not isinstance(values, dict):
        raise InputError(f"{path}: found a {type(values).__name__}; {hint}")
    return check_params({**values, **(overrides or {})}, str(path))


class _PlainLoader(yaml.SafeLoader):
    """Plain values alone: no alias, whose expansion has no bound, no name twice, no deep nesting; dates are text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Refuse what a list of parameters never needs."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="an anchor or alias", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that stands twice, or for other names."""
        seen = {"<<"}  # which takes in the names of another mapping
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                problem = f"{key.value} stands twice" if isinstance(key, yaml.ScalarNode) else "a name that is no text"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, source: str, hint: str) -> Any:
    """Read plain YAML; InputError, in one line that begins with its source, for everything else."""
    if len(text) > MOST_TEXT:
        raise InputError(f"{source}: longer than {MOST_TEXT} characters; {hint}")
    try:
        return _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" at line {mark.line + 1}" if mark else ""
        why = f" ({' '.join(problem.split())[:80]})" if problem else ""
        raise InputError(f"{source}: not valid YAML{where}{why}; {hint}") from None
    except (ValueError, OverflowError, RecursionError) as error:  # PyYAML's constructors raise what Python raises
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number that cannot be read"
        raise InputError(f"{source}: not valid YAML ({reason}); {hint}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Split a command line's `name=value`; the value is read as YAML, nothing (a shell's `""`) as empty text."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise InputError(f"-p {text}: write name=value, such as -p s=0.4")
    shown = f"-p {text[:60]}{'...' if len(text) > 60 else ''}"
    return name.strip(), _read_yaml(value, shown, "write a number, a text or [a, list]") if value.strip() else ""


def check_params(values: Mapping[Any, Any], source: str) -> Params:
    """Validate a flat mapping; every complaint is one line that begins with its source."""
    for name in values:
        if name not in Params.model_fields:
            shown = name if isinstance(name, str) else _shown(name)
            near = difflib.get_close_matches(shown, Params.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "`pmm params` lists all names"
            raise InputError(f"{source}: unknown parameter {shown}; {hint}")
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and not each.isprintable():
                raise InputError(f"{source}: {name} = {each[:40]!r}: holds what cannot be printed; remove it")
        if isinstance(value, list) and len(value) > MOST_VALUES:
            raise InputError(f"{source}: {name}: {len(value)} values; give at most {MOST_VALUES}")
    try:
        return Params(**values)
    except ValidationError as error:
        raise InputError(f"{source}: {_complaint(error.errors()[0])}") from None


def _complaint(problem: Mapping[str, Any]) -> str:
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    name, value, reason = problem["loc"][0], problem["input"], problem["msg"]
    field = Params.model_fields[name]
    message = f"{name} = {_shown(value)}: {reason[0].lower()}{reason[1:]}; {name} is {field.description}"
    if isinstance(value, str) and "number" in problem["msg"] and _is_number(value):
        message += " (YAML reads 1e-4 as text: write 1.0e-4)"
    return message


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no number of 5,000 digits
        return "a number of thousands of digits"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def allowed_values(name: str) -> str:
    """Return what a parameter may be, in words: `one of a, b`, `number, > 0, <= 10`, `list of numbers, > 0, <= 8`."""
    field = Params.model_fields[name]
    return _in_words(field.annotation, field.metadata)


def _in_words(kind: Any, metadata: Sequence[Any], plural: str = "") -> str:
    if get_origin(kind) is Literal:
        return f"{'' if plural else 'one of '}{', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is Annotated:
        kind, *limits = get_args(kind)
        return _in_words(kind, [m for limit in limits for m in limit.metadata], plural)
    if get_origin(kind) is list:
        return f"list of {_in_words(get_args(kind)[0], (), 's')}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}[kind] + plural
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return ", ".join([words, *(f"{signs[k]} {getattr(m, k)}" for m in metadata for k in signs if hasattr(m, k))])


YAML_HEADER = """\
# Parameters of one run: pmm run THIS_FILE [-p name=value]. Write 1.0e-4, not 1e-4, which YAML reads as text.
"""


def dump_yaml(values: Mapping[str, Any] | None = None) -> str:
    """Return the text of a parameter file, each line with its meaning; `params/demo.yaml` is written so.

    Args:
        values: parameters to write; all with their defaults unless told.
    """
    chosen, lines, group = Params().model_dump() if values is None else values, [], []
    for name, field in Params.model_fields.items():
        if name in GROUPS:
            group = [f"\n# --- {GROUPS[name]}"]
        if name in chosen:
            value = yaml.safe_dump(chosen[name], default_flow_style=True, width=10_000).split("\n")[0]
            lines += [*group, f"{f'{name}: {value}':<40}  # {field.description} ({allowed_values(name)})"]
            group = []
    return YAML_HEADER + "\n".join(lines).lstrip("\n") + "\n"


if __name__ == "__main__":  # python -m pmm.run.params > params/demo.yaml
    print(dump_yaml(), end="")
