"""`python -m rmt_compress` is the same program as `rmt-compress`, and this is where both begin."""

import sys

from rmt_compress.cli.stopping import leaving, stopped_because, stopped_status, stopping


def run() -> None:
    """The program, its imports and its end included: whenever it is asked to stop, it says so in one line."""
    try:
        with stopping():
            from rmt_compress.cli.app import main

            main()
    except KeyboardInterrupt:
        sys.stderr.write(f"error: {stopped_because()}\n")
        sys.exit(stopped_status())
    finally:
        leaving()


if __name__ == "__main__":
    run()
