/* json_write.c - the writing half of json.h; walks the tree without recursion. */
#include "engine/base/json.h"
#include "engine/base/dtoa.h"

#include <math.h>

void
json_write_string(struct buf *b, struct str s)
{
    static const char  hex[] = "0123456789abcdef";
    size_t             done = 0;

    buf_append_c(b, '"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char  c = (unsigned char) s.data[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        buf_append(b, s.data + done, i - done);
        done = i + 1;
        char  esc[6] = { '\\', (char) c, '0', '0', 0, 0 };
        size_t  len = 2;
        switch (c) {
        case '"':
        case '\\': break;
        case '\b': esc[1] = 'b'; break;
        case '\f': esc[1] = 'f'; break;
        case '\n': esc[1] = 'n'; break;
        case '\r': esc[1] = 'r'; break;
        case '\t': esc[1] = 't'; break;
        default:
            esc[1] = 'u';
            esc[4] = hex[c >> 4];
            esc[5] = hex[c & 15];
            len = 6;
        }
        buf_append(b, esc, len);
    }
    if (done < s.len) {
        buf_append(b, s.data + done, s.len - done);
    }
    buf_append_c(b, '"');
}

static void
json_write_zeros(struct buf *b, int n)
{
    for (int i = 0; i < n; i++) {
        buf_append_c(b, '0');
    }
}

void
json_write_double(struct buf *b, double v)
{
    char  digits[DTOA_DIGITS_MAX + 1];
    int   point;

    if (!isfinite(v)) {
        buf_append_lit(b, "null");
        return;
    }
    int  len = dtoa_shortest(v, digits, &point);
    if (v < 0) {
        buf_append_c(b, '-');
    }
    if (point > 21 || point < -5) {
        buf_append_c(b, digits[0]);
        if (len > 1) {
            buf_append_c(b, '.');
            buf_append(b, digits + 1, (size_t) len - 1);
        }
        buf_append_c(b, 'e');
        buf_append_c(b, point > 0 ? '+' : '-');
        buf_append_i64(b, point > 0 ? point - 1 : 1 - point);
    } else if (point <= 0) {
        buf_append_lit(b, "0.");
        json_write_zeros(b, -point);
        buf_append(b, digits, (size_t) len);
    } else if (point >= len) {
        buf_append(b, digits, (size_t) len);
        json_write_zeros(b, point - len);
    } else {
        buf_append(b, digits, (size_t) point);
        buf_append_c(b, '.');
        buf_append(b, digits + point, (size_t) (len - point));
    }
}

static void
json_write_scalar(struct buf *b, const struct json *v)
{
    switch (v->type) {
    case JSON_NULL:
        buf_append_lit(b, "null");
        break;
    case JSON_BOOL:
        buf_append_str(b, v->b ? STR("true") : STR("false"));
        break;
    case JSON_INT:
    case JSON_FLOAT:
        buf_append_str(b, v->string);
        break;
    default:
        json_write_string(b, v->string);
    }
}

void
json_write(struct buf *b, const struct json *v)
{
    const struct json  *open[JSON_DEPTH_CAP];
    int                 depth = 0;

    for (;;) {
        bool  object = v->type == JSON_OBJECT;
        if (object || v->type == JSON_ARRAY) {
            buf_append_c(b, object ? '{' : '[');
            if (v->child != NULL) {
                if (depth == JSON_DEPTH_CAP) {
                    b->failed = true;
                    return;
                }
                open[depth++] = v;
                v = v->child;
                if (object) {
                    json_write_string(b, v->key);
                    buf_append_c(b, ':');
                }
                continue;
            }
            buf_append_c(b, object ? '}' : ']');
        } else {
            json_write_scalar(b, v);
        }
        /* v is complete: on to its next sibling, or up. */
        while (depth > 0 && v->next == NULL) {
            v = open[--depth];
            buf_append_c(b, v->type == JSON_OBJECT ? '}' : ']');
        }
        if (depth == 0) {
            return;
        }
        v = v->next;
        buf_append_c(b, ',');
        if (open[depth - 1]->type == JSON_OBJECT) {
            json_write_string(b, v->key);
            buf_append_c(b, ':');
        }
    }
}
