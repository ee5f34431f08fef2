"""Digests of folders: one rule for what is exported, fetched and pinned."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from mlserve.digests import digests_of, joined, path_digest


def _folder(path: Path) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"graph")
    (path / "variables" / "a.index").write_bytes(b"index")
    return path


def test_a_folder_has_the_digest_that_users_have_pinned(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    graph, index = sha256(b"graph").hexdigest(), sha256(b"index").hexdigest()
    lines = f"saved_model.pb\0{graph}\nvariables/a.index\0{index}\n"
    expected = f"sha256:{sha256(lines.encode()).hexdigest()}"
    assert path_digest(folder) == expected
    assert joined(digests_of(folder)) == expected


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"graph")
    assert path_digest(path) == f"sha256:{sha256(b'graph').hexdigest()}"


def test_what_a_link_leads_to_counts(tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "model.pb").symlink_to(_folder(tmp_path / "m") / "saved_model.pb")
    (linked / "variables").symlink_to(tmp_path / "m" / "variables")
    (linked / "gone").symlink_to(tmp_path / "nowhere")
    before = path_digest(linked)
    (tmp_path / "m" / "variables" / "a.index").write_bytes(b"other")
    assert path_digest(linked) != before
