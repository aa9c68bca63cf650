
/*
 * ngx_http_llm_quota.c - periods of quotas, and the file that lets them
 * survive a restart.
 *
 * The file is shared by all who count the same keys: the workers of a master,
 * and after a binary upgrade those of two masters, whose zones know nothing of
 * each other.  So a save adds instead of overwriting: under a lock it reads
 * what the file says, adds what was used here since it was last read or
 * written, and replaces it by rename().
 *
 *     nginx-llm-quota 1 START\n          of the period, seconds since 1970
 *     USED KEY\n                         tokens; bytes of a key that are not
 *     ...                                plain are %XX
 *     end CRC\n                          CRC-32 of everything before, 8 digits
 *
 * Reservations are not saved: after a restart their requests are no more.
 *
 * A large zone takes some time to be written, and whoever writes serves
 * clients too.  So a save goes in steps, with other events between them, and
 * notes in each node what it has written of it; the notes count when the file
 * has replaced the old one, all at once (sh->committed).
 */


#include "ngx_http_llm_limit.h"
#include <sys/file.h>
#include <time.h>


#define NGX_HTTP_LLM_QUOTA_MAGIC   "nginx-llm-quota 1 "
#define NGX_HTTP_LLM_QUOTA_LINE    (NGX_INT64_LEN + 2                        \
                                    + 3 * NGX_HTTP_LLM_LIMIT_KEY)
#define NGX_HTTP_LLM_QUOTA_END     (sizeof("end 01234567\n") - 1)
#define NGX_HTTP_LLM_QUOTA_NAME    (NGX_MAX_PATH + sizeof(".lock"))
#define NGX_HTTP_LLM_QUOTA_CHUNK   256     /* keys while the zone is locked */
#define NGX_HTTP_LLM_QUOTA_TRIES   100     /* of 10 ms, for the lock */


typedef struct {
    u_char     *data;
    size_t      len;
    uint64_t    ino;
    uint64_t    mtime;
} ngx_http_llm_quota_file_t;


static void ngx_http_llm_quota_directory(ngx_http_llm_limit_zone_t *zone,
    ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_save_begin(
    ngx_http_llm_limit_zone_t *zone, ngx_uint_t tries, ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_save_open(ngx_http_llm_limit_zone_t *zone,
    ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_save_step(ngx_http_llm_limit_zone_t *zone,
    ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_save_put(ngx_http_llm_limit_zone_t *zone,
    size_t len, ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_save_end(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t sync, ngx_log_t *log);
static void ngx_http_llm_quota_save_free(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t failed);
static int64_t ngx_http_llm_quota_saved(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node);
static uint64_t ngx_http_llm_quota_mtime(struct stat *st);
static void ngx_http_llm_quota_new_name(ngx_http_llm_limit_zone_t *zone,
    u_char *name, size_t size);
static ngx_fd_t ngx_http_llm_quota_lock_file(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t tries, ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_read(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_quota_file_t *file, ngx_log_t *log);
static ngx_int_t ngx_http_llm_quota_merge(
    ngx_http_llm_limit_zone_t *zone, ngx_http_llm_quota_file_t *file);
static ngx_int_t ngx_http_llm_quota_check(ngx_http_llm_quota_file_t *file,
    time_t *start, u_char **lines);
static u_char *ngx_http_llm_quota_line(u_char *p, u_char *last, int64_t *used,
    u_char *key, size_t *len);
static u_char *ngx_http_llm_quota_print_key(u_char *p, int64_t used,
    ngx_str_t *key);
static void ngx_http_llm_quota_timer_handler(ngx_event_t *ev);


/* UTC: days begin at midnight, weeks on Monday, months on their first day */

time_t
ngx_http_llm_quota_start(ngx_http_llm_limit_zone_t *zone, time_t now)
{
    ngx_int_t  month;
    struct tm  tm;

    if (zone->months == 0) {

        /* 1970-01-01 was a Thursday */

        return zone->week ? now - (now + 3 * 86400) % zone->period
                          : now - now % zone->period;
    }

    (void) gmtime_r(&now, &tm);

    month = tm.tm_year * 12 + tm.tm_mon;
    month -= month % (ngx_int_t) zone->months;

    ngx_memzero(&tm, sizeof(struct tm));

    tm.tm_year = (int) (month / 12);
    tm.tm_mon = (int) (month % 12);
    tm.tm_mday = 1;

    return timegm(&tm);
}


time_t
ngx_http_llm_quota_next(ngx_http_llm_limit_zone_t *zone, time_t start)
{
    struct tm  tm;

    if (zone->months == 0) {
        return start + zone->period;
    }

    (void) gmtime_r(&start, &tm);
    tm.tm_mon += (int) zone->months;

    return timegm(&tm);
}


/* in the master, when the zone is new: whatever is wrong, nginx starts */

void
ngx_http_llm_quota_load(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log)
{
    ngx_http_llm_quota_file_t  file;

    ngx_http_llm_quota_directory(zone, log);

    if (ngx_http_llm_quota_read(zone, &file, log) != NGX_OK) {
        return;
    }

    if (ngx_http_llm_quota_merge(zone, &file) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "zone \"%V\" cannot hold all keys of \"%V\"",
                      &zone->shm_zone->shm.name, &zone->state);
    }

    ngx_free(file.data);
}


/* a directory that is not there yet is made for the workers, as nginx does */

static void
ngx_http_llm_quota_directory(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log)
{
    u_char   name[NGX_MAX_PATH];
    char    *p;

    (void) ngx_cpystrn(name, zone->state.data, zone->state.len + 1);

    p = strrchr((char *) name, '/');
    if (p == NULL || p == (char *) name) {
        return;
    }

    *p = '\0';

    if (mkdir((const char *) name, 0700) == -1) {

        if (ngx_errno != NGX_EEXIST) {
            ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                          ngx_create_dir_n " \"%s\" failed", name);
        }

        return;
    }

    if (geteuid() == 0
        && chown((const char *) name, zone->ccf->user, zone->ccf->group) == -1)
    {
        ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                      "chown(\"%s\", %d) failed", name, zone->ccf->user);
    }
}


/* one worker saves for all of them */

void
ngx_http_llm_quota_init_process(ngx_http_llm_limit_zone_t *zone,
    ngx_cycle_t *cycle)
{
    if (zone->state.len == 0 || ngx_worker != 0) {
        return;
    }

    zone->timer.handler = ngx_http_llm_quota_timer_handler;
    zone->timer.data = zone;
    zone->timer.log = cycle->log;
    zone->timer.cancelable = 1;

    ngx_add_timer(&zone->timer, zone->save);
}


static void
ngx_http_llm_quota_timer_handler(ngx_event_t *ev)
{
    ngx_int_t                   rc;
    ngx_http_llm_limit_zone_t  *zone;

    zone = ev->data;

    rc = zone->saving ? NGX_OK : ngx_http_llm_quota_save_begin(zone, 1,
                                                               ev->log);
    if (rc == NGX_OK) {
        rc = ngx_http_llm_quota_save_step(zone, ev->log);

        if (rc == NGX_DONE) {
            (void) ngx_http_llm_quota_save_end(zone, 0, ev->log);
        }
    }

    if (!ngx_exiting) {
        ngx_add_timer(ev, rc == NGX_AGAIN ? 1 : zone->save);
    }
}


void
ngx_http_llm_quota_exit(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log)
{
    ngx_int_t  rc;

    if (zone->timer.timer_set) {
        ngx_del_timer(&zone->timer);
    }

    if (zone->state.len == 0) {
        return;
    }

    if (zone->saving) {
        ngx_http_llm_quota_save_free(zone, 1);
    }

    rc = ngx_http_llm_quota_save_begin(zone, NGX_HTTP_LLM_QUOTA_TRIES, log);

    if (rc != NGX_OK) {
        return;
    }

    do {
        rc = ngx_http_llm_quota_save_step(zone, log);
    } while (rc == NGX_AGAIN);

    if (rc == NGX_DONE) {
        (void) ngx_http_llm_quota_save_end(zone, 1, log);
    }
}


/* NGX_OK: there is something to write, and zone->saving */

static ngx_int_t
ngx_http_llm_quota_save_begin(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t tries, ngx_log_t *log)
{
    ngx_fd_t                    lock;
    ngx_int_t                   rc;
    ngx_uint_t                  dirty, same;
    struct stat                 st;
    ngx_http_llm_quota_file_t   old;

    same = stat((char *) zone->state.data, &st) == 0
           && (uint64_t) st.st_ino == zone->sh->file_ino
           && ngx_http_llm_quota_mtime(&st) == zone->sh->file_mtime;

    if (same && !zone->sh->dirty) {
        return NGX_DECLINED;
    }

    lock = ngx_http_llm_quota_lock_file(zone, tries, log);
    if (lock == -1) {
        return NGX_ERROR;
    }

    /* of two masters the other has written */

    rc = same ? NGX_DECLINED : ngx_http_llm_quota_read(zone, &old, log);

    if (rc == NGX_OK) {
        (void) ngx_http_llm_quota_merge(zone, &old);
        ngx_free(old.data);
    }

    /* what is settled from here on is dirty again */

    ngx_http_llm_limit_lock(zone);

    dirty = zone->sh->dirty || rc == NGX_ERROR;
    zone->sh->dirty = (rc == NGX_ABORT) ? dirty : 0;

    ngx_http_llm_limit_unlock(zone);

    if (rc == NGX_ABORT || !dirty) {
        (void) close(lock);
        return NGX_DECLINED;
    }

    zone->saving = ngx_calloc(sizeof(ngx_http_llm_quota_save_t), log);

    if (zone->saving == NULL) {
        (void) close(lock);
        zone->sh->dirty = 1;
        return NGX_ERROR;
    }

    zone->saving->lock = lock;
    zone->saving->fd = -1;

    return ngx_http_llm_quota_save_open(zone, log);
}


static ngx_int_t
ngx_http_llm_quota_save_open(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log)
{
    u_char                      name[NGX_HTTP_LLM_QUOTA_NAME];
    size_t                      len;
    ngx_http_llm_quota_save_t  *save;

    save = zone->saving;

    ngx_http_llm_quota_new_name(zone, name, sizeof(name));

    save->fd = open((const char *) name,
                    O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC|O_NOFOLLOW, 0600);

    if (save->fd == -1) {
        ngx_log_error(NGX_LOG_ERR, log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed, quotas are not saved",
                      name);
        ngx_http_llm_quota_save_free(zone, 1);
        return NGX_ERROR;
    }

    save->buf = ngx_alloc(NGX_HTTP_LLM_QUOTA_CHUNK * NGX_HTTP_LLM_QUOTA_LINE,
                          log);
    if (save->buf == NULL) {
        ngx_http_llm_quota_save_free(zone, 1);
        return NGX_ERROR;
    }

    ngx_http_llm_limit_lock(zone);

    save->seq = ++zone->sh->seq;
    save->start = ngx_http_llm_quota_start(zone, ngx_time());

    ngx_http_llm_limit_unlock(zone);

    ngx_crc32_init(save->crc);

    len = ngx_sprintf(save->buf, NGX_HTTP_LLM_QUOTA_MAGIC "%T\n", save->start)
          - save->buf;

    return ngx_http_llm_quota_save_put(zone, len, log);
}


/* NGX_AGAIN: more keys are to come; NGX_DONE: that was all */

static ngx_int_t
ngx_http_llm_quota_save_step(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log)
{
    u_char                     *p;
    ngx_str_t                   key;
    ngx_uint_t                  n;
    ngx_http_llm_limit_node_t  *node;
    ngx_http_llm_quota_save_t  *save;

    save = zone->saving;

    p = save->buf;
    node = NULL;
    key.data = save->key;
    key.len = save->key_len;

    ngx_http_llm_limit_lock(zone);

    for (n = 0; n < NGX_HTTP_LLM_QUOTA_CHUNK; n++) {
        node = ngx_http_llm_limit_after_locked(zone, &key,
                                         ngx_crc32_short(key.data, key.len));
        if (node == NULL) {
            break;
        }

        key.len = node->len;
        ngx_memcpy(key.data, node->data, key.len);

        node->saved = ngx_http_llm_quota_saved(zone, node);
        node->seq = 0;

        if (node->start != save->start) {
            continue;
        }

        if (node->used == 0) {
            node->saved = 0;
            continue;
        }

        node->printed = node->used;
        node->seq = save->seq;

        p = ngx_http_llm_quota_print_key(p, node->used, &key);
    }

    ngx_http_llm_limit_unlock(zone);

    save->key_len = key.len;

    if (ngx_http_llm_quota_save_put(zone, p - save->buf, log) != NGX_OK) {
        return NGX_ERROR;
    }

    return node ? NGX_AGAIN : NGX_DONE;
}


static ngx_int_t
ngx_http_llm_quota_save_put(ngx_http_llm_limit_zone_t *zone, size_t len,
    ngx_log_t *log)
{
    u_char                     *p;
    ssize_t                     n;
    ngx_http_llm_quota_save_t  *save;

    save = zone->saving;

    ngx_crc32_update(&save->crc, save->buf, len);

    for (p = save->buf; len; p += n, len -= n) {
        n = write(save->fd, p, len);

        if (n <= 0) {
            ngx_log_error(NGX_LOG_ERR, log, ngx_errno,
                          "writing \"%V.new\" failed, quotas are not saved",
                          &zone->state);
            ngx_http_llm_quota_save_free(zone, 1);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* the file replaces the old one; from now on only what comes on top is new */

static ngx_int_t
ngx_http_llm_quota_save_end(ngx_http_llm_limit_zone_t *zone, ngx_uint_t sync,
    ngx_log_t *log)
{
    u_char                      name[NGX_HTTP_LLM_QUOTA_NAME];
    size_t                      len;
    uint32_t                    crc;
    struct stat                 st;
    ngx_http_llm_quota_save_t  *save;

    save = zone->saving;

    crc = save->crc;
    ngx_crc32_final(crc);

    len = ngx_sprintf(save->buf, "end %08xD\n", crc) - save->buf;

    if (ngx_http_llm_quota_save_put(zone, len, log) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_llm_quota_new_name(zone, name, sizeof(name));

    /* waiting for the disk is for a process that has nothing else to do */

    if ((sync && fdatasync(save->fd) == -1)
        || fstat(save->fd, &st) == -1
        || rename((const char *) name, (const char *) zone->state.data) == -1)
    {
        ngx_log_error(NGX_LOG_ERR, log, ngx_errno,
                      "saving \"%V\" failed", &zone->state);
        ngx_http_llm_quota_save_free(zone, 1);
        return NGX_ERROR;
    }

    ngx_http_llm_limit_lock(zone);

    zone->sh->committed = save->seq;
    zone->sh->file_ino = (uint64_t) st.st_ino;
    zone->sh->file_mtime = ngx_http_llm_quota_mtime(&st);

    ngx_http_llm_limit_unlock(zone);

    ngx_http_llm_quota_save_free(zone, 0);

    return NGX_OK;
}


static void
ngx_http_llm_quota_save_free(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t failed)
{
    u_char                      name[NGX_HTTP_LLM_QUOTA_NAME];
    ngx_http_llm_quota_save_t  *save;

    save = zone->saving;
    zone->saving = NULL;

    if (failed) {
        zone->sh->dirty = 1;
    }

    if (save->fd != -1) {

        if (failed) {
            ngx_http_llm_quota_new_name(zone, name, sizeof(name));
            (void) unlink((const char *) name);
        }

        (void) close(save->fd);
    }

    (void) close(save->lock);

    if (save->buf) {
        ngx_free(save->buf);
    }

    ngx_free(save);
}


static void
ngx_http_llm_quota_new_name(ngx_http_llm_limit_zone_t *zone, u_char *name,
    size_t size)
{
    (void) ngx_snprintf(name, size, "%V.new%Z", &zone->state);
}


/* what the file says of a node */

static int64_t
ngx_http_llm_quota_saved(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node)
{
    return (node->seq && node->seq == zone->sh->committed) ? node->printed
                                                           : node->saved;
}


static uint64_t
ngx_http_llm_quota_mtime(struct stat *st)
{
    return (uint64_t) st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}


static ngx_fd_t
ngx_http_llm_quota_lock_file(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t tries, ngx_log_t *log)
{
    u_char    name[NGX_HTTP_LLM_QUOTA_NAME];
    ngx_fd_t  fd;

    (void) ngx_snprintf(name, sizeof(name), "%V.lock%Z", &zone->state);

    fd = open((const char *) name, O_RDWR|O_CREAT|O_CLOEXEC|O_NOFOLLOW, 0600);

    if (fd == -1) {
        ngx_log_error(NGX_LOG_ERR, log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed, quotas are not saved",
                      name);
        return -1;
    }

    for ( ;; ) {
        if (flock(fd, LOCK_EX|LOCK_NB) == 0) {
            return fd;
        }

        if (ngx_errno != NGX_EAGAIN || --tries == 0) {
            break;
        }

        ngx_msleep(10);
    }

    ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                  "flock(\"%s\") failed, quotas are not saved now", name);

    (void) close(fd);

    return -1;
}


/*
 * NGX_DECLINED: there is none; NGX_ERROR: it is no good, NGX_ABORT: it cannot
 * be read, and that is logged
 */

static ngx_int_t
ngx_http_llm_quota_read(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_quota_file_t *file, ngx_log_t *log)
{
    off_t         size;
    time_t        start;
    u_char       *lines;
    ssize_t       n;
    ngx_fd_t      fd;
    ngx_err_t     err;
    struct stat   st;

    fd = open((const char *) zone->state.data, O_RDONLY|O_CLOEXEC);

    if (fd == -1) {
        err = ngx_errno;

        if (err == NGX_ENOENT) {
            return NGX_DECLINED;
        }

        ngx_log_error(NGX_LOG_WARN, log, err,
                      ngx_open_file_n " \"%V\" failed", &zone->state);
        return NGX_ABORT;
    }

    file->data = NULL;
    n = -1;

    /* a key takes more room in the zone than its line in the file */

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
        && st.st_size <= 4 * (off_t) zone->shm_zone->shm.size)
    {
        size = st.st_size;
        file->ino = (uint64_t) st.st_ino;
        file->mtime = ngx_http_llm_quota_mtime(&st);

        file->data = ngx_alloc((size_t) size + 1, log);

        if (file->data) {
            for (file->len = 0; file->len < (size_t) size; file->len += n) {
                n = read(fd, file->data + file->len, size - file->len);
                if (n <= 0) {
                    break;
                }
            }

            n = (file->len == (size_t) size) ? 0 : -1;
        }
    }

    (void) close(fd);

    if (n == 0 && ngx_http_llm_quota_check(file, &start, &lines) == NGX_OK) {
        return NGX_OK;
    }

    if (file->data) {
        ngx_free(file->data);
    }

    ngx_log_error(NGX_LOG_WARN, log, 0,
                  "quota state \"%V\" is corrupt and is ignored",
                  &zone->state);

    return NGX_ERROR;
}


/* adds what others have used since this zone has last looked */

static ngx_int_t
ngx_http_llm_quota_merge(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_quota_file_t *file)
{
    size_t                      len;
    time_t                      start;
    u_char                     *p, *last;
    u_char                      buf[NGX_HTTP_LLM_LIMIT_KEY];
    int64_t                     used;
    ngx_int_t                   rc;
    ngx_str_t                   key;
    ngx_uint_t                  n;
    ngx_http_llm_limit_node_t  *node;

    zone->sh->file_ino = file->ino;
    zone->sh->file_mtime = file->mtime;

    (void) ngx_http_llm_quota_check(file, &start, &p);

    if (start != ngx_http_llm_quota_start(zone, ngx_time())) {
        return NGX_OK;
    }

    rc = NGX_OK;
    last = file->data + file->len - NGX_HTTP_LLM_QUOTA_END;

    ngx_http_llm_limit_lock(zone);

    for (n = 1; p < last; n++) {
        p = ngx_http_llm_quota_line(p, last, &used, buf, &len);
        if (p == NULL) {
            rc = NGX_ERROR;
            break;
        }

        if (n % NGX_HTTP_LLM_QUOTA_CHUNK == 0) {
            ngx_http_llm_limit_unlock(zone);
            ngx_http_llm_limit_lock(zone);
        }

        key.data = buf;
        key.len = len;

        node = ngx_http_llm_limit_get_locked(zone, &key,
                                             ngx_crc32_short(buf, len));
        if (node == NULL) {
            rc = NGX_ERROR;
            continue;
        }

        ngx_http_llm_limit_update_locked(zone, node);

        if (node->start == start) {
            node->used += used - ngx_http_llm_quota_saved(zone, node);
            node->used = ngx_max(node->used, 0);
            node->saved = used;
            node->seq = 0;
        }
    }

    ngx_http_llm_limit_unlock(zone);

    return rc;
}


/* is it whole?  then every line is what a save has written */

static ngx_int_t
ngx_http_llm_quota_check(ngx_http_llm_quota_file_t *file, time_t *start,
    u_char **lines)
{
    u_char   *p, *q, *last, crc[9];

    last = file->data + file->len;

    if (file->len < sizeof(NGX_HTTP_LLM_QUOTA_MAGIC) + NGX_HTTP_LLM_QUOTA_END
        || ngx_strncmp(file->data, NGX_HTTP_LLM_QUOTA_MAGIC,
                       sizeof(NGX_HTTP_LLM_QUOTA_MAGIC) - 1)
           != 0)
    {
        return NGX_ERROR;
    }

    last -= NGX_HTTP_LLM_QUOTA_END;

    (void) ngx_snprintf(crc, sizeof(crc), "%08xD%Z",
                        ngx_crc32_long(file->data, last - file->data));

    if (ngx_strncmp(last, "end ", 4) != 0
        || ngx_strncmp(last + 4, crc, 8) != 0
        || last[12] != '\n')
    {
        return NGX_ERROR;
    }

    p = file->data + sizeof(NGX_HTTP_LLM_QUOTA_MAGIC) - 1;

    q = ngx_strlchr(p, last, '\n');
    if (q == NULL) {
        return NGX_ERROR;
    }

    *start = ngx_atotm(p, q - p);
    if (*start == NGX_ERROR) {
        return NGX_ERROR;
    }

    *lines = q + 1;

    return NGX_OK;
}


/* the next line, or NULL */

static u_char *
ngx_http_llm_quota_line(u_char *p, u_char *last, int64_t *used, u_char *key,
    size_t *len)
{
    u_char     *q;
    ngx_int_t   n;

    q = ngx_strlchr(p, last, ' ');
    if (q == NULL) {
        return NULL;
    }

    *used = (int64_t) ngx_atoof(p, q - p);
    if (*used < 0) {
        return NULL;
    }

    *len = 0;

    for (p = q + 1; p < last && *p != '\n'; p++) {

        if (*len == NGX_HTTP_LLM_LIMIT_KEY) {
            return NULL;
        }

        if (*p != '%') {
            key[(*len)++] = *p;
            continue;
        }

        if (last - p < 3) {
            return NULL;
        }

        n = ngx_hextoi(p + 1, 2);
        if (n == NGX_ERROR) {
            return NULL;
        }

        key[(*len)++] = (u_char) n;
        p += 2;
    }

    return (p < last && *len) ? p + 1 : NULL;
}


static u_char *
ngx_http_llm_quota_print_key(u_char *p, int64_t used, ngx_str_t *key)
{
    u_char  *c, *last;

    p = ngx_sprintf(p, "%L ", used);

    c = key->data;
    last = key->data + key->len;

    for ( /* void */ ; c < last; c++) {

        if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z')
            || (*c >= '0' && *c <= '9')
            || *c == '-' || *c == '_' || *c == '.' || *c == ':'
            || *c == '@' || *c == '/')
        {
            *p++ = *c;

        } else {
            p = ngx_sprintf(p, "%%%02xD", (uint32_t) *c);
        }
    }

    *p++ = '\n';

    return p;
}
