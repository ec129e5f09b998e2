"""`python -m rmt_compress` is the same program as `rmt-compress`."""

from rmt_compress.cli.app import main

if __name__ == "__main__":
    main()
