"""The command `nanoinfer`, which is also `python -m nanoinfer`."""

import signal
import sys

from . import _core


def main() -> None:
    # The command handles signals itself, as it does without Python.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_core.main(["nanoinfer", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
