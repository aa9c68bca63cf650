/* mock_welcome.c - a refusal, another version, garbage, memory that shrinks. */
#include "tools/mock_welcome.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wire/llm_wire.h"

#define SHRINK_MS  50       /* after WELCOME: the worker has mapped it by then */

static void
send_with(int fd, struct llm_welcome *w, const int *fds)
{
    union {
        struct cmsghdr  align;
        char            bytes[CMSG_SPACE(sizeof(int) * LLM_FD_COUNT)];
    } control = { .bytes = { 0 } };
    struct iovec    iov = { w, sizeof *w };
    struct msghdr   msg = { .msg_iov = &iov, .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes };
    struct cmsghdr  *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * LLM_FD_COUNT);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * LLM_FD_COUNT);
    (void) sendmsg(fd, &msg, MSG_NOSIGNAL);
}

/* Everything as it should be, but the regions are files, which nothing seals;
 * touching the memory of one that was cut is SIGBUS. */
static void
send_files(int fd)
{
    struct timespec      pause = { 0, SHRINK_MS * 1000000 };
    struct llm_welcome   w;
    struct llm_region_e  e = { .magic = LLM_WIRE_MAGIC,
                               .version = LLM_WIRE_VERSION, .epoch = 1,
                               .session_id = 1 };
    const char  *why = "";
    int          fds[LLM_FD_COUNT];

    llm_wire_init_welcome(&w, LLM_WELCOME_OK, "");
    w.max_requests = 16;
    w.session_id = w.epoch = 1;
    w.body_bytes_max = 1 << 20;
    w.pid = (uint32_t) getpid();
    (void) llm_wire_layout(&w.geometry, LLM_SQ_ENTRIES_MIN, LLM_ARENA_BYTES_MIN,
                           LLM_CQ_BYTES_MIN, &why);
    fds[LLM_FD_W] = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    fds[LLM_FD_E] = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    (void) !ftruncate(fds[LLM_FD_W], (off_t) w.geometry.w_bytes);
    (void) !ftruncate(fds[LLM_FD_E], (off_t) w.geometry.e_bytes);
    (void) !pwrite(fds[LLM_FD_E], &e, sizeof e, 0);
    fds[LLM_FD_KICK_ENGINE] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fds[LLM_FD_KICK_WORKER] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    send_with(fd, &w, fds);
    (void) nanosleep(&pause, NULL);
    (void) !ftruncate(fds[LLM_FD_W], 0);
    (void) !ftruncate(fds[LLM_FD_E], 0);
    (void) nanosleep(&pause, NULL);
    for (int i = 0; i < LLM_FD_COUNT; i++) {
        (void) close(fds[i]);
    }
}

void
mock_welcome_send(int fd, const char *how)
{
    struct llm_welcome  w;

    if (strcmp(how, "files") == 0) {
        send_files(fd);
        return;
    }
    llm_wire_init_welcome(&w, LLM_WELCOME_SHUTDOWN, "the mock refuses");
    if (strcmp(how, "version") == 0) {
        w.version = LLM_WIRE_VERSION + 1;
    } else if (strcmp(how, "garbage") == 0) {
        memset(&w, 0xa5, sizeof w);
    }
    (void) send(fd, &w, strcmp(how, "garbage") == 0 ? 77 : sizeof w,
                MSG_NOSIGNAL);
}
