/* outbox.h - answers into a worker's completion ring, never waiting for it.
 *
 * What does not fit is kept in order in a bounded list (over); while it is not
 * empty, the layer above parks the session's sequences (outbox_is_over), and
 * the worker is asked to say when there is room.  The list at its limit, or the
 * ring's consumer index out of range, dooms the session.
 *
 * All functions: any thread, under s->lock, state OPEN; they do nothing in
 * other states.  Nothing reaches the worker before outbox_publish(). */
#ifndef LLM_SERVER_OUTBOX_H
#define LLM_SERVER_OUTBOX_H

#include "engine/server/session.h"

void outbox_head(struct session *s, uint64_t id, const struct llm_head *head);
void outbox_data(struct session *s, uint64_t id, const void *data, size_t len);
void outbox_prompt(struct session *s, uint64_t id,
                   const struct llm_prompt *prompt);
void outbox_end(struct session *s, uint64_t id, const struct llm_end *end);

/* Moves what waits into the ring as far as it goes. */
void outbox_flush(struct session *s);

/* Makes all visible and kicks the worker if it sleeps. */
void outbox_publish(struct session *s);

static inline bool
outbox_is_over(const struct session *s)
{
    return s->over.head != s->over.len;
}

/* What one answer may have of the list; the last quarter is for the small
 * records of all others, because a list at its limit dooms them together. */
static inline uint64_t
outbox_answer_max(const struct session *s)
{
    return s->options->over_bytes_max / 4 * 3;
}

static inline bool
outbox_fits(const struct session *s, uint64_t len)
{
    uint64_t  live = s->over.len - s->over.head;

    return len <= LLM_PAYLOAD_BYTES_MAX
           || (len <= outbox_answer_max(s)
               && live <= outbox_answer_max(s) - len);
}

#endif
