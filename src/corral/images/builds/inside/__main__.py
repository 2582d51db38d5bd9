"""Has buildah build, bounds and stamps the log, and lays the image out.

`python3 -m inside build FOLDER` reads FOLDER/plan.json, writes the log to standard output, one object a line, and ends
with FOLDER/result.json; with `clean` it leaves nothing but buildah's layers, so that the disk can be kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from . import second

#: `[2/3] STEP 4/9: RUN make`, or without the stage when there is one only.
STEP = re.compile(r"^(?:\[(\d+)/(\d+)\] )?STEP (\d+)/(\d+): (.*)$")
#: Lines from the end that are shown although the log was cut before.
KEPT = 50
#: Files in it tell which bases this disk was sent.
LOADED = Path("/var/lib/containers/corral-bases")
REGISTRIES = Path("/etc/containers/registries.conf.d/corral.conf")

# Not `--isolation chroot`, which takes no runtime: it drops what its pipe holds when a command ends, the last words of
# each that writes much. The devbox has a network and limits for all that is in it.
RUNTIME = ("--isolation", "oci", "--runtime", "crun", "--network", "host", "--runtime-flag", "cgroup-manager=disabled")

RESULT = "corral.invalid/result:latest"
CHUNK = 65536


class Log:
    """Lines to standard output, of `longest` characters each.

    What commands write takes at most `most` bytes as it is written here, and lines that look like the beginning of a
    step as much again; what they write after that is shown only from its end.
    """

    def __init__(self, most: int, longest: int) -> None:
        self._left = self._left_of_steps = most
        self._longest = longest
        self._cut = False
        self._last: deque[str] = deque(maxlen=KEPT)

    def say(self, message: str, level: str = "info", **more: Any) -> int:
        """One line, shown even when the log was cut before; its bytes."""
        entry = {"t": time.time_ns() // 1_000_000, "l": level, "m": message, **more}
        return sys.stdout.write(json.dumps(entry) + "\n")

    def feed(self, line: str) -> None:
        """One line of what buildah and the commands of the Dockerfile write."""
        line = line.rstrip("\r").rpartition("\r")[2]
        if len(line) > self._longest:
            line = f"{line[: self._longest]} … (the line goes on)"
        if self._left_of_steps > 0 and (found := STEP.match(line)):
            numbers = [int(one or 1) for one in found.groups()[:4]]
            self._left_of_steps -= self.say(line, s=numbers, c=found[5])
        elif self._left > 0:
            self._left -= self.say(line)
        elif not self._cut:
            self._cut = True
            self.say("the log is cut here: only the steps that follow and the end of the output are shown", "warn")
        else:
            self._last.append(line)

    def finish(self) -> None:
        """Show the end of what was cut."""
        for line in self._last:
            self.say(line)
        sys.stdout.flush()


class Failed(Exception):
    """`stage` is what went wrong: base, context, build, image; `code` the exit code of the program that did it."""

    def __init__(self, stage: str, message: str, code: int | None = None, *, late: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.code = code
        self.late = late


class Build:
    """One build."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        self.log = Log(self.plan["log_bytes"], self.plan["line_length"])
        self.deadline = time.monotonic() + self.plan["timeout_s"]
        (folder / "tmp").mkdir(exist_ok=True)

    def run(self) -> dict[str, Any]:
        """Build; what became of it."""
        try:
            self._load_bases()
            context = self._unpack()
            self._build(context, [])
            self._fit(context)
            self._carry()
            self._lay_out()
        except Failed as problem:
            self.log.finish()
            self.log.say(f"Error: {problem}", "error")
            facts = {"stage": problem.stage, "message": str(problem), "code": problem.code, "late": problem.late}
            return {"ok": False, **facts}
        except OSError as problem:
            self.log.finish()
            self.log.say(f"Error: {problem}", "error")
            return {"ok": False, "stage": "disk", "message": str(problem), "code": None, "late": False}
        self.log.finish()
        return {"ok": True}

    def _load_bases(self) -> None:
        if shutil.which("crun") is None:
            # So it is on the disk of a build by an older version, too, which begins anew.
            raise Failed("base", "the image it runs in has no crun: make a new one with `corral image build builder`")
        # A name that is on nobody's disk is looked for where everybody looks.
        REGISTRIES.write_text(f'unqualified-search-registries = ["{"docker"}.io"]\n')
        lent = [base for base in self.plan["bases"] if "layers" in base]
        sent = [base for base in self.plan["bases"] if "layers" not in base]
        layers = second.lay(lent, Path(self.plan["lent"]))
        try:
            second.require_parents(layers)
            taken = second.taken_names({second.full_name(name) for base in lent for name in base["names"]})
        except (ValueError, KeyError, TypeError) as problem:
            raise Failed("base", f"cannot use the disk of an earlier build: {problem}") from None
        for name in taken:
            self._need("base", "buildah", "untag", name, name)
        for image, name in second.hidden(lent):
            self._need("base", "buildah", "tag", image, name)
        for base in sent:
            own = f"{second.OWN}/{base['id']}"
            if self._quiet("buildah", "inspect", "--type", "image", own).returncode:
                self.log.say(f"loading base image {base['names'][0]}")
                self._need("base", "buildah", "pull", "--quiet", f"oci:{self.folder}/bases:{own}:latest")
            LOADED.mkdir(exist_ok=True)
            (LOADED / base["id"]).touch()
            for name in base["names"]:
                self._need("base", "buildah", "tag", own, name)

    def _unpack(self) -> Path:
        context = self.folder / "context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        archive = self.folder / "context.tar"
        if archive.exists():
            done = self._quiet("tar", "--extract", "--no-same-owner", "--file", archive, "--directory", context)
            if done.returncode:
                raise Failed("context", f"cannot unpack the build context: {_last(done.stderr)}")
            archive.unlink()
        return context

    def _build(self, context: Path, more: list[str]) -> None:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        argv = ["buildah", "build", *RUNTIME, "--layers", "--pull=missing", "--retry", "0"]
        for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            # It would ask for more than a box may have, and fail.
            soft, hard = resource.getrlimit(number)
            argv += ["--ulimit", f"{name}={soft}:{hard}"]
        argv += ["--build-context", f"corral-files={files}", "--tag", RESULT, "--file", f"{self.folder}/Dockerfile"]
        for name, value in self.plan["args"].items():
            argv += ["--build-arg", f"{name}={value}"]
        if self.plan["target"]:
            argv += ["--target", self.plan["target"]]
        code = self._follow([*argv, *more, str(context)])
        if code:
            raise Failed("build", self._error or f"buildah ended with {code}", code)

    def _fit(self, context: Path) -> None:
        """Boxes can have so many layers and no more: make one of those that the Dockerfile made, or of all."""
        for how in ("--squash", "--squash-all"):
            facts = json.loads(self._need("image", "buildah", "inspect", "--type", "image", RESULT))
            layers = len(facts["OCIv1"]["rootfs"]["diff_ids"])
            if layers <= self.plan["most_layers"]:
                return
            self.log.say(f"the image has {layers} layers, over {self.plan['most_layers']}: making one of them")
            self._build(context, [how])

    def _carry(self) -> None:
        """Add a layer with archives of other images; those that cannot be had are not in it."""
        here = {name for base in self.plan["bases"] for name in base["names"]}
        folder = self.folder / "carried"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for image, name in self.plan["carried"].items():
            self.log.say(f"pulling image {image} of a service")
            archive = folder / name
            # No registry is asked for what the host has; an image of an earlier build may have got a successor.
            policy = "missing" if image in here else "newer"
            done = self._quiet("buildah", "pull", "--quiet", "--policy", policy, image)
            if not done.returncode:
                source = f"containers-storage:@{done.stdout.decode().strip()}"
                done = self._quiet("skopeo", "copy", "--quiet", source, f"docker-archive:{archive}:{image}")
            if done.returncode:
                archive.unlink(missing_ok=True)
                why = _last(done.stderr)
                self.log.say(f"cannot pull image {image} of a service, devboxes pull it themselves: {why}", "warn")
        if any(folder.iterdir()):
            made = self._need("image", "buildah", "from", "--pull-never", RESULT).decode().strip()
            self._need("image", "buildah", "add", "--quiet", made, folder, self.plan["carried_in"])
            self._need("image", "buildah", "commit", "--quiet", "--rm", made, RESULT)
        shutil.rmtree(folder)

    def _lay_out(self) -> None:
        """The image as an OCI layout; layers that the host has are files without content and are not written."""
        self.log.say("laying out the image")
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        blobs = out / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest in self.plan["known"]:
            (blobs / digest).touch()
        copy = ("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers")
        self._need("image", *copy, f"containers-storage:{RESULT}", f"oci:{out}:result")

    # -- programs

    def _need(self, stage: str, *argv: str | Path) -> bytes:
        done = self._quiet(*argv)
        if done.returncode:
            raise Failed(stage, f"cannot {' '.join(map(str, argv[:2]))}: {_last(done.stderr)}")
        return done.stdout

    def _quiet(self, *argv: str | Path) -> subprocess.CompletedProcess[bytes]:
        left = self.deadline - time.monotonic()
        try:
            return subprocess.run(argv, capture_output=True, check=False, timeout=max(0.0, left), env=self._env())
        except subprocess.TimeoutExpired:
            raise self._late() from None

    def _env(self) -> dict[str, str]:
        return {**second.environment(), "TMPDIR": str(self.folder / "tmp")}

    def _late(self) -> Failed:
        return Failed("build", f"the build took longer than {self.plan['timeout_s']:g} s", late=True)

    def _follow(self, argv: list[str]) -> int:
        """Run buildah, passing its output on; the exit code."""
        self._error = ""
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=self._env(),
        ) as child:
            if child.stdout is None:
                raise Failed("build", "there is no pipe from buildah")
            try:
                self._pump(child.stdout)
            except Failed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)  # all in this box but its first process and this one
                raise
        return child.returncode

    def _pump(self, pipe: IO[bytes]) -> None:
        rest = b""
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while True:
                if not ready.select(max(0.0, self.deadline - time.monotonic())):
                    raise self._late()
                if time.monotonic() > self.deadline:
                    raise self._late()
                chunk = os.read(pipe.fileno(), CHUNK)
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > CHUNK or (not chunk and rest):
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    text = line.decode(errors="replace")
                    if text.startswith("Error: "):
                        self._error = text.removeprefix("Error: ")
                    else:
                        self.log.feed(text)
                sys.stdout.flush()
                if not chunk:
                    return


def clean(folder: Path) -> None:
    """Leave what the next build can use: layers, and bases under names of our own."""
    plan = json.loads((folder / "plan.json").read_text())
    # What these names mean is decided anew for each build. Bases have one more name, so that they stay; so does the
    # result, because all that it was made of would go with it.
    sent = [name for base in plan["bases"] if "layers" not in base for name in base["names"]]
    lent = {second.full_name(name) for base in plan["bases"] if "layers" in base for name in base["names"]}
    gone = [["rmi", name] for name in sent] + [["untag", name, name] for name in second.taken_names(lent)]
    for argv in (["buildah", "rm", "--all"], *(["buildah", *words] for words in gone)):
        # A name that was not given yet is not there.
        subprocess.run(argv, capture_output=True, check=False, timeout=60, env=second.environment())
    shutil.rmtree(folder)


def _last(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else "it said nothing").removeprefix("Error: ")


def main(verb: str, folder: Path) -> int:
    """The exit code."""
    if verb == "clean":
        clean(folder)
        return 0
    result = Build(folder).run()
    # Renamed into its place, so that it is there whole or not at all.
    fresh = folder / "result.new"
    fresh.write_text(json.dumps(result))
    fresh.rename(folder / "result.json")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
