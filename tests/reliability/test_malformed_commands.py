"""Input that the other commands cannot use: as for ``track``, one line that names it and the advice, and status 2."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from faulty_files import check_refused

from vil_tracker import cli
from vil_tracker.models.pretrained import save_model

CONFIG = """\
model: {name: test, dim: 32, depth: 2, template_size: 32, search_size: 64, modulation_interval: 2, head_channels: 16}
data: {sources: [{name: "folder:good"}]}
train: {steps: 1, batch_size: 2, warmup_steps: 0, workers: 0, precision: float32}
"""

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)

#: What stands in the configuration file -> what the message must name.
CONFIGS: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "data.sources is empty"), "binary": (bytes(range(128, 256)), "bad.yaml"), "nul": ("\0", "bad.yaml"),
    "a_word": ("nano", "expected sections"), "a_list": ("- model\n- data\n", "expected sections"),
    "a_number": ("3", "expected sections"),
    "unclosed": ("model: {dim: 32", "bad.yaml"),
    "a_tab": ("model:\n\tdim: 32\n", "bad.yaml:2"), "two_documents": ("model: {}\n---\ndata: {}\n", "bad.yaml"),
    "code": ("model: !!python/object/apply:os.system ['echo evil']\n", "bad.yaml"),
    "unknown_tag": ("model: !thing {}\n", "bad.yaml"), "bomb": (BOMB, "unknown key a"),
    "nested": ("[" * 1500 + "]" * 1500, "bad.yaml"), "anchor_to_itself": ("model: &m {dim: *m}\n", "bad.yaml"),
    "section": ("modle: {dim: 32}\n", "did you mean model"),
    "section_list": ("model: [1, 2]\n", "model must be a mapping"),
    "section_word": ("train: fast\n", "train must be a mapping"), "number_key": ("3: {}\n", "unknown key 3"),
    "key": ("train: {learning_rate: 1.0e-3}\n", "unknown key train.learning_rate"),
    "key_in_list": ("data: {sources: [{nmae: lasot}]}\n", "did you mean"),
    "text_for_number": ("train: {steps: many}\n", "train.steps"), "fraction": ("train: {steps: 1.5}\n", "train.steps"),
    "truth_for_number": ("train: {steps: true}\n", "train.steps"),
    "number_for_truth": ("train: {compile: 1}\n", "compile"),
    "nothing": ("train: {steps: }\n", "train.steps"), "list_for_number": ("train: {lr: [1]}\n", "train.lr"),
    "map_for_list": ("data: {sources: {name: lasot}}\n", "data.sources"), "nan": ("train: {lr: .nan}\n", "train.lr"),
    "infinite": ("train: {lr: .inf}\n", "train.lr"), "overflow": ("train: {lr: 1e999}\n", "train.lr"),
    "negative": ("train: {lr: -1.0}\n", "train.lr"), "zero_steps": ("train: {steps: 0}\n", "train.steps"),
    "negative_workers": ("train: {workers: -1}\n", "train.workers"),
    "option": ("model: {stem: linear}\n", "model.stem"),
    "batch": ("train: {batch_size: 5, accumulate: 2}\n", "train.batch_size"),
    "dim": ("model: {dim: 33}\n", "model.dim"),
    "huge_dim": ("model: {dim: 320000000}\n", "model.dim"), "depth": ("model: {depth: 0}\n", "model.depth"),
    "huge_depth": ("model: {depth: 1000000000}\n", "model.depth"),
    "crop": ("model: {search_size: 100}\n", "search_size"),
    "no_patch": ("model: {patch_size: 0}\n", "model.patch_size"),
    "negative_patch": ("model: {patch_size: -16}\n", "patch"),
    "share": ("data: {negatives: 1.5}\n", "data.negatives"), "weight": ("data: {sources: [{name: a, weight: 0}]}\n",
    "weight"), "no_name": ("data: {sources: [{weight: 1}]}\n", "data.sources"), "data_set": (
    "data: {sources: [{name: lasoot}]}\n", "lasoot"), "absent_set": ("data: {sources: [{name: got10k}]}\n", "GOT-10k"),
    "split": ("data: {sources: [{name: lasot, split: half}]}\n", "LaSOT"), "absent_folder": (
    "data: {sources: [{name: 'folder:nowhere'}]}\n", "nowhere"), "unreadable_folder": (
    "data: {sources: [{name: 'folder:words'}]}\n", "groundtruth_rect.txt:1"), "pairs_as_clips": (
    "data: {mode: clips, sources: [{name: synthetic_pairs}]}\n", "synthetic_pairs"), "no_photos": (
    "data: {sources: [{name: synthetic_pairs}]}\n", "photo"), "huge_int": ("train: {seed: 1" + "0" * 5000 + "}\n",
    "bad.yaml"), "thresholds": ("track: {lost_below: 0.9}\n", "track.uncertain_below"),
}  # fmt: skip

TRAIN_OPTIONS = [
    ("--data-root nowhere", "nowhere"), ("--data-root bad.yaml", "bad.yaml"), ("--device tpu", "tpu"),
    ("--device cuda:99", "cuda:99"), ("--resume maybe", "maybe"), ("--threads x", "x"), ("--threads 0", "threads"),
    ("--output bad.yaml", "bad.yaml"), ("--output bad.yaml/run", "bad.yaml"), ("--nonsense", "nonsense"),
    ("--show-samples 0", "show-samples"), ("--show-samples -2", "show-samples"), ("--show-samples x", "x"),
    ("--set train.steps", "train.steps"), ("--set train.stepz=1", "stepz"), ("--set train.steps=many", "many"),
    ("--set =1", "="), ("--set model.dim=[", "model.dim"),
    ("--set train.init_from=none.safetensors", "none.safetensors"),
    *[(f"--set train.init_from={{files}}/{name}", name) for name in (
        "random.safetensors", "foreign.safetensors", "cut.safetensors", "wider.safetensors", "pickle.pt", "clip.mp4",
    )],
]  # fmt: skip

EVALUATE = [
    ("", "required"), ("--benchmark lasoot --data-root good", "lasoot"), ("--benchmark folder", "--data-root"),
    ("--benchmark folder --data-root nowhere", "nowhere"), ("--benchmark folder --data-root empty", "no sequences"),
    ("--benchmark lasot --data-root good", "LaSOT"), ("--benchmark got10k_test --data-root good", "GOT-10k"),
    ("--benchmark folder --data-root good --sequences three", "three"),
    ("--benchmark folder --data-root good --sequences ,", "sequences"),
    ("--benchmark folder --data-root words", "groundtruth_rect.txt:1"),
    ("--benchmark folder --data-root short_line", "groundtruth_rect.txt:1"),
    ("--benchmark folder --data-root infinite", "groundtruth_rect.txt:1"),
    ("--benchmark folder --data-root too_many", "missing"), ("--benchmark folder --data-root nan_first", "line 1"),
    ("--benchmark folder --data-root flat_first", "line 1"), ("--benchmark folder --data-root no_lines", "empty"),
    ("--benchmark folder --data-root no_pictures", "no pictures"), ("--benchmark folder --data-root video", "a.mp4"),
    ("--benchmark folder --data-root good --tracker nonsense", "nonsense"),
    ("--benchmark folder --data-root good --tracker opencv:Nothing", "Nothing"),
    ("--benchmark folder --data-root good --tracker opencv:Nano", "peers-dir"),
    ("--benchmark folder --data-root good --tracker python:nowhere:make", "nowhere"),
    ("--benchmark folder --data-root good --tracker python:math:nothing", "nothing"),
    ("--benchmark folder --data-root good --tracker python:math:pi", "math:pi"),
    ("--benchmark folder --data-root good --tracker python:math", "python:math"),
    ("--benchmark folder --data-root good --tracker still still", "twice"),
    ("--benchmark folder --data-root good --tracker vil:none.safetensors", "none.safetensors"),
    ("--benchmark folder --data-root good --device tpu", "tpu"),
    ("--benchmark folder --data-root good --workers 0", "workers"),
    ("--benchmark folder --data-root good --workers many", "many"),
    ("--benchmark folder --data-root good --convention best", "best"),
    ("--benchmark folder --data-root good --convention ,", "convention"),
    ("--benchmark folder --data-root good --empty-boxes keep", "keep"),
    ("--benchmark folder --data-root good --truth truth", "--truth"),
    ("--benchmark folder --truth truth", "--results"),
    ("--benchmark folder --data-root good --config none.yaml", "none.yaml"),
    ("--benchmark folder --data-root good --config bad.yaml", "trakc"),
    ("--benchmark folder --data-root good --submission a.zip", "no server"),
    ("--benchmark folder --data-root good --nonsense", "nonsense"),
    ("--benchmark folder --truth nowhere --results results/right", "nowhere"),
    ("--benchmark folder --truth empty --results results/right", "no sequences"),
    ("--benchmark folder --truth bad_truth --results results/right", "one.txt:1"),
    ("--benchmark folder --truth truth --results nowhere", "nowhere"),
    *[(f"--benchmark folder --truth truth --results results/{name}", item) for name, item in (
        ("none", "no result"), ("few", "3 boxes"), ("more", "5 boxes"), ("nans", "line 1"), ("flat", "line 1"),
        ("text", "one.txt:1"), ("nothing", "no boxes"), ("infs", "one.txt:1"), ("binary", "one.txt"),
    )],
    ("--benchmark folder --truth truth --results results/right --compare nowhere", "nowhere"),
    ("--benchmark folder --truth truth --results results/right --compare results/none", "results/none"),
    ("--benchmark folder --truth truth --results results/right --tracker still", "--tracker"),
    ("--benchmark folder --truth truth --results results/right --submission a.zip", "--submission"),
    ("--benchmark folder --truth truth --results results/right --output good/one/groundtruth_rect.txt", "is a f"),
]  # fmt: skip

DEMO = [
    ("--port 99999", "--port 99999"), ("--port -1", "--port -1"), ("--port x", "x"), ("--workers 0", "workers"),
    ("--workers x", "x"), ("--queue 0", "queue"), ("--queue -1", "queue"), ("--max-mb 0", "max-mb"),
    ("--max-mb -5", "max-mb"), ("--max-mb 1.5", "1.5"), ("--max-frames 0", "max-frames"), ("--max-frames x", "x"),
    ("--max-megapixels 0", "megapixels"), ("--max-megapixels nan", "megapixels"),
    ("--max-megapixels inf", "megapixels"),
    ("--disk-mb 0", "disk-mb"), ("--keep-minutes 0", "keep-minutes"), ("--keep-minutes nan", "keep-minutes"),
    ("--keep-minutes -1", "keep-minutes"), ("--host not.an.address.invalid", "not.an.address"),
    ("--host 999.1.1.1", "999"),
    ("--nonsense", "nonsense"), ("extra", "extra"),
]  # fmt: skip

OTHERS = [
    (f"{command} {options}", item) for command in ("export", "benchmark") for options, item in (
        ("--nonsense", "."), ("--weights none.safetensors", "."), ("--weights {files}/random.safetensors", "."),
        ("--weights {files}/empty.safetensors", "."), ("--weights {files}/foreign.safetensors", "."),
        ("--weights {files}/misfit.safetensors", "."), ("--weights {files}/tiny.safetensors --device tpu", "."),
        ("--weights {files}/clip.mp4", "."), ("--weights {files}/empty_folder", "."),
    )
] + [("doctor --nonsense", "nonsense"), ("doctor extra", "extra"), ("doctor --data-root", "data-root"),
     ("doctor --json=yes", "json"), ("docter", "did you mean doctor"), ("--nonsense", "nonsense"), ("-q", "say what"),
     ("--print-completion fish", "fish")]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, files: Path) -> Path:
    """The current folder of a command: the miniature data sets under short names, and a place for a bad file."""
    for entry in (files / "sets").iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("trakc: {window: 0.5}\n")
    return tmp_path


@pytest.mark.parametrize("name", list(CONFIGS))
def test_train_configurations(name: str, folder: Path, command_line, capfd) -> None:
    content, item = CONFIGS[name]
    (folder / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["train", "bad.yaml", "--data-root", ".", "--output", "out", "--device", "cpu", "--cache", "cache"]
    check_refused(words, item, capfd, folder, kept="cache")


@pytest.mark.parametrize("options, item", TRAIN_OPTIONS, ids=lambda text: text.replace("{files}/", ""))
def test_train_options(options: str, item: str, folder: Path, files: Path, command_line, capfd) -> None:
    if not (files / "wider.safetensors").exists():
        from faulty_files import tiny_network

        save_model(tiny_network(64), files / "wider.safetensors")
    (folder / "config.yaml").write_text(CONFIG)
    words = ["train", "config.yaml", "--data-root", ".", "--output", "out", "--device", "cpu", "--cache", "cache"]
    words += options.format(files=files).split(" ")
    check_refused(words, item, capfd, folder, kept="cache")


def test_train_without_a_configuration(folder: Path, command_line, capfd) -> None:
    for words, item in (
        (["train"], "required"),
        (["train", "none.yaml", "--data-root", "."], "none.yaml"),
        (["train", "."], "config ."),
        (["train", "bad.yaml"], "trakc"),
    ):
        check_refused(words, item, capfd, folder)


@pytest.mark.parametrize("options, item", EVALUATE)
def test_evaluate(options: str, item: str, folder: Path, files: Path, command_line, capfd) -> None:
    words = ["evaluate", "--weights", str(files / "tiny.safetensors"), "--device", "cpu", "--output", "out"]
    check_refused([*words, *options.split()], item, capfd, folder)


@pytest.mark.parametrize(
    "weights",
    ["none.safetensors", "random.safetensors", "cut.safetensors", "foreign.safetensors", "misfit.safetensors",
     "pickle.pt", "flip.safetensors", "bad_calibration.safetensors"],
)  # fmt: skip
def test_evaluate_weights(weights: str, folder: Path, files: Path, command_line, capfd) -> None:
    words = ["evaluate", "--benchmark", "folder", "--data-root", "good", "--output", "out", "--device", "cpu"]
    check_refused([*words, "--weights", str(files / weights)], "safetensors|pickle|scan|calibration", capfd, folder)


def test_a_damaged_frame_stops_an_evaluation_and_leaves_no_score(
    folder: Path, files: Path, command_line, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished stays by contract; here that is nothing but the note on the failure."""
    words = ["evaluate", "--benchmark", "folder", "--data-root", "broken_frame", "--output", "out", "-q"]
    words[-1:] = ["--tracker", "still"]
    check_refused(words, "0003.jpg", capfd, folder, kept=r"out(/results(/still(/run.json|/failures(/one.txt)?)?)?)?$")
    assert not list(folder.rglob("*.tmp")) and not (folder / "out" / "report.json").exists()


@pytest.mark.parametrize("options, item", DEMO)
def test_demo(options: str, item: str, files: Path, tmp_path: Path, command_line, capfd, monkeypatch) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("the page was served"))
    words = ["demo", "--weights", str(files / "tiny.safetensors"), "--device", "cpu", "--port", "0", *options.split()]
    check_refused(words, item, capfd, tmp_path)


def test_demo_on_a_port_in_use(files: Path, tmp_path: Path, command_line, capfd, monkeypatch) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("the page was served"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["demo", "--weights", str(files / "tiny.safetensors"), "--port", port]
        check_refused(words, port, capfd, tmp_path)


@pytest.mark.parametrize("words, item", OTHERS, ids=lambda text: text.replace("{files}/", ""))
def test_export_benchmark_doctor_and_none(
    words: str, item: str, files: Path, tmp_path: Path, command_line, capfd
) -> None:
    check_refused(words.format(files=files).split(), item, capfd, tmp_path)


def test_doctor_says_what_is_wrong_with_a_data_root(tmp_path: Path, command_line, capfd) -> None:
    """A finding, not bad input: it stands in the report, and the status is 1."""
    for root in (tmp_path / "none", tmp_path):
        assert cli.main(["doctor", "--data-root", str(root)]) == 1
        printed = capfd.readouterr()
        assert str(root) in printed.out and printed.err == ""


def test_there_are_more_than_two_hundred_cases() -> None:
    import test_malformed_track as track

    tables = [CONFIGS, TRAIN_OPTIONS, EVALUATE, DEMO, OTHERS, track.SOURCES, track.BOXES,
              track.BOX_FILES, track.OPTIONS, track.LIVE, track.IMAGES]  # fmt: skip
    assert sum(map(len, tables)) >= 200
