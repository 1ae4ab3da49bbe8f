from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Spacingd

from mtnet.transforms import ResultJsond, SpacingAloned, SplitOutputsd


def test_answers_are_spread_and_the_main_one_stays_pred():
    answers = {"pred": torch.zeros(2, 4), "lesions": torch.ones(1, 9), "classification": torch.ones(2)}
    given = {"image": "kept", "pred": answers}
    spread = SplitOutputsd()(given)
    assert set(spread) == {"image", "pred", "pred_lesions", "pred_classification"}
    assert spread["pred"] is answers["pred"] and spread["pred_lesions"] is answers["lesions"]
    assert given["pred"] is answers


def test_another_output_can_be_the_main_one():
    spread = SplitOutputsd(main="lesions")({"pred": {"pred": 1, "lesions": 2}})
    assert spread == {"pred": 2, "pred_pred": 1}


def test_a_plain_tensor_stays_as_it_is():
    tensor = torch.zeros(3)
    assert SplitOutputsd()({"pred": tensor})["pred"] is tensor


def test_a_missing_key_is_an_error_unless_it_is_allowed():
    with pytest.raises(KeyError):
        SplitOutputsd()({"image": 1})
    assert SplitOutputsd(allow_missing_keys=True)({"image": 1}) == {"image": 1}


def test_the_result_is_json_and_keeps_what_was_there():
    before = {"latency": 1.5}
    data = {
        "result": before,
        "boxes": torch.tensor([[1.0, 2.5]]),
        "meta": MetaTensor(torch.tensor([0.5])),
        "array": np.array([[1, 2]]),
        "number": np.float32(0.25),
        "text": "nodule",
    }
    told = ResultJsond(keys=["boxes", "meta", "array", "number", "text", "absent"], allow_missing_keys=True)(data)
    assert json.loads(json.dumps(told["result"])) == {
        "latency": 1.5,
        "boxes": [[1.0, 2.5]],
        "meta": [0.5],
        "array": [[1, 2]],
        "number": 0.25,
        "text": "nodule",
    }
    assert before == {"latency": 1.5} and torch.is_tensor(told["boxes"])


def test_a_chain_without_lesions_still_works():
    chain = Compose([SplitOutputsd(), AsDiscreted(keys="pred", argmax=True), ResultJsond("pred_x", True)])
    assert chain({"pred": {"pred": torch.zeros(2, 3, 3)}})["result"] == {}


def test_resampling_leaves_alone_what_a_host_keeps_beside_the_image():
    image = MetaTensor(torch.ones(1, 4, 4, 4), meta={"filename_or_obj": "scan.nii.gz"})
    item = {"image": image, "image_path": "scan.nii.gz"}
    done = SpacingAloned("image", pixdim=(2.0, 2.0, 2.0))(item)
    assert done["image_path"] == "scan.nii.gz" and done["image"].pixdim.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(AttributeError):
        Spacingd("image", pixdim=(2.0, 2.0, 2.0))(item)
