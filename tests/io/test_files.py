"""Walking folders and archives without being led anywhere else."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest

from mtnet.io.files import Opener, list_files
from mtnet.io.limits import Limits
from mtnet.io.scan import scan
from mtnet.structures import RefusedError
from tests.builders import write_ct_series


def zip_of(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_nested_folders_odd_names_and_foreign_files_are_read_through(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a" / "b c", file_name="IM{:d}")
    (tmp_path / "notes.txt").write_text("CS stands at the start of nothing here")
    (tmp_path / "a" / "table.csv").write_text("1,2\n")
    (tmp_path / "empty").touch()
    (study,) = scan(tmp_path)
    assert study.series[0].shape == (12, 10, 8)
    assert study.report.codes == ("foreign_files",)
    assert study.report.lines[0].message.startswith("3 file(s)")


def test_an_archive_gives_the_same_study_as_its_folder(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", tilt_deg=10)
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    (from_folder,), (from_archive,) = scan(tmp_path / "study"), scan(archive)
    (one,), (two,) = from_folder.series, from_archive.series
    assert (two.shape, two.spacing_mm, two.stacks[0].report) == (one.shape, one.spacing_mm, one.stacks[0].report)
    assert [i.sop_instance_uid for i in two.instances] == [i.sop_instance_uid for i in one.instances]
    assert {(i.path, i.member) for i in two.instances} == {(archive, f"{k:04d}.dcm") for k in range(8)}


def test_one_file_alone_is_an_input(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path)
    (study,) = scan(written.paths[3])
    assert len(study.series[0].instances) == 1


def test_links_that_loop_end_and_nothing_is_read_twice(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "series")
    (tmp_path / "series" / "up").symlink_to(tmp_path)
    (tmp_path / "again.dcm").symlink_to(written.paths[0])
    (tmp_path / "broken.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe")
    listing = list_files(tmp_path, Limits())
    assert len(listing.entries) == 8
    assert [item.code for item in listing.lines] == ["link_not_followed"]
    (study,) = scan(tmp_path)
    assert study.series[0].stacks[0].report.codes == ()


def patched_flags(archive: Path, bit: int) -> Path:
    """Set a general-purpose flag of every entry, in local headers and central directory (APPNOTE 4.4.4)."""
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            (flags,) = struct.unpack_from("<H", data, at + offset)
            struct.pack_into("<H", data, at + offset, flags | bit)
            at = data.find(signature, at + 4)
    archive.write_bytes(data)
    return archive


def test_encrypted_entries_are_refused_by_name(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 2))
    archive = patched_flags(zip_of(tmp_path / "study", tmp_path / "study.zip"), 0x1)
    with pytest.raises(RefusedError) as refused:
        scan(archive)
    assert [item.code for item in refused.value.lines] == ["nothing_found", "encrypted_entry", "encrypted_entry"]
    assert refused.value.lines[1].where == "study.zip!0000.dcm"


@pytest.mark.parametrize(
    "name", ["../outside.dcm", "/etc/outside.dcm", "a/../../outside.dcm", "..\\outside.dcm", "C:\\x.dcm"]
)
def test_entries_named_outside_their_folder_are_left_out(tmp_path: Path, name: str) -> None:
    written = write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(name, written.paths[0].read_bytes())
    (study,) = scan(archive)
    assert study.series[0].shape == (6, 5, 3)
    assert study.report.codes == ("unsafe_entry",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.zip"]


def test_links_and_repeated_names_in_an_archive_are_left_out(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as more, pytest.warns(UserWarning, match="Duplicate name"):
        more.writestr(link, "/etc/passwd")
        more.writestr("0000.dcm", b"something else")
    listing = list_files(archive, Limits())
    assert len(listing.entries) == 3
    assert {item.message for item in listing.lines} == {
        "The archive entry is a symbolic link; it is not read.",
        "The archive entry is named like another one; it is not read.",
    }


def test_an_entry_that_unpacks_to_far_more_is_left_out_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", bytes(20 * 1024**2))
    with pytest.raises(RefusedError, match="packing ratio") as refused:
        scan(tmp_path / "bomb.zip")
    assert [item.code for item in refused.value.lines] == ["nothing_found", "limit_exceeded"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(files=2), "number of entries"), (Limits(archive_bytes=1000), "unpacked size")],
)
def test_an_archive_over_a_limit_is_refused_whole(tmp_path: Path, limits: Limits, message: str) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    with pytest.raises(RefusedError, match=message):
        scan(archive, limits)


def test_a_folder_over_a_limit_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a" / "b", shape=(6, 5, 3))
    with pytest.raises(RefusedError, match="number of files"):
        scan(tmp_path, Limits(files=2))
    with pytest.raises(RefusedError, match="depth of folders"):
        scan(tmp_path, Limits(depth=1))


def test_a_file_over_its_limit_is_named_and_passed_over(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path, shape=(6, 5, 3))
    written.paths[0].write_bytes(written.paths[0].read_bytes() + bytes(5000))
    (study,) = scan(tmp_path, Limits(file_bytes=4000))
    assert len(study.series[0].instances) == 2
    assert [(item.code, item.where) for item in study.report] == [("limit_exceeded", "0000.dcm")]


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match=r"Limits\.frames is 0"):
        Limits(frames=0)


def test_archives_inside_the_input_are_noted_and_not_opened(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    write_ct_series(tmp_path / "inner", study="inner", shape=(6, 5, 3))
    zip_of(tmp_path / "inner", tmp_path / "study" / "inner.zip")
    outer = zip_of(tmp_path / "study", tmp_path / "outer.zip")
    for path in (tmp_path / "study", outer):
        (study,) = scan(path)
        assert study.report.codes == ("archive_not_opened",)


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(RefusedError, match="broken zip archive"):
        scan(archive)


def test_a_damaged_entry_is_a_line_and_the_rest_is_read(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    data = bytearray(archive.read_bytes())
    data[60:200] = b"\xff" * 140
    archive.write_bytes(data)
    (study,) = scan(archive)
    assert len(study.series[0].instances) == 2
    assert [(item.code, item.where) for item in study.report] == [("unreadable_file", "study.zip!0000.dcm")]


def test_nothing_at_a_path_and_nothing_in_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Give a folder, a zip archive or an image file"):
        scan(tmp_path / "absent")
    with pytest.raises(RefusedError, match="0 file") as refused:
        scan(tmp_path)
    assert refused.value.lines[0].code == "nothing_found"


def test_image_files_of_other_formats_are_studies_where_there_is_no_dicom(tmp_path: Path) -> None:
    for name in ("one.nii.gz", "two.mha", "three.NRRD"):
        (tmp_path / name).write_bytes(b"not looked into")
    studies = scan(tmp_path)
    assert [study.image_path for study in studies] == [tmp_path / n for n in ("one.nii.gz", "three.NRRD", "two.mha")]
    assert [study.image_path for study in scan(tmp_path / "two.mha")] == [tmp_path / "two.mha"]
    write_ct_series(tmp_path)
    (study,) = scan(tmp_path)
    assert study.image_path is None


def test_an_opened_entry_reads_as_the_file_it_was_made_from(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "study", shape=(6, 5, 3))
    archive = zip_of(tmp_path / "study", tmp_path / "study.zip")
    with Opener() as opener:
        for path, member in ((archive, "0001.dcm"), (written.paths[1], None)):
            with opener.open(path, member) as stream:
                assert stream.read() == written.paths[1].read_bytes()
