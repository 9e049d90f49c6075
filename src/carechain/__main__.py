"""``python -m carechain``: the same program as ``carechain``."""

from carechain.cli.main import app

# A benchmark's worker processes import this file again and must not start the program a second time.
if __name__ == "__main__":
    app(prog_name="carechain")
