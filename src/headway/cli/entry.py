"""The `headway` command as it is called: Ctrl-C ends it from its first line on, and without a traceback.

While the commands are loaded there is nothing yet to put right, and Python's own way is to show where in which import
it was.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load the commands and run the one that is asked for; a Ctrl-C before that ends the process by SIGINT."""
    given = signal.getsignal(signal.SIGINT)
    if given is signal.default_int_handler:  # else it is ignored, as in `headway up &` of a script, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from headway.cli.main import main as run

    signal.signal(signal.SIGINT, given)
    run()


if __name__ == "__main__":
    main()
