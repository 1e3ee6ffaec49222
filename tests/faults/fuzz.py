"""Damaged and hostile files for every reader: each ends as accepted or as one `InputError`, and nothing else.

    python tests/faults/fuzz.py --inputs 10000 --output results/reliability/fuzz.json

An input is a small valid file that was mutated. A reader works on it in a process forked from a warm one, in a folder
of its own, for five seconds at most and with so much more memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.base.norms import named
from robustdeq.base.tensors import SEAL
from robustdeq.certificates import Certified
from robustdeq.cli.commands import command
from robustdeq.cli.parser import parse
from robustdeq.data import load as load_data
from robustdeq.deq import FinalState
from robustdeq.evaluation import Chosen, Estimators, measure
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.evaluation.store import FILE
from robustdeq.gradients import Phantom
from robustdeq.leaderboard import Entry, Statement
from robustdeq.reporting import export, markdown, read_evaluation, read_run, reproduction_latex
from robustdeq.reporting.leaderboard import save_leaderboard_page
from robustdeq.reporting.page import save_page
from robustdeq.study import Reproduction, Study, scale_named
from robustdeq.study.beyond.overestimate import READINGS, panels
from robustdeq.study.evidence import Evidence
from robustdeq.study.panel import accuracies
from robustdeq.training.fitting import _run_of
from robustdeq.training.metrics import rows_until, seconds_trained
from robustdeq.zoo import convert_checkpoint
from robustdeq.zoo.card import card_markdown
from robustdeq.zoo.hub import downloaded
from robustdeq.zoo.registry import read_card

SECONDS, MEMORY, CHUNK = 5, 2**30, 50
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Args:
        name: of the file in its folder.
        valid: the content of files that are read without complaint.
        read: reads it, and uses what was read.
        text: whether it is a text, in which numbers, strings and brackets are exchanged.
    """

    name: str
    valid: tuple[bytes, ...]
    read: Read
    text: bool = False


# How a file is mutated


_NUMBERS = [b"-1", b"0", b"1e999", b"9223372036854775808", b"-0.5", b"1" * 50, b"NaN", b"null", b"true", b'"x"', b"[]"]
_STRINGS = [b'""', b"3", b"null", b"[1]", b'{"a": 1}', b'"\\ud800"', b'"<script>"', b'"../../x"', b'"/dev/zero"', b"{}"]
_TOKEN = re.compile(rb'-?\d[\d.eE+-]*|"(?:[^"\\]|\\.)*"|\bnull\b|\btrue\b|\bfalse\b|[A-Za-z_]\w*')


def mutated(content: bytes, chance: random.Random, text: bool) -> bytes:
    """One of the usual damages, or where it is a text, another value, nesting or line in the place of one."""
    changes = [_flip, _cut, _splice, _fill] + [_exchange] * 6 * text + [_nest, _lines, _twice] * text
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        content = chance.choice(changes)(content, chance)
    return content


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(chance.choice([1, 1, 3, 10])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _splice(content: bytes, chance: random.Random) -> bytes:
    here, start, end = (chance.randrange(len(content) + 1) for _ in range(3))
    return content[:here] + content[start:end] + content[here + chance.choice([0, end - start if end > start else 0]) :]


def _fill(content: bytes, chance: random.Random) -> bytes:
    here, count = chance.randrange(len(content) + 1), chance.choice([1, 2, 4, 8])
    filler = chance.choice([b"\0" * count, b"\xff" * count, b"\x7f" + b"\xff" * (count - 1), chance.randbytes(count)])
    return content[:here] + filler + content[here + count :]


def _exchange(content: bytes, chance: random.Random) -> bytes:
    tokens = [*_TOKEN.finditer(content)]
    if not tokens:
        return content
    token, others = chance.choice(tokens), [t[0] for t in chance.choices(tokens, k=4)]
    return content[: token.start()] + chance.choice(_NUMBERS + _STRINGS + others) + content[token.end() :]


def _nest(content: bytes, chance: random.Random) -> bytes:
    deep = chance.choice([2, 60, 20_000])
    return _exchange(content, chance) if chance.random() < 0.5 else b"[" * deep + content + b"]" * deep


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[i], lines[j] = chance.choice([(lines[j], lines[i]), (lines[j], lines[j]), (b"", lines[j])])
    return b"\n".join(lines)


def _twice(content: bytes, chance: random.Random) -> bytes:
    return content * chance.choice([2, 3])


# How a reader is watched


@dataclass
class Tally:
    """What became of the inputs of a reader."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    peak_mib: int = 0
    failures: tuple[str, ...] = ()


def fuzz(reader: Reader, inputs: int, seed: int, kept: Path | None = None) -> Tally:
    """Hand files to a reader: first the valid ones, which it has to accept, then mutated ones.

    Args:
        reader: the reader.
        inputs: how many.
        seed: of the mutations.
        kept: a folder for the inputs that failed; None keeps none.
    """
    tally, began, done = Tally(), time.perf_counter(), 0
    while done < inputs:
        outcomes, peak = _in_child(reader, range(done, min(done + CHUNK, inputs)), seed)
        tally.peak_mib = max(tally.peak_mib, peak)
        for outcome in outcomes:
            tally.inputs += 1
            kind, _, said = outcome.partition(" ")
            setattr(tally, kind, getattr(tally, kind) + 1)
            if kind == "failed":
                tally.failures = tuple(dict.fromkeys((*tally.failures, said)))[:20]
                if kept is not None:
                    kept.mkdir(parents=True, exist_ok=True)
                    (kept / f"{done}-{reader.name}").write_bytes(_input(reader, done, seed))
            done += 1
    tally.seconds = round(time.perf_counter() - began, 1)
    return tally


def import_for(reader: Reader) -> None:
    """Let a reader import what it needs, once for all children: it reads the valid files."""
    for content in reader.valid:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / reader.name).write_bytes(content)
            reader.read(Path(folder) / reader.name)


def _input(reader: Reader, i: int, seed: int) -> bytes:
    if i < len(reader.valid):
        return reader.valid[i]
    chance = random.Random(f"{seed} {reader.name} {i}")
    return mutated(chance.choice(reader.valid), chance, reader.text)


def _in_child(reader: Reader, places: range, seed: int) -> tuple[list[str], int]:
    """What became of some inputs, and the MiB by which memory grew; a child that dies is to blame on the last one."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(out)
            _work(reader, places, seed, into)
        os._exit(0)
    os.close(into)
    with open(out, "rb") as answers:  # noqa: PTH123
        said = answers.read().decode(errors="replace").split("\n")[:-1]
    status, usage = os.wait4(child, 0)[1:]
    grown = [int(line.removeprefix("memory ")) for line in said if line.startswith("memory ")]
    outcomes = [line for line in said if not line.startswith("memory ")]
    if len(outcomes) < len(places):
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        outcomes.append(
            f"failed it took more than {SECONDS} s" if signalled == signal.SIGALRM else f"failed died of {signalled}"
        )
    return outcomes, max(grown, default=usage.ru_maxrss >> 10)


def _work(reader: Reader, places: range, seed: int, into: int) -> None:
    """Read one input after the other; SIGALRM, which nothing here catches, ends the process."""
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place:
        for i in places:
            outer = Path(place) / str(i)
            folder = outer / "inside"
            folder.mkdir(parents=True)
            os.chdir(folder)
            (folder / reader.name).write_bytes(_input(reader, i, seed))
            signal.alarm(SECONDS)
            outcome = _outcome(reader.read, folder / reader.name)
            signal.alarm(0)
            if i < len(reader.valid) and outcome == "refused":
                outcome = "failed a valid file is refused"
            if [*outer.iterdir()] != [folder]:
                outcome = "failed a file was written outside its folder"
            os.write(into, f"{outcome}\n".encode(errors="replace"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline
    os.write(into, f"memory {grown >> 10}\n".encode())


def _outcome(read: Read, path: Path) -> str:
    try:
        read(path)
    except InputError as error:
        return "refused" if "\n" not in str(error) else "failed InputError of several lines"
    except BaseException as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return f"failed {type(error).__name__} at {where}: {' '.join(str(error).split())[:120]}"
    return "accepted"


# The readers


def readers() -> dict[str, Reader]:
    """All readers of files, with small valid files for each."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(action="ignore"):
        return _readers(Path(name))


def _readers(folder: Path) -> dict[str, Reader]:
    found = _of_data(folder) | _of_models(folder) | _of_results(folder) | _of_settings(folder)
    return {name: found[name] for name in sorted(found)}


def _image(kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, (4, 4), 7).save(buffer, kind)
    return buffer.getvalue()


def _of_data(folder: Path) -> dict[str, Reader]:
    def table(**columns: Any) -> bytes:
        pq.write_table(pa.table(columns), folder / "t.parquet")
        return (folder / "t.parquet").read_bytes()

    def arrays(save: Callable[..., None], x: np.ndarray) -> bytes:
        save(folder / "a.npz", x_test=x, y_test=np.arange(4) % 2, classes=np.array(["a", "b"]))
        return (folder / "a.npz").read_bytes()

    def class_folder(path: Path) -> object:
        (path.parent / "cat").mkdir()
        path.rename(path.parent / "cat" / path.name)
        return _used(path.parent)

    kinds = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
    labels = [0, 1, 0, 1]
    tables = (
        table(image=[_image()] * 4, label=labels),
        table(image=[{"bytes": _image("JPEG"), "path": None}] * 4, label=labels, junk=["x"] * 4),
        table(a=[0.5] * 4, b=[1] * 4, label=labels),
    )
    x = np.zeros((4, 3, 4, 4), np.uint8)
    return {
        "parquet": Reader("test.parquet", tables, _used),
        "npz": Reader("own.npz", (arrays(np.savez, x), arrays(np.savez_compressed, x.astype(float))), _used),
        "image folder": Reader("1.png", tuple(map(_image, kinds)), class_folder),
    }


def _used(path: Path) -> object:
    splits = load_data(path)
    images = next(part for part in (splits.test, splits.train, splits.development) if part is not None)
    return images.tensors(), images.fingerprint()


def unsealed(content: bytes) -> bytes:
    return content.replace(f'"{SEAL}"'.encode(), b'"' + b"-" * len(SEAL) + b'"')


def _of_models(folder: Path) -> dict[str, Reader]:
    def stored(model: torch.nn.Module) -> bytes:
        rd.save(model, folder / "m.safetensors", threat=rd.attacks.PGD().threat)
        return (folder / "m.safetensors").read_bytes()

    def saved(**settings: Any) -> bytes:
        torch.save({"state_dict": resnet.state_dict()}, folder / "c.pt", **settings)
        return (folder / "c.pt").read_bytes()

    def described(path: Path | str) -> object:
        card, model = read_card(path), rd.load(path)
        return card_markdown(card, model, "m", {"m.safetensors": "0"})

    def of_the_hub(path: Path) -> object:
        """Loads what the Hub gives where its answers on a repository and the headers of its files are those here."""
        info, tree, headers = [*path.read_bytes().split(b"\n\n"), b"", b""][:3]
        named = [tuple(line.split(b": ", 1)) for line in headers.split(b"\n") if b": " in line]

        def answer(request: httpx2.Request) -> httpx2.Response:
            if "/resolve/" in request.url.path:
                return httpx2.Response(200, headers=named, content=models[0] * (request.method == "GET"))
            return httpx2.Response(200, content=tree if "/tree/" in request.url.path else info)

        huggingface_hub.constants.HF_HUB_CACHE = str(path.parent / "cache")
        huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(answer)))
        downloaded.cache_clear()
        return described("hf://me/net")

    from robustdeq.models import ResNet, ResNetConfig

    resnet = ResNet(ResNetConfig((1,), width=2), 3, 1)
    models = [stored(rd.models.conv("digits", 2, 1)), stored(resnet), stored(rd.models.monotone("digits", 2, 1))]
    commit = "0123456789abcdef0123456789abcdef01234567"
    listed = [{"type": "file", "path": "model.safetensors", "size": len(models[0]), "oid": commit}]
    headers = f"X-Repo-Commit: {commit}\nETag: {commit}\nContent-Length: {len(models[0])}"
    answers = "\n\n".join([json.dumps({"id": "me/net", "sha": commit}), json.dumps(listed), headers])
    return {
        "answers of the Hub": Reader("answers", (answers.encode(),), of_the_hub, text=True),
        "weights": Reader("m.safetensors", (*models, *map(unsealed, models)), described),
        "checkpoint": Reader(
            "c.pt",
            (saved(), saved(_use_new_zipfile_serialization=False)),
            lambda path: convert_checkpoint(path, path.with_name("out.safetensors")),
        ),
    }


def _of_results(folder: Path) -> dict[str, Reader]:
    deq = rd.models.conv("digits", 3, 1).eval()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    measured = folder / "measured"
    result = measure(
        deq,
        x,
        y,
        Chosen(rd.attacks.PGD(steps=1)),
        defenses={"final": FinalState()},
        gradients={"g": Phantom()},
        folder=measured,
    )
    replace(result, settings=result.settings | {"data": "x"}).save(measured / "results.json")
    with suppress(FileNotFoundError):
        (measured / f"{FILE}-wal").unlink()
    panel = accuracies("p", ("a",), ("b", "c"), np.ones((1, 2, 4), bool))
    Reproduction("table1", "Table 1", "t", (panel,), provenance={"scale": "nano", "weights": {}}).save(
        folder / "r.json"
    )
    certified = Certified("t", "c", named("L2"), y.numpy(), y.numpy(), np.ones(4), np.ones(4))
    certified.save(folder / "certified.json")
    entry = next(iter(sorted((Path(__file__).parents[2] / "results" / "leaderboard").glob("*.json"))))

    def evaluation(path: Path) -> object:
        found = read_evaluation(path.parent)
        for suffix in ("csv", "md", "tex", "parquet"):
            export(found, path.parent / f"out.{suffix}")
        return save_page([read_run(path.parent)], path.parent / "page.html")

    def reproduction(path: Path) -> object:
        run = read_run(path.parent)
        save_page([run], path.parent / "page.html")
        return [reproduction_latex(found) for found in run.reproductions]

    def certificates(path: Path) -> object:
        from robustdeq.reporting import certified_table

        found = Certified.read(path)
        return markdown(certified_table(found, [("0.5", 0.5)]))

    def evidence(path: Path) -> object:
        study = Study(scale_named("nano"), splits, splits.require("test").head(4), path.parent)
        place = Evidence.of_model(study, "overestimate", "a", "0").path
        place.parent.mkdir()
        path.rename(place)
        kept = Evidence.of_model(study, "overestimate", "a", "0")
        return [*panels({"a": kept.once("readings", (len(READINGS), 4), lambda: outcomes)}, study.attack.steps)]

    def looked_at(path: Path) -> object:
        (path.parent / "results.json").write_bytes(table)
        return save_page([read_run(path.parent)], path.parent / "page.html")

    def row(path: Path) -> object:
        return save_leaderboard_page([Entry.read(path)], path.parent / "page.html")

    table, shown = (measured / "results.json").read_bytes(), folder / EXHIBITS
    few = Estimators(steps=(1,), dampings=(1.0,))
    exhibits(deq, x[:2], y[:2], ("a", "b", "c"), rd.attacks.PGD(steps=1), few).save(shown)
    splits, outcomes = load_data("digits"), np.ones((len(READINGS), 4), bool)
    about = np.array(json.dumps({"code": {"readings": "0"}, "models": {"a": "0"}}))
    for save in (np.savez, np.savez_compressed):
        save(folder / f"{save.__name__}.evidence.npz", readings=outcomes, about=about)
    return {
        "evaluation store": Reader(FILE, ((measured / FILE).read_bytes(),), evaluation),
        "results.json": Reader("results.json", (table,), evaluation, text=True),
        "reproduction": Reader("table1.json", ((folder / "r.json").read_bytes(),), reproduction, text=True),
        "certificates": Reader("certified.json", ((folder / "certified.json").read_bytes(),), certificates, text=True),
        "evidence": Reader("a.npz", tuple(file.read_bytes() for file in folder.glob("*.evidence.npz")), evidence),
        "exhibits": Reader(EXHIBITS, (shown.read_bytes(), unsealed(shown.read_bytes())), looked_at),
        "leaderboard row": Reader("row.json", (entry.read_bytes(),), row, text=True),
    }


_RECIPE = b"""model: nano
data: digits
gradient: {class_path: Phantom, init_args: {steps: 3, damping: 0.5}}
schedule:
  epochs: 2
  max_steps: 10
  batch_size: 64
  seed: 3
objective:
  class_path: AdversarialTraining
optimization:
  learning_rate: 0.01
augmentation: null
averaging: 0.9
"""
_ENTRY = b"""name = "m"
training = "somehow"
network = "m.safetensors"
data = "digits"
images = 10
eps = "8/255"
norm = "Linf"
adversaries = "a.safetensors"
worst_case = 20.5
"""


def _of_settings(folder: Path) -> dict[str, Reader]:
    train = {"train": command("train")}
    provenance: dict[str, Any] = {key: {"a": 1} for key in ("recipe", "model", "gradient", "data", "code")}

    def parsed(*arguments: str) -> object:
        return parse(["train", *arguments], train)[1]

    def metrics(path: Path) -> object:
        return seconds_trained(path.parent), rows_until(path, 10)

    rows = b"step,seconds,images_per_second,learning_rate,loss,robust\n10,1.5,20,0.1,2.3,\n20,3.5,20,0.1,2.2,0.5\n"
    return {
        "recipe": Reader("r.yaml", (_RECIPE,), lambda path: parsed(str(path)), text=True),
        "config": Reader("c.yaml", (_RECIPE,), lambda path: parsed("--config", str(path)), text=True),
        "entry.toml": Reader("entry.toml", (_ENTRY,), Statement.read, text=True),
        "metrics.csv": Reader("metrics.csv", (rows,), metrics, text=True),
        "run.json": Reader(
            "run.json", (json.dumps(provenance).encode(),), lambda path: _run_of(path.parent, provenance), text=True
        ),
    }


def main() -> None:
    """Fuzz readers and write a summary; the status is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of readers, beside those in the output; all by default")
    parser.add_argument("--kept", type=Path, help="a folder for the inputs that failed")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    kept = chosen.only and chosen.output and chosen.output.exists()
    summary: dict[str, Any] = {
        "command": f"python tests/faults/fuzz.py --inputs {chosen.inputs} --seed {chosen.seed}",
        "seed": chosen.seed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "limits": {"seconds": SECONDS, "memory_mib": MEMORY >> 20},
        "readers": json.loads(chosen.output.read_text())["readers"] if kept else {},
    }
    for name, reader in readers().items():
        if chosen.only and name not in chosen.only:
            continue
        import_for(reader)
        tally = fuzz(reader, chosen.inputs, chosen.seed, chosen.kept and chosen.kept / name.replace(" ", "-"))
        summary["readers"][name] = vars(tally)
        print(f"{name}: {vars(tally)}", flush=True)
        if chosen.output is not None:
            write_text(chosen.output, json.dumps(summary, indent=1) + "\n")
    sys.exit(any(tally["failed"] for tally in summary["readers"].values()))


if __name__ == "__main__":
    main()
