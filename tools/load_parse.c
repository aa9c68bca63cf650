/* load_parse.c - an incremental reader with one state a response. */
#include "tools/load_parse.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char  head_begin[] = "HTTP/1.";
static const char  token_field[] = "\"completion_tokens\":";

void
load_parse_reset(struct load_parse *p, bool count_tokens)
{
    p->state = LOAD_HEAD;
    p->status = 0;
    p->sse = p->in_number = false;
    p->keep_alive = p->line_empty = true;
    p->count_tokens = count_tokens;
    p->matched = 0;
    p->remaining = p->number = p->num_events = p->num_tokens = p->body_bytes = 0;
    p->head_len = 0;
}

/* p->head ends with NUL here. */
static int
read_head(struct load_parse *p)
{
    char  *line = strstr(p->head, "\r\n");
    bool   chunked = false, has_length = false;

    if (p->head[7] == '\0' || p->head[8] != ' ' || line == NULL) {
        return ERROR;
    }
    p->keep_alive = p->head[7] != '0';
    p->status = atoi(p->head + 9);
    for (line += 2; *line != '\0' && *line != '\r'; ) {
        char  *end = strstr(line, "\r\n");
        if (end == NULL) {
            return ERROR;
        }
        *end = '\0';
        if (strncasecmp(line, "content-length:", 15) == 0) {
            p->remaining = strtoull(line + 15, NULL, 10);
            has_length = true;
        } else if (strncasecmp(line, "transfer-encoding:", 18) == 0) {
            chunked = strcasestr(line + 18, "chunked") != NULL;
        } else if (strncasecmp(line, "content-type:", 13) == 0) {
            p->sse = strcasestr(line + 13, "text/event-stream") != NULL;
        } else if (strncasecmp(line, "connection:", 11) == 0) {
            p->keep_alive = strcasestr(line + 11, "close") == NULL;
        }
        line = end + 2;
    }
    p->head_len = 0;
    if (p->status / 100 == 1) {
        return OK;               /* the answer itself is still to come */
    }
    if (p->status == 204 || p->status == 304) {
        p->state = LOAD_DONE;    /* no body, whatever the fields say */
        return OK;
    }
    if (chunked) {
        p->remaining = 0;
        p->state = LOAD_CHUNK_SIZE;
        return OK;
    }
    p->keep_alive = p->keep_alive && has_length;
    p->state = !has_length ? LOAD_TO_CLOSE
               : p->remaining == 0 ? LOAD_DONE : LOAD_LENGTH;
    return OK;
}

/* Returns how many bytes of data belong to the head; 0: an error. */
static size_t
feed_head(struct load_parse *p, const char *data, size_t len)
{
    size_t  room = LOAD_HEAD_BYTES_MAX - 1 - p->head_len;
    size_t  n = len < room ? len : room, before = p->head_len;
    size_t  num_begun;
    char   *end;

    memcpy(p->head + p->head_len, data, n);
    p->head_len += n;
    p->head[p->head_len] = '\0';
    num_begun = p->head_len < sizeof head_begin - 1 ? p->head_len
                                                    : sizeof head_begin - 1;
    if (memcmp(p->head, head_begin, num_begun) != 0) {
        return 0;                /* who speaks otherwise may never end it */
    }
    end = strstr(p->head, "\r\n\r\n");
    if (end == NULL) {
        return p->head_len < LOAD_HEAD_BYTES_MAX - 1 ? n : 0;
    }
    end[2] = '\0';
    n = (size_t) (end + 4 - p->head) - before;
    return read_head(p) == OK ? n : 0;
}

static void
count_tokens(struct load_parse *p, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char  c = data[i];
        if (p->in_number) {
            if (c >= '0' && c <= '9') {
                p->number = p->number * 10 + (uint64_t) (c - '0');
                continue;
            }
            p->num_tokens += p->number;
            p->in_number = false;
        }
        p->matched = c == token_field[p->matched] ? p->matched + 1 : c == '"';
        if (token_field[p->matched] == '\0') {
            p->in_number = true;
            p->matched = 0;
            p->number = 0;
        }
    }
}

static void
feed_body(struct load_parse *p, const char *data, size_t len)
{
    p->body_bytes += len;
    if (p->body_fn != NULL) {
        p->body_fn(p->body_data, data, len);
    }
    if (p->count_tokens) {
        count_tokens(p, data, len);
    }
    for (const char *at = data, *end = data + len; p->sse && at < end; ) {
        const char  *nl = memchr(at, '\n', (size_t) (end - at));
        if (nl == NULL) {
            p->line_empty = false;
            break;
        }
        p->num_events += nl == at && p->line_empty;
        p->line_empty = true;
        at = nl + 1;
    }
}

/* One byte of what stands around the chunks. */
static int
feed_frame(struct load_parse *p, char c)
{
    int  digit = c >= '0' && c <= '9' ? c - '0'
                 : c >= 'a' && c <= 'f' ? c - 'a' + 10
                 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

    switch (p->state) {
    case LOAD_CHUNK_SIZE:
        if (digit >= 0 && p->remaining < 1u << 30) {
            p->remaining = p->remaining * 16 + (uint64_t) digit;
        } else if (c == '\n') {
            p->state = p->remaining == 0 ? LOAD_TRAILER : LOAD_CHUNK_DATA;
            p->frame_empty = true;
        } else if (c == ';' || c == ' ' || c == '\t') {
            p->state = LOAD_CHUNK_EXTENSION;
        } else if (c != '\r') {
            return ERROR;
        }
        break;
    case LOAD_CHUNK_EXTENSION:   /* of no interest, nor the space before it */
        if (c == '\n') {
            p->state = p->remaining == 0 ? LOAD_TRAILER : LOAD_CHUNK_DATA;
            p->frame_empty = true;
        }
        break;
    case LOAD_CHUNK_END:
        p->state = c == '\n' ? LOAD_CHUNK_SIZE : LOAD_CHUNK_END;
        break;
    default:                     /* trailer fields up to an empty line */
        if (c == '\n') {
            p->state = p->frame_empty ? LOAD_DONE : LOAD_TRAILER;
            p->frame_empty = true;
        } else if (c != '\r') {
            p->frame_empty = false;
        }
        break;
    }
    return OK;
}

int
load_parse_feed(struct load_parse *p, const char *data, size_t len)
{
    while (len > 0) {
        size_t  n = 1;
        switch (p->state) {
        case LOAD_HEAD:
            n = feed_head(p, data, len);
            if (n == 0) {
                return ERROR;
            }
            break;
        case LOAD_LENGTH:
        case LOAD_CHUNK_DATA:
            n = len < p->remaining ? len : (size_t) p->remaining;
            feed_body(p, data, n);
            p->remaining -= n;
            if (p->remaining == 0) {
                p->state = p->state == LOAD_LENGTH ? LOAD_DONE : LOAD_CHUNK_END;
            }
            break;
        case LOAD_TO_CLOSE:
            n = len;
            feed_body(p, data, n);
            break;
        case LOAD_DONE:
            return ERROR;        /* more than was asked for */
        default:
            if (feed_frame(p, *data) != OK) {
                return ERROR;
            }
            break;
        }
        data += n;
        len -= n;
    }
    return p->state == LOAD_DONE ? OK : AGAIN;
}

int
load_parse_end(struct load_parse *p)
{
    if (p->state != LOAD_TO_CLOSE) {
        return ERROR;
    }
    p->state = LOAD_DONE;
    return OK;
}
