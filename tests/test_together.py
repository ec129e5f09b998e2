"""Files that belong together: all of them or none, whatever comes between, and no signal comes between."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from rmt_compress.errors import OutputError
from rmt_compress.outputs import afterwards, leftovers, make_folder, placing, replacing, replacing_folder, together
from rmt_compress.undisturbed import undisturbed

NAMES = ("table.csv", "picture.png", "drawn/one.png")


def write(folder, content):
    with together():
        make_folder(folder / "drawn")
        for name in NAMES:
            with replacing(folder / name) as path:
                path.write_text(content)


def found(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=(True, False), ids=("exchanges", "replaces"))
def exchanges(request, monkeypatch):
    """Both ways to rename, that of Linux and that of the others."""
    if request.param and sys.platform != "linux":
        pytest.skip("only Linux exchanges")
    if not request.param:
        monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    return request.param


def test_all_are_there_when_the_block_has_ended_and_none_before(tmp_path, exchanges):
    for content in ("first", "second"):
        before = found(tmp_path)
        with together():
            write(tmp_path, content)  # a block in a block
            assert {name: text for name, text in found(tmp_path).items() if name in NAMES} == before
        assert found(tmp_path) == dict.fromkeys(NAMES, content)
        assert sorted(os.listdir(tmp_path)) == ["drawn", "picture.png", "table.csv"]
        assert os.listdir(tmp_path / "drawn") == ["one.png"]
    mask = os.umask(0)
    os.umask(mask)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in NAMES} == {0o666 & ~mask}


@pytest.mark.parametrize("existed", (False, True))
def test_a_failing_block_leaves_all_as_it_was(tmp_path, existed):
    if existed:
        write(tmp_path, "old")
    before = found(tmp_path)

    def fail():
        with together():
            write(tmp_path, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert found(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == (["drawn", "picture.png", "table.csv"] if existed else [])
    with replacing(tmp_path / "alone") as path:
        path.write_text("it has its name at once")
    assert (tmp_path / "alone").exists()


@pytest.mark.parametrize("existed", (False, True))
@pytest.mark.parametrize("number", range(len(NAMES)))
def test_where_one_cannot_be_renamed_the_others_give_their_names_back(tmp_path, monkeypatch, existed, number):
    if existed and sys.platform != "linux":
        pytest.skip("only Linux exchanges")
    if existed:
        write(tmp_path, "old")
    before = found(tmp_path)
    exchange, rename = placing._exchange, Path.replace

    def fail(step, one, other):
        if Path(other).name == Path(NAMES[number]).name and one.read_text() == "new":
            raise OSError(28, "No space left on device")
        return step(one, other)

    monkeypatch.setattr(placing, "_exchange", lambda *paths: fail(exchange, *paths))
    monkeypatch.setattr(Path, "replace", lambda *paths: fail(rename, *paths))
    with pytest.raises(OutputError, match=r"cannot be written: No space"):
        write(tmp_path, "new")
    assert found(tmp_path) == before


@pytest.mark.parametrize("name", ("SIGINT", "SIGTERM"))
@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_signal_between_two_renamings_waits(tmp_path, monkeypatch, exchanges, name, number):
    write(tmp_path, "old")
    told = []

    def stop(*_):
        told.append(found(tmp_path))
        raise KeyboardInterrupt

    before = signal.signal(getattr(signal, name), stop)
    step, steps = placing._exchange, []

    def interrupted(one, other):
        steps.append(one)
        if len(steps) == number + 1:
            signal.raise_signal(getattr(signal, name))
        return step(one, other)

    monkeypatch.setattr(placing, "_exchange", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, "new")
        assert signal.getsignal(getattr(signal, name)) is stop
    finally:
        signal.signal(getattr(signal, name), before)
    assert len(told) == 1
    assert {file: text for file, text in told[0].items() if file in NAMES} == dict.fromkeys(NAMES, "new")
    assert found(tmp_path) == dict.fromkeys(NAMES, "new")


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which a program in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_folder_is_not_lost_to_a_signal_where_none_can_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    rename = Path.rename

    def interrupted(path, other):
        done = rename(path, other)
        if str(other).endswith(".old"):
            signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(Path, "rename", interrupted)

    def put(content):
        with replacing_folder(tmp_path / "net") as folder:
            (folder / "weights").write_text(content)

    put("old")
    with pytest.raises(KeyboardInterrupt):
        put("new")
    assert found(tmp_path) == {"net/weights": "new"}


def test_a_folder_that_cannot_be_put_back_is_kept_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    rename = Path.rename

    def put(content):
        with replacing_folder(tmp_path / "net") as folder:
            (folder / "weights").write_text(content)

    def fail(path, other):
        if other == tmp_path / "net":
            raise OSError(5, "Input/output error")
        return rename(path, other)

    put("old")
    with monkeypatch.context() as failing:
        failing.setattr(Path, "rename", fail)
        with pytest.raises(OutputError, match="Input/output error"):
            put("new")
    assert [*found(tmp_path).values()] == ["old"]

    def look():
        with replacing_folder(tmp_path / "net"):
            assert (tmp_path / "net" / "weights").read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look()
    assert found(tmp_path) == {"net/weights": "old"}


def test_what_comes_afterwards_comes_when_all_have_their_names(tmp_path, monkeypatch):
    seen = []

    def once_more():
        with together():
            afterwards(lambda: seen.append(found(tmp_path)))
            write(tmp_path, "new")

    once_more()
    assert {name: text for name, text in seen[0].items() if name in NAMES} == dict.fromkeys(NAMES, "new")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(placing, "_exchange", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        once_more()
    assert len(seen) == 1


RENAMING = """
import sys
from pathlib import Path
from rmt_compress.outputs.leftovers import alone_in
with alone_in([Path(sys.argv[1])]):
    print("alone", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_runs_do_not_rename_in_one_folder_at_once(tmp_path, monkeypatch):
    command = [sys.executable, "-c", RENAMING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        waited = []

        def sleep(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                other.communicate()

        monkeypatch.setattr(leftovers.time, "sleep", sleep)
        write(tmp_path, "new")
        assert len(waited) == 3
        assert found(tmp_path) == dict.fromkeys(NAMES, "new")


KILLED = """
import os, signal, sys
from pathlib import Path
from rmt_compress.outputs import replacing, together
with together():
    for name in ("one", "two"):
        with replacing(Path(sys.argv[1]) / name) as path:
            path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_what_a_killed_run_has_left_goes_with_the_next_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] != []
    write(tmp_path, "mine")
    assert set(NAMES) < set(found(tmp_path))
    with together():
        for name in ("one", "two"):
            with replacing(tmp_path / name) as path:
                path.write_text("new")
    assert found(tmp_path) == dict.fromkeys(NAMES, "mine") | dict.fromkeys(("one", "two"), "new")


DEFERRED = """
import os, signal
from rmt_compress.undisturbed import undisturbed
for name in ("SIGHUP",):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
with undisturbed():
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    print("all done", flush=True)
print("never", flush=True)
"""


def test_a_signal_does_afterwards_what_it_would_have_done():
    done = subprocess.run([sys.executable, "-c", DEFERRED], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "all done\n")


def test_other_threads_have_no_handlers_to_exchange():
    before, seen = signal.getsignal(signal.SIGINT), []

    def look():
        with undisturbed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_comes_while_handlers_are_put_back_is_handed_on(monkeypatch):
    exchange, raised = signal.signal, []

    def interrupted(number, handler):
        done = exchange(number, handler)
        if handler is signal.default_int_handler and not raised:
            raised.append(number)
            signal.raise_signal(signal.SIGTERM)
        return done

    def told(number, _frame):
        raised.append(number)
        raise KeyboardInterrupt

    def quietly():
        with undisturbed():
            monkeypatch.setattr(signal, "signal", interrupted)

    before = exchange(signal.SIGTERM, told)
    try:
        with pytest.raises(KeyboardInterrupt):
            quietly()
        assert raised == [signal.SIGINT, signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is told
    finally:
        exchange(signal.SIGTERM, before)
