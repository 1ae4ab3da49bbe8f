"""DICOM and image files in, as volumes."""

from mtnet.io.limits import Limits
from mtnet.io.load import load
from mtnet.io.scan import scan
from mtnet.io.select import CHEST_CT_RULE, Selection, SeriesRule, select

__all__ = ["CHEST_CT_RULE", "Limits", "Selection", "SeriesRule", "load", "scan", "select"]
