/* Descriptors that come over a socket. */
#define _GNU_SOURCE
#include "rights.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FEW 4 /* descriptors that are looked at; the kernel closes others */

/* Keeps the first of the header's descriptors in *file, unless there is one, and closes the others. */
static void keep_first(struct cmsghdr *c, int *file)
{
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
        if (*file < 0)
            *file = fd;
        else
            close(fd);
    }
}

ssize_t rm_receive_with_file(int fd, void *data, size_t size, int *file)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FEW * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    *file = -1;
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            keep_first(c, file);
    if ((m.msg_flags & MSG_TRUNC) == 0)
        return n;
    if (*file >= 0)
        close(*file);
    *file = -1;
    errno = E2BIG;
    return -1;
}
