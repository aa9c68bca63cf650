/* model_file.c - open, check the size against a limit, read it all. */
#include "engine/model/model_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
model_file_path(char *out, const char *dir, const char *name, struct err *err)
{
    int  len = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    if (len < 0 || len >= PATH_MAX) {
        return err_set(err, "path longer than %d bytes: %.200s/%s", PATH_MAX,
                       dir, name);
    }
    return OK;
}

static int
read_all(int fd, char *data, size_t bytes)
{
    size_t  done = 0;
    while (done < bytes) {
        ssize_t  n = read(fd, data + done, bytes - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return ERROR;
        }
        done += (size_t) n;
    }
    return OK;
}

int
model_file_read(struct str *text, const char *dir, const char *name,
                size_t bytes_max, struct err *err)
{
    char         path[PATH_MAX];
    struct stat  st;
    char        *data = NULL;
    *text = (struct str) { NULL, 0 };
    if (model_file_path(path, dir, name, err) != OK) {
        return ERROR;
    }
    int  fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ENOENT) {
            return AGAIN;
        }
        return err_set(err, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void) err_set(err, "%s: not a regular file", path);
        goto fail;
    }
    if (st.st_size < 0 || (size_t) st.st_size > bytes_max) {
        (void) err_set(err, "%s: %lld bytes, the limit is %zu", path,
                       (long long) st.st_size, bytes_max);
        goto fail;
    }
    size_t  bytes = (size_t) st.st_size;
    data = malloc(bytes + 1);
    if (data == NULL || read_all(fd, data, bytes) != OK) {
        (void) err_set(err, "%s: could not be read whole", path);
        goto fail;
    }
    data[bytes] = '\0';
    close(fd);
    *text = (struct str) { data, bytes };
    return OK;

fail:
    free(data);
    close(fd);
    return ERROR;
}

void
model_file_free(struct str *text)
{
    free((void *) (uintptr_t) text->data);
    *text = (struct str) { NULL, 0 };
}
