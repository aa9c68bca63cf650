
/*
 * ngx_http_llm_process.c - owns managed engines: a file descriptor, not a pid,
 * holds an engine's life.
 *
 * The master keeps one connection to each supervisor: the lifeline of a
 * supervisor it started, or an accepted connection to PATH.owner of one that
 * another master started (binary upgrade).  A byte 'q' gives it up in good
 * order, EOF says that the master died.  The supervisor leaves with its last
 * owner.
 *
 * The records live in static memory and survive a reload.  A cycle claims them
 * in init_module; when a cycle is destroyed, what no newer cycle has claimed
 * is released.  Nothing of ours stands in ngx_processes[].
 */


#include "ngx_http_llm.h"
#include <ngx_md5.h>
#include <poll.h>
#include <pwd.h>


typedef struct {
    ngx_queue_t    queue;
    ngx_cycle_t   *cycle;          /* the newest that wants it */
    ngx_fd_t       fd;
    u_char         key[16];
    ngx_str_t      path;           /* ends with NUL */
    dev_t          dev[2];         /* PATH and PATH.owner as we found them */
    ino_t          ino[2];
} ngx_http_llm_owner_t;


static ngx_int_t ngx_http_llm_process_prepare(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine);
static ngx_int_t ngx_http_llm_process_user(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine);
static ngx_int_t ngx_http_llm_process_check_path(ngx_cycle_t *cycle,
    ngx_http_llm_main_conf_t *mcf, ngx_uint_t n);
static void ngx_http_llm_process_key(ngx_http_llm_engine_t *engine);
static void ngx_http_llm_process_want(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine);
static ngx_http_llm_owner_t *ngx_http_llm_process_find(ngx_str_t *path);
static ngx_int_t ngx_http_llm_process_alive(ngx_http_llm_owner_t *owner);
static ngx_uint_t ngx_http_llm_process_given_up(ngx_http_llm_owner_t *owner);
static void ngx_http_llm_process_add(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_fd_t fd);
static ngx_fd_t ngx_http_llm_process_attach(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine);
static void ngx_http_llm_process_release(ngx_http_llm_owner_t *owner,
    ngx_log_t *log);
static void ngx_http_llm_process_stat(ngx_http_llm_owner_t *owner,
    ngx_uint_t check);
static void ngx_http_llm_process_cleanup(void *data);


static ngx_queue_t  ngx_http_llm_owners;


/*
 * Errors are returned only where nginx is starting and can still refuse: the
 * same error in a reload would end the running master.
 */

ngx_int_t
ngx_http_llm_process_init_module(ngx_cycle_t *cycle)
{
    ngx_uint_t                  i, start;
    ngx_pool_cleanup_t         *cln;
    ngx_http_llm_engine_t     **enginep;
    ngx_http_llm_main_conf_t   *mcf;

    mcf = ngx_http_llm_cycle_conf(cycle);
    if (mcf == NULL) {
        return NGX_OK;
    }

    start = ngx_test_config || ngx_is_init_cycle(cycle->old_cycle);

    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {

        if (ngx_http_llm_process_prepare(cycle, enginep[i]) != NGX_OK
            || ngx_http_llm_process_check_path(cycle, mcf, i) != NGX_OK)
        {
            if (start) {
                return NGX_ERROR;
            }

            enginep[i]->path.len = 0;
        }

        if (start
            && enginep[i]->managed
            && access((char *) enginep[i]->binary.data, X_OK) == -1)
        {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                          "engine \"%V\": \"%V\" cannot be executed in "
                          "%s:%ui", &enginep[i]->name, &enginep[i]->binary,
                          enginep[i]->file, enginep[i]->line);
            return NGX_ERROR;
        }
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    if (ngx_http_llm_owners.next == NULL) {
        ngx_queue_init(&ngx_http_llm_owners);
    }

    /*
     * the newest clean-up runs first: before load_module's, which unmaps this
     * code
     */

    cln = ngx_pool_cleanup_add(cycle->pool, 0);
    if (cln == NULL) {
        return start ? NGX_ERROR : NGX_OK;
    }

    cln->handler = ngx_http_llm_process_cleanup;
    cln->data = cycle;

    for (i = 0; i < mcf->engines.nelts; i++) {

        if (enginep[i]->managed && enginep[i]->path.len) {
            ngx_http_llm_process_want(cycle, enginep[i]);
        }
    }

    return NGX_OK;
}


/* the socket's default place is beside the pid file */

static ngx_int_t
ngx_http_llm_process_prepare(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine)
{
    u_char              *p, *last;
    size_t               len;
    ngx_core_conf_t     *ccf;
    struct sockaddr_un   sun;

    if (!engine->managed) {
        return NGX_OK;
    }

    if (engine->path.len == 0) {
        ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                               ngx_core_module);

        last = ccf->pid.data + ccf->pid.len;

        while (last > ccf->pid.data && last[-1] != '/') {
            last--;
        }

        len = last - ccf->pid.data;

        p = ngx_pnalloc(cycle->pool, len + sizeof("nginx-llm-.sock")
                                     + engine->name.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        engine->path.data = p;
        p = ngx_cpymem(p, ccf->pid.data, len);
        p = ngx_sprintf(p, "nginx-llm-%V.sock", &engine->name);
        *p = '\0';
        engine->path.len = p - engine->path.data;
    }

    if (engine->path.len + sizeof(".owner") > sizeof(sun.sun_path)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "socket path \"%V\" of engine \"%V\" has %uz bytes, the "
                      "limit is %uz: set \"socket\" in %s:%ui",
                      &engine->path, &engine->name, engine->path.len,
                      sizeof(sun.sun_path) - sizeof(".owner"),
                      engine->file, engine->line);
        return NGX_ERROR;
    }

    if (ngx_http_llm_process_user(cycle, engine) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_llm_process_key(engine);

    return NGX_OK;
}


/* the engine's user is the one named, or the workers' */

static ngx_int_t
ngx_http_llm_process_user(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine)
{
    size_t            len;
    ngx_core_conf_t  *ccf;
    struct passwd    *pwd;

    if (geteuid() != 0) {

        if (engine->user.len) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "\"user\" of engine \"%V\" makes sense only if the "
                          "master process runs with super-user privileges, "
                          "ignored", &engine->name);
            engine->user.len = 0;
        }

        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    ngx_set_errno(0);

    if (engine->user.len) {
        pwd = getpwnam((const char *) engine->user.data);

        if (pwd == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                          "getpwnam(\"%V\") of engine \"%V\" failed",
                          &engine->user, &engine->name);
            return NGX_ERROR;
        }

        engine->uid = pwd->pw_uid;
        engine->gid = pwd->pw_gid;
        engine->drop = 1;

        return NGX_OK;
    }

    engine->uid = ccf->user;
    engine->gid = ccf->group;
    engine->drop = 1;

    pwd = getpwuid(engine->uid);

    if (pwd) {
        len = ngx_strlen(pwd->pw_name) + 1;

        engine->user.data = ngx_pnalloc(cycle->pool, len);
        if (engine->user.data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(engine->user.data, pwd->pw_name, len);
        engine->user.len = len - 1;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_process_check_path(ngx_cycle_t *cycle,
    ngx_http_llm_main_conf_t *mcf, ngx_uint_t n)
{
    ngx_uint_t               i;
    ngx_http_llm_engine_t  **enginep;

    enginep = mcf->engines.elts;

    for (i = 0; i < n; i++) {

        if (enginep[i]->path.len == enginep[n]->path.len
            && ngx_strncmp(enginep[i]->path.data, enginep[n]->path.data,
                           enginep[n]->path.len)
               == 0
            && (enginep[i]->managed || enginep[n]->managed))
        {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "engines \"%V\" and \"%V\" share the socket \"%V\"",
                          &enginep[i]->name, &enginep[n]->name,
                          &enginep[n]->path);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* (binary, options, environment, socket, user) make an engine what it is */

static void
ngx_http_llm_process_key(ngx_http_llm_engine_t *engine)
{
    ngx_md5_t    md5;
    ngx_str_t   *s;
    ngx_uint_t   i;

    ngx_md5_init(&md5);

    ngx_md5_update(&md5, engine->binary.data, engine->binary.len + 1);
    ngx_md5_update(&md5, engine->path.data, engine->path.len + 1);
    ngx_md5_update(&md5, &engine->uid, sizeof(ngx_uid_t));
    ngx_md5_update(&md5, &engine->gid, sizeof(ngx_gid_t));

    s = engine->options->elts;

    for (i = 0; i < engine->options->nelts; i++) {
        ngx_md5_update(&md5, s[i].data, s[i].len + 1);
    }

    ngx_md5_update(&md5, "", 1);
    s = engine->env->elts;

    for (i = 0; i < engine->env->nelts; i++) {
        ngx_md5_update(&md5, s[i].data, s[i].len + 1);
    }

    ngx_md5_final(engine->key, &md5);
}


/* claims, attaches to or starts the supervisor of one engine */

static void
ngx_http_llm_process_want(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine)
{
    ngx_fd_t               fd;
    ngx_uint_t             changed, given_up;
    ngx_http_llm_owner_t  *owner;

    owner = ngx_http_llm_process_find(&engine->path);

    if (owner) {
        changed = ngx_memcmp(owner->key, engine->key, 16) != 0;
        given_up = ngx_http_llm_process_given_up(owner);

        if (ngx_http_llm_process_alive(owner) != NGX_OK) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "supervisor of engine \"%V\" is gone, starting "
                          "another", &engine->name);

        } else if (changed && given_up) {
            ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                          "engine \"%V\" could not start with its old "
                          "options, starting it with the new ones",
                          &engine->name);

        } else {
            owner->cycle = cycle;

            /* what was given up may be worth another try */

            (void) send(owner->fd, "r", 1, MSG_NOSIGNAL|MSG_DONTWAIT);

            if (changed) {
                ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                              "options of engine \"%V\" have changed; the "
                              "running one keeps the old ones until nginx is "
                              "restarted", &engine->name);
            }

            return;
        }

        ngx_http_llm_process_release(owner, cycle->log);
    }

    fd = ngx_http_llm_process_attach(cycle, engine);

    if (fd == (ngx_fd_t) -1) {
        fd = ngx_http_llm_spawn(cycle, engine);
    }

    if (fd != (ngx_fd_t) -1) {
        ngx_http_llm_process_add(cycle, engine, fd);
    }
}


static ngx_http_llm_owner_t *
ngx_http_llm_process_find(ngx_str_t *path)
{
    ngx_queue_t           *q;
    ngx_http_llm_owner_t  *owner;

    for (q = ngx_queue_head(&ngx_http_llm_owners);
         q != ngx_queue_sentinel(&ngx_http_llm_owners);
         q = ngx_queue_next(q))
    {
        owner = ngx_queue_data(q, ngx_http_llm_owner_t, queue);

        if (owner->path.len == path->len
            && ngx_memcmp(owner->path.data, path->data, path->len) == 0)
        {
            return owner;
        }
    }

    return NULL;
}


static ngx_int_t
ngx_http_llm_process_alive(ngx_http_llm_owner_t *owner)
{
    struct pollfd  pfd;

    pfd.fd = owner->fd;
    pfd.events = POLLIN;
    pfd.revents = 0;

    if (poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLHUP|POLLERR|POLLNVAL))) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/* has the supervisor said since the last reload that it starts no engine? */

static ngx_uint_t
ngx_http_llm_process_given_up(ngx_http_llm_owner_t *owner)
{
    u_char      byte;
    ngx_uint_t  n, given_up;

    given_up = 0;

    for (n = 0; n < NGX_HTTP_LLM_OWNER_BYTES; n++) {

        if (recv(owner->fd, &byte, 1, MSG_DONTWAIT) != 1) {
            break;
        }

        if (byte == 'g') {
            given_up = 1;
        }
    }

    return given_up;
}


static void
ngx_http_llm_process_add(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_fd_t fd)
{
    ngx_http_llm_owner_t  *owner;

    owner = ngx_calloc(sizeof(ngx_http_llm_owner_t) + engine->path.len + 1,
                       cycle->log);
    if (owner == NULL) {
        (void) close(fd);
        return;
    }

    owner->cycle = cycle;
    owner->fd = fd;
    owner->path.len = engine->path.len;
    owner->path.data = (u_char *) (owner + 1);
    ngx_memcpy(owner->path.data, engine->path.data, engine->path.len + 1);
    ngx_memcpy(owner->key, engine->key, 16);

    ngx_http_llm_process_stat(owner, 0);

    ngx_queue_insert_tail(&ngx_http_llm_owners, &owner->queue);
}


void
ngx_http_llm_owner_path(struct sockaddr_un *sun, ngx_str_t *path)
{
    u_char  *p;

    ngx_memzero(sun, sizeof(struct sockaddr_un));
    sun->sun_family = AF_UNIX;

    p = ngx_cpymem(sun->sun_path, path->data, path->len);
    ngx_memcpy(p, ".owner", sizeof(".owner"));
}


/*
 * Becomes one more owner of a supervisor that another master started.  -1:
 * there is none, or it runs something else, or it is leaving.
 */

static ngx_fd_t
ngx_http_llm_process_attach(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine)
{
    ngx_fd_t             fd;
    struct pollfd        pfd;
    struct llm_attach    attach;
    struct sockaddr_un   sun;
    struct llm_attached  attached;

    ngx_http_llm_owner_path(&sun, &engine->path);

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return -1;
    }

    if (connect(fd, (struct sockaddr *) &sun, sizeof(sun)) == -1) {
        goto failed;
    }

    ngx_memzero(&attach, sizeof(attach));
    attach.magic = LLM_WIRE_MAGIC;
    attach.version = LLM_WIRE_VERSION;
    attach.attach_bytes = sizeof(attach);
    attach.conf_generation = (uint64_t) ngx_pid;
    ngx_memcpy(attach.key, engine->key, 16);

    if (send(fd, &attach, sizeof(attach), MSG_NOSIGNAL) != sizeof(attach)) {
        goto failed;
    }

    pfd.fd = fd;
    pfd.events = POLLIN;

    if (poll(&pfd, 1, NGX_HTTP_LLM_OWNER_TIMEOUT) != 1
        || recv(fd, &attached, sizeof(attached), 0) != sizeof(attached)
        || attached.magic != LLM_WIRE_MAGIC
        || attached.version != LLM_WIRE_VERSION)
    {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "no answer from the supervisor at \"%s\", starting "
                      "another", sun.sun_path);
        goto failed;
    }

    if (attached.status != LLM_ATTACH_OK) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "supervisor %uD of engine \"%V\" %s, starting another",
                      attached.supervisor_pid, &engine->name,
                      attached.status == LLM_ATTACH_LEAVING
                      ? "is leaving" : "has other options");
        goto failed;
    }

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "engine \"%V\": attached to supervisor %uD, engine %uD",
                  &engine->name, attached.supervisor_pid, attached.engine_pid);

    return fd;

failed:

    (void) close(fd);

    return -1;
}


/*
 * Gives one ownership up.  The supervisor answers 'l' when that was the last
 * and it is leaving: then the socket files are ours to remove.
 */

static void
ngx_http_llm_process_release(ngx_http_llm_owner_t *owner, ngx_log_t *log)
{
    u_char         answer;
    struct pollfd  pfd;

    /* what was said before is no answer */

    (void) ngx_http_llm_process_given_up(owner);

    pfd.fd = owner->fd;
    pfd.events = POLLIN;

    if (send(owner->fd, "q", 1, MSG_NOSIGNAL|MSG_DONTWAIT) == 1
        && poll(&pfd, 1, NGX_HTTP_LLM_OWNER_TIMEOUT) == 1
        && recv(owner->fd, &answer, 1, MSG_DONTWAIT) == 1)
    {
        if (answer == 'l') {
            ngx_http_llm_process_stat(owner, 1);
        }

    } else {
        ngx_log_debug1(NGX_LOG_DEBUG_CORE, log, 0,
                       "llm: no answer from supervisor of \"%V\"",
                       &owner->path);
    }

    (void) close(owner->fd);

    ngx_queue_remove(&owner->queue);
    ngx_free(owner);
}


/* remembers the two socket files, or removes them if they are still the same */

static void
ngx_http_llm_process_stat(ngx_http_llm_owner_t *owner, ngx_uint_t check)
{
    ngx_uint_t           i;
    const char          *name;
    struct stat          st;
    struct sockaddr_un   sun;

    ngx_http_llm_owner_path(&sun, &owner->path);

    for (i = 0; i < 2; i++) {
        name = i ? sun.sun_path : (const char *) owner->path.data;

        if (lstat(name, &st) == -1) {
            continue;
        }

        if (!check) {
            owner->dev[i] = st.st_dev;
            owner->ino[i] = st.st_ino;

        } else if (owner->dev[i] == st.st_dev && owner->ino[i] == st.st_ino) {
            (void) unlink(name);
        }
    }
}


/* a cycle is destroyed: what no newer one has claimed is not wanted any more */

static void
ngx_http_llm_process_cleanup(void *data)
{
    ngx_cycle_t *cycle = data;

    ngx_queue_t           *q, *next;
    ngx_http_llm_owner_t  *owner;

    if (ngx_http_llm_owners.next == NULL) {
        return;
    }

    for (q = ngx_queue_head(&ngx_http_llm_owners);
         q != ngx_queue_sentinel(&ngx_http_llm_owners);
         q = next)
    {
        next = ngx_queue_next(q);
        owner = ngx_queue_data(q, ngx_http_llm_owner_t, queue);

        if (owner->cycle == cycle) {
            ngx_http_llm_process_release(owner, ngx_cycle->log);
        }
    }
}


/* in a worker: the master's descriptors are the master's */

void
ngx_http_llm_process_forget(ngx_cycle_t *cycle)
{
    ngx_queue_t           *q;
    ngx_http_llm_owner_t  *owner;

    if (ngx_http_llm_owners.next == NULL) {
        return;
    }

    if (ngx_queue_empty(&ngx_http_llm_owners)) {
        return;
    }

    while (!ngx_queue_empty(&ngx_http_llm_owners)) {
        q = ngx_queue_head(&ngx_http_llm_owners);
        owner = ngx_queue_data(q, ngx_http_llm_owner_t, queue);

        (void) close(owner->fd);

        ngx_queue_remove(q);
        ngx_free(owner);
    }

    /*
     * A killed master takes its engines with it.  Its workers could answer
     * nothing but 503 and would keep the port from the next nginx, so they
     * finish what they have and leave.
     */

    if (prctl(PR_SET_PDEATHSIG, SIGQUIT, 0, 0, 0) == -1) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_errno,
                      "prctl(PR_SET_PDEATHSIG) failed");
    }

    if (getppid() != ngx_parent) {
        ngx_quit = 1;
    }
}


void
ngx_http_llm_process_exit_master(ngx_cycle_t *cycle)
{
    ngx_queue_t           *q;
    ngx_http_llm_owner_t  *owner;

    if (ngx_http_llm_owners.next == NULL) {
        return;
    }

    while (!ngx_queue_empty(&ngx_http_llm_owners)) {
        q = ngx_queue_head(&ngx_http_llm_owners);
        owner = ngx_queue_data(q, ngx_http_llm_owner_t, queue);

        ngx_http_llm_process_release(owner, cycle->log);
    }
}
