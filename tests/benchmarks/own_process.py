"""The other end of `measuring.in_own_process`: call one function, print its seconds and this process's peaks.

The seconds are what the function returns, if that is a number: then it measures itself.
"""

import importlib
import json
import sys
import time

from tests.benchmarks.measuring import peak_memory, sampled_own_memory

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    args, options = json.loads(sys.argv[2])
    function = getattr(importlib.import_module(module), name)
    with sampled_own_memory() as own_peak:
        started = time.perf_counter()
        result = function(*args, **options)  # held until the peak is read
        seconds = time.perf_counter() - started
    if isinstance(result, float):
        seconds = result
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "own_peak": max(own_peak, default=None)}))
