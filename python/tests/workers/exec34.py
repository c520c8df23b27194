"""Becomes the worker program argv[3] with argv[1] as fd 3 and argv[2] as fd 4, the way a supervisor starts it."""

import os
import sys

segment, lifeline, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
a, b = os.dup(segment), os.dup(lifeline)
for fd in (segment, lifeline):
    os.close(fd)
high = [os.dup2(fd, 100 + i) for i, fd in enumerate((a, b))]
os.closerange(3, 100)
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.closerange(100, 110)
os.execv(sys.executable, [sys.executable, program])
