"""Several files are replaced as one, whenever the process is stopped."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats import SAECheckpoint, folder, read_sae, write_saelens

NAMES = ("a", "b", "description")


def _write(place, text, names=NAMES):
    with folder.replacing_files(place, NAMES) as temporary:
        for name in names:
            (temporary / name).write_text(text)


def _content(place):
    """The text in each file as a reader finds it; None where there is no such file."""
    paths = {name: folder.current_file(place, name) for name in NAMES}
    return {
        name: path.read_text() if path.exists() else None
        for name, path in paths.items()
    }


def _names_in(place):
    return sorted(path.name for path in place.iterdir())


def test_replaces_its_files_and_no_others(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "log.txt").write_text("mine")
    _write(tmp_path, "old")
    _write(tmp_path, "new", ("b", "description"))
    assert _content(tmp_path) == {"a": None, "b": "new", "description": "new"}
    assert _names_in(tmp_path) == ["b", "description", "log.txt", "notes"]
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_the_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with folder.replacing_files(tmp_path / "saved", NAMES) as temporary:
        (temporary / "a").write_text("a")
        (temporary / "a").chmod(0o600)
    mode = (tmp_path / "saved" / "a").stat().st_mode
    assert mode == (tmp_path / "ordinary").stat().st_mode


def test_a_block_that_raises_changes_nothing(tmp_path):
    _write(tmp_path, "old")

    def interrupted():
        with folder.replacing_files(tmp_path, NAMES) as temporary:
            (temporary / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _content(tmp_path) == dict.fromkeys(NAMES, "old")
    assert _names_in(tmp_path) == list(NAMES)


class _Stopped(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("names", [NAMES, ("b", "description")])
def test_a_reader_finds_one_save_after_every_step(tmp_path, monkeypatch, names):
    """Stop before the first step, then before the second, until nothing stops it."""
    steps = ("rename", "replace", "unlink", "rmdir")
    methods = {name: getattr(folder.Path, name) for name in steps}
    outcomes = []
    for n_steps in range(20):
        place = tmp_path / str(n_steps)
        _write(place, "old")
        left = [n_steps]

        def limited(name, left=left):
            def method(*args, **options):
                if not left[0]:
                    raise _Stopped
                left[0] -= 1
                return methods[name](*args, **options)

            return method

        with monkeypatch.context() as patch:
            # What a killed process would not have cleaned up either.
            patch.setattr(folder.shutil, "rmtree", lambda *_, **__: None)
            for name in steps:
                patch.setattr(folder.Path, name, limited(name))
            try:
                _write(place, "new", names)
                is_finished = True
            except _Stopped:
                is_finished = False

        content = _content(place)
        new = {name: "new" if name in names else None for name in NAMES}
        assert content in (dict.fromkeys(NAMES, "old"), new)
        in_place = {path.name: path.read_text() for path in place.glob("[ab]*")}
        # Nor does one that knows nothing of this see new files with an old description.
        description = place / "description"
        if description.exists() and description.read_text() == "old":
            assert set(in_place.values()) <= {"old"}

        outcomes.append(content == new)
        _write(place, "newer")
        assert _content(place) == dict.fromkeys(NAMES, "newer")
        if is_finished:
            break
    assert is_finished
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)


def test_a_save_leaves_nothing_of_an_earlier_one_that_was_killed(tmp_path):
    (tmp_path / ".saving-killed").mkdir()
    (tmp_path / ".saving-killed" / "a").write_text("half")
    _write(tmp_path, "new")
    assert _names_in(tmp_path) == list(NAMES)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from sae_lens_ext.formats import SAECheckpoint, read_sae, write_saelens

place = Path(sys.argv[1])

def save(number):
    # Every other save has constants, and another size.
    d_sae = 40 + number % 2
    weights = {
        "W_enc": torch.full((16, d_sae), float(number)),
        "b_enc": torch.full((d_sae,), float(number)),
        "W_dec": torch.full((d_sae, 16), float(number)),
        "b_dec": torch.full((16,), float(number)),
    }
    constants = {}
    if number % 2:
        constants = {
            "activation_mean": torch.full((16,), float(number)),
            "activation_scale": torch.tensor(float(number)),
        }
    write_saelens(place, SAECheckpoint(
        d_model=16, d_sae=d_sae, k=3, apply_b_dec_to_input=True, tensors=weights,
        normalization=constants, metadata={"number": number},
    ))

def check():
    # All that is read must come from one save; returns its number.
    checkpoint = read_sae(place)
    number = checkpoint.metadata["number"]
    assert checkpoint.d_sae == 40 + number % 2
    assert bool(checkpoint.normalization) == bool(number % 2)
    for tensor in (*checkpoint.tensors.values(), *checkpoint.normalization.values()):
        assert bool((tensor == number).all())
    return number

torch.set_num_threads(1)
number = 1
save(number)
parent = os.getpid()
for seed in range(40):
    child = os.fork()
    if child == 0:
        while os.getppid() == parent:
            number += 1
            save(number)
        os._exit(0)
    try:
        for _ in range(5):
            check()
        time.sleep(random.Random(seed).uniform(0, 0.03))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    last = check()
    assert last >= number
    number = last
print("saves", number)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_saver_leaves_a_whole_save_and_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    process = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[1]) > 1
    assert (tmp_path / "mine.txt").read_text() == "mine"

    # The next save finishes and cleans up.
    write_saelens(tmp_path, read_sae(tmp_path))
    assert [name for name in _names_in(tmp_path) if name.startswith(".")] == []


def test_two_savers_at_once_leave_one_of_the_saves(tmp_path):
    def save(text):
        for _ in range(20):
            _write(tmp_path, text)

    threads = [threading.Thread(target=save, args=[text]) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(_content(tmp_path).values())) == 1
    assert _names_in(tmp_path) == list(NAMES)


def test_a_disk_that_is_full_leaves_the_old_save(tmp_path, monkeypatch):
    weights = {
        "W_enc": torch.ones(2, 3),
        "b_enc": torch.ones(3),
        "W_dec": torch.ones(3, 2),
        "b_dec": torch.ones(2),
    }
    checkpoint = SAECheckpoint(
        d_model=2, d_sae=3, k=1, apply_b_dec_to_input=True, tensors=weights
    )
    write_saelens(tmp_path, checkpoint)
    before = json.loads((tmp_path / "cfg.json").read_text())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sae_lens_ext.formats.writing.save_file", full)
    with pytest.raises(InvalidArgument, match="cannot be written to, and is as it was"):
        write_saelens(tmp_path, checkpoint)
    assert json.loads((tmp_path / "cfg.json").read_text()) == before
    assert _names_in(tmp_path) == ["cfg.json", "sae_weights.safetensors"]
