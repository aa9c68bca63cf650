/*
 * asan_options.c - what the sanitizers of nginx and the mock engine do when
 * nobody says otherwise.
 *
 * nginx empties the environment of what it starts, so ASAN_OPTIONS alone would
 * be lost in engines and after a binary upgrade.  Reports go to files
 * LLM_ASAN_LOG.PID, where no test deletes them.  No leak check: nginx frees
 * little at its end, and t/lib/LLM/Nginx.pm looks for what grows.  No
 * check of doubled names: every dynamic module has an ngx_modules of its own.
 */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void) {
    return "detect_leaks=0:detect_odr_violation=0:detect_stack_use_after_return=1:"
           "log_path=" LLM_ASAN_LOG;
}

const char *__ubsan_default_options(void) {
    return "print_stacktrace=1:log_path=" LLM_ASAN_LOG;
}
