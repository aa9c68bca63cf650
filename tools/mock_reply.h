/* mock_reply.h - bytes in the real engine's shapes, with deterministic text.
 *
 * Everything is appended to a caller's buf. */
#ifndef LLM_TOOLS_MOCK_REPLY_H
#define LLM_TOOLS_MOCK_REPLY_H

#include "engine/base/buf.h"
#include "engine/server/session.h"
#include "tools/mock_plan.h"

struct mock_reply {
    const struct mock_plan *plan;
    const struct request   *request;
    int64_t created_s;
    bool    chat;
};

void mock_reply_role(struct buf *out, const struct mock_reply *m);
void mock_reply_token(struct buf *out, const struct mock_reply *m, int64_t idx);
void mock_reply_finish(struct buf *out, const struct mock_reply *m);
void mock_reply_whole(struct buf *out, const struct mock_reply *m);
void mock_reply_echo(struct buf *out, const struct mock_reply *m);
void mock_reply_models(struct buf *out, struct str model_id);
void mock_reply_error(struct buf *out, int status, const char *code,
                      const char *message);

#endif
