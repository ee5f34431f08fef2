"""Thumbnails: of what the decoder takes, small; a box with the reason for the rest."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from mlserve.pipeline import Exif
from mlserve.report import thumbnails as module
from mlserve.report.thumbnails import thumbnails
from mlserve.testing.images import noise, plain, saved, turned


def _picture(shown: str) -> Image.Image:
    found = re.fullmatch(
        r'<span class="photo"><img alt="" src="data:image/jpeg;base64,([\w+/=]+)"></span>', shown
    )
    assert found, shown
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_images_are_small_and_damaged_ones_are_said_to_be(tmp_path: Path) -> None:
    photo = saved(noise(3000, 1500), quality=90)
    files = {
        "large.jpg": photo,
        "tiny.png": plain("green", "PNG", (3, 2)),
        "cmyk.jpg": saved(noise(40, 60, bands=4)),
        "cut.jpg": photo[: len(photo) // 3],
        "empty.jpg": b"",
        "text.jpg": b"what is this?",
        "<gif>.jpg": saved(noise(20, 20), "GIF"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in (*files, "gone.jpg")]

    found = dict(zip((*files, "gone.jpg"), thumbnails(paths).values(), strict=True))

    assert _picture(found["large.jpg"]).size == (160, 80)
    assert len(found["large.jpg"]) < 16_000
    assert _picture(found["tiny.png"]).size == (3, 2)
    assert _picture(found["cmyk.jpg"]).size == (40, 60)
    words = {name: re.sub("<.*?>", "", shown) for name, shown in found.items()}
    assert words["cut.jpg"] == "damaged"
    assert words["empty.jpg"] == "empty file"
    assert words["text.jpg"] == words["<gif>.jpg"] == "not an image"
    assert words["gone.jpg"] == "cannot be read"


@pytest.mark.parametrize(("exif", "size"), [(Exif.IGNORE, (60, 40)), (Exif.APPLY, (40, 60))])
def test_a_photo_is_turned_as_the_model_sees_it(
    tmp_path: Path, exif: Exif, size: tuple[int, int]
) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(saved(noise(60, 40), exif=turned(6)))

    assert _picture(thumbnails([str(path)], exif)[str(path)]).size == size


def test_all_thumbnails_together_have_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(plain("red"))
    monkeypatch.setattr(module, "_SECONDS", 1e-9)

    assert "takes too long" in thumbnails([str(path)])[str(path)]


def test_without_the_extra_there_are_none_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "absent_packages", lambda *_: ["simplejpeg"])

    assert thumbnails(["photo.jpg"]) == {}
    assert "simplejpeg is not installed (pip install " in module.why_none()
