"""Weights on disk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtnet.nets import load_state, read_state, save_state
from tests.nets.builders import four_tasks, image


def test_loaded_weights_are_the_saved_ones_to_half_precision(tmp_path):
    net, other = four_tasks(norm="batch"), four_tasks(norm="batch")
    net(image(2))
    save_state(net, tmp_path / "model.pt")
    load_state(other, tmp_path / "model.pt")
    for (name, saved), loaded in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        assert loaded.dtype == saved.dtype, name
        if saved.ndim < 2:
            assert torch.equal(loaded, saved), name
        else:
            assert torch.equal(loaded, saved.half().float()), name


def test_the_file_is_a_plain_dict_of_half_and_single_precision(tmp_path):
    net = four_tasks(norm="batch")
    save_state(net, tmp_path / "model.pt")
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(stored) is dict
    assert list(stored) == list(net.state_dict())
    for name, tensor in stored.items():
        expected = (
            torch.int64
            if name.endswith("num_batches_tracked")
            else torch.float16
            if tensor.ndim >= 2
            else torch.float32
        )
        assert tensor.dtype == expected, name


def test_the_same_weights_make_the_same_bytes_under_any_name(tmp_path):
    net = four_tasks()
    save_state(net, tmp_path / "model.pt")
    save_state(net, tmp_path / "other.pt")
    assert (tmp_path / "model.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "other.pt"]


def test_a_saved_and_loaded_network_saves_the_same_bytes_again(tmp_path):
    net, other = four_tasks(), four_tasks()
    save_state(net, tmp_path / "model.pt")
    load_state(other, tmp_path / "model.pt")
    save_state(other, tmp_path / "again.pt")
    assert (tmp_path / "model.pt").read_bytes() == (tmp_path / "again.pt").read_bytes()


def test_one_file_fits_every_view_of_the_network(tmp_path):
    net = four_tasks().eval()
    save_state(net, tmp_path / "model.pt")
    view = four_tasks(outputs=["pred"], layout="tensor").eval()
    load_state(view, tmp_path / "model.pt")
    load_state(net, tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(view(image(2)), net(image(2))["pred"])


def test_a_plain_single_precision_state_dict_loads_too(tmp_path):
    net, other = four_tasks(), four_tasks()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    load_state(other, tmp_path / "model.pt")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_read_tensors_are_single_precision(tmp_path):
    save_state(nn.Linear(3, 2), tmp_path / "model.pt")
    assert {tensor.dtype for tensor in read_state(tmp_path / "model.pt").values()} == {torch.float32}


def test_weights_of_other_tasks_are_refused_by_name(tmp_path):
    save_state(four_tasks(tasks=["segmentation", "classification"]), tmp_path / "model.pt")
    net = four_tasks(tasks=["segmentation", "reconstruction"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_state(net, tmp_path / "model.pt")
    text = str(caught.value)
    assert "model.pt" in text
    assert "missing branches.reconstruction." in text and " more" in text
    assert "unexpected branches.classification.head.linear.weight, branches.classification.head.linear.bias" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path):
    save_state(nn.Linear(3, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"wrong shape weight \(2, 3\) instead of \(2, 5\)"):
        load_state(nn.Linear(5, 2), tmp_path / "model.pt")


@pytest.mark.parametrize("value", [1e5, float("nan"), float("inf")])
def test_a_value_that_half_precision_cannot_hold_is_not_saved(tmp_path, value):
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, value)
    with pytest.raises(ValueError, match="'weight'"):
        save_state(net, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


class Surprise:
    def __reduce__(self):
        return (open, ("never-made.txt", "w"))


@pytest.mark.parametrize(
    "content", [{"model": {"weight": torch.zeros(1)}}, [torch.zeros(1)], Surprise()], ids=["nested", "list", "code"]
)
def test_a_file_that_is_no_plain_state_dict_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="plain state dict"):
        read_state(tmp_path / "model.pt")
    assert not (tmp_path / "never-made.txt").exists()


@pytest.mark.parametrize("content", [b"", b"not a file of torch", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read"):
        read_state(tmp_path / "model.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        read_state(tmp_path / "absent.pt")
