/* ringmaster._ring.watch_lifeline: a thread that knows nothing of Python, so that it works while a handler holds the
 * GIL or hangs.
 *
 *   the supervisor ─▶ fd 4 ─▶ watch ─────────────▶ packets ─▶ lifeline_packets ─▶ the worker's receiving thread
 *                       │       └── nudge: that thread, asleep at its ring, is to come and look
 *                       └─ end of file: _exit(1)
 *
 * Packets are taken off the socket when they come, or when that thread asks, whoever is first: what it has not come
 * for (it may run an action for minutes) does not fill the supervisor's end.
 */
#define _GNU_SOURCE
#include "module.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rights.h"
#include "ring.h"

#define PACKET_BYTES 256 /* of one that is kept; attach and detach have less than 40 */

struct packet {
    struct packet *next;
    int file; /* that came with it, or -1 */
    Py_ssize_t size;
    uint8_t data[PACKET_BYTES];
};

/* The process's only lifeline. */
static struct {
    int fd;                     /* immutable, like segment */
    struct rm_segment *segment; /* whose receiver is nudged */
    pthread_mutex_t mutex;      /* held while packets are read, so that they stay in order; never while waiting */
    struct packet *first, **last;
} lifeline = {.fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER, .last = &lifeline.first};

/* Whether the supervisor is gone: an empty packet, which means nothing, is read like its end. */
static bool hung_up(void)
{
    struct pollfd p = {.fd = lifeline.fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) != 0;
}

/* Takes what there is off the socket; false if that was nothing. mutex is held. */
static bool take_packets(void)
{
    bool some = false;
    for (;;) {
        struct packet *p = malloc(sizeof *p);
        if (p == NULL)
            return some;
        ssize_t n = rm_receive_with_file(lifeline.fd, p->data, sizeof p->data, &p->file);
        if (n <= 0) {
            bool more = n < 0 ? errno == E2BIG || errno == EINTR : !hung_up(); /* an unknown packet: the next one */
            if (p->file >= 0)
                close(p->file);
            free(p);
            if (more)
                continue;
            return some;
        }
        p->size = n;
        p->next = NULL;
        *lifeline.last = p;
        lifeline.last = &p->next;
        some = true;
    }
}

/* The end of file is that the supervisor is gone. An empty packet is told from it by poll. */
static void *watch(void *Py_UNUSED(arg))
{
    struct pollfd p = {.fd = lifeline.fd, .events = POLLIN | POLLRDHUP};
    for (;;) {
        int n = poll(&p, 1, -1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 || (p.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)) != 0)
            _exit(1);
        pthread_mutex_lock(&lifeline.mutex);
        bool some = take_packets();
        pthread_mutex_unlock(&lifeline.mutex);
        if (some)
            rm_segment_nudge(lifeline.segment);
    }
}

PyObject *rm_watch_lifeline(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "watch_lifeline(fd, segment)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (fd < 0 || fd > INT_MAX)
        return PyErr_Format(PyExc_ValueError, "fd is %ld", fd);
    if (lifeline.fd >= 0)
        return PyErr_Format(PyExc_RuntimeError, "this process has a lifeline already, on fd %d", lifeline.fd);
    struct rm_segment *segment = rm_segment_keep(module, args[1]);
    if (segment == NULL)
        return NULL;
    lifeline.fd = (int)fd;
    lifeline.segment = segment;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's main thread */
    int err = pthread_create(&thread, &attr, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err != 0) {
        errno = err;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* A (bytes, descriptor or None) of a packet, whose descriptor is closed if that fails. */
static PyObject *as_tuple(const struct packet *p)
{
    PyObject *data = PyBytes_FromStringAndSize((const char *)p->data, p->size);
    PyObject *file = p->file >= 0 ? PyLong_FromLong(p->file) : Py_NewRef(Py_None);
    PyObject *both = data != NULL && file != NULL ? PyTuple_Pack(2, data, file) : NULL;
    Py_XDECREF(data);
    Py_XDECREF(file);
    if (both == NULL && p->file >= 0)
        close(p->file);
    return both;
}

PyObject *rm_lifeline_pending(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    pthread_mutex_lock(&lifeline.mutex); /* who holds it needs no GIL and does not wait */
    bool some = lifeline.first != NULL;
    pthread_mutex_unlock(&lifeline.mutex);
    return PyBool_FromLong(some);
}

PyObject *rm_lifeline_packets(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    pthread_mutex_lock(&lifeline.mutex);
    if (lifeline.fd >= 0)
        take_packets();
    struct packet *p = lifeline.first;
    lifeline.first = NULL;
    lifeline.last = &lifeline.first;
    pthread_mutex_unlock(&lifeline.mutex);
    PyObject *list = PyList_New(0);
    while (p != NULL) {
        PyObject *item = list != NULL ? as_tuple(p) : NULL;
        if (item == NULL && list == NULL && p->file >= 0)
            close(p->file);
        if (item == NULL || PyList_Append(list, item) != 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
        struct packet *next = p->next;
        free(p);
        p = next;
    }
    return list;
}
