"""Parameters of the smallest run that does everything."""

from pmm.run.params import Params

TINY = {
    "run_name": "tiny",
    "device": "cpu",
    "inference": "torch",
    "workers": 1,
    "n_train": 4,
    "n_val": 2,
    "scene_width": 64,
    "scene_height": 64,
    "cls_epochs": 1,
    "cls_batch_size": 4,
    "cls_crop": [64, 64],
    "cam_scales": [1.0],
    "cam_flip": False,
    "crf_iterations": 2,
    "seg_decoder_channels": 8,
    "seg_epochs": 1,
    "seg_batch_size": 2,
    "seg_crop": [32, 48],
    "seg_flip": False,
}


def params(folder, **changes):
    return Params(**{**TINY, "runs_dir": str(folder), **changes})
