
/*
 * ngx_http_llm_process.c - owns managed engines: a file descriptor, not a pid,
 * holds an engine's life.
 *
 * The master keeps one connection to each supervisor: the lifeline of a
 * supervisor it started, or an accepted connection to PATH.owner of one that
 * another master started (binary upgrade).  RETIRE and QUIT give it up in good
 * order, EOF says that the master died.  The supervisor leaves with its last
 * owner.
 *
 * An engine's key is the hash of what makes it what it is, and a part of its
 * PATH: an engine with other options is another engine, which can run beside
 * the first.  The master cannot wait for one to be ready, it has no event hook
 * between two reloads.  So it gives the old engine's lifeline to the new one's
 * supervisor and tells the workers both paths (_handover.c).
 *
 * The records live in static memory and survive a reload.  A cycle claims them
 * in init_module; when a cycle is destroyed, what no newer cycle has claimed
 * is released.  Nothing of ours stands in ngx_processes[].
 */


#include "ngx_http_llm.h"
#include <ngx_md5.h>
#include <pwd.h>


typedef struct {
    ngx_queue_t    queue;
    ngx_cycle_t   *cycle;          /* the newest that wants it */
    ngx_fd_t       fd;
    ngx_str_t      path;           /* ends with NUL */
    ngx_str_t      name;           /* of the engine */
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
static ngx_int_t ngx_http_llm_process_claim(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_http_llm_owner_t *owner);
static void ngx_http_llm_process_previous(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, u_char *path);
static void ngx_http_llm_process_stay(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_http_llm_owner_t *owner);
static void ngx_http_llm_process_change(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_http_llm_owner_t *old);
static void ngx_http_llm_process_correct(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_http_llm_owner_t *old);
static ngx_http_llm_owner_t *ngx_http_llm_process_find(ngx_str_t *path,
    ngx_str_t *name);
static ngx_http_llm_owner_t *ngx_http_llm_process_add(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_fd_t fd, ngx_str_t *path);
static void ngx_http_llm_process_drop(ngx_http_llm_owner_t *owner);
static void ngx_http_llm_process_release(ngx_http_llm_owner_t *owner,
    ngx_uint_t op, ngx_log_t *log);
static void ngx_http_llm_process_remember(ngx_str_t *path, ngx_log_t *log);
static void ngx_http_llm_process_sweep(void);
static void ngx_http_llm_process_stat(ngx_http_llm_owner_t *owner,
    ngx_uint_t check);
static void ngx_http_llm_process_cleanup(void *data);


/* a configured socket, also of an engine that a reload has removed */

typedef struct {
    ngx_queue_t    queue;
    ngx_str_t      path;
} ngx_http_llm_socket_t;


static ngx_queue_t  ngx_http_llm_owners;
static ngx_queue_t  ngx_http_llm_sockets;


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
        ngx_queue_init(&ngx_http_llm_sockets);
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
            ngx_http_llm_process_remember(&enginep[i]->socket, cycle->log);
            ngx_http_llm_process_want(cycle, enginep[i]);
        }
    }

    ngx_http_llm_process_sweep();

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
        engine->path = engine->socket;
        return NGX_OK;
    }

    if (engine->socket.len == 0) {
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

        engine->socket.data = p;
        p = ngx_cpymem(p, ccf->pid.data, len);
        p = ngx_sprintf(p, "nginx-llm-%V.sock", &engine->name);
        *p = '\0';
        engine->socket.len = p - engine->socket.data;
    }

    if (engine->socket.len + NGX_HTTP_LLM_PATH_SUFFIX > sizeof(sun.sun_path)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "socket path \"%V\" of engine \"%V\" has %uz bytes, the "
                      "limit is %uz: set \"socket\" in %s:%ui",
                      &engine->socket, &engine->name, engine->socket.len,
                      sizeof(sun.sun_path) - NGX_HTTP_LLM_PATH_SUFFIX,
                      engine->file, engine->line);
        return NGX_ERROR;
    }

    if (ngx_http_llm_process_user(cycle, engine) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_llm_process_key(engine);

    p = ngx_pnalloc(cycle->pool, engine->socket.len + NGX_HTTP_LLM_PATH_SUFFIX);
    if (p == NULL) {
        return NGX_ERROR;
    }

    engine->path.data = p;
    p = ngx_cpymem(p, engine->socket.data, engine->socket.len);
    *p++ = '.';
    p = ngx_hex_dump(p, engine->key, 4);
    *p = '\0';
    engine->path.len = p - engine->path.data;

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
                          "getpwnam(\"%V\") of engine \"%V\" failed in "
                          "%s:%ui", &engine->user, &engine->name,
                          engine->file, engine->line);
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

        if (enginep[i]->socket.len == enginep[n]->socket.len
            && ngx_strncmp(enginep[i]->socket.data, enginep[n]->socket.data,
                           enginep[n]->socket.len)
               == 0
            && (enginep[i]->managed || enginep[n]->managed))
        {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "engines \"%V\" and \"%V\" share the socket "
                          "\"%V\" in %s:%ui",
                          &enginep[i]->name, &enginep[n]->name,
                          &enginep[n]->socket, enginep[n]->file,
                          enginep[n]->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* (protocol, binary, options, environment, socket, user) make it what it is */

static void
ngx_http_llm_process_key(ngx_http_llm_engine_t *engine)
{
    uint16_t     version;
    ngx_md5_t    md5;
    ngx_str_t   *s;
    ngx_uint_t   i;

    ngx_md5_init(&md5);

    version = LLM_WIRE_VERSION;
    ngx_md5_update(&md5, &version, sizeof(version));
    ngx_md5_update(&md5, engine->binary.data, engine->binary.len + 1);
    ngx_md5_update(&md5, engine->socket.data, engine->socket.len + 1);
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
    ngx_int_t              rc;
    struct llm_answer      answer;
    ngx_http_llm_owner_t  *owner, *old;

    owner = ngx_http_llm_process_find(&engine->path, NULL);

    if (owner) {
        rc = ngx_http_llm_process_claim(cycle, engine, owner);

        if (rc != NGX_DECLINED) {
            return;
        }

        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "supervisor of engine \"%V\" is gone, starting another",
                      &engine->name);

        ngx_http_llm_process_drop(owner);
    }

    /* the same engine with other options */

    old = ngx_http_llm_process_find(NULL, &engine->name);

    /* another master has it, or we had it two reloads ago and it still serves */

    fd = ngx_http_llm_owner_attach(cycle, engine);

    if (fd != (ngx_fd_t) -1) {
        owner = ngx_http_llm_process_add(cycle, engine, fd, &engine->path);

        if (owner
            && ngx_http_llm_process_claim(cycle, engine, owner) == NGX_DECLINED)
        {
            ngx_http_llm_process_drop(owner);
        }

        return;
    }

    if (old == NULL) {
        fd = ngx_http_llm_spawn(cycle, engine, -1, NULL);

        if (fd != (ngx_fd_t) -1) {
            (void) ngx_http_llm_process_add(cycle, engine, fd, &engine->path);
        }

        return;
    }

    rc = ngx_http_llm_owner_ask(old->fd, LLM_ORDER_STATE, NULL, cycle, &answer,
                                NULL);

    /* who does not answer may serve all the same */

    if (rc == NGX_AGAIN
        || (rc == NGX_OK && answer.state == LLM_SUPERVISED_READY))
    {
        ngx_http_llm_process_change(cycle, engine, old);
        return;
    }

    ngx_http_llm_process_correct(cycle, engine, old);
}


/* NGX_DECLINED: it is gone, or going */

static ngx_int_t
ngx_http_llm_process_claim(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_http_llm_owner_t *owner)
{
    ngx_int_t          rc;
    struct llm_answer  answer;

    rc = ngx_http_llm_owner_ask(owner->fd, LLM_ORDER_CLAIM, engine, cycle,
                                &answer, NULL);

    if (rc == NGX_DECLINED
        || (rc == NGX_OK && answer.state == LLM_SUPERVISED_LEAVING))
    {
        return NGX_DECLINED;
    }

    owner->cycle = cycle;

    if (rc == NGX_AGAIN) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "supervisor of engine \"%V\" does not answer",
                      &engine->name);
        return NGX_OK;
    }

    /* it is not ready yet, and another one serves until then */

    if (answer.previous[0]) {
        ngx_http_llm_process_previous(cycle, engine,
                                      (u_char *) answer.previous);
    }

    return NGX_OK;
}


static void
ngx_http_llm_process_previous(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, u_char *path)
{
    ngx_str_t  src;

    src.data = path;
    src.len = ngx_strlen(path) + 1;

    engine->previous.data = ngx_pstrdup(cycle->pool, &src);

    if (engine->previous.data) {
        engine->previous.len = src.len - 1;
    }
}


/*
 * The engine of this cycle is the one that an owner holds.  A copy of the path,
 * for the record is gone before its cycle: with the next change of options, and
 * in every worker before it connects.
 */

static void
ngx_http_llm_process_stay(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_http_llm_owner_t *owner)
{
    ngx_str_t  src;

    src.data = owner->path.data;
    src.len = owner->path.len + 1;

    engine->path.data = ngx_pstrdup(cycle->pool, &src);
    engine->path.len = engine->path.data ? owner->path.len : 0;

    (void) ngx_http_llm_process_claim(cycle, engine, owner);
}


/*
 * The options of an engine that serves have changed.  The new supervisor gets
 * the lifeline of the old one: it gives it up when its engine is ready.
 */

static void
ngx_http_llm_process_change(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_http_llm_owner_t *old)
{
    ngx_fd_t  fd;

    if (engine->reload == NGX_HTTP_LLM_RELOAD_KEEP) {
        ngx_http_llm_process_stay(cycle, engine, old);

        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "options of engine \"%V\" have changed; the running one "
                      "keeps the old ones until nginx is restarted, as "
                      "\"reload keep\" says", &engine->name);
        return;
    }

    engine->replace = (engine->reload == NGX_HTTP_LLM_RELOAD_REPLACE);

    fd = ngx_http_llm_spawn(cycle, engine, old->fd, &old->path);

    if (fd == (ngx_fd_t) -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                      "engine \"%V\" could not be started with its new "
                      "options, the one with the old options goes on serving",
                      &engine->name);

        ngx_http_llm_process_stay(cycle, engine, old);

        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "options of engine \"%V\" have changed; %s", &engine->name,
                  engine->reload == NGX_HTTP_LLM_RELOAD_REPLACE
                  ? "it is started anew when the old one has ended"
                  : "the old one serves until the new one is ready");

    if (engine->reload == NGX_HTTP_LLM_RELOAD_BESIDE) {
        ngx_http_llm_process_previous(cycle, engine, old->path.data);
    }

    (void) ngx_http_llm_process_add(cycle, engine, fd, &engine->path);

    /* not given up: the lifeline has another holder now */

    ngx_http_llm_process_drop(old);
}


/*
 * The engine with the old options does not serve: it loads, or could not be
 * started.  Its memory is wanted back before the new one begins.  If it was to
 * take over from another engine, that one still serves, and goes on.
 */

static void
ngx_http_llm_process_correct(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine, ngx_http_llm_owner_t *old)
{
    ngx_fd_t           fd, previous;
    ngx_str_t          path;
    struct llm_answer  answer;

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "engine \"%V\" was not ready with its old options, starting "
                  "it with the new ones", &engine->name);

    if (ngx_http_llm_owner_ask(old->fd, LLM_ORDER_YIELD, NULL, cycle, &answer,
                               &previous)
        != NGX_OK)
    {
        previous = -1;
    }

    if (previous == -1) {
        engine->replace = 1;

        fd = ngx_http_llm_spawn(cycle, engine, old->fd, &old->path);

        if (fd != (ngx_fd_t) -1) {
            (void) ngx_http_llm_process_add(cycle, engine, fd, &engine->path);
            ngx_http_llm_process_drop(old);
        }

        return;
    }

    path.data = (u_char *) answer.previous;
    path.len = ngx_strlen(answer.previous);

    (void) ngx_http_llm_owner_ask(old->fd, LLM_ORDER_RETIRE, NULL, NULL, NULL,
                                  NULL);
    ngx_http_llm_owner_wait(old->fd);
    ngx_http_llm_process_drop(old);

    ngx_http_llm_process_previous(cycle, engine, path.data);

    engine->replace = (engine->reload == NGX_HTTP_LLM_RELOAD_REPLACE);

    fd = ngx_http_llm_spawn(cycle, engine, previous, &path);

    if (fd != (ngx_fd_t) -1) {
        (void) ngx_http_llm_process_add(cycle, engine, fd, &engine->path);
        (void) close(previous);

        if (engine->replace) {
            engine->previous.len = 0;
        }

        return;
    }

    ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                  "engine \"%V\" could not be started with its new options, the "
                  "one at \"%V\" goes on serving", &engine->name, &path);

    if (engine->previous.len) {
        engine->path = engine->previous;
        engine->previous.len = 0;
    }

    (void) ngx_http_llm_process_add(cycle, engine, previous, &path);
}


/* by path, or the one of an older cycle by name */

static ngx_http_llm_owner_t *
ngx_http_llm_process_find(ngx_str_t *path, ngx_str_t *name)
{
    ngx_str_t             *want, *have;
    ngx_queue_t           *q;
    ngx_http_llm_owner_t  *owner;

    want = path ? path : name;

    for (q = ngx_queue_head(&ngx_http_llm_owners);
         q != ngx_queue_sentinel(&ngx_http_llm_owners);
         q = ngx_queue_next(q))
    {
        owner = ngx_queue_data(q, ngx_http_llm_owner_t, queue);
        have = path ? &owner->path : &owner->name;

        if (have->len == want->len
            && ngx_memcmp(have->data, want->data, want->len) == 0)
        {
            return owner;
        }
    }

    return NULL;
}


static ngx_http_llm_owner_t *
ngx_http_llm_process_add(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_fd_t fd, ngx_str_t *path)
{
    ngx_http_llm_owner_t  *owner;

    owner = ngx_calloc(sizeof(ngx_http_llm_owner_t) + path->len + 1
                       + engine->name.len, cycle->log);
    if (owner == NULL) {
        (void) close(fd);
        return NULL;
    }

    owner->cycle = cycle;
    owner->fd = fd;
    owner->path.len = path->len;
    owner->path.data = (u_char *) (owner + 1);
    ngx_memcpy(owner->path.data, path->data, path->len);
    owner->name.len = engine->name.len;
    owner->name.data = owner->path.data + path->len + 1;
    ngx_memcpy(owner->name.data, engine->name.data, engine->name.len);

    ngx_http_llm_process_stat(owner, 0);

    ngx_queue_insert_tail(&ngx_http_llm_owners, &owner->queue);

    return owner;
}


static void
ngx_http_llm_process_drop(ngx_http_llm_owner_t *owner)
{
    (void) close(owner->fd);

    ngx_queue_remove(&owner->queue);
    ngx_free(owner);
}


/*
 * Gives one ownership up.  RETIRE: workers that still use the engine may go on
 * until they leave.  QUIT: there are none; when that was the last owner, the
 * socket files are ours to remove.
 */

static void
ngx_http_llm_process_release(ngx_http_llm_owner_t *owner, ngx_uint_t op,
    ngx_log_t *log)
{
    ngx_int_t          rc;
    struct llm_answer  answer;

    rc = ngx_http_llm_owner_ask(owner->fd, op, NULL, NULL,
                                op == LLM_ORDER_QUIT ? &answer : NULL, NULL);

    if (rc == NGX_OK && op == LLM_ORDER_QUIT && answer.last) {
        ngx_http_llm_process_stat(owner, 1);
    }

    if (rc != NGX_OK) {
        ngx_log_debug1(NGX_LOG_DEBUG_CORE, log, 0,
                       "llm: no answer from supervisor of \"%V\"",
                       &owner->path);
    }

    ngx_http_llm_process_drop(owner);
}


static void
ngx_http_llm_process_remember(ngx_str_t *path, ngx_log_t *log)
{
    ngx_queue_t            *q;
    ngx_http_llm_socket_t  *s;

    for (q = ngx_queue_head(&ngx_http_llm_sockets);
         q != ngx_queue_sentinel(&ngx_http_llm_sockets);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_http_llm_socket_t, queue);

        if (s->path.len == path->len
            && ngx_memcmp(s->path.data, path->data, path->len) == 0)
        {
            return;
        }
    }

    s = ngx_calloc(sizeof(ngx_http_llm_socket_t) + path->len, log);
    if (s == NULL) {
        return;
    }

    s->path.len = path->len;
    s->path.data = (u_char *) (s + 1);
    ngx_memcpy(s->path.data, path->data, path->len);

    ngx_queue_insert_tail(&ngx_http_llm_sockets, &s->queue);
}


static void
ngx_http_llm_process_sweep(void)
{
    ngx_queue_t            *q;
    ngx_http_llm_socket_t  *s;

    for (q = ngx_queue_head(&ngx_http_llm_sockets);
         q != ngx_queue_sentinel(&ngx_http_llm_sockets);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_http_llm_socket_t, queue);
        ngx_http_llm_owner_sweep(&s->path);
    }
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
            ngx_http_llm_process_release(owner, LLM_ORDER_RETIRE,
                                         ngx_cycle->log);
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

        ngx_http_llm_process_release(owner, LLM_ORDER_QUIT, cycle->log);
    }

    ngx_http_llm_process_sweep();
}
