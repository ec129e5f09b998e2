"""What bash and zsh are offered at a TAB."""

import pytest

from tests.samples.repository import DIGITS

pytestmark = pytest.mark.slow


@pytest.fixture
def offered(python, tmp_path):
    """The words that a shell is offered for the last word of a line."""

    def _offered(shell, *words):
        environment = {"_RMT_COMPRESS_COMPLETE": f"complete_{shell}"}
        line = " ".join(("rmt-compress", *map(str, words)))
        if shell == "bash":
            environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        else:
            environment |= {"_TYPER_COMPLETE_ARGS": line}
        done = python.run("-m", "rmt_compress", cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return _offered


@pytest.mark.parametrize("shell", ("bash", "zsh"))
def test_commands_options_and_choices(offered, shell):
    assert "prune" in offered(shell, "pru")
    assert "--max-drop" in offered(shell, "prune", "--max")
    assert "equalized" in offered(shell, "analyze", "--noise", "e")


@pytest.mark.parametrize("shell", ("bash", "zsh"))
def test_layers_of_the_file_that_was_named(offered, shell):
    words = offered(shell, "analyze", DIGITS, "--gof", "0.1", "--include", "fc").replace('"', " ").split()
    assert {"fc1", "fc2", "fc3"} <= set(words)
    assert "bias" not in " ".join(words)


@pytest.mark.parametrize("words", ((), ("nothing.pt",)))
def test_no_file_no_layers_and_no_message(offered, words):
    assert not offered("bash", "prune", *words, "--exclude", "f").strip()
