"""A worker that hangs in every way there is, and one that is only busy."""

import ctypes
import os
import signal
import subprocess
import threading
import time

import ringmaster as rm


def sleep(request):
    while True:
        time.sleep(1000)


def spin(request):
    while True:
        pass


def lock(request):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def stop(request):
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep(request)


def deaf(request):
    """SIGTERM is ignored, by all threads, and behind Python's back."""
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))
    sleep(request)


def parent(request):
    """A child in the worker's process group would outlive it."""
    with open(request.body["child"], "w") as file:
        print(subprocess.Popen(["sleep", "1000"]).pid, file=file)
    sleep(request)


def gil_lock(request):
    """Deadlock in C, and no other thread of Python runs."""
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def gil_call(request):
    """A system call with the GIL held, that a signal interrupts."""
    ctypes.PyDLL(None).pause()


def c_loop(request):
    ctypes.CDLL(os.environ["HANGS"]).loop()


def gil_loop(request):
    ctypes.PyDLL(os.environ["HANGS"]).loop()


def run(request):
    globals()[request.body["how"]](request)
    return "late"


def first(path):
    """Whether this is the first time that anybody asks."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@rm.action("stuck")
def stuck(request):
    return run(request)


@rm.action("hang", idempotent=True)
def hang(request):
    return run(request) if first(request.body["once"]) else "second"


@rm.action("pid", idempotent=True)
def pid(request):
    return os.getpid()


def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10000))


@rm.action("compute")
def one_answer(request):
    compute(request.body["seconds"])
    return "computed"


@rm.action("stream", stream=True)
def stream(request):
    for i in range(request.body["n"]):
        compute(request.body["seconds"])
        yield i


def load():
    if "LOAD" not in os.environ:
        return
    if first(os.environ["LOAD_ONCE"]):
        globals()[os.environ["LOAD"]](None)
    compute(1)  # slow, but that is all


rm.serve(load=load)
