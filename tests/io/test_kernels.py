"""Kernel names of the vendors."""

from __future__ import annotations

import pytest

from mtnet.io.kernels import KERNEL_ORDER, kernel_class


@pytest.mark.parametrize(
    ("manufacturer", "names", "expected"),
    [
        ("SIEMENS", "B20s B30f B31f B40s Br40 Bf37 Bv40 I30f\\3 Br40d\\3 Qr40 D30f", "soft"),
        ("SIEMENS", "B50s B60f B70f Bl57 Bl64d\\4 I70f\\2 Br59", "lung"),
        ("SIEMENS", "B80s H70h U70u Hr68", "bone"),
        ("GE MEDICAL SYSTEMS", "STANDARD SOFT DETAIL STD+ CHST", "soft"),
        ("GE MEDICAL SYSTEMS", "LUNG", "lung"),
        ("GE MEDICAL SYSTEMS", "BONE BONEPLUS EDGE ULTRA", "bone"),
        ("Philips", "A B C UB", "soft"),
        ("Philips", "L", "lung"),
        ("Philips", "D E YA YB", "bone"),
        ("TOSHIBA", "FC01 FC08 FC17 FC13-H FC07", "soft"),
        ("TOSHIBA", "FC51 FC52 FC55 FC86", "lung"),
        ("CANON", "FC30 FC35 FC81", "bone"),
        ("", "STANDARD b30f", "soft"),
        ("SIEMENS", "L A 11 XYZ", "unknown"),
    ],
)
def test_names_of_the_vendors_are_known(manufacturer: str, names: str, expected: str) -> None:
    assert {name: kernel_class(name, manufacturer) for name in names.split()} == dict.fromkeys(names.split(), expected)


def test_an_absent_kernel_is_unknown_and_stands_between_soft_and_lung() -> None:
    assert kernel_class("") == "unknown"
    assert KERNEL_ORDER == ("soft", "unknown", "lung", "bone")
