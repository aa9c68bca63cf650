/* app.h - everything behind the server: model, tokenizer, engine, API.
 *
 * Built from the options in one go, bottom up, while the server already
 * answers "loading"; torn down top down.  app_destroy() is safe on a
 * half-built app, so a failed app_load() needs no clean-up of its own. */
#ifndef LLM_ENGINE_APP_H
#define LLM_ENGINE_APP_H

#include <pthread.h>
#include "engine/api/api.h"
#include "engine/backend/backend.h"
#include "engine/engine_options.h"
#include "engine/model/model.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

struct app {
    const struct engine_cli *cli;       /* borrowed */
    struct model_config     *config;
    struct backend          *backend;
    struct model            *model;
    struct tokenizer        *tokenizer;
    struct chat_template    *chat;
    struct engine           *engine;
    struct api              *api;
    int                      max_num_seqs;            /* as decided */
    int                      max_num_batched_tokens;
    char                     name[256];    /* served name by default */
    pthread_t                step_thread;
    bool                     step_running;
    size_t                   others_bytes; /* of the GPU, when we came to it: our
                                              own context among them */
};

/* ERROR: *err names what is wrong with the model or the options. */
int app_load(struct app *app, const struct engine_cli *cli, struct err *err);

/* After an ERROR: whether it was for room on the GPU that others held, as the
 * engine before this one does until it has ended. */
bool app_may_load_later(const struct app *app, const struct err *err);

/* Ends the step thread; what runs gets FINISH_SHUTDOWN. */
void app_stop(struct app *app);
void app_destroy(struct app *app);

#endif
