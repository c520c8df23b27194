/* What the files of the extension module share. */
#ifndef RINGMASTER_MODULE_H
#define RINGMASTER_MODULE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

struct rm_module {
    PyObject *protocol_error;
    PyObject *closed;
};

extern PyType_Spec rm_segment_spec;

PyObject *rm_split(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *rm_watch_lifeline(PyObject *module, PyObject *fd);

#endif
