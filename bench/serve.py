"""The loop of a process that answers cases, one JSON line in, one out; harness.Peers is the other
end.

In the peers' interpreter: what is imported here must be there too.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import warnings
from collections.abc import Callable, Sequence


def serve(run: Callable[..., dict], packages: Sequence[str]) -> None:
    """Name the versions, then answer run(**case) for each case until the input ends."""
    warnings.simplefilter("ignore")
    out, sys.stdout = sys.stdout, sys.stderr  # whatever the peers print is no answer
    answer = {name: importlib.metadata.version(name) for name in packages}
    while True:
        print(json.dumps(answer), file=out, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        try:
            answer = run(**json.loads(line))
        except Exception as error:  # a peer's failure is a result
            answer = {"error": f"{type(error).__name__}: {error}"}
