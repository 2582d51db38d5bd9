"""Time of a cold create and its first output, beside the bare OCI runtime, turn by turn under the same load.

    python -m tests.integration.oci.measure 50

Prints p50 and p95 in milliseconds, and the ratio of the sums. The bare side gets an overlay on the same image, a user
namespace, a network namespace (without a veth pair) and the same limits, and is not charged for mounting the overlay.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from corral.runtime.contract import BoxSpec, ExecSpec, Limits
from corral.runtime.linux import mounts, syscalls
from corral.runtime.oci import config
from corral.runtime.oci.launching import LauncherClient
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import GUEST, IMAGES, Bench

ID_BASE = 0x1000_0000


def bare_bundle(folder: Path) -> None:
    """A bundle with the driver's mounts, limits and seccomp profile, whose namespaces the runtime makes itself."""
    place = config.Place(folder / "root", "", "", ID_BASE, f"/corral-bare-{os.getpid()}/box", 1, True)
    bundle = json.loads(json.dumps(config.bundle(BoxSpec("bare", (), "bare"), place, config.seccomp_profile())))
    bundle["process"]["args"] = ["sleep", "1000"]
    for namespace in bundle["linux"]["namespaces"]:
        namespace.pop("path", None)
    (folder / "config.json").write_text(json.dumps(bundle))


def bare(folder: Path, layers: list[str]) -> None:
    """Serve turns on standard input and output: for each line, one container; answer with its times."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts.drop_unneeded([str(folder)])
    if Path("/sys/fs/cgroup/unified").is_dir():
        syscalls.mount("tmpfs", "/sys/fs/cgroup/unified", "tmpfs")
    for name in ("root", "upper", "work", "state"):
        (folder / name).mkdir()
    os.chown(folder / "upper", ID_BASE, ID_BASE)
    bare_bundle(folder)
    crun = ["crun", "--root", str(folder / "state")]
    data = f"lowerdir={':'.join(reversed(layers))},upperdir={folder}/upper,workdir={folder}/work"
    for number in itertools.count():
        if not sys.stdin.readline():
            break
        syscalls.mount("overlay", str(folder / "root"), "overlay", 0, data)
        box = f"bare{number}"
        times = [time.perf_counter()]
        run = [*crun, "run", "--detach", "--bundle", str(folder), box]
        for argv in (run, [*crun, "exec", box, "true"]):
            # Not /dev/null: crun gives its standard streams to the box's root, and the device is the host's.
            with tempfile.TemporaryFile() as streams:
                subprocess.run(argv, stdin=streams, stdout=streams, stderr=streams, check=True)
            times.append(time.perf_counter())
        subprocess.run([*crun, "delete", "--force", box], check=True)
        syscalls.umount2(str(folder / "root"), syscalls.MNT_DETACH)
        print(json.dumps([times[1] - times[0], times[2] - times[1]]), flush=True)
    for group in Path("/sys/fs/cgroup").glob(f"[!u]*/corral-bare-{os.getpid()}"):
        group.rmdir()


async def ours(bench: Bench, number: int, phases: dict[str, list[float]]) -> None:
    """One box, from the call to the result of its first command."""
    name = f"box{number}"
    began = time.perf_counter()
    await bench.runtime.create(bench.spec(name, Limits()))
    made = time.perf_counter()
    await bench.runtime.execute(name, ExecSpec("first", ("true",)))
    async for _ in bench.runtime.follow(name, "first"):
        pass
    done = time.perf_counter()
    await bench.runtime.destroy(name)
    phases["create"].append(made - began)
    phases["first command"].append(done - made)
    phases["sum"].append(done - began)
    phases["destroy"].append(time.perf_counter() - done)


def watch(client: LauncherClient, phases: dict[str, list[float]]) -> None:
    """Note how long the launcher says that its parts took."""
    request = client.request

    async def timed(op: str, limit_s: float, **fields: object) -> dict[str, object]:
        answer = await request(op, limit_s, **fields)
        phases[f"launcher: {op}"].append(answer["ms"] / 1000)
        if "setup_ms" in answer:
            phases["launcher: mounts and files"].append(answer["setup_ms"] / 1000)
        return answer

    client.request = timed  # type: ignore[method-assign]


async def main(rounds: int) -> None:
    """Take turns."""
    phases: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="corral-measure-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bench = Bench(OciSettings(data=folder / "data", guest=GUEST, layer_roots=(IMAGES,)))
        await bench.runtime.start()
        watch(bench.runtime._host.launcher, phases)
        (folder / "bare").mkdir()
        argv = [sys.executable, "-m", "tests.integration.oci.measure", "bare", str(folder / "bare")]
        argv += [str(layer.path) for layer in bench.spec("x").layers]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            for number in range(rounds):
                await ours(bench, number, phases)
                await asyncio.sleep(0.1)
                other.stdin.write("go\n")
                other.stdin.flush()
                run, execute = json.loads(other.stdout.readline())
                phases["bare run"].append(run)
                phases["bare exec"].append(execute)
                phases["bare sum"].append(run + execute)
                await asyncio.sleep(0.1)
            other.stdin.close()
        began = time.perf_counter()
        await asyncio.gather(*(bench.box(f"burst{number}") for number in range(100)))
        print(f"100 creates at once: {time.perf_counter() - began:.2f} s")
        await bench.clear()
        await bench.runtime.close()
    for phase, times in sorted(phases.items()):
        ordered = sorted(times)
        middle, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        print(f"{phase:30} p50 {middle * 1000:7.1f} ms   p95 {late * 1000:7.1f} ms")
    middle = sorted(a / b for a, b in zip(phases["sum"], phases["bare sum"], strict=True))[rounds // 2]
    print(f"ratio of a turn's sums, median: {middle:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(Path(sys.argv[2]), sys.argv[3:])
    else:
        asyncio.run(main(int(sys.argv[1])))
