"""A worker of one thread, to which requests are sent ahead. What it runs it records."""

import os
import time

import ringmaster as rm


@rm.action("quick")
def quick(request):
    return None


def record(request):
    with open(request.body["file"], "a") as file:
        file.write(request.body["line"] + "\n")
    return str(os.getpid())


rm.action("record")(record)
rm.action("record_again", idempotent=True)(record)


@rm.action("hold")
def hold(request):
    """Last until a file is there, or as long as somebody waits for the answer, if it is to look at that."""
    record(request)
    while not os.path.exists(request.body["until"]):
        if request.body["looks"]:
            request.check()
        time.sleep(0.001)
    return str(os.getpid())


rm.serve()
