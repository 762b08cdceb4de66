"""Parameters: every kind of bad value is one clear line."""

import pytest
import yaml

from pmm.errors import InputError
from pmm.run.folder import project_root
from pmm.run.params import (
    GROUPS,
    Params,
    allowed_values,
    check_params,
    dump_yaml,
    load_params,
    open_run,
    parse_override,
)

ROOT = project_root()


def complaint(**values):
    with pytest.raises(InputError) as caught:
        check_params(values, "p.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("p.yaml: ")
    return message


def write(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "name", "found"),
    [
        ({"s": -0.1}, "s", "-0.1"),
        ({"t": 1.0}, "t", "1.0"),
        ({"alpha": 0}, "alpha", "0"),
        ({"seed": 1.5}, "seed", "1.5"),
        ({"seed": -1}, "seed", "-1"),
        ({"seed": True}, "seed", "True"),
        ({"n_train": "320"}, "n_train", "'320'"),
        ({"cam_flip": "yes"}, "cam_flip", "'yes'"),
        ({"cam_flip": 1}, "cam_flip", "1"),
        ({"pus": "clmap"}, "pus", "'clmap'"),
        ({"seg_output_stride": 4}, "seg_output_stride", "4"),
        ({"cam_scales": []}, "cam_scales", "[]"),
        ({"cam_scales": 1.0}, "cam_scales", "1.0"),
        ({"cam_scales": [1.0, 9.0]}, "cam_scales", "9.0"),
        ({"cam_scales": [1.0, float("nan")]}, "cam_scales", "nan"),
        ({"seg_crop": [224]}, "seg_crop", "[224]"),
        ({"seg_crop": [224, 8]}, "seg_crop", "8"),
        ({"seg_scale": [2.0, 0.5]}, "seg_scale", "2.0"),
        ({"run_name": "../up"}, "run_name", "'../up'"),
        ({"run_name": ""}, "run_name", "''"),
        ({"beta": float("nan")}, "beta", "nan"),
        ({"kappa": float("inf")}, "kappa", "inf"),
        ({"alpha": None}, "alpha", "None"),
    ],
)
def test_a_bad_value_is_named_with_what_was_found(values, name, found):
    message = complaint(**values)
    assert name in message and found in message


def test_values_that_do_not_go_together():
    assert "data_dir is empty" in complaint(dataset="voc")
    assert "exponent" in complaint(pus="pow", kappa=2.0)
    assert check_params({"pus": "pow", "kappa": 0.9}, "p.yaml").kappa == 0.9


@pytest.mark.parametrize(("wrong", "right"), [("bta", "beta"), ("cam_scale", "cam_scales"), ("run-name", "run_name")])
def test_an_unknown_name_gets_the_nearest_one(wrong, right):
    assert f"unknown parameter {wrong}; did you mean {right}?" in complaint(**{wrong: 1})


def test_an_unknown_name_like_no_other_points_to_the_list():
    assert "`pmm params` lists all names" in complaint(zzzzzzzz=1)


def test_yaml_reads_1e_4_as_text_and_the_line_says_so(tmp_path):
    path = write(tmp_path, "cls_lr: 1e-4\n")
    with pytest.raises(InputError, match=r"cls_lr = '1e-4': .*write 1\.0e-4"):
        load_params(path)
    assert load_params(write(tmp_path, "cls_lr: 1.0e-4\n")).cls_lr == 1e-4


def test_yaml_off_is_not_the_text_off_but_refused(tmp_path):
    with pytest.raises(InputError, match=r"pus = False"):
        load_params(write(tmp_path, "pus: off\n"))


def test_a_whole_number_serves_as_a_number():
    assert check_params({"s": 1, "cam_scales": [1, 2]}, "p.yaml").s == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "found a list"),
        ("just words\n", "found a str"),
        ("s: [0.3\n", "not valid YAML at line"),
        ("s: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("1: 2\n", "unknown parameter 1"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, expected):
    with pytest.raises(InputError) as caught:
        load_params(write(tmp_path, text))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_binary_or_empty_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read .*params/demo\.yaml"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="holds no parameter; write one `name: value` a line, or take"):
        load_params(write(tmp_path, "# nothing\n"))


def test_overrides_win_and_are_checked(tmp_path):
    path = write(tmp_path, "s: 0.1\nt: 0.2\n")
    params = load_params(path, {"s": 0.4})
    assert (params.s, params.t) == (0.4, 0.2)
    with pytest.raises(InputError, match="unknown parameter q"):
        load_params(path, {"q": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s=0.4", ("s", 0.4)),
        ("cam_scales=[1.0, 2]", ("cam_scales", [1.0, 2])),
        ("data_dir=/a=b", ("data_dir", "/a=b")),
        ("val_split=", ("val_split", "")),
        ("val_split=''", ("val_split", "")),
    ],
)
def test_override_text(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["s", "=1", "s=[1", ""])
def test_bad_override_text(text):
    with pytest.raises(InputError, match=r"^-p "):
        parse_override(text)


def test_from_namespace_takes_parameters_and_leaves_the_rest():
    params = Params.from_namespace({"s": 0.4, "np": object(), "x": 1, "run_name": "a"})
    assert (params.s, params.run_name) == (0.4, "a")
    with pytest.raises(InputError, match="notebook parameters: s = 'a'"):
        Params.from_namespace({"s": "a"})


def test_an_existing_run_supplies_what_a_notebook_does_not_say(tmp_path):
    own = {"run_name": "mine", "runs_dir": str(tmp_path)}
    made = Params(**own, dataset="folder", data_dir=str(tmp_path), val_split="", s=0.4, alpha=2.0)
    open_run(made)
    assert Params.from_namespace({**own, "alpha": 0.7}) == made.model_copy(update={"alpha": 0.7})
    assert Params.from_namespace({**own, "run_name": "other"}).s == Params().s


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"dataset": "scenes", "data_dir": ""}, "dataset = scenes"),
        ({"dataset": "folder", "data_dir": "elsewhere"}, "data_dir = .*elsewhere"),
        ({"val_split": "val"}, "val_split = val"),
        ({"train_split": "train_aug"}, "train_split = train_aug"),
        ({"judge_split": "train"}, "judge_split = train"),
        ({"classes": ["cow", "cat"]}, "classes = cat, cow"),
        ({"require_any": []}, "require_any = ''"),
    ],
)
def test_a_notebook_that_contradicts_its_run_is_told_in_one_line(tmp_path, said, named):
    own = {"run_name": "mine", "runs_dir": str(tmp_path)}
    chosen = {"classes": ["cat", "dog"], "require_any": ["dog"]}
    open_run(Params(**own, dataset="folder", data_dir=str(tmp_path), val_split="", **chosen))
    with pytest.raises(InputError, match=rf"^{named}: .*mine was made with .*; give the same, or another run_name$"):
        Params.from_namespace({**own, **said})


def test_the_runner_may_change_splits_but_not_data(tmp_path):
    own = {"run_name": "mine", "runs_dir": str(tmp_path), "dataset": "folder", "data_dir": str(tmp_path)}
    open_run(Params(**own))
    assert load_params(open_run(Params(**own, train_split="both")).path / "params.yaml").train_split == "both"
    with pytest.raises(InputError, match=r"^dataset = scenes: "):
        open_run(Params(run_name="mine", runs_dir=str(tmp_path)))


def test_the_classes_of_interest_belong_to_the_run_but_neither_their_order_nor_a_name_does(tmp_path):
    own = {"run_name": "mine", "runs_dir": str(tmp_path)}
    open_run(Params(**own, classes=["cat", "dog"], require_any=["cat"]))
    again = open_run(Params(**own, classes=["dog", "cat"], require_any=["cat"], data_name="pets", judge_split="train"))
    assert load_params(again.path / "params.yaml").data_name == "pets"
    for changed, named in (
        ({"classes": ["cat"]}, "classes = cat: "),
        ({"classes": ["cat", "dog"]}, "require_any = ''"),
    ):
        with pytest.raises(InputError, match=rf"^{named}.* was made with "):
            open_run(Params(**own, **changed, require_any=["cat"] if "classes =" in named else []))


def test_without_a_judge_split_the_training_split_judges():
    assert [Params(train_split="a", val_split="b").split_name(role) for role in ("train", "judge", "val")] == [*"aab"]
    assert Params(train_split="a", judge_split="c").split_name("judge") == "c"


def test_the_animals_are_chosen_and_judged_as_the_file_says():
    params = load_params(ROOT / "params" / "voc2012_animals.yaml")
    assert params.classes == ["cat", "cow", "dog", "horse", "person", "sheep"]
    assert params.require_any == ["cat", "cow", "dog", "horse", "sheep"] and params.data_name == "VOC 2012 animals"
    assert (params.train_split, params.judge_split, params.val_split) == ("train_aug", "train", "val")


def test_a_damaged_params_file_of_a_run_is_named_with_its_mend(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "params.yaml").write_text("gamma: 1\n")
    with pytest.raises(InputError, match=r"mine.params\.yaml: unknown parameter gamma; .*delete this file$"):
        open_run(Params(run_name="mine", runs_dir=str(tmp_path)))


def test_every_group_begins_with_a_parameter_and_the_first_one_does():
    assert set(GROUPS) <= set(Params.model_fields) and next(iter(GROUPS)) == next(iter(Params.model_fields))


def test_params_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Params().s = 1.0


def test_pick_takes_names_and_prefixes():
    params = Params()
    assert params.pick("s", "t") == {"s": params.s, "t": params.t}
    assert set(params.pick("cyclic_*")) == {n for n in Params.model_fields if n.startswith("cyclic_")}


def test_every_parameter_has_a_meaning_and_a_range():
    for name, field in Params.model_fields.items():
        assert field.description and len(field.description) <= 80, name
        assert allowed_values(name), name


def test_the_written_file_reads_back_equal(tmp_path):
    assert load_params(write(tmp_path, dump_yaml())) == Params()
    odd = {"cls_lr": 1e-5, "val_split": "", "cam_scales": [0.5], "run_name": "1e5", "pus": "none"}
    assert yaml.safe_load(dump_yaml(odd)) == odd


def test_demo_yaml_is_written_from_the_defaults():
    demo = (ROOT / "params" / "demo.yaml").read_text(encoding="utf-8")
    assert demo == dump_yaml(), "run: python -m pmm.run.params > params/demo.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_every_parameter_file_is_valid(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    needs_folder = values.get("dataset", "scenes") != "scenes" and not values.get("data_dir")
    params = load_params(path, {"data_dir": "/data"} if needs_folder else None)
    assert params.run_name == path.stem
