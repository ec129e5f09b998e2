"""What a run of the program leaves, and the one line it may say of an error."""

from dataclasses import dataclass


@dataclass
class Finished:
    """What a run left: its exit status and its two streams."""

    returncode: int
    stdout: str
    stderr: str


def one_error_line(result, status=2):
    """The line that begins with ``error:``, the only one and the last of a run that ended with this status."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error:"))
    assert result.stderr.strip().endswith(line)
    return line
