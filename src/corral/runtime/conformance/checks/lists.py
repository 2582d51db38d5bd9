"""Promises about listing directories."""

from __future__ import annotations

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, problem
from corral.runtime.contract import FileInfo, FileKind
from corral.runtime.contract import FileProblemKind as Kind

GROUP = Group()
_MANY = 3000


def _names(infos: list[FileInfo]) -> list[str]:
    return [info.path.rpartition("/")[2] for info in infos]


@GROUP.check
async def a_directory_is_listed(bench: Bench) -> None:
    """Entries come by name, with absolute path, kind, size, mode, time and owner; links are not followed."""
    box = await bench.box()
    await bench.write(box, "~/dir/b file é", b"12345", mode=0o640)
    await bench.sh(
        box, "cd ~/dir && mkdir sub .hidden && ln -s 'b file é' a-link && mkfifo zpipe && touch -d @1000000000 old"
    )
    infos = await bench.runtime.list_files(box, "~/dir")
    expect_equal(_names(infos), [".hidden", "a-link", "b file é", "old", "sub", "zpipe"], "the names")
    kinds = [info.kind for info in infos]
    directory, link, file, other = FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.FILE, FileKind.OTHER
    expect_equal(kinds, [directory, link, file, file, directory, other], "the kinds")
    entry, old = infos[2], infos[3]
    user = bench.factory("dbx").user
    expect_equal((entry.size, oct(entry.mode), entry.uid, entry.gid), (5, "0o640", user.uid, user.gid), "a file")
    expect_equal(old.mtime, 1_000_000_000.0, "the time of an old file")
    now = bench.clock.now_ms() / 1000
    expect(abs(entry.mtime - now) < 60, f"the time of a new file: {entry.mtime}, now is {now}")
    expect(all(info.path.startswith("/") for info in infos), "the paths are absolute")


@GROUP.check
async def an_empty_directory_is_an_empty_list(bench: Bench) -> None:
    """A directory with nothing in it gives an empty list."""
    box = await bench.box()
    await bench.sh(box, "mkdir ~/empty")
    expect_equal(await bench.runtime.list_files(box, "~/empty"), [], "the entries")


@GROUP.check
async def many_entries_are_listed(bench: Bench) -> None:
    """3,000 entries are all listed; of more than 10,000 no more than that."""
    box = await bench.box()
    await bench.sh(box, f"mkdir ~/many && cd ~/many && seq -f 'file-%05g' 1 {_MANY} | xargs touch")
    infos = await bench.runtime.list_files(box, "~/many")
    expect_equal(_names(infos), [f"file-{number:05}" for number in range(1, _MANY + 1)], "the names")
    await bench.sh(box, "cd ~/many && seq -f 'more-%05g' 1 8000 | xargs touch")
    expect_equal(len(await bench.runtime.list_files(box, "~/many")), 10_000, "the count of 11,000 entries")


@GROUP.check
async def what_cannot_be_listed_says_why(bench: Bench) -> None:
    """NOT_FOUND, NOT_DIRECTORY, DENIED and BAD_PATH, each where it belongs."""
    box = await bench.box()
    await bench.write(box, "~/file", b"x")
    for path, kind in (("~/none", Kind.NOT_FOUND), ("~/file", Kind.NOT_DIRECTORY), ("", Kind.BAD_PATH)):
        with problem(kind, what=f"list of {path!r}"):
            await bench.runtime.list_files(box, path)
    with problem(Kind.DENIED, what="list of /root by the user"):
        await bench.runtime.list_files(box, "/root")
    await bench.runtime.list_files(box, "/root", user="root")


@GROUP.check
async def odd_names_do_not_break_a_list(bench: Bench) -> None:
    """Names with newlines, quotes or bytes that are not UTF-8 do not break the listing of the others."""
    box = await bench.box()
    await bench.sh(box, "mkdir ~/odd && cd ~/odd && touch plain $'new\\nline' '\"quote' $'not-utf8-\\xff'")
    infos = await bench.runtime.list_files(box, "~/odd")
    expect_equal(len(infos), 4, "the count")
    for name in ("plain", "new\nline", '"quote'):
        expect(name in _names(infos), f"{name!r} is not in {_names(infos)}")
