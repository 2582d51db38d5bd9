"""`corral object`, and devboxes that begin with objects."""

from __future__ import annotations

import json
import os

from tests.harness.cli import Cli


def test_a_file_is_stored_listed_shown_fetched_and_deleted(cli: Cli) -> None:
    content = os.urandom(300_000)
    (cli.folder / "data.bin").write_bytes(content)
    object_id = cli.out("object", "upload", "data.bin", "--metadata", "a=b", "--ttl", "3600").strip()
    assert object_id in cli.out("object", "list", "--name", "data")
    shown = json.loads(cli.out("object", "show", object_id, "--json"))
    assert (shown["state"], shown["size_bytes"], shown["metadata"]) == ("READ_ONLY", 300_000, {"a": "b"})
    assert "upload_url" not in shown
    cli.out("object", "download", object_id, "copy.bin")
    assert (cli.folder / "copy.bin").read_bytes() == content
    done = cli.run("object", "download", object_id, "-")
    assert done.stdout == content
    assert cli.out("object", "delete", object_id).strip() == object_id
    assert "DELETED" in cli.out("object", "show", object_id)
    assert object_id not in cli.out("object", "list")
    refused = cli.run("object", "download", object_id, "again")
    assert (refused.returncode, (cli.folder / "again").exists()) == (1, False)
    assert b"it is DELETED" in refused.stderr


def test_a_folder_and_standard_input_begin_a_devbox(cli: Cli) -> None:
    (cli.folder / "project" / "deep").mkdir(parents=True)
    (cli.folder / "project" / "deep" / "file").write_text("text")
    folder = cli.out("object", "upload", "project").strip()
    piped = cli.out("object", "upload", "-", "--name", "notes.txt", stdin=b"piped").strip()
    box = cli.out(
        "devbox", "create", "--object", f"~/work={folder}", "--object", f"notes/notes.txt={piped}"
    ).strip()  # fmt: skip
    shown = cli.out("devbox", "exec", box, "--", "cat work/deep/file notes/notes.txt; ls -A work")
    assert shown == "textpipeddeep\n"
    cli.out("devbox", "shutdown", box)
