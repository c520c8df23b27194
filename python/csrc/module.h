/* What the files of the extension module share. */
#ifndef RINGMASTER_MODULE_H
#define RINGMASTER_MODULE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

struct rm_segment;

struct rm_module {
    PyObject *protocol_error;
    PyObject *closed;
    PyObject *segment_type;
    PyObject *block_type;
};

extern PyType_Spec rm_segment_spec;
extern PyType_Spec rm_region_spec;
extern PyType_Spec rm_block_spec;
extern PyType_Spec rm_codec_spec;
extern PyType_Spec rm_sleeper_spec;

PyObject *rm_split(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *rm_watch_lifeline(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *rm_lifeline_pending(PyObject *module, PyObject *none);
PyObject *rm_lifeline_packets(PyObject *module, PyObject *none);
PyObject *rm_tell_on_term(PyObject *module, PyObject *install);
PyObject *rm_tell_where(PyObject *module, PyObject *yes);

/* Turns seconds or None into a CLOCK_MONOTONIC deadline in ns: RM_FOREVER for None, 0 for what is over. false with an
 * exception. */
bool rm_deadline(PyObject *timeout, int64_t *deadline);

/* The segment of a Segment, which stays mapped for ever from now on: for a thread that knows nothing of Python. NULL
 * with an exception. */
struct rm_segment *rm_segment_keep(PyObject *module, PyObject *segment);

#endif
