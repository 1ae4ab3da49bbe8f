"""Whether the image that a host loaded is one that the network is made for: judged as ``mtnet infer`` judges it."""

from __future__ import annotations

from pathlib import Path

from mtnet.bundle import Bundle, BundleError
from mtnet.cases import Case, ReadOptions, items_of, read_image_item, read_volume_item
from mtnet.hosts.monai_bundle import bundle_root
from mtnet.inference.cost import NoMeter
from mtnet.inference.input_check import check_image, check_lungs, settle
from mtnet.inference.region import find_lungs
from mtnet.io.scan import scan
from mtnet.structures import InputDomain, RefusedError, ReportLine


class HostInputCheck:
    """Holds an image against the input domain of a bundle.

    Hosts hand over an image as the network saw it, clipped and resampled, so what its headers and values say is read
    from its file once more.

    Args:
        bundle: name of the bundle, found where MONAI runs it (``bundle_root``).
    """

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        try:
            self.domain: InputDomain | None = Bundle.read(Path(bundle_root(bundle))).input_domain()
        except BundleError:
            self.domain = None

    def __call__(self, path: Path, *, allow_outside: bool = False) -> tuple[ReportLine, ...]:
        """What is to be said of the image.

        Args:
            path: of the image, as the host knows it.
            allow_outside: flag what would be refused.

        Raises:
            RefusedError: the image lies outside of the input domain.
        """
        if self.domain is None:
            message = f"The input domain of bundle {self.bundle} is not known here: whether it is made for this image "
            return (ReportLine("domain_not_declared", "flagged", f"{message}is not checked.", "input domain"),)
        case = self._read(path, self.domain)
        lines = check_image(self.domain, case.volume, case.source)
        if self.domain.organ == "lungs":
            lines += check_lungs(self.domain, find_lungs(case.volume.array[0], case.volume.geometry), case.source)
        return settle(lines, allow_outside=allow_outside)

    def _read(self, path: Path, domain: InputDomain) -> Case:
        options = ReadOptions()
        items = items_of(scan(path), domain.spatial_dims, options, domain.modalities)
        if len(items) == 1 and domain.spatial_dims == 3:
            return read_volume_item(items[0].study, options, NoMeter())
        case = read_image_item(items[0], options, NoMeter()) if len(items) == 1 else None
        if isinstance(case, Case):
            return case
        message = "The input holds several studies, images or frames; give one of them."
        raise RefusedError([ReportLine("several_images", "refused", message, path.name)])
