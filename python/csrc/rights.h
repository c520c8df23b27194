/* Descriptors that come over a socket (SCM_RIGHTS). */
#ifndef RINGMASTER_RIGHTS_H
#define RINGMASTER_RIGHTS_H

#include <stddef.h>
#include <sys/types.h>

/* recv(fd, data, size, MSG_DONTWAIT), and *file is the descriptor that came with it, which is the caller's to close and is
 * closed by an exec, or -1. Of several the first is kept. A packet of more than size bytes is E2BIG, and no descriptor. */
ssize_t rm_receive_with_file(int fd, void *data, size_t size, int *file);

#endif
