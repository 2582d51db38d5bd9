"""Names of images in Dockerfiles: found where they are usual, and harmless where they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.images.builds import dockerfile


@pytest.mark.parametrize(
    ("text", "args", "names"),
    [
        ("FROM debian:12\n", {}, ["debian:12"]),
        ("from debian:12 as one\nFROM one\nFROM alpine\n", {}, ["debian:12", "alpine"]),
        ("ARG V=12\nFROM debian:$V\n", {}, ["debian:12"]),
        ("ARG V=12\nFROM debian:${V}\n", {"V": "13"}, ["debian:13"]),
        ("ARG V\nFROM debian:${V:-11}\n", {}, ["debian:11"]),
        ("ARG V=12\nFROM debian:${V:+13}$V ${W:-x}\n", {}, ["debian:1312"]),
        ('ARG V="12"\nFROM "debian:$V"\n', {}, ["debian:12"]),
        ("FROM --platform=linux/amd64 debian:12\n", {}, ["debian:12"]),
        ("FROM scratch\nCOPY --from=tools:1 /a /b\nCOPY --from=0 /a /b\n", {}, ["tools:1"]),
        (
            "FROM a AS b\nRUN --mount=type=bind,from=c:1,source=/x true\nRUN --mount=from=b,target=/y true\n",
            {},
            ["a", "c:1"],
        ),
        ("# syntax=x\n\nFROM \\\n  debian:12\nCOPY --from=corral-files a b\n", {}, ["debian:12"]),
        ("FROM debian@sha256:" + "0" * 64 + "\n", {}, ["debian@sha256:" + "0" * 64]),
    ],
)
def test_names_are_found(text: str, args: dict[str, str], names: list[str]) -> None:
    assert list(dockerfile.images(text, args)) == names


def test_a_heredoc_may_look_like_a_step() -> None:
    assert "debian:12" in dockerfile.images("FROM debian:12\nRUN cat <<EOF\nFROM nothing\nEOF\n", {})


def test_there_are_no_more_than_so_many() -> None:
    text = "".join(f"FROM image{number}\n" for number in range(1000))
    assert len(dockerfile.images(text, {})) == dockerfile.MOST_NAMES


@given(st.text(alphabet=st.sampled_from("FROM AS$V{}:-=\\\n#\"' `COPY--from")), st.dictionaries(st.text(), st.text()))
def test_whatever_is_in_the_text_it_is_read(text: str, args: dict[str, str]) -> None:
    assert all(dockerfile.images(text, args))
